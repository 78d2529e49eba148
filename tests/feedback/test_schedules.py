from __future__ import annotations

import doctest
from fractions import Fraction
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback import schedules
from rlhf_gym.feedback.schedules import labels_per_round, steps_per_round

KINDS = st.sampled_from(["hyperbolic", "constant"])
FRACTIONS = st.floats(0.01, 1.0)


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(schedules)
    assert result.attempted >= 2
    assert result.failed == 0


def test_hyperbolic_shares_of_a_hand_worked_run() -> None:
    # 4 rounds of 100: round 0 gets 25; progress 1/4, 2/4, 3/4 gives the weights 4/7, 4/10, 4/13.
    # 75 * (4/7, 4/10, 4/13) / (582/455) = 33.505, 23.454, 18.041: floors 33, 23, 18, one over,
    # and the largest remainder is the first.
    assert labels_per_round(100, 4) == [25, 34, 23, 18]


def test_constant_shares_give_the_remainder_to_the_earlier_rounds() -> None:
    # 25 first, 75 over 4 rounds: 18.75 each, floors leave 3 over
    assert labels_per_round(100, 5, kind="constant") == [25, 19, 19, 19, 18]


@pytest.mark.parametrize(
    ("n_labels", "fraction", "initial"),
    [(10, 0.25, 3), (700, 0.25, 175), (9, 0.25, 2), (1, 0.1, 1)],
)
def test_round_zero_gets_its_fraction_rounded_half_up_and_never_nothing(
    n_labels: int, fraction: float, initial: int
) -> None:
    assert labels_per_round(n_labels, 3, initial_fraction=fraction)[0] == initial


def test_a_single_round_gets_every_label() -> None:
    assert labels_per_round(700, 1) == [700]


def test_fewer_labels_than_rounds_leave_late_rounds_without() -> None:
    # 1 first; 2 over 5 rounds of falling weight, every quota below 1: the two largest get one each
    assert labels_per_round(3, 6) == [1, 1, 1, 0, 0, 0]


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 60), FRACTIONS, KINDS)
def test_labels_sum_exactly_and_stay_within_one_of_their_share(
    n_labels: int,
    n_rounds: int,
    fraction: float,
    kind: Literal["hyperbolic", "constant"],
) -> None:
    counts = labels_per_round(n_labels, n_rounds, initial_fraction=fraction, kind=kind)
    assert len(counts) == n_rounds
    assert sum(counts) == n_labels
    assert min(counts) >= 0
    slope = 3 if kind == "hyperbolic" else 0
    weights = [1 / (1 + Fraction(slope * k, n_rounds)) for k in range(1, n_rounds)]
    later = n_labels - counts[0]
    for count, weight in zip(counts[1:], weights, strict=True):
        assert abs(count - later * weight / sum(weights)) < 1 + 1e-9


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 60), FRACTIONS, KINDS)
def test_labels_never_rise_after_round_zero(
    n_labels: int,
    n_rounds: int,
    fraction: float,
    kind: Literal["hyperbolic", "constant"],
) -> None:
    later = labels_per_round(n_labels, n_rounds, initial_fraction=fraction, kind=kind)[1:]
    assert later == sorted(later, reverse=True)


@pytest.mark.parametrize("n_labels", [0, -5])
def test_labels_that_are_not_positive_are_refused_naming_the_option(n_labels: int) -> None:
    with pytest.raises(ConfigError, match=f"`--labels` is {n_labels}, expected at least 1"):
        labels_per_round(n_labels, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_rounds": 0}, "`--rounds` is 0"),
        ({"n_rounds": 3, "initial_fraction": 0.0}, "`initial_fraction` is 0.0"),
        ({"n_rounds": 3, "initial_fraction": 1.1}, "`initial_fraction` is 1.1"),
        ({"n_rounds": 3, "kind": "linear"}, "`kind` is 'linear'"),
    ],
)
def test_label_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        labels_per_round(700, **options)


def test_steps_left_over_by_one_round_are_carried_into_the_next() -> None:
    # 9,500 after the warm-up over 4 rounds: the ideal ends are 2,375 4,750 7,125 9,500, in whole
    # thousands 2, 4, 7, 9.
    assert steps_per_round(10_000, 4, 1_000, warm_up=500) == [2_000, 2_000, 3_000, 2_000]


@st.composite
def step_runs(draw: st.DrawFn) -> tuple[int, int, int, int]:
    n_rounds, unit = draw(st.integers(1, 50)), draw(st.integers(1, 4096))
    warm_up = draw(st.integers(0, 10_000))
    budget = draw(st.integers(n_rounds * unit, 1_000 * n_rounds * unit))
    return warm_up + budget, n_rounds, unit, warm_up


@settings(deadline=None)
@given(step_runs())
def test_steps_are_whole_units_that_use_up_the_budget_and_never_exceed_it(
    run: tuple[int, int, int, int],
) -> None:
    n_steps, n_rounds, unit, warm_up = run
    steps = steps_per_round(n_steps, n_rounds, unit, warm_up=warm_up)
    assert len(steps) == n_rounds
    assert all(n % unit == 0 and n >= unit for n in steps)
    assert n_steps - warm_up - unit < sum(steps) <= n_steps - warm_up
    assert max(steps) - min(steps) <= unit
    for k in range(n_rounds):  # at every round's end less than one unit behind the even pace
        behind = Fraction((k + 1) * (n_steps - warm_up), n_rounds) - sum(steps[: k + 1])
        assert 0 <= behind < unit


def test_fewer_units_than_rounds_are_refused_with_the_numbers_and_the_remedy() -> None:
    with pytest.raises(ConfigError) as error:
        steps_per_round(10_000, 5, 2_048, warm_up=1_000)
    # 9,000 steps are 4 rollouts of 2,048; 5 need 10,240, and 1,000 of warm-up
    for part in ("10000", "9000 steps", "4 whole rollouts of 2048", "5 rounds", "at least 11240"):
        assert part in str(error.value)
    assert sum(steps_per_round(11_240, 5, 2_048, warm_up=1_000)) == 10_240


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1, 0), "`--steps` is 0"),
        ((-1, 1, 1, 0), "`--steps` is -1"),
        ((10, 0, 1, 0), "`--rounds` is 0"),
        ((10, 1, 0, 0), "`unit` is 0"),
        ((10, 1, 1, -1), "`warm_up` is -1"),
        ((10, 1, 1, 10), "leaves 0 steps"),
        ((10, 1, 1, 11), "leaves 0 steps"),
    ],
)
def test_step_options_out_of_range_are_refused(
    arguments: tuple[int, int, int, int], message: str
) -> None:
    n_steps, n_rounds, unit, warm_up = arguments
    with pytest.raises(ConfigError, match=message):
        steps_per_round(n_steps, n_rounds, unit, warm_up=warm_up)
