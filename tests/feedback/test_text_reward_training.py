from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.errors import ConfigError, NumericalError
from rlhf_gym.feedback.bradley_terry import preference_loss
from rlhf_gym.feedback.text_data import EncodedTexts, PairTable
from rlhf_gym.feedback.text_reward_training import (
    TextRewardNet,
    fit_texts,
    minibatches,
    pair_losses,
)
from rlhf_gym.feedback.text_settings import TextRewardSettings
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import word_tokenizer

TOKENIZER = word_tokenizer(list("abc"), separator="")
PAD = TOKENIZER.pad_token_id


def make_net(n_members: int = 2, seed: int = 0) -> TextRewardNet:
    lm = LanguageModel.tiny(TOKENIZER, n_layers=1, d_model=16, n_heads=2, max_length=16, seed=seed)
    return TextRewardNet(lm.model.base_model, lm.hidden_size, n_members, seed)


def make_table(texts_per_prompt: list[int], probs: float = 1.0) -> PairTable:
    """All pairs of each prompt's texts; text k of a prompt is k times the token 3."""
    rows, groups, pairs = [], [], []
    for group, n in enumerate(texts_per_prompt):
        start = len(rows)
        rows += [[1, 4 + group % 2] + [3] * k + [2] for k in range(n)]
        groups += [group] * n
        pairs += [(start + i, start + j) for i, j in combinations(range(n), 2)]
    n_pairs = len(pairs)
    return PairTable(
        texts=EncodedTexts(rows, np.array([len(row) - 2 for row in rows]), 0, 0),
        groups=np.array(groups),
        pairs=np.array(pairs, np.int64),
        probs=np.full(n_pairs, probs, np.float32),
        margins=np.zeros(n_pairs, np.float32),
        query_ids=[str(i) for i in range(n_pairs)],
        context_ids=[str(groups[a]) for a, _ in pairs],
    )


def fit(net: TextRewardNet, table: PairTable, heldout: np.ndarray | None = None, **settings):
    heldout = np.zeros(len(table), bool) if heldout is None else heldout
    weights = np.ones((net.heads.out_features, len(table)), np.float32) * ~heldout
    rng = np.random.default_rng(0)
    return fit_texts(net, table, weights, heldout, TextRewardSettings(**settings), PAD, rng)


def losses(first: float, second: float, prob: float, margin: float, **settings) -> float:
    tensors = (torch.tensor([[first]]), torch.tensor([[second]]))
    answer = (torch.tensor([prob]), torch.tensor([margin]))
    return float(pair_losses(*tensors, *answer, TextRewardSettings(**settings))[0, 0])


def test_a_margin_moves_the_point_of_indifference_by_itself() -> None:
    # d = 1 and m = 1 leave a lead of 0: log 2. The second preferred: -d - m = -2.
    assert losses(1.5, 0.5, 1.0, 1.0, use_margins=True) == pytest.approx(math.log(2), abs=1e-6)
    expected = math.log(1 + math.exp(2))
    assert losses(1.5, 0.5, 0.0, 1.0, use_margins=True) == pytest.approx(expected, abs=1e-6)
    # Without the option a margin is not looked at: -log sigmoid(1).
    assert losses(1.5, 0.5, 1.0, 1.0) == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)


def test_without_margins_all_is_as_in_bradley_terry() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, 7, generator=generator)
    probs = torch.rand(7, generator=generator)
    for noise in (None, 0.2):
        with_option = TextRewardSettings(use_margins=True, label_noise=noise)
        found = pair_losses(first, second, probs, torch.zeros(7), with_option)
        expected = preference_loss(first, second, probs, noise or 0.0)
        torch.testing.assert_close(found, expected)


def test_centering_costs_the_square_of_the_sum() -> None:
    plain = losses(1.5, 0.5, 1.0, 0.0)
    assert losses(1.5, 0.5, 1.0, 0.0, centering=0.01) == pytest.approx(plain + 0.04, abs=1e-6)
    assert losses(0.5, -0.5, 1.0, 0.0, centering=0.01) == pytest.approx(plain, abs=1e-6)


def test_heads_begin_with_deviation_one_over_the_root_of_width_plus_one() -> None:
    net = TextRewardNet(torch.nn.Identity(), 99, 400, seed=0)
    # 39,600 draws: the standard error of their deviation is 0.1 / sqrt(79,200) = 0.00036.
    assert float(net.heads.weight.detach().std()) == pytest.approx(0.1, abs=0.0015)
    assert not net.heads.bias.detach().any()
    torch.testing.assert_close(
        TextRewardNet(torch.nn.Identity(), 99, 400, seed=0).heads.weight, net.heads.weight
    )


@given(st.lists(st.integers(2, 6), min_size=1, max_size=8), st.integers(2, 8), st.integers(0, 99))
def test_an_epoch_has_each_answer_once_and_no_batch_has_too_many_texts(
    sizes: list[int], batch_texts: int, seed: int
) -> None:
    table = make_table(sizes)
    rows = np.arange(len(table))[:: 1 + seed % 2]
    parts = list(minibatches(table, rows, batch_texts, np.random.default_rng(seed)))
    assert sorted(np.concatenate(parts)) == rows.tolist()
    places: dict[int, set[int]] = {}
    for index, part in enumerate(parts):
        assert len(part) and len(np.unique(table.pairs[part])) <= batch_texts
        for group in table.groups[table.pairs[part, 0]]:
            places.setdefault(int(group), set()).add(index)
    for group, batches in places.items():
        assert len(batches) == 1 or sizes[group] > batch_texts, "a prompt that fits is not split"


def test_a_text_passes_the_network_once_an_epoch_in_however_many_pairs_it_is() -> None:
    net, table = make_net(), make_table([5, 4, 4, 3])
    seen: list[int] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    fit(net, table, batch_texts=8, max_epochs=1)
    assert sum(seen) == 16, "5 + 4 + 4 + 3 texts, not the 2 * (10 + 6 + 6 + 3) ends of pairs"
    assert max(seen) <= 8


def test_all_pairs_of_a_batch_give_the_gradient_of_the_pairs_one_by_one() -> None:
    table, probs = make_table([4, 3]), np.linspace(0, 1, 9, dtype=np.float32)
    table.probs[:] = probs
    net, other = make_net(seed=1), make_net(seed=1)
    # One step of plain size: AdamW's first step depends on the gradient's signs and so on its
    # ratios only through epsilon; compare the gradients themselves instead.
    fit(net, table, batch_texts=7, max_epochs=1, max_updates=1, max_grad_norm=1e9)
    total = torch.zeros(())
    for (a, b), prob in zip(table.pairs.tolist(), probs, strict=True):
        scores = [other(*table.texts.padded([row], PAD))[:, 0] for row in (a, b)]
        loss = preference_loss(*(s[:, None] for s in scores), torch.tensor([prob]))
        total = total + loss.mean() / len(probs)
    total.backward()
    for (name, ours), theirs in zip(net.named_parameters(), other.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_every_answer_weighs_the_same_in_whatever_batch_it_is() -> None:
    table = make_table([5, 2, 3, 2])  # 10, 1, 3 and 1 pairs
    gradients: dict[int, torch.Tensor] = {}
    for batch_texts in (12, 5):
        net = make_net(seed=2)
        sums = torch.zeros_like(net.heads.weight)
        net.heads.weight.register_hook(lambda grad, sums=sums: sums.add_(grad))
        # With a step size that moves nothing, an epoch's gradients add up to that of all answers.
        outcome = fit(net, table, batch_texts=batch_texts, max_epochs=1, learning_rate=1e-20)
        gradients[outcome.n_updates] = sums / outcome.n_updates
    assert set(gradients) > {1}
    one, several = gradients.values()
    torch.testing.assert_close(one, several, atol=1e-6, rtol=1e-4)


def test_what_is_held_out_is_not_trained_on() -> None:
    table, changed = make_table([3] * 8), make_table([3] * 8)
    heldout = np.arange(len(table)) % 4 == 0
    changed.probs[heldout] = 0.0
    nets = make_net(), make_net()
    for net, data in zip(nets, (table, changed), strict=True):
        fit(net, data, heldout, max_epochs=2, min_validation=10_000)
    for one, two in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(one, two)


def test_a_fit_ends_with_the_weights_of_its_best_held_out_loss() -> None:
    # What is held out contradicts what is trained on, so that every step makes its loss worse.
    table = make_table([3] * 8)
    heldout = np.arange(len(table)) % 4 == 0
    table.probs[heldout] = 0.0
    settings = {"learning_rate": 1e-2, "max_epochs": 30, "batch_texts": 4, "min_validation": 1}
    stopped, went_on = make_net(), make_net()
    outcome = fit(stopped, table, heldout, validate_every=1, patience=3, **settings)
    assert outcome.n_updates < 30, "three looks in a row were no better"
    fit(went_on, table, heldout, **{**settings, "min_validation": 10_000})

    def heldout_loss(net: TextRewardNet) -> float:
        scores = net.score_texts(table.texts, PAD)[:, table.pairs[heldout]]  # (E, n, 2)
        return float(preference_loss(scores[..., 0], scores[..., 1], torch.zeros(6)).mean())

    assert heldout_loss(stopped) < 1.0 < heldout_loss(went_on)


def test_training_separates_the_preferred_texts() -> None:
    net, table = make_net(), make_table([4] * 6)
    outcome = fit(net, table, learning_rate=5e-3, max_epochs=20, batch_texts=24)
    scores = net.score_texts(table.texts, PAD)
    assert (scores[:, table.pairs[:, 0]] > scores[:, table.pairs[:, 1]]).all()
    assert (outcome.n_epochs, outcome.n_updates) == (20, 20)


def test_weights_that_are_not_finite_stop_naming_the_component() -> None:
    net, table = make_net(), make_table([3])
    with pytest.raises(NumericalError, match=r"loss became|norm became"):
        fit(net, table, learning_rate=1e30, max_epochs=5)
    net = make_net()
    with torch.no_grad():
        net.heads.weight[1, 0] = math.nan
    with pytest.raises(NumericalError, match="score of text 0 by member 1 is nan"):
        net.score_texts(table.texts, PAD)
    with pytest.raises(NumericalError, match="loss became nan"):
        fit(net, table)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_members": 0},
        {"batch_texts": 1},
        {"learning_rate": 0.0},
        {"centering": -1.0},
        {"label_noise": 1.0},
        {"heldout_fraction": 0.6},
        {"warmup_fraction": 1.0},
        {"on_too_long": "ignore"},
        {"heldout_by": "luck"},
        {"learning_rate": math.nan},
    ],
)
def test_impossible_settings_are_refused(settings) -> None:
    with pytest.raises(ConfigError):
        TextRewardSettings(**settings)
