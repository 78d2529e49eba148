"""Brute force here means counting ordered pairs of answers one by one, as the definitions do."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from rlhf_gym.data import Choice
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.feedback.quality.agreement import (
    CATEGORIES,
    agreement,
    answer_table,
    standing_answers,
)
from rlhf_gym.feedback.quality.agreement_figures import (
    NO_OVERLAP,
    ONE_CATEGORY,
    cohen_figures,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    percent_agreement,
    resample,
    sampled_figures,
    with_interval,
)
from rlhf_gym.feedback.records import AnswerKind, AnswerRecord

# One row per query, one column per labeller; -1 is a missing answer.
CODES = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(st.integers(-1, 3), min_size=n, max_size=n), max_size=12)
)
# Fleiss (1971), table 1: 30 patients, 6 psychiatrists each, 5 diagnoses; published kappa 0.430.
FLEISS = """00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050
02031 00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006"""
# Krippendorff's two examples that everybody computes: 3 observers and 15 units, 4 and 12. 0: none.
THREE_OBSERVERS = ["000003412113303", "102133430000000", "002134402113304"]
FOUR_OBSERVERS = ["123321412000", "123322412503", "033323422510", "123324412510"]


def record(
    sequence: int,
    query: str,
    choice: Choice,
    labeller: str,
    kind: AnswerKind = "pairwise",
    teacher: str = "human",
) -> AnswerRecord:
    return AnswerRecord(
        sequence, f"{sequence:032x}", query, 0, kind, choice, teacher, labeller, 0.0, 0.0
    )


def records_of(codes: list[list[int]]) -> list[AnswerRecord]:
    cells = [(q, n, code) for q, row in enumerate(codes) for n, code in enumerate(row) if code >= 0]
    return [
        record(i + 1, f"query {q}", CATEGORIES[code], f"labeller {n}")
        for i, (q, n, code) in enumerate(cells)
    ]


def counts_of(codes: list[list[int]], n_categories: int = 4) -> np.ndarray:
    counts = [[row.count(k) for k in range(n_categories)] for row in codes]
    return np.array(counts, dtype=np.int64).reshape(-1, n_categories)


def observers(rows: list[str]) -> np.ndarray:
    return counts_of([[int(v) - 1 for v in unit] for unit in zip(*rows, strict=True)], 5)


def brute_force(codes: list[list[int]]) -> tuple[float | None, float | None, float | None]:
    """Percent agreement, Fleiss' kappa and nominal alpha by counting ordered pairs of answers."""
    units = [[code for code in row if code >= 0] for row in codes]
    units = [unit for unit in units if len(unit) >= 2]
    if not units:
        return None, None, None
    alike = [[a == b for a, b in permutations(unit, 2)] for unit in units]
    percent = sum(sum(pairs) / len(pairs) for pairs in alike) / len(units)
    pooled = [code for unit in units for code in unit]
    if len(set(pooled)) == 1:
        return percent, None, None
    by_chance = sum((n / len(pooled)) ** 2 for n in Counter(pooled).values())
    # Krippendorff: a unit's pairs count 1 / (m - 1) each; expected are all pairs of all answers.
    differ = sum(
        (len(pairs) - sum(pairs)) / (len(unit) - 1)
        for unit, pairs in zip(units, alike, strict=True)
    )
    expected = sum(a != b for a, b in permutations(pooled, 2)) / (len(pooled) - 1)
    return percent, (percent - by_chance) / (1 - by_chance), 1 - differ / expected


def close(got: float | None, expected: float | None) -> bool:
    return got is None if expected is None else got == pytest.approx(expected, abs=1e-9)


@given(CODES)
def test_percent_fleiss_and_alpha_equal_counting_pairs_one_by_one(codes: list[list[int]]) -> None:
    counts = counts_of(codes)
    percent, fleiss, alpha = brute_force(codes)
    assert close(percent_agreement(counts), percent)
    assert close(fleiss_kappa(counts), fleiss)
    assert close(krippendorff_alpha(counts), alpha)


@given(CODES)
def test_the_bootstrap_has_the_same_formulas_as_the_library(codes: list[list[int]]) -> None:
    expected = brute_force(codes)
    counts = counts_of(codes)
    counts = counts[counts.sum(axis=1) >= 2]
    if len(counts):
        # All weight 1, and all weight 3 on top: the second is the same data three times over.
        both = [sampled_figures(counts, np.full((1, len(counts)), w)) for w in (1.0, 3.0)]
        tripled = np.repeat(counts, 3, axis=0)
        for i, figure in enumerate((percent_agreement, fleiss_kappa, krippendorff_alpha)):
            once, thrice = float(both[0][i][0]), float(both[1][i][0])
            assert close(None if np.isnan(once) else once, expected[i])
            assert close(None if np.isnan(thrice) else thrice, figure(tripled))


def brute_force_cohen(pairs: list[tuple[int, int]]) -> float | None:
    n = len(pairs)
    if len({code for pair in pairs for code in pair}) < 2:
        return None
    observed = sum(a == b for a, b in pairs) / n
    # by chance: the second labeller's answers shuffled over all queries
    by_chance = sum(a == b for a, _ in pairs for _, b in pairs) / n**2
    return (observed - by_chance) / (1 - by_chance)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=25))
def test_cohens_kappa_equals_shuffling_one_labeller(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    expected = brute_force_cohen(pairs) if pairs else None
    assert close(cohen_kappa(first, second), expected)
    if pairs:
        shares = np.bincount(4 * first + second, minlength=16).reshape(1, 4, 4) / len(pairs)
        percent, kappa = cohen_figures(shares)
        assert close(float(percent[0]), float((first == second).mean()))
        assert close(None if np.isnan(kappa[0]) else float(kappa[0]), expected)


def test_fleiss_own_table_gives_his_kappa() -> None:
    counts = np.array([[int(n) for n in row] for row in FLEISS.split()])
    assert counts.sum(axis=1).tolist() == [6] * 30
    assert counts.sum(axis=0).tolist() == [26, 26, 30, 55, 43]  # the table's last line
    # P = 0.5556 (sum of squares 680: (680 - 180) / (30 * 30)) and E = 0.2201 by those sums.
    assert (counts**2).sum() == 680
    assert percent_agreement(counts) == pytest.approx(500 / 900, abs=1e-12)
    by_chance = (26**2 + 26**2 + 30**2 + 55**2 + 43**2) / 180**2
    assert fleiss_kappa(counts) == pytest.approx((500 / 900 - by_chance) / (1 - by_chance))
    assert fleiss_kappa(counts) == pytest.approx(0.430, abs=5e-4)  # three published digits


def test_the_textbook_table_of_fourteen_raters_gives_its_published_figures() -> None:
    rows = "0 0 0 0 14|0 2 6 4 2|0 0 3 5 6|0 3 9 2 0|2 2 8 1 1|7 7 0 0 0|3 2 6 3 0|2 5 3 2 2"
    rows += "|6 5 2 1 0|0 2 2 3 7"
    counts = np.array([[int(n) for n in row.split()] for row in rows.split("|")])
    assert percent_agreement(counts) == pytest.approx(0.378, abs=5e-4)  # three published digits
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)


def test_krippendorffs_own_examples_give_his_alphas() -> None:
    # Published nominal alphas, 3 digits: 0.691 of three observers, 0.743 of four.
    assert krippendorff_alpha(observers(THREE_OBSERVERS)) == pytest.approx(0.691, abs=5e-4)
    assert krippendorff_alpha(observers(FOUR_OBSERVERS)) == pytest.approx(0.743, abs=5e-4)


def test_cohens_kappa_of_a_published_table() -> None:
    # SAS's printout for the table [[0 4 1], [0 8 0], [0 1 5]]: 0.4842.
    cells = {(0, 1): 4, (0, 2): 1, (1, 1): 8, (2, 1): 1, (2, 2): 5}
    pairs = np.array([cell for cell, n in cells.items() for _ in range(n)])
    assert cohen_kappa(pairs[:, 0], pairs[:, 1]) == pytest.approx(0.4842, abs=5e-5)


def test_a_missing_answer_counts_for_neither_labeller_of_a_pair() -> None:
    first, second = np.array([0, 1, -1, 0]), np.array([0, 1, 1, -1])
    assert cohen_kappa(first, second) == 1.0


def test_bad_tables_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="`counts`"):
        percent_agreement(np.array([1, 2]))
    with pytest.raises(DataError, match="minimum -1"):
        fleiss_kappa(np.array([[3, -1]]))
    with pytest.raises(DataError, match="`first` has 1 answers but `second` 2"):
        cohen_kappa(np.array([0]), np.array([0, 1]))
    with pytest.raises(ConfigError, match="`n_resamples` is 10"):
        agreement([], n_resamples=10)


# -- from answers ---------------------------------------------------------------------------------


def test_only_the_newest_pairwise_answer_of_a_labeller_stands() -> None:
    answers = [
        record(4, "q", Choice.TIE, "ann"),
        record(1, "q", Choice.FIRST, "ann"),
        record(2, "q", Choice.SECOND, "bob"),
        record(5, "q", Choice.FIRST, "ann", kind="repeat"),
        record(6, "g", Choice.FIRST, "ann", kind="gold"),
        record(3, "p", Choice.FIRST, ""),
    ]
    assert [a.sequence for a in standing_answers(answers)] == [2, 3, 4]
    table = answer_table(answers, cant_tell=True)
    assert table.query_ids == ("q", "p")
    assert table.labellers == ("ann", "bob", "human")  # without a name, the teacher's
    assert table.codes.tolist() == [[2, 1, -1], [-1, -1, 0]]
    assert table.counts().tolist() == [[0, 1, 1, 0], [1, 0, 0, 0]]


@settings(max_examples=20)
@given(CODES)
def test_records_give_the_figures_of_their_table(codes: list[list[int]]) -> None:
    for cant_tell in (True, False):
        seen = [[-1 if c == 3 and not cant_tell else c for c in row] for row in codes]
        found = agreement(records_of(codes), cant_tell=cant_tell, n_resamples=100)
        figures = (found.percent, found.fleiss, found.alpha)
        for figure, expected in zip(figures, brute_force(seen), strict=True):
            assert close(figure.value, expected)
            assert (figure.value is None) <= bool(figure.reason)
        shared = [row for row in seen if sum(c >= 0 for c in row) >= 2]
        assert found.n_queries == len(shared)
        assert found.n_answers == sum(c >= 0 for row in shared for c in row)


def test_cant_tell_is_a_category_or_a_missing_answer() -> None:
    first, second, tie, skip = range(4)
    answers = records_of([[first, first], [second, second], [tie, skip], [skip, skip]])
    with_it, without = (agreement(answers, cant_tell=c, n_resamples=100) for c in (True, False))
    assert (with_it.n_queries, with_it.percent.value) == (4, 0.75)
    assert (without.n_queries, without.percent.value) == (2, 1.0)


def test_a_tie_is_no_half_agreement() -> None:
    found = agreement(records_of([[0, 2], [1, 1]]), n_resamples=100)
    assert found.percent.value == 0.5


def test_each_two_labellers_are_compared_on_what_both_answered() -> None:
    found = agreement(records_of([[0, 0, -1], [1, 1, 0], [0, 1, -1], [-1, -1, 1]]), n_resamples=100)
    assert [(p.labellers, p.n_queries) for p in found.pairs] == [
        (("labeller 0", "labeller 1"), 3),
        (("labeller 0", "labeller 2"), 1),
        (("labeller 1", "labeller 2"), 1),
    ]
    pair = found.pairs[0]
    assert pair.percent.value == pytest.approx(2 / 3)
    # answers 0,1,0 and 0,1,1: by chance (2/3)(1/3) + (1/3)(2/3) = 4/9
    assert pair.kappa.value == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))


def test_without_a_doubly_answered_query_every_figure_says_so() -> None:
    found = agreement(records_of([[0, -1], [-1, 1]]), n_resamples=100)
    for figure in (found.percent, found.fleiss, found.alpha):
        assert (figure.value, figure.low, figure.reason) == (None, None, NO_OVERLAP)
    assert found.pairs == ()
    assert agreement([], n_resamples=100).percent.reason == NO_OVERLAP


def test_where_all_answers_are_alike_only_percent_agreement_is_defined() -> None:
    found = agreement(records_of([[0, 0], [0, 0]]), n_resamples=100)
    assert (found.percent.value, found.percent.low, found.percent.high) == (1.0, 1.0, 1.0)
    for figure in (found.fleiss, found.alpha, found.pairs[0].kappa):
        assert (figure.value, figure.reason) == (None, ONE_CATEGORY)


# -- intervals ------------------------------------------------------------------------------------


def test_resampling_draws_rows_with_replacement() -> None:
    table = np.array([[2, 0], [2, 0], [2, 0], [1, 1]])
    patterns, weights = resample(table, 20_000, np.random.default_rng(0))
    assert patterns.tolist() == [[1, 1], [2, 0]]
    assert set(weights.sum(axis=1)) == {4.0}
    # binomial(4, 1/4): mean 1, variance 3/4; the standard errors of 20,000 draws are 0.006, 0.01
    assert weights[:, 0].mean() == pytest.approx(1.0, abs=0.03)
    assert weights[:, 0].var() == pytest.approx(0.75, abs=0.05)


def test_the_interval_of_percent_agreement_is_the_binomials() -> None:
    # 100 queries, 80 answered alike by two: resampled percents are binomial(100, 0.8) / 100.
    codes = [[0, 0]] * 40 + [[1, 1]] * 40 + [[0, 1]] * 10 + [[1, 0]] * 10
    low, high = binom.ppf([0.025, 0.975], 100, 0.8) / 100
    found = agreement(records_of(codes), n_resamples=20_000)
    for figure in (found.percent, found.pairs[0].percent):
        assert figure.value == pytest.approx(0.8)
        # one answer either way: the quantile of a sample of a step function may fall a step off
        assert figure.low == pytest.approx(low, abs=0.0101)
        assert figure.high == pytest.approx(high, abs=0.0101)
    # Equal shares of both answers from both labellers: chance is 1/2 to second order in what the
    # resampling moves, so that every kappa is about 2 percent - 1; 0.02 covers that and the step.
    for figure in (found.fleiss, found.alpha, found.pairs[0].kappa):
        assert figure.low == pytest.approx(2 * low - 1, abs=0.02)
        assert figure.high == pytest.approx(2 * high - 1, abs=0.02)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # Two labellers, each right with probability 0.85 about a fair coin, 120 queries. True alpha is
    # 2 * P(agree) - 1 = 2 * (0.85^2 + 0.15^2) - 1 = 0.49.
    rng, hits, n_trials = np.random.default_rng(1), 0, 300
    for _ in range(n_trials):
        truth = rng.integers(0, 2, 120)
        codes = np.stack([truth ^ (rng.random(120) < 0.15) for _ in range(2)], axis=1)
        counts = counts_of(codes.tolist())
        samples = sampled_figures(*resample(counts, 400, rng))[2]
        figure = with_interval(krippendorff_alpha(counts), samples, "")
        assert figure.low is not None and figure.high is not None
        hits += figure.low <= 0.49 <= figure.high
    # 95 % nominal; 300 trials have a standard error of 1.3 points
    assert 0.90 <= hits / n_trials <= 0.99


def test_intervals_depend_on_the_seed_alone() -> None:
    answers = records_of([[0, 0], [1, 1], [0, 1], [1, 1], [0, 0]])
    assert agreement(answers, seed=3) == agreement(list(reversed(answers)), seed=3)
    codes = np.random.default_rng(0).integers(0, 3, (60, 2)).tolist()
    answers = records_of(codes)
    assert agreement(answers, seed=3).alpha != agreement(answers, seed=4).alpha


def test_an_interval_over_mostly_undefined_samples_is_withheld() -> None:
    # Three samples of four do not define the figure, then one of two: at most half may be missing.
    samples = np.array([np.nan] * 3 + [0.5])
    figure = with_interval(0.4, samples, "")
    assert (figure.value, figure.low, figure.high) == (0.4, None, None)
    assert figure.reason
    assert with_interval(0.4, np.array([np.nan, 0.5]), "").low == 0.5


def test_the_library_reads_counts_as_it_reads_answers() -> None:
    # The library's other form of input, names with gaps, gives the same as our counts.
    rows = [[int(v) or np.nan for v in row] for row in THREE_OBSERVERS]
    expected = krippendorff.alpha(reliability_data=rows, level_of_measurement="nominal")
    assert krippendorff_alpha(observers(THREE_OBSERVERS)) == pytest.approx(expected, abs=1e-12)
