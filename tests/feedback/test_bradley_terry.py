from __future__ import annotations

import doctest
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.feedback import bradley_terry
from rlhf_gym.feedback.bradley_terry import preference_log_probs, preference_loss

RETURNS = st.floats(-50.0, 50.0)
NOISES = st.sampled_from([0.0, 0.1, 0.5])


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(bradley_terry)
    assert result.attempted >= 8
    assert result.failed == 0


@pytest.mark.parametrize(
    ("difference", "first"),
    [(0.0, 1 / 2), (math.log(3.0), 3 / 4), (-math.log(3.0), 1 / 4), (math.log(99.0), 99 / 100)],
)
def test_probabilities_are_odds_over_one_plus_odds(difference: float, first: float) -> None:
    # sigmoid(log odds) = odds / (1 + odds)
    log_first, log_second = preference_log_probs(one(difference + 5.0), one(5.0))
    assert log_first.exp().item() == pytest.approx(first, abs=1e-12)
    assert log_second.exp().item() == pytest.approx(1.0 - first, abs=1e-12)


def test_equal_returns_cost_log_two_whatever_was_answered() -> None:
    zeros = torch.zeros(3, dtype=torch.float64)
    loss = preference_loss(zeros, zeros, torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
    assert loss.tolist() == pytest.approx([math.log(2.0)] * 3, abs=1e-15)


def test_a_tie_costs_the_mean_of_both_answers() -> None:
    # d = log 3: -log 3/4 for FIRST, -log 1/4 for SECOND, half of each for a tie
    returns, zeros = one(math.log(3.0)).repeat(3), torch.zeros(3, dtype=torch.float64)
    loss = preference_loss(returns, zeros, torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64))
    first, second = math.log(4 / 3), math.log(4)
    assert loss.tolist() == pytest.approx([first, second, (first + second) / 2], abs=1e-12)


@pytest.mark.parametrize(("odds", "noisy"), [(1, "1/2"), (3, "29/40"), (99, "941/1000")])
def test_ten_percent_noise_is_nine_tenths_plus_a_twentieth(odds: int, noisy: str) -> None:
    # .9 * 3/4 + .05 = .725 = 29/40;  .9 * 99/100 + .05 = .941
    expected = Fraction(9, 10) * Fraction(odds, odds + 1) + Fraction(1, 20)
    assert expected == Fraction(noisy)
    log_first, log_second = preference_log_probs(one(math.log(odds)), one(0.0), noise=0.1)
    assert log_first.exp().item() == pytest.approx(float(expected), abs=1e-12)
    assert log_second.exp().item() == pytest.approx(1.0 - float(expected), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("difference", [1e4, -1e4])
def test_without_noise_extreme_differences_cost_their_size_with_unit_gradient(
    difference: float, dtype: torch.dtype
) -> None:
    wrong = 0.0 if difference > 0 else 1.0
    returns = torch.tensor([difference, difference], dtype=dtype, requires_grad=True)
    answers = torch.tensor([wrong, 1.0 - wrong], dtype=dtype)
    loss = preference_loss(returns, torch.zeros(2, dtype=dtype), answers)
    assert loss.tolist() == [1e4, 0.0]  # -logsigmoid(-1e4) = 1e4 + log(1 + e^-1e4) = 1e4
    (gradient,) = torch.autograd.grad(loss.sum(), returns)
    assert gradient.tolist() == [math.copysign(1.0, difference), 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("difference", [1e4, -1e4])
def test_noise_bounds_the_cost_of_extreme_differences(
    difference: float, dtype: torch.dtype
) -> None:
    wrong = 0.0 if difference > 0 else 1.0
    returns = torch.tensor([difference, difference], dtype=dtype, requires_grad=True)
    answers = torch.tensor([wrong, 1.0 - wrong], dtype=dtype)
    loss = preference_loss(returns, torch.zeros(2, dtype=dtype), answers, noise=0.1)
    # P(wrong) = .05, P(right) = .95
    assert loss.tolist() == pytest.approx([-math.log(0.05), -math.log(0.95)], rel=1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), returns)
    assert gradient.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_gradients_equal_finite_differences(noise: float) -> None:
    first = torch.linspace(-8.0, 8.0, 12, dtype=torch.float64).reshape(2, 6).requires_grad_()
    second = torch.linspace(3.0, -2.0, 12, dtype=torch.float64).reshape(2, 6).requires_grad_()
    answers = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 0.5], dtype=torch.float64)

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return preference_loss(a, b, answers, noise)

    assert torch.autograd.gradcheck(loss, (first, second), atol=1e-7)


def test_every_member_is_compared_with_the_same_answers() -> None:
    first = torch.tensor([[0.0, 1.0], [2.0, -3.0], [5.0, 0.5]])  # E = 3, B = 2
    second, answers = torch.ones(3, 2), torch.tensor([1.0, 0.0])
    together = preference_loss(first, second, answers, 0.1)
    alone = [preference_loss(first[e], second[e], answers, 0.1) for e in range(3)]
    assert torch.equal(together, torch.stack(alone))


@settings(deadline=None)
@given(RETURNS, RETURNS, st.floats(0.0, 1.0), NOISES)
def test_swapping_sides_and_answer_changes_nothing(
    first: float, second: float, prob: float, noise: float
) -> None:
    a, b = one(first), one(second)
    here, there = preference_log_probs(a, b, noise), preference_log_probs(b, a, noise)
    assert torch.equal(here[0], there[1])
    assert torch.equal(here[1], there[0])
    loss, mirrored = (
        preference_loss(a, b, one(prob), noise),
        preference_loss(b, a, one(1.0 - prob), noise),
    )
    assert loss.item() == pytest.approx(mirrored.item(), rel=1e-12, abs=1e-12)


@settings(deadline=None)
@given(RETURNS, RETURNS, st.floats(-1e3, 1e3), NOISES)
def test_a_constant_added_to_both_returns_changes_nothing(
    first: float, second: float, shift: float, noise: float
) -> None:
    answer = one(1.0)
    here = preference_loss(one(first), one(second), answer, noise)
    there = preference_loss(one(first + shift), one(second + shift), answer, noise)
    assert here.item() == pytest.approx(there.item(), abs=1e-9)


@settings(deadline=None)
@given(RETURNS, RETURNS, NOISES)
def test_the_two_probabilities_sum_to_one(first: float, second: float, noise: float) -> None:
    log_first, log_second = preference_log_probs(one(first), one(second), noise)
    assert (log_first.exp() + log_second.exp()).item() == pytest.approx(1.0, abs=1e-12)


def test_shapes_that_do_not_match_are_refused_with_both_named() -> None:
    with pytest.raises(DataError, match=r"`returns_first` has shape \(3,\).*\(2,\)"):
        preference_log_probs(torch.zeros(3), torch.zeros(2))
    with pytest.raises(DataError, match=r"`returns_first` has shape \(1, 3\).*\(3,\)"):
        preference_loss(torch.zeros(1, 3), torch.zeros(3), torch.zeros(3))
    # Without the check, (3, 1) answers would silently broadcast to every pair of pairs.
    with pytest.raises(DataError, match=r"`probs` has shape \(3, 1\)"):
        preference_loss(torch.zeros(3), torch.zeros(3), torch.zeros(3, 1))
    with pytest.raises(DataError, match=r"`probs` has shape \(1,\)"):
        preference_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(1))


@pytest.mark.parametrize("noise", [-0.1, 1.0, math.nan])
def test_noise_outside_its_range_is_refused(noise: float) -> None:
    with pytest.raises(ConfigError, match="`noise` is"):
        preference_log_probs(torch.zeros(1), torch.zeros(1), noise)
