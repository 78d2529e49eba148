"""Percent agreement, Cohen's and Fleiss' kappa and Krippendorff's alpha of counted answers.

Pure functions on NumPy arrays. A figure that cannot be computed is None and says why; none is ever
NaN. Intervals are percentiles of a bootstrap over queries: answers to one query are not
independent, queries are.
"""

from __future__ import annotations

from dataclasses import dataclass

import krippendorff
import numpy as np
import numpy.typing as npt

from rlhf_gym.errors import DataError

__all__ = [
    "NO_OVERLAP",
    "ONE_CATEGORY",
    "Figure",
    "cohen_figures",
    "cohen_kappa",
    "fleiss_kappa",
    "krippendorff_alpha",
    "pairable",
    "percent_agreement",
    "resample",
    "sampled_figures",
    "undefined_reason",
    "with_interval",
]

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

NO_OVERLAP = "no query was answered by two labellers"
"""Why there is no agreement figure at all."""
ONE_CATEGORY = "all answers are alike, so chance alone would agree as well"
"""Why agreement beyond chance is undefined."""
_UNSTABLE = "too few differing answers for an interval"


@dataclass(frozen=True)
class Figure:
    """A measured figure with its 95 % interval, or the reason why there is none."""

    value: float | None
    """None where it cannot be computed."""
    low: float | None = None
    """The interval's lower end; None where there is no interval. No width at all means only that
    the queries at hand show no variation."""
    high: float | None = None
    """The interval's upper end."""
    reason: str = ""
    """Why the value, or its interval, is None; empty where both are there."""


def percent_agreement(counts: _Ints) -> float | None:
    """Mean over queries of the share of pairs of their labellers who agree (Fleiss' P-bar).

    For a query with m answers, of which n_c name category c: sum_c n_c (n_c - 1) / (m (m - 1)).

    Args:
        counts: (N, K) answers per query and category; queries with m < 2 are left out.

    Returns:
        A share in [0, 1], or None where no query has two answers.

    Raises:
        DataError: `counts` is no table of counts.
    """
    table = pairable(counts)
    return float(sampled_figures(table, _ones(table))[0][0]) if len(table) else None


def fleiss_kappa(counts: _Ints) -> float | None:
    """Fleiss' kappa (1971, eq. 7), also for unequal numbers of answers: (P - E) / (1 - E).

    P is `percent_agreement`; E = sum_c p_c^2 is the agreement by chance, where p_c is the share of
    category c among all answers to the queries with m >= 2 answers. With the same m throughout
    this is the published formula; otherwise every query weighs the same in P and every answer the
    same in p_c.

    Args:
        counts: (N, K) answers per query and category; queries with m < 2 are left out.

    Returns:
        1 for full agreement, about 0 for what chance would give, negative below it; None where no
        query has two answers or all answers are alike.

    Raises:
        DataError: `counts` is no table of counts.
    """
    table = pairable(counts)
    return None if undefined_reason(table) else float(sampled_figures(table, _ones(table))[1][0])


def krippendorff_alpha(counts: _Ints) -> float | None:
    """Krippendorff's alpha for nominal data, by the library `krippendorff`; bears missing answers.

    1 - D_o / D_e, observed over expected disagreement; unlike Fleiss' kappa it corrects for small
    samples and weighs a query by the number of its answers.

    Args:
        counts: (N, K) answers per query and category; queries with m < 2 are left out.

    Returns:
        As for `fleiss_kappa`.

    Raises:
        DataError: `counts` is no table of counts.
    """
    table = pairable(counts)
    if undefined_reason(table):
        return None
    return float(krippendorff.alpha(value_counts=table, level_of_measurement="nominal"))


def cohen_kappa(first: _Ints, second: _Ints) -> float | None:
    """Cohen's kappa (1960) of two labellers, by scikit-learn.

    Args:
        first: (N,) codes of one labeller; -1 for no answer.
        second: (N,) codes of the other, to the same queries.

    Returns:
        A number in [-1, 1]; None where they share no query, or both only ever gave one and the
        same answer.

    Raises:
        DataError: the lengths differ.
    """
    from sklearn.metrics import cohen_kappa_score

    if len(first) != len(second):
        raise DataError(
            f"`first` has {len(first)} answers but `second` {len(second)}; give both labellers' "
            "answers to the same queries, -1 where there is none."
        )
    both = (first >= 0) & (second >= 0)
    codes_1, codes_2 = first[both], second[both]
    if len(np.unique(np.concatenate([codes_1, codes_2]))) < 2:
        return None
    return float(cohen_kappa_score(codes_1, codes_2))


def pairable(counts: _Ints) -> _Ints:
    """(M, K) the rows with two answers or more."""
    if counts.ndim != 2 or (counts < 0).any():
        raise DataError(
            f"`counts` has shape {counts.shape} and minimum {counts.min(initial=0)}; expected "
            "(queries, categories) with numbers of answers, at least 0."
        )
    table: _Ints = counts[counts.sum(axis=1) >= 2]
    return table


def undefined_reason(table: _Ints) -> str:
    """Why agreement beyond chance cannot be computed; empty where it can."""
    if not len(table):
        return NO_OVERLAP
    return "" if (table.sum(axis=0) > 0).sum() >= 2 else ONE_CATEGORY


def _ones(table: _Ints) -> _Floats:
    return np.ones((1, len(table)))


def resample(table: _Ints, n_samples: int, rng: np.random.Generator) -> tuple[_Ints, _Floats]:
    """Bootstrap samples of rows: the distinct rows (M, K), how often each is drawn (S, M).

    Rows that are alike may be exchanged, so that a multinomial draw over the distinct ones is the
    same distribution as drawing rows one by one, and far cheaper.
    """
    if not len(table):
        return table, np.zeros((n_samples, 0))
    patterns, occurrences = np.unique(table, axis=0, return_counts=True)
    draws = rng.multinomial(len(table), occurrences / len(table), size=n_samples)
    return patterns, draws.astype(np.float64)


def sampled_figures(patterns: _Ints, weights: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    """Percent agreement, Fleiss' kappa and Krippendorff's alpha of S weighted samples at once.

    Alpha stands here a second time, beside the library's, because thousands of samples would cost
    seconds there; the tests hold the two together.

    Args:
        patterns: (M, K) rows of counts, each summing to at least 2.
        weights: (S, M) how often each row occurs.

    Returns:
        Three times (S,); NaN where a sample does not define the figure.
    """
    m = patterns.sum(axis=1).astype(np.float64)  # (M,)
    alike = (patterns * (patterns - 1)).sum(axis=1)  # (M,) ordered pairs of answers that agree
    totals = weights @ patterns  # (S, K)
    n_answers = totals.sum(axis=1)  # (S,)
    with np.errstate(divide="ignore", invalid="ignore"):
        percent = (weights @ (alike / (m * (m - 1)))) / weights.sum(axis=1)
        by_chance = ((totals / n_answers[:, None]) ** 2).sum(axis=1)
        fleiss = (percent - by_chance) / (1.0 - by_chance)
        observed = (weights @ ((m * (m - 1) - alike) / (m - 1))) / n_answers
        expected = (n_answers**2 - (totals**2).sum(axis=1)) / (n_answers * (n_answers - 1))
        alpha = 1.0 - observed / expected
    one_category = (totals > 0).sum(axis=1) < 2
    return percent, np.where(one_category, np.nan, fleiss), np.where(one_category, np.nan, alpha)


def cohen_figures(shares: _Floats) -> tuple[_Floats, _Floats]:
    """Percent agreement and Cohen's kappa of S joint distributions (S, K, K); NaN if undefined."""
    percent = np.trace(shares, axis1=1, axis2=2)
    rows, columns = shares.sum(axis=2), shares.sum(axis=1)  # (S, K)
    by_chance = (rows * columns).sum(axis=1)
    one_category = ((rows + columns) > 0).sum(axis=1) < 2
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = (percent - by_chance) / (1.0 - by_chance)
    return percent, np.where(one_category, np.nan, kappa)


def with_interval(value: float | None, samples: _Floats, reason: str) -> Figure:
    """The figure with the percentile interval of its samples.

    Samples that do not define the figure (all answers alike) are left out; where they are more
    than half, the rest are no longer representative and there is no interval.
    """
    if value is None:
        return Figure(None, reason=reason)
    defined = samples[~np.isnan(samples)]
    if 2 * len(defined) < len(samples):
        return Figure(value, reason=_UNSTABLE)
    low, high = np.quantile(defined, [0.025, 0.975])
    return Figure(value, float(low), float(high))
