from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_gym.agents.text.dpo_trainer import TextDPOTrainer
from rlhf_gym.agents.text.pairs import CompletionPairs
from rlhf_gym.agents.text.settings import TextDPOSettings
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError, NumericalError, SchemaError
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.reference import reference_of
from rlhf_gym.language.scores import completion_scores
from rlhf_gym.language.tokenizers import word_tokenizer

PAD, BOS, EOS, A, B, C = range(6)
PROMPTS = [[BOS], [BOS, A], [BOS, B, C], [BOS, C], [BOS, A, A]]
CHOSEN = [[A, EOS], [A, A, EOS], [A, EOS], [B, A, A, EOS], [A, B, EOS]]
REJECTED = [[B, EOS], [C, C, C, B, EOS], [EOS], [C, EOS], [C, B, C, EOS]]
SETTINGS = TextDPOSettings(beta=0.5, n_epochs=6, batch_size=2, learning_rate=5e-3)


def batch(completions: list[list[int]], prompts: list[list[int]] = PROMPTS) -> TokenBatch:
    return TokenBatch.from_lists(prompts, completions, PAD, EOS)


def pairs(**options: Any) -> CompletionPairs:
    return CompletionPairs.from_batches(batch(CHOSEN), batch(REJECTED), **options)


def make(
    settings: TextDPOSettings = SETTINGS, data: CompletionPairs | None = None
) -> TextDPOTrainer:
    tokenizer = word_tokenizer(["a", "b", "c"], separator="")
    lm = LanguageModel.tiny(tokenizer, n_layers=1, d_model=16, n_heads=2, max_length=16, seed=5)
    return TextDPOTrainer(lm, reference_of(lm), data or pairs(), settings, seed=2)


def weights(trainer: TextDPOTrainer) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in trainer.lm.model.parameters()]


def test_pairs_of_two_batches_keep_every_completion() -> None:
    data = pairs()
    assert len(data) == 5
    rows = data.completions.completion_lists()
    assert [rows[i] for i in data.chosen.tolist()] == CHOSEN
    assert [rows[i] for i in data.rejected.tolist()] == REJECTED
    ids, mask = data.completions.prompt_ids, data.completions.prompt_mask
    assert [row[real].tolist() for row, real in zip(ids, mask, strict=True)] == PROMPTS * 2


def test_the_reference_is_computed_once_and_row_by_row() -> None:
    trainer = make()
    alone = [
        float(completion_scores(trainer.lm, batch([c], [p])).logprobs.sum().detach())
        for p, c in zip(PROMPTS * 2, CHOSEN + REJECTED, strict=True)
    ]
    assert trainer.ref_logprobs.tolist() == pytest.approx(alone, abs=1e-5)


def test_policy_and_reference_share_the_temperature() -> None:
    found = make(dataclasses.replace(SETTINGS, temperature=0.1)).evaluate()
    assert found["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert found["reward_chosen"] == pytest.approx(0, abs=1e-4)
    assert abs(found["logprob_chosen"] - make().evaluate()["logprob_chosen"]) > 0.1


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_a_step_learns_from_the_loss_that_is_reported(loss_type: Any) -> None:
    settings = dataclasses.replace(
        SETTINGS, loss_type=loss_type, label_smoothing=0.2, temperature=0.5, batch_size=5
    )
    trainer = trainer_of_three_steps(settings)
    expected = trainer.evaluate()
    found = trainer.update(torch.arange(5))
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name
    # And by hand: the weighted mean over five pairs, labels smoothed.
    margins = torch.tensor(trainer_margins(settings, trainer_of_three_steps(settings)))
    q = torch.tensor([0.8, 0.5, 0.32, 0.62, 0.74])  # p .8 + (1 - p) .2
    weight = torch.tensor([1.0, 2, 1, 0, 3])
    if loss_type == "sigmoid":
        good, bad = -torch.sigmoid(margins / 2).log(), -torch.sigmoid(-margins / 2).log()
    else:
        good, bad = (margins - 1) ** 2, (margins + 1) ** 2  # 1 / (2 beta) = 1
    by_hand = (weight * (q * good + (1 - q) * bad)).sum() / 5
    assert expected["loss"] == pytest.approx(by_hand.item(), abs=1e-5)


def trainer_of_three_steps(settings: TextDPOSettings) -> TextDPOTrainer:
    data = pairs(prob=[1.0, 0.5, 0.2, 0.7, 0.9], weights=[1, 2, 1, 0, 3])
    trainer = make(settings, data)
    trainer.train(3)
    return trainer


def trainer_margins(settings: TextDPOSettings, trainer: TextDPOTrainer) -> list[float]:
    """log pi/ref of the chosen less that of the rejected, one row at a time."""
    untrained = make(settings)
    with torch.no_grad():
        ratios = [
            float(
                completion_scores(trainer.lm, batch([c], [p]), temperature=0.5).logprobs.sum()
                - completion_scores(untrained.lm, batch([c], [p]), temperature=0.5).logprobs.sum()
            )
            for p, c in zip(PROMPTS * 2, CHOSEN + REJECTED, strict=True)
        ]
    return [chosen - rejected for chosen, rejected in zip(ratios[:5], ratios[5:], strict=True)]


def test_before_training_the_loss_is_log_two_and_nothing_is_preferred() -> None:
    found = make().evaluate()
    assert found["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found["margin"] == pytest.approx(0, abs=1e-5)
    reference = make().ref_logprobs
    assert found["logprob_chosen"] == pytest.approx(reference[:5].mean().item(), abs=1e-5)
    assert found["logprob_rejected"] == pytest.approx(reference[5:].mean().item(), abs=1e-5)


def test_training_prefers_the_chosen_and_reports_it() -> None:
    trainer = make()
    history = trainer.train()
    assert len(history) == trainer.n_total_updates == 6 * 3  # 2 + 2 + 1 pairs in a pass
    found = trainer.evaluate()
    assert found["accuracy"] == 1.0
    assert found["loss"] < 0.5
    assert found["margin"] == pytest.approx(found["reward_chosen"] - found["reward_rejected"])
    assert found["margin"] > 0.5
    assert history[-1]["learning_rate"] == pytest.approx(5e-3 / 18)
    with pytest.raises(ConfigError, match="n_epochs"):
        trainer.train(1)


@pytest.mark.parametrize(
    ("max_pairs", "sizes"),
    [(12, [2, 2, 1, 2, 2, 1, 2]), (14, [2, 2, 1, 2, 2, 1, 2, 2]), (13, [2, 2, 1] * 2 + [2]),
     (4, [2, 2]), (1, [2])],
)  # fmt: skip
def test_a_budget_of_pairs_is_not_exceeded_but_for_one_batch(max_pairs, sizes) -> None:
    data = pairs()
    trainer = make(data=data)
    spent = TextDPOTrainer(
        trainer.lm, reference_of(trainer.lm), data, SETTINGS, max_pairs=max_pairs
    )
    seen: list[int] = []
    update = spent.update
    spent.update = lambda rows: [seen.append(len(rows)), update(rows)][1]  # type: ignore[method-assign,func-returns-value]
    history = spent.train()
    assert seen == sizes
    assert history[-1]["learning_rate"] == pytest.approx(5e-3 / len(sizes))


def test_every_pass_takes_every_pair_once() -> None:
    trainer = make()
    seen: list[int] = []
    update: Callable[[Tensor], dict[str, float]] = trainer.update

    def note(rows: Tensor) -> dict[str, float]:
        seen.extend(rows.tolist())
        return update(rows)

    trainer.update = note  # type: ignore[method-assign]  # to look on
    trainer.train()
    passes = [tuple(seen[i : i + 5]) for i in range(0, 30, 5)]
    assert all(sorted(rows) == [0, 1, 2, 3, 4] for rows in passes)
    assert len(set(passes)) > 1


def test_the_accuracy_leaves_ties_out_and_follows_soft_labels() -> None:
    data = pairs(prob=[1.0, 0.5, 0.2, 0.5, 0.9])
    trainer = make(dataclasses.replace(SETTINGS, n_epochs=20), data)
    trainer.train()
    rewards = 0.5 * (trainer._sums(logprobs_of(trainer)) - trainer.ref_logprobs)
    margins = (rewards[:5] - rewards[5:]).tolist()
    # Pair 2 is better the other way round; the ties, 1 and 3, do not count.
    right = [margins[0] > 0, margins[2] < 0, margins[4] > 0]
    assert trainer.evaluate()["accuracy"] == pytest.approx(sum(right) / 3)
    assert sum(right) == 3
    only_ties = make(data=pairs(prob=[0.5] * 5))
    assert math.isnan(only_ties.evaluate()["accuracy"])


def logprobs_of(trainer: TextDPOTrainer) -> Callable[[TokenBatch], Tensor]:
    return lambda part: completion_scores(trainer.lm, part).logprobs


def test_a_weight_of_zero_silences_a_pair() -> None:
    with_zero = make(dataclasses.replace(SETTINGS, batch_size=5), pairs(weights=[1, 1, 0, 1, 1]))
    other = CompletionPairs.from_batches(
        batch([*CHOSEN[:2], [C, C, EOS], *CHOSEN[3:]]), batch(REJECTED), weights=[1, 1, 0, 1, 1]
    )
    with_other = make(dataclasses.replace(SETTINGS, batch_size=5), other)
    for trainer in (with_zero, with_other):
        trainer.train(3)
    pairs_of_weights = zip(weights(with_zero), weights(with_other), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs_of_weights)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_micro_batches_change_no_gradient(loss_type: Any) -> None:
    gradients = []
    for size in (5, 2, 1):
        trainer = make(dataclasses.replace(SETTINGS, loss_type=loss_type, label_smoothing=0.1))
        for rows in torch.arange(5).split(size):
            trainer._backward(rows, 5)
        grads = [p.grad.flatten() for p in trainer.lm.model.parameters() if p.grad is not None]
        gradients.append(torch.cat(grads))
    assert gradients[0].abs().max().item() > 1e-3
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max().item() <= 1e-5


def test_a_ranking_is_computed_once_and_equals_its_pairs() -> None:
    # Three completions of one prompt, ranked: three pairs over a table of three rows.
    ranked = [[A, EOS], [B, EOS], [C, EOS]]
    table = batch(ranked, [[BOS]] * 3)
    first, second = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    ones = torch.ones(3)
    shared = make(data=CompletionPairs(table, first, second, ones, ones))
    apart = make(
        data=CompletionPairs.from_batches(
            batch([ranked[i] for i in first], [[BOS]] * 3),
            batch([ranked[i] for i in second], [[BOS]] * 3),
        )
    )
    assert len(shared.ref_logprobs) == 3
    for trainer in (shared, apart):
        trainer._backward(torch.arange(3), 3)
    for one, other in zip(
        shared.lm.trainable_parameters(), apart.lm.trainable_parameters(), strict=True
    ):
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


def test_a_run_that_was_saved_within_a_pass_goes_on_bit_for_bit(tmp_path: Path) -> None:
    straight = make()
    straight.train()
    first = make()
    first.train(4)
    first.save(tmp_path)
    second = make()
    second.load(tmp_path)
    assert len(second.train()) == 14
    both = list(zip(weights(second), weights(straight), strict=True))
    assert all(torch.equal(one, other) for one, other in both)
    assert not all(map(torch.equal, weights(first), weights(straight)))


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    make().save(tmp_path)
    with pytest.raises(SchemaError, match="beta"):
        make(dataclasses.replace(SETTINGS, beta=0.1)).load(tmp_path)
    fewer = CompletionPairs.from_batches(
        batch(CHOSEN[:2], PROMPTS[:2]), batch(REJECTED[:2], PROMPTS[:2])
    )
    with pytest.raises(ConfigError, match="5 pairs"):
        make(data=fewer).load(tmp_path)
    with pytest.raises(CorruptDataError, match="dpo"):
        make().load(tmp_path / "nowhere")


def test_a_reference_that_is_not_finite_stops() -> None:
    class Broken:
        def completion_logprobs(self, part: TokenBatch, temperature: float) -> Tensor:
            return torch.full(part.completion_ids.shape, math.nan)

    lm = make().lm
    with pytest.raises(NumericalError, match="reference"):
        TextDPOTrainer(lm, Broken(), pairs(), SETTINGS)


def test_a_nan_in_the_loss_stops_before_the_weights() -> None:
    trainer = make()
    before = weights(trainer)
    trainer.ref_logprobs[0] = math.nan
    with pytest.raises(NumericalError, match="the DPO loss"):
        trainer.update(torch.arange(5))
    assert all(map(torch.equal, before, weights(trainer)))


@pytest.mark.parametrize(
    ("chosen", "rejected", "options", "message"),
    [
        (batch(CHOSEN), batch(CHOSEN[:4], PROMPTS[:4]), {}, "5 chosen and 4 rejected"),
        (batch(CHOSEN), batch(CHOSEN), {}, r"pair 0 compares .* itself \(5 of 5"),
        (batch(CHOSEN), batch(REJECTED, PROMPTS[::-1]), {}, "pair 0 has two different prompts"),
        (batch(CHOSEN), batch([[], *REJECTED[1:]]), {}, "pair 0 has an empty completion"),
        (batch(CHOSEN), batch(REJECTED), {"prob": [1, 1, 1.5, 1, 1]}, "`prob` of pair 2"),
        (batch(CHOSEN), batch(REJECTED), {"prob": [1, math.nan, 1, 1, 1]}, "`prob` of pair 1"),
        (batch(CHOSEN), batch(REJECTED), {"weights": [1, 1, 1, 1, -1]}, "`weights` of pair 4"),
        (batch(CHOSEN), batch(REJECTED), {"weights": [1.0]}, "shapes"),
    ],
)
def test_pairs_that_cannot_teach_are_refused(
    chosen: TokenBatch, rejected: TokenBatch, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        CompletionPairs.from_batches(chosen, rejected, **options)


def test_rows_outside_of_the_table_are_refused() -> None:
    data = pairs()
    with pytest.raises(DataError, match="count from 0"):
        dataclasses.replace(data, chosen=data.chosen + 6)


@pytest.mark.parametrize(
    "change",
    [
        {"beta": 0.0},
        {"label_smoothing": 0.5},
        {"loss_type": "hinge"},
        {"batch_size": 0},
        {"n_epochs": 1.5},
        {"max_grad_norm": -1.0},
    ],
)
def test_a_setting_out_of_range_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        dataclasses.replace(SETTINGS, **change)
