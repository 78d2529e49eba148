"""Fractions of the true reward's gain, their aggregates over tasks, and bootstrap intervals.

A fraction is (mean - random) / (mean of the reference - random). Aggregates follow Agarwal et al.
2021, *Deep Reinforcement Learning at the Edge of the Statistical Precipice*, and their library
rliable: the interquartile mean over the scores of all runs of all tasks, and the stratified
bootstrap, which resamples the seeds within each task. Two things differ. rliable takes the
normalising returns as known; here the reference's seeds are resampled as well, because there are
as few of them as of anything else. And the numbers of seeds may differ between tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import trim_mean

from rlhf_gym.data import Array
from rlhf_gym.errors import DataError

__all__ = [
    "Interval",
    "TaskReturns",
    "aggregate_intervals",
    "counts",
    "fraction_interval",
    "interquartile_mean",
    "mean_interval",
]

N_BOOT = 10_000
"""Resamples of an interval."""

COUNTS_AT = 5.0
"""Seed standard deviations of the reference by which it must exceed random."""

_RESAMPLES_AT_ONCE = 100_000


class Interval(NamedTuple):
    """A point estimate and its 95 % percentile bootstrap interval (Efron 1979)."""

    point: float
    low: float
    high: float


@dataclass(frozen=True)
class TaskReturns:
    """What one setting reached on one task, and what it is compared with."""

    own: Sequence[float]
    """Final true return of each seed."""
    reference: Sequence[float]
    """The same of the reference; the number may differ."""
    random: float
    """Mean return of random actions, taken as known."""


def interquartile_mean(scores: Sequence[float] | Array) -> float:
    """The mean of the middle half: a quarter of the scores is cut off at either end.

    `scipy.stats.trim_mean(scores, 0.25)` over all runs of all tasks, as rliable's `aggregate_iqm`:
    of n scores int(n / 4) are dropped at each end.

    >>> interquartile_mean([100.0, 1.0, 3.0, 2.0])
    2.5
    """
    return float(trim_mean(np.asarray(scores, np.float64), 0.25, axis=None))


def mean_interval(values: Sequence[float], n_boot: int = N_BOOT, seed: int = 0) -> Interval:
    """The mean over seeds.

    Raises:
        DataError: there is no value, or one is not finite.
    """
    array = _checked("values", values)
    means = _resampled_means(array, n_boot, np.random.default_rng(seed))
    return _interval(float(array.mean()), means)


def fraction_interval(
    learned: Sequence[float],
    true: Sequence[float],
    random: float,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> Interval:
    """How much of the true reward's gain over random actions the learned reward brings.

    (mean learned - random) / (mean true - random); the seeds of either side are resampled with
    replacement, independently of each other; `random` is taken as known. The order of the values
    does not matter.

    Args:
        learned: Final true return of each seed trained on the learned reward.
        true: The same of each seed trained on the true reward; the number may differ.
        random: Mean return of random actions.
        n_boot: Resamples.
        seed: Of the resampling, so that the interval is reproducible.

    Raises:
        DataError: a side is empty, a number is not finite, or a seed trained on the true reward
            is no better than random, so that the fraction means nothing.
    """
    task = TaskReturns(learned, true, random)
    point, fractions = _fractions(task, n_boot, np.random.default_rng(seed))
    return _interval(point, fractions)


def aggregate_intervals(
    tasks: Mapping[str, TaskReturns], n_boot: int = N_BOOT, seed: int = 0
) -> dict[str, Interval]:
    """One setting over several tasks, by the stratified bootstrap.

    Args:
        tasks: By name; neither their order nor that of their seeds matters.
        n_boot: Resamples.
        seed: Of the resampling.

    Returns:
        `mean`, the mean of the tasks' fractions, and `iqm`, the interquartile mean over the
        fractions of all seeds of all tasks, (return - random) / (mean reference - random).

    Raises:
        DataError: no task, or what `fraction_interval` refuses.
    """
    if not tasks:
        raise DataError("`tasks` is empty; an aggregate needs at least one.")
    rng = np.random.default_rng(seed)
    points, scores, resampled = [], [], []
    for name in sorted(tasks):
        score, drawn = _scores(tasks[name], n_boot, rng)
        points.append(score.mean())
        scores.append(score)
        resampled.append(drawn)
    means = np.mean([drawn.mean(axis=1) for drawn in resampled], axis=0)  # (n_boot,)
    middle = trim_mean(np.concatenate(resampled, axis=1), 0.25, axis=1)  # (n_boot,)
    return {
        "mean": _interval(float(np.mean(points)), means),
        "iqm": _interval(interquartile_mean(np.concatenate(scores)), np.asarray(middle)),
    }


def counts(reference: Sequence[float], random: float) -> tuple[bool, str]:
    """Whether a task tells settings apart: its reference exceeds random by far more than noise.

    Returns:
        Whether mean - random is at least 5 standard deviations (n - 1) over the reference's
        seeds, and the numbers in words.

    Raises:
        DataError: there is no value, or one is not finite.
    """
    array = _checked("reference", reference)
    gain = float(array.mean() - random)
    if len(array) < 2:
        return False, f"gain {gain:,.4g}, but one seed of the reference has no spread to compare"
    deviation = float(array.std(ddof=1))
    if deviation == 0.0:
        return gain > 0, f"gain {gain:,.4g}, all seeds of the reference equal"
    ratio = gain / deviation
    needed = "" if ratio >= COUNTS_AT else f"; {COUNTS_AT:g} are needed"
    return ratio >= COUNTS_AT, (
        f"gain {gain:,.4g} = {ratio:.1f} seed standard deviations of the reference{needed}"
    )


def _fractions(task: TaskReturns, n_boot: int, rng: np.random.Generator) -> tuple[float, Array]:
    """The fraction, and (n_boot,) of resamples."""
    own, best = _checked_task(task)
    gains = _resampled_means(own, n_boot, rng) - task.random  # (n_boot,)
    fractions = gains / (_resampled_means(best, n_boot, rng) - task.random)
    return float((own.mean() - task.random) / (best.mean() - task.random)), fractions


def _scores(task: TaskReturns, n_boot: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """(seeds,) fractions of single seeds, and (n_boot, seeds) of resamples."""
    own, best = _checked_task(task)
    drawn = own[rng.integers(len(own), size=(n_boot, len(own)))]
    reference = _resampled_means(best, n_boot, rng)
    gains = reference - task.random  # (n_boot,)
    point = (own - task.random) / (best.mean() - task.random)
    return point, (drawn - task.random) / gains[:, None]


def _checked_task(task: TaskReturns) -> tuple[Array, Array]:
    own, best = np.sort(np.asarray(task.own, np.float64)), np.sort(np.asarray(task.reference))
    if own.size == 0 or best.size == 0 or not np.isfinite([*own, *best, task.random]).all():
        raise DataError(
            f"`learned` {own.tolist()}, `true` {best.tolist()} and `random` {task.random} must "
            "hold at least one finite return each; finish the runs first."
        )
    if best.min() <= task.random:
        raise DataError(
            f"`true` has a seed at {best.min():.4g}, not above `random` ({task.random:.4g}): "
            "nothing was learned there, and a fraction of it means nothing; train longer."
        )
    return own, best


def _checked(name: str, values: Sequence[float]) -> Array:
    array = np.sort(np.asarray(values, np.float64))
    if array.size == 0 or not np.isfinite(array).all():
        raise DataError(f"`{name}` is {array.tolist()}; at least one finite return is needed.")
    return array


def _interval(point: float, resamples: Array) -> Interval:
    low, high = np.percentile(resamples, [2.5, 97.5])
    return Interval(point, float(low), float(high))


def _resampled_means(values: Array, n_boot: int, rng: np.random.Generator) -> Array:
    """(n_boot,) means of resamples with replacement; in chunks, to bound memory."""
    chunks = [
        values[
            rng.integers(len(values), size=(min(_RESAMPLES_AT_ONCE, n_boot - start), len(values)))
        ]
        for start in range(0, n_boot, _RESAMPLES_AT_ONCE)
    ]
    return np.concatenate([chunk.mean(axis=1) for chunk in chunks])
