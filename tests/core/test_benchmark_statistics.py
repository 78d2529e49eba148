from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_gym.benchmark.statistics import (
    TaskReturns,
    aggregate_intervals,
    counts,
    fraction_interval,
    interquartile_mean,
    mean_interval,
)
from rlhf_gym.errors import DataError


def exact_quantiles(values: list[float]) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of all equally likely resamples: the exact bootstrap."""
    ordered, n = sorted(values), len(values)
    low, high = ordered[int(0.025 * n)], ordered[int(0.975 * n)]
    # An interval of 10,000 draws can only be compared where the quantile lies well inside an atom.
    for quantile, value in ((0.025, low), (0.975, high)):
        assert ordered[int((quantile - 0.006) * n)] == pytest.approx(value, rel=1e-12)
        assert ordered[min(int((quantile + 0.006) * n), n - 1)] == pytest.approx(value, rel=1e-12)
    return low, high


def resamples(values: list[float]) -> list[tuple[float, ...]]:
    return list(itertools.product(values, repeat=len(values)))


def test_the_fraction_is_the_learned_gain_over_the_true_gain() -> None:
    # Random 10; learned mean 40, a gain of 30; true mean 50, a gain of 40.
    interval = fraction_interval([30.0, 50.0], [50.0, 50.0], 10.0)
    assert interval.point == pytest.approx(0.75, abs=1e-12)
    # Both learned draws are the worse seed in 1 of 4 resamples, above 2.5 %: (30 - 10) / 40.
    assert (interval.low, interval.high) == pytest.approx((0.5, 1.0), abs=1e-12)


def test_both_sides_are_resampled_independently() -> None:
    # Worst learned over best true, and the reverse, each come up in 1 of 16 resamples, above 2.5 %.
    # Seeds resampled in pairs, (3, 4) and (1, 2), would end at 1/2 and 3/4 instead.
    interval = fraction_interval([3.0, 1.0], [4.0, 2.0], 0.0)
    assert (interval.low, interval.high) == pytest.approx((1 / 4, 3 / 2), abs=1e-12)


@pytest.mark.parametrize(
    ("learned", "true", "random"),
    [
        ([4.0, 8.0, 8.0, 8.0], [12.0], 1.0),
        ([2.0, 2.0, 6.0, 6.0], [9.0, 9.0, 18.0], 0.0),
        ([5.0, 5.0, 9.0], [10.0, 14.0, 14.0], 0.0),
    ],
)
def test_the_interval_is_that_of_all_resamples(
    learned: list[float], true: list[float], random: float
) -> None:
    interval = fraction_interval(learned, true, random)
    exact = exact_quantiles([
        (np.mean(a) - random) / (np.mean(b) - random)
        for a in resamples(learned)
        for b in resamples(true)
    ])  # fmt: skip
    assert (interval.low, interval.high) == pytest.approx(exact, rel=1e-9)


def test_the_interval_of_a_mean_is_that_of_all_resamples() -> None:
    values = [4.0, 8.0, 8.0, 8.0]
    interval = mean_interval(values)
    assert interval.point == 7.0
    exact = exact_quantiles([float(np.mean(drawn)) for drawn in resamples(values)])
    assert (interval.low, interval.high) == pytest.approx(exact, rel=1e-12)


def test_the_interquartile_mean_is_rliables() -> None:
    # rliable's metrics.aggregate_iqm is scipy.stats.trim_mean(scores, 0.25, axis=None) over all
    # runs of all tasks. By hand, of these ten: int(0.25 * 10) = 2 go at each end, {0, 1} and
    # {9, 100}; (2 + 3 + 4 + 6 + 7 + 8) / 6 = 5.
    assert interquartile_mean([100.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0]) == 5.0
    # A matrix (runs, tasks) is taken as one list: of 8, two go at each end; (3+4+5+6) / 4.
    assert interquartile_mean(np.array([[1.0, 8.0, 3.0, 6.0], [2.0, 7.0, 4.0, 5.0]])) == 4.5
    # Below four scores nothing can be cut off.
    assert interquartile_mean([1.0, 2.0, 6.0]) == 3.0


def test_the_aggregates_are_those_of_all_resamples_within_each_task() -> None:
    # Random 0 and references of one value each, so that fractions are returns over 10 and over 20.
    tasks = {
        "a": TaskReturns([2.0, 8.0, 8.0], [10.0], 0.0),  # 0.2, 0.8, 0.8
        "b": TaskReturns([4.0, 12.0], [20.0], 0.0),  # 0.2, 0.6
    }
    found = aggregate_intervals(tasks)
    # The means 0.6 and 0.4; of the five scores one goes at each end: (0.2 + 0.6 + 0.8) / 3.
    assert found["mean"].point == pytest.approx(0.5, abs=1e-12)
    assert found["iqm"].point == pytest.approx(1.6 / 3, abs=1e-12)
    pairs = list(itertools.product(resamples([0.2, 0.8, 0.8]), resamples([0.2, 0.6])))
    means = [(np.mean(a) + np.mean(b)) / 2 for a, b in pairs]
    middles = [np.mean(sorted([*a, *b])[1:-1]) for a, b in pairs]
    for name, exact in (("mean", means), ("iqm", middles)):
        low, high = exact_quantiles([float(value) for value in exact])
        assert (found[name].low, found[name].high) == pytest.approx((low, high), rel=1e-9), name


def test_the_references_seeds_are_resampled_too() -> None:
    # One learned seed of 6; the reference is 2 or 4 in 1 of 4 resamples each: 6/4 to 6/2.
    found = aggregate_intervals({"a": TaskReturns([6.0], [2.0, 4.0], 0.0)})
    assert found["mean"].point == 2.0
    for name in ("mean", "iqm"):
        assert (found[name].low, found[name].high) == pytest.approx((1.5, 3.0), abs=1e-12)


returns = st.lists(st.floats(1.0, 100.0), min_size=1, max_size=6)


@settings(max_examples=30)
@given(learned=returns, true=returns, scale=st.floats(0.1, 10.0), shift=st.floats(-50.0, 50.0))
def test_the_unit_and_the_zero_of_the_return_do_not_matter(
    learned: list[float], true: list[float], scale: float, shift: float
) -> None:
    here = fraction_interval(learned, true, 0.0, n_boot=200)
    there = fraction_interval(
        [scale * value + shift for value in learned],
        [scale * value + shift for value in true],
        shift,
        n_boot=200,
    )
    assert [there.point, there.low, there.high] == pytest.approx(
        [here.point, here.low, here.high], rel=1e-6
    )


@settings(max_examples=30)
@given(tasks=st.lists(st.tuples(returns, returns), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_the_order_of_tasks_and_seeds_does_not_matter(
    tasks: list[tuple[list[float], list[float]]], seed: int
) -> None:
    rng = np.random.default_rng(seed)

    def shuffled(values: list[float]) -> list[float]:
        return rng.permutation(values).tolist()

    named = {str(i): TaskReturns(own, best, 0.0) for i, (own, best) in enumerate(tasks)}
    other = {
        name: TaskReturns(shuffled(tasks[int(name)][0]), shuffled(tasks[int(name)][1]), 0.0)
        for name in rng.permutation(list(named)).tolist()
    }
    assert aggregate_intervals(other, n_boot=50) == aggregate_intervals(named, n_boot=50)
    own, best = tasks[0]
    there = fraction_interval(shuffled(own), shuffled(best), 0.0, n_boot=50)
    assert there == fraction_interval(own, best, 0.0, n_boot=50)


@settings(max_examples=30)
@given(
    value=st.floats(-100.0, 100.0),
    gain=st.floats(1.0, 100.0),
    n=st.integers(1, 6),
)
def test_equal_seeds_have_an_interval_of_no_width_at_the_point(
    value: float, gain: float, n: int
) -> None:
    tasks = {"a": TaskReturns([value] * n, [value + gain] * 3, value - gain)}
    # (value - (value - gain)) / (2 gain)
    for interval in (
        *aggregate_intervals(tasks, n_boot=20).values(),
        fraction_interval([value] * n, [value + gain] * 3, value - gain, n_boot=20),
    ):
        assert [interval.low, interval.point, interval.high] == pytest.approx([0.5] * 3, abs=1e-9)


@settings(max_examples=30)
@given(own=returns, best=returns)
def test_an_aggregate_of_one_task_is_its_fraction(own: list[float], best: list[float]) -> None:
    found = aggregate_intervals({"a": TaskReturns(own, best, 0.0)}, n_boot=20)
    assert found["mean"].point == pytest.approx(np.mean(own) / np.mean(best), rel=1e-9)


def test_the_interval_is_reproducible_and_a_single_seed_has_no_width() -> None:
    arguments = ([3.0, 4.0, 8.0], [9.0, 7.0], 1.0)
    assert fraction_interval(*arguments) == fraction_interval(*arguments)
    single = fraction_interval([5.0], [9.0], 1.0)
    assert (single.point, single.low, single.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("learned", "true", "message"),
    [
        ([], [5.0], "finish the runs"),
        ([5.0], [], "finish the runs"),
        ([5.0, float("nan")], [5.0], "finish the runs"),
        ([5.0], [float("inf")], "finish the runs"),
        ([5.0], [9.0, 1.0], "not above `random`"),
    ],
)
def test_a_fraction_without_a_meaning_is_refused(
    learned: list[float], true: list[float], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fraction_interval(learned, true, 1.0)
    with pytest.raises(DataError, match=message):
        aggregate_intervals({"a": TaskReturns(learned, true, 1.0)})


def test_empty_sides_are_refused() -> None:
    with pytest.raises(DataError, match="at least one"):
        aggregate_intervals({})
    with pytest.raises(DataError, match="`values` is"):
        mean_interval([])
    with pytest.raises(DataError, match="`reference` is"):
        counts([float("nan"), 1.0], 0.0)


def test_a_task_counts_from_five_seed_deviations_on() -> None:
    # Mean 10, deviation sqrt((1 + 1) / 1) = 1.414 with n - 1: 5 of them are 7.07.
    assert counts([9.0, 11.0], 2.9) == (True, "gain 7.1 = 5.0 seed standard deviations of the "
                                              "reference")  # fmt: skip
    does, why = counts([9.0, 11.0], 3.0)
    assert not does and "4.9 seed" in why and "5 are needed" in why
    does, why = counts([9.0], 0.0)
    assert not does and "one seed" in why
    assert counts([9.0, 9.0], 0.0)[0] and not counts([9.0, 9.0], 9.0)[0]
