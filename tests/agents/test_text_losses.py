from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlhf_gym.agents.text.losses import (
    dpo_loss,
    entropy_mean,
    ppo_policy_loss,
    ppo_value_loss,
    ratio_statistics,
    sft_loss,
)
from rlhf_gym.agents.text.masked import last_real_index, masked_mean, masked_sum, whiten
from rlhf_gym.errors import ConfigError, DataError

NAN = float("nan")


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def mask_of(*values: int) -> Tensor:
    return torch.tensor([values], dtype=torch.bool)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# -- masked figures --------------------------------------------------------------------------------


def test_the_padding_does_not_enter_a_mean_even_when_it_is_nan() -> None:
    assert masked_mean(row(1, 3, NAN), mask_of(1, 1, 0)).item() == 2.0
    assert masked_sum(row(1, 3, NAN), mask_of(1, 1, 0)).item() == 4.0


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(DataError, match="one mask"):
        masked_sum(torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.bool))


def test_whitening_scales_to_deviation_one_over_real_tokens_only() -> None:
    # 1, 3: mean 2, variance 1. Deviation 1 already, so without the shift nothing changes.
    white = whiten(row(1, 3, 99), mask_of(1, 1, 0), eps=0.0)
    assert white.tolist() == [[-1.0, 1.0, 0.0]]
    assert whiten(row(1, 3, 99), mask_of(1, 1, 0), shift_mean=False, eps=0.0).tolist() == [
        [1.0, 3.0, 0.0]
    ]
    # 0, 8: mean 4, variance 16: (x - 4) / 4 + 4 = 3, 5.
    kept = whiten(row(0, 8, 99), mask_of(1, 1, 0), shift_mean=False, eps=0.0)
    assert kept.tolist() == [[3.0, 5.0, 0.0]]


def test_the_last_real_index_wants_right_padding_and_a_token() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    assert last_real_index(mask).tolist() == [1, 2, 0]
    for broken in ([[0, 0, 0]], [[0, 1, 1]], [[1, 0, 1]]):
        with pytest.raises(DataError, match="row 0"):
            last_real_index(torch.tensor(broken, dtype=torch.bool))


# -- SFT and PPO -----------------------------------------------------------------------------------


def test_sft_loss_is_the_mean_negative_log_likelihood_of_real_tokens() -> None:
    loss = sft_loss(row(-1, -2, -50), mask_of(1, 1, 0))
    assert loss.item() == 1.5


def test_entropy_is_averaged_over_real_tokens_and_positive() -> None:
    assert entropy_mean(row(0.5, 1.5, -9), mask_of(1, 1, 0)).item() == 1.0


def test_ppo_policy_loss_takes_the_worse_of_ratio_and_clipped_ratio() -> None:
    # ratio 2, A = +1: clipped to 1.2. ratio 2, A = -1: min(-2, -1.2) = -2, the clip does not help.
    # ratio 1/2, A = +1: min(.5, .8) = .5. ratio 1/2, A = -1: min(-.5, -.8) = -.8.
    new = row(math.log(2), math.log(2), -math.log(2), -math.log(2), 7)
    advantages = row(1, -1, 1, -1, 5)
    loss = ppo_policy_loss(new, row(0, 0, 0, 0, 0), advantages, mask_of(1, 1, 1, 1, 0), 0.2)
    assert loss.item() == pytest.approx(-(1.2 - 2.0 + 0.5 - 0.8) / 4, abs=1e-12)


def test_ppo_gives_no_gradient_where_the_clip_binds() -> None:
    new = row(math.log(2), 0.1).requires_grad_()
    ppo_policy_loss(new, row(0, 0), row(1, 1), mask_of(1, 1), 0.2).backward()
    assert new.grad is not None
    # d(ratio A)/d(log p) = ratio A = e^0.1 for the second, over two tokens; negated.
    assert new.grad[0].tolist() == pytest.approx([0.0, -math.exp(0.1) / 2], abs=1e-12)


def test_ppo_value_loss_takes_the_larger_of_plain_and_clipped_error() -> None:
    # V = 1, V_old = 0, R = 1: plain error 0, clipped value .2 with error .64: the larger counts.
    # V = -1, V_old = 0, R = 1: plain error 4, clipped (-.2 - 1)^2 = 1.44: the larger is 4.
    args = (row(1, -1, 8), row(0, 0, 0), row(1, 1, 0), mask_of(1, 1, 0))
    assert ppo_value_loss(*args, clip_range=0.2).item() == pytest.approx(0.5 * (0.64 + 4) / 2)
    assert ppo_value_loss(*args, clip_range=None).item() == pytest.approx(0.5 * (0 + 4) / 2)


def test_ratio_statistics_by_hand() -> None:
    new, old = row(math.log(2), math.log(0.9), 9), row(0, 0, 0)
    found = ratio_statistics(new, old, mask_of(1, 1, 0), 0.2)
    by_hand = ((2 - 1 - math.log(2)) + (0.9 - 1 - math.log(0.9))) / 2
    assert found.approx_kl.item() == pytest.approx(by_hand, abs=1e-12)
    assert found.clip_fraction.item() == 0.5
    assert found.max_deviation.item() == pytest.approx(1.0)


def test_a_minibatch_has_the_same_gradient_however_it_is_cut() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([1, 6, 2, 5, 3])
    mask = torch.arange(6)[None, :] < lengths[:, None]
    features = torch.randn(5, 6, 4, generator=generator)
    old, advantages, returns = (torch.randn(5, 6, generator=generator) * 0.3 for _ in range(3))

    def gradient(parts: list[list[int]]) -> Tensor:
        weight = torch.linspace(-0.4, 0.5, 4).requires_grad_()
        for rows in parts:
            logprobs = features[rows] @ weight
            terms = (
                ppo_policy_loss(logprobs, old[rows], advantages[rows], mask[rows], n_tokens=17),
                ppo_value_loss(logprobs, old[rows], returns[rows], mask[rows], n_tokens=17),
                sft_loss(logprobs, mask[rows], n_tokens=17),
            )
            torch.stack(terms).sum().backward()
        assert weight.grad is not None
        return weight.grad

    whole = gradient([[0, 1, 2, 3, 4]])
    assert int(mask.sum()) == 17
    for parts in ([[0], [1], [2], [3], [4]], [[0, 2], [4, 1, 3]]):
        assert (gradient(parts) - whole).abs().max().item() <= 1e-5
    # The mean of the parts' own means is another gradient: what the divisor is there for.
    assert whole.abs().max().item() > 1e-2


# -- DPO -------------------------------------------------------------------------------------------


def pair(h: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities of one pair whose difference of log-ratios is h."""
    values = (-3.0 + h, -5.0, -4.0, -6.0)  # (-3 + h - -4) - (-5 - -6) = h
    chosen, rejected, ref_chosen, ref_rejected = (
        torch.tensor([v], dtype=torch.float64) for v in values
    )
    return chosen, rejected, ref_chosen, ref_rejected


def test_dpo_is_the_negative_log_sigmoid_of_the_scaled_margin() -> None:
    for h in (-2.0, 0.0, 3.0):
        assert dpo_loss(*pair(h), 0.5).item() == pytest.approx(-math.log(sigma(0.5 * h)), abs=1e-9)


def test_label_smoothing_weighs_both_directions() -> None:
    by_hand = -0.9 * math.log(sigma(0.6)) - 0.1 * math.log(sigma(-0.6))
    assert dpo_loss(*pair(1.2), 0.5, 0.1).item() == pytest.approx(by_hand, abs=1e-9)


def test_soft_labels_have_their_minimum_at_the_log_odds() -> None:
    # d/dh of -p log s(bh) - (1-p) log s(-bh) is 0 where s(bh) = p, so h = logit(p) / b.
    p, beta = 0.8, 0.25
    best = math.log(p / (1 - p)) / beta
    prob = torch.tensor([p], dtype=torch.float64)

    def loss(h: float) -> float:
        return dpo_loss(*pair(h), beta, prob=prob).item()

    assert loss(best) == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), abs=1e-9)
    assert loss(best) < min(loss(best - 0.1), loss(best + 0.1))


def test_a_tie_pulls_both_completions_to_the_references_odds() -> None:
    tie = torch.tensor([0.5], dtype=torch.float64)
    assert dpo_loss(*pair(0.0), 0.5, prob=tie).item() == pytest.approx(math.log(2))
    assert dpo_loss(*pair(1.0), 0.5, prob=tie).item() > math.log(2)
    assert dpo_loss(*pair(0.0), 0.5, loss_type="ipo", prob=tie).item() == pytest.approx(1.0)


def test_ipo_is_the_squared_distance_to_its_margin() -> None:
    # 1 / (2 beta) = 2 at beta = .25; smoothing .1: .9 (h - 2)^2 + .1 (h + 2)^2.
    assert dpo_loss(*pair(3.0), 0.25, loss_type="ipo").item() == pytest.approx(1.0)
    smoothed = dpo_loss(*pair(3.0), 0.25, 0.1, "ipo").item()
    assert smoothed == pytest.approx(0.9 * 1 + 0.1 * 25)


def test_ipo_with_soft_labels_has_its_minimum_at_the_mean_margin() -> None:
    # p (h - m)^2 + (1 - p)(h + m)^2 has its minimum at m (2p - 1); here 2 * .5 = 1.
    prob = torch.tensor([0.75], dtype=torch.float64)

    def loss(h: float) -> float:
        return dpo_loss(*pair(h), 0.25, loss_type="ipo", prob=prob).item()

    assert loss(1.0) < min(loss(0.95), loss(1.05))


def test_weights_count_pairs_and_parts_add_up() -> None:
    chosen, rejected, ref_chosen, ref_rejected = (
        torch.cat(tensors) for tensors in zip(pair(1.0), pair(-2.0), strict=True)
    )
    weights = torch.tensor([2.0, 1.0], dtype=torch.float64)
    loss = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.5, weights=weights)
    by_hand = (-2 * math.log(sigma(0.5)) - math.log(sigma(-1.0))) / 2
    assert loss.item() == pytest.approx(by_hand, abs=1e-9)
    parts = [dpo_loss(*pair(h), 0.5, n_pairs=2).item() * w for h, w in ((1.0, 2), (-2.0, 1))]
    assert sum(parts) == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0.0, 0.0, "sigmoid"), "beta"),
        ((NAN, 0.0, "sigmoid"), "beta"),
        ((0.1, 0.5, "sigmoid"), "label_smoothing"),
        ((0.1, -0.1, "ipo"), "label_smoothing"),
        ((0.1, 0.0, "hinge"), "loss_type"),
    ],
)
def test_a_dpo_setting_out_of_range_is_named(
    settings: tuple[float, float, str], message: str
) -> None:
    beta, smoothing, loss_type = settings
    with pytest.raises(ConfigError, match=message):
        dpo_loss(*pair(1.0), beta, smoothing, loss_type)  # type: ignore[arg-type]  # wrong on purpose
