from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from rlhf_gym.data import Choice
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.quality.dawid_skene import fit_dawid_skene
from rlhf_gym.feedback.quality.labeller import (
    QUALIFICATION_PASS,
    QUALIFICATION_SIZE,
    Share,
    measure_labeller,
    true_gap_accuracy,
)
from rlhf_gym.feedback.quality.measure import measure_quality
from rlhf_gym.feedback.records import KINDS, AnswerKind, AnswerRecord

FIRST, SECOND, TIE, SKIP = Choice.FIRST, Choice.SECOND, Choice.TIE, Choice.SKIP


class Book:
    """Writes answers down one after another."""

    def __init__(self) -> None:
        self.records: list[AnswerRecord] = []

    def add(
        self,
        query: str,
        choice: Choice,
        labeller: str = "ann",
        kind: AnswerKind = "pairwise",
        *,
        seconds: float = 2.0,
        start: float = 1000.0,
        details: Mapping[str, Any] | None = None,
        expected: Choice | None = None,
        gap: float | None = None,
        teacher: str = "human",
        supersedes: int | None = None,
    ) -> None:
        sequence = len(self.records) + 1
        self.records.append(
            AnswerRecord(
                sequence=sequence,
                uuid=f"{sequence:032x}",
                query_id=query,
                round=0,
                kind=kind,
                choice=choice,
                teacher=teacher,
                labeller=labeller,
                shown_at=start,
                answered_at=start + seconds,
                details=details or {},
                supersedes=supersedes,
                expected=expected,
                return_gap=gap,
            )
        )


@pytest.fixture
def book() -> Book:
    return Book()


# -- shares and the qualification -----------------------------------------------------------------


@given(st.integers(0, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_has_wilsons_interval(counts: tuple[int, int]) -> None:
    hits, n = counts
    share = Share(hits, n)
    if n == 0:
        assert (share.value, share.low, share.high) == (None, None, None)
        return
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert share.value == hits / n
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_sixteen_of_twenty_turns_clickers_away_and_lets_good_labellers_in() -> None:
    random_passes = binom.sf(QUALIFICATION_PASS - 1, QUALIFICATION_SIZE, 0.5)
    # sum over k = 16..20 of C(20, k) / 2^20 = (4845 + 1140 + 190 + 20 + 1) / 1048576
    assert random_passes == pytest.approx(6196 / 1048576, abs=1e-12)
    good_fails = binom.cdf(QUALIFICATION_PASS - 1, QUALIFICATION_SIZE, 0.9)
    assert (random_passes, good_fails) == pytest.approx((0.0059, 0.0432), abs=5e-5)


@pytest.mark.parametrize(("n_right", "qualified"), [(15, False), (16, True), (20, True)])
def test_the_qualification_passes_at_sixteen(book: Book, n_right: int, qualified: bool) -> None:
    odd = {"n_qualification": None, "pass_mark": 2.0}  # not ours: the usual terms hold
    for i, choice in enumerate([FIRST] * n_right + [SECOND] * (20 - n_right)):
        book.add(f"u{i}", choice, kind="qualification", expected=FIRST, details=odd)
    quality = measure_labeller("ann", book.records)
    assert (quality.qualification.n_hits, quality.qualified) == (n_right, qualified)
    assert any("did not pass" in flag for flag in quality.flags) is not qualified


def test_a_qualification_is_open_until_twenty_and_the_last_twenty_count(book: Book) -> None:
    for i in range(19):
        book.add(f"u{i}", FIRST, kind="qualification", expected=FIRST)
    assert measure_labeller("ann", book.records).qualified is None
    for i in range(20):  # a second attempt, all wrong
        book.add(f"v{i}", TIE, kind="qualification", expected=FIRST)
    quality = measure_labeller("ann", book.records)
    assert (quality.qualification.n_hits, quality.qualified) == (0, False)


@pytest.mark.parametrize(("n_right", "qualified"), [(8, False), (9, True)])
def test_a_qualification_of_another_size_is_judged_by_its_own_terms(
    book: Book, n_right: int, qualified: bool
) -> None:
    terms = {"n_qualification": 10, "pass_mark": 0.9}
    for i, choice in enumerate([FIRST] * n_right + [SECOND] * (10 - n_right)):
        book.add(f"u{i}", choice, kind="qualification", expected=FIRST, details=terms)
    quality = measure_labeller("ann", book.records)
    assert (quality.qualified, quality.qualification.n) == (qualified, 10)
    assert any("9 of 10 are needed" in flag for flag in quality.flags) is not qualified


def test_a_known_pair_whose_answer_was_told_measures_nobody(book: Book) -> None:
    book.add("a", SECOND, kind="practice", expected=FIRST)
    book.add("a", FIRST, expected=FIRST)  # asked again as an ordinary pair
    book.add("b", SECOND, expected=FIRST)
    gold = measure_labeller("ann", book.records).gold
    assert (gold.n_hits, gold.n, len(fit_dawid_skene(book.records).query_ids)) == (0, 1, 1)


def test_practice_is_counted_apart(book: Book) -> None:
    for i, choice in enumerate((FIRST, SECOND, FIRST)):
        book.add(f"p{i}", choice, kind="practice", expected=FIRST, seconds=0.1)
    quality = measure_labeller("ann", book.records)
    assert (quality.practice.n_hits, quality.practice.n) == (2, 3)
    assert (quality.fast.n, quality.gold.n, quality.median_seconds) == (0, 0, None)
    assert quality.n_answers["practice"] == 3


# -- one labeller ---------------------------------------------------------------------------------


def test_pace_is_the_median_answer_and_the_rate_within_sittings(book: Book) -> None:
    # Sitting a: 3 answers from 0 s to 30 s by its clock; b, a day later: 1 answer in 10 s by UTC.
    clocks = [(0.0, 3.0), (4.0, 6.0), (25.0, 30.0)]
    for i, (shown, answered) in enumerate(clocks):
        details = {"sitting": "a", "shown_monotonic": shown, "answered_monotonic": answered}
        book.add(f"q{i}", FIRST, details=details, seconds=900.0)  # UTC jumped
    book.add("q3", FIRST, details={"sitting": "b"}, start=90_000.0, seconds=10.0)
    quality = measure_labeller("ann", book.records)
    assert quality.median_seconds == 4.0  # of 3, 2, 5, 10
    assert quality.answers_per_minute == pytest.approx(4 / (40 / 60))
    assert quality.n_sittings == 2


def test_a_teacher_without_clock_or_sides_has_no_such_figures(book: Book) -> None:
    book.add("q", FIRST, "", teacher="synthetic", start=0.0, seconds=0.0)
    (quality,) = measure_quality(book.records, n_resamples=100).labellers
    assert quality.labeller == "synthetic"
    assert (quality.median_seconds, quality.answers_per_minute) == (None, None)
    for share in (quality.fast, quality.unwatched, quality.left, quality.gold, quality.retest):
        assert (share.n, share.value) == (0, None)
    assert (quality.reliability, quality.flags) == (None, ())


def test_hasty_answers_are_counted_and_named(book: Book) -> None:
    for i, (seconds, watched) in enumerate([(0.29, 1.0), (0.3, 0.99), (2.0, 1.0), (2.0, 3.0)]):
        clock = {"shown_monotonic": 0.0, "answered_monotonic": seconds}
        book.add(f"q{i}", FIRST, details={"watched_fraction": watched, **clock})
    book.add("q4", FIRST)
    quality = measure_labeller("ann", book.records)
    assert (quality.fast.n_hits, quality.fast.n) == (1, 5)
    assert (quality.unwatched.n_hits, quality.unwatched.n) == (1, 4)
    assert quality.hasty_sequences == (1, 2)
    assert quality.flags == ()  # four answers are no habit


def test_five_hasty_answers_in_a_row_raise_a_flag_but_five_apart_do_not(book: Book) -> None:
    for i in range(200):
        book.add(f"q{i}", FIRST, seconds=0.1 if i % 40 == 0 else 2.0)
    assert measure_labeller("ann", book.records).flags == ()
    for i in range(200, 205):
        book.add(f"q{i}", FIRST, seconds=0.1)
    (flag,) = measure_labeller("ann", book.records).flags
    assert "under 0.3 s: 10 of 205 (5 %), up to 5 in a row" in flag


@pytest.mark.parametrize(("n_left", "warns"), [(90, False), (113, False), (114, True), (60, True)])
def test_a_leaning_to_one_side_is_flagged_when_half_lies_outside(
    book: Book, n_left: int, warns: bool
) -> None:
    # Of 200 the interval of 114 (57 %) begins at 0.5007 or so, by scipy below; of 113, under 0.5.
    for i in range(200):
        side = "first" if i < n_left else "second"
        book.add(f"q{i}", FIRST, details={"left": side})
    quality = measure_labeller("ann", book.records)
    interval = binomtest(n_left, 200).proportion_ci(0.95, method="wilson")
    assert (not interval.low <= 0.5 <= interval.high) is warns
    assert (quality.left.n_hits, quality.left.n) == (n_left, 200)
    assert any("left side" in flag for flag in quality.flags) is warns


def test_sides_are_the_screens_and_ties_have_none(book: Book) -> None:
    for i, (choice, left) in enumerate(
        [(FIRST, "first"), (SECOND, "second"), (FIRST, "second"), (TIE, "first"), (SKIP, "first")]
    ):
        book.add(f"q{i}", choice, details={"left": left})
    quality = measure_labeller("ann", book.records)
    assert (quality.left.n_hits, quality.left.n) == (2, 3)
    assert (quality.tie.n_hits, quality.cant_tell.n_hits, quality.tie.n) == (1, 1, 5)


def test_an_answer_too_many_counts_for_the_labeller_but_not_for_agreement(book: Book) -> None:
    book.add("a", FIRST, "ann")
    book.add("a", SECOND, "bob", kind="surplus", seconds=0.1, details={"left": "second"})
    quality = measure_quality(book.records, n_resamples=100)
    bob = quality.labellers[1]
    assert (bob.fast.n_hits, bob.left.n_hits, bob.true_accuracy.n) == (1, 1, 0)
    assert (quality.n_shared_queries, quality.agreement.n_queries) == (0, 0)


def test_gold_pairs_are_right_only_when_answered_as_known(book: Book) -> None:
    answers = [(FIRST, FIRST), (TIE, FIRST), (SKIP, FIRST), (TIE, TIE), (SECOND, FIRST)]
    for i, (choice, expected) in enumerate(answers):
        book.add(f"g{i}", choice, kind="gold", expected=expected)
    book.add("q", SECOND, expected=SECOND)  # an ordinary pair whose answer is known
    book.add("q", FIRST, kind="repeat", expected=SECOND)  # the same pair is not counted twice
    quality = measure_labeller("ann", book.records)
    assert (quality.gold.n_hits, quality.gold.n) == (3, 6)


def test_wrong_answers_to_gold_pairs_raise_a_flag_and_swapped_keys_another(book: Book) -> None:
    # Wilson's upper ends: 5 of 10 0.76 (below 0.8), 0 of 10 0.28 (below 0.5), 6 of 10 0.83.
    for n_right, words in ((6, None), (5, "80 % or more"), (0, "keys mixed up")):
        own = Book()
        for i in range(10):
            own.add(f"g{i}", FIRST if i < n_right else SECOND, kind="gold", expected=FIRST)
        flags = measure_labeller("ann", own.records).flags
        assert len(flags) == (words is not None)
        assert words is None or words in flags[0]


def test_a_pair_shown_again_is_compared_with_the_labellers_own_standing_answer(book: Book) -> None:
    book.add("a", FIRST)
    book.add("b", FIRST)
    book.add("b", SECOND)  # changed later: this one stands
    book.add("c", SKIP)
    book.add("d", FIRST, "bob")
    for query, choice in (("a", FIRST), ("b", FIRST), ("c", SKIP), ("d", FIRST)):
        book.add(query, choice, kind="repeat")
    (quality, _) = measure_quality(book.records, n_resamples=100).labellers
    assert quality.labeller == "ann"
    # a and c as before, b not; d was never answered by ann before
    assert (quality.retest.n_hits, quality.retest.n) == (2, 3)


# -- true returns ---------------------------------------------------------------------------------


def test_decisive_answers_are_right_when_they_choose_the_higher_true_return(book: Book) -> None:
    cases = [(FIRST, 2.0), (FIRST, -2.0), (SECOND, -1.0), (TIE, 3.0), (SKIP, 3.0), (FIRST, 0.0)]
    for i, (choice, gap) in enumerate(cases):
        book.add(f"q{i}", choice, gap=gap)
    book.add("q6", FIRST)
    quality = measure_labeller("ann", book.records, gap_edges=(0.0, 1.0, 3.0))
    assert (quality.true_accuracy.n_hits, quality.true_accuracy.n) == (2, 3)
    small, large = quality.true_accuracy_by_gap
    assert (small.low, small.high, small.share.n_hits, small.share.n) == (0.0, 1.0, 1, 1)
    assert (large.low, large.high, large.share.n_hits, large.share.n) == (1.0, 3.0, 1, 2)
    assert true_gap_accuracy(book.records, ()) == ()


def test_agreement_and_accuracy_are_split_at_quantiles_of_the_gap(book: Book) -> None:
    # Gaps 1..8 with both signs, two labellers; they agree, and are right, from gap 5 on.
    for gap in range(1, 9):
        signed = gap if gap % 2 else -gap
        right = FIRST if signed > 0 else SECOND
        wrong = SECOND if signed > 0 else FIRST
        book.add(f"q{gap}", right, "ann", gap=signed)
        book.add(f"q{gap}", right if gap >= 5 else wrong, "bob", gap=signed)
    quality = measure_quality(book.records, n_gap_bins=2, n_resamples=100)
    low, high = quality.agreement_by_gap
    # The median of 1..8 is 4.5.
    assert [(b.low, b.high) for b in (low, high)] == [(1.0, 4.5), (4.5, 8.0)]
    assert (low.agreement.percent.value, high.agreement.percent.value) == (0.0, 1.0)
    assert (low.agreement.n_queries, high.agreement.n_queries) == (4, 4)
    assert [row.share.n_hits for row in quality.true_accuracy_by_gap] == [4, 8]
    assert [row.share.n for row in quality.true_accuracy_by_gap] == [8, 8]
    assert quality.labellers[1].true_accuracy.n_hits == 4


def test_equal_gaps_make_one_bin(book: Book) -> None:
    for i in range(4):
        book.add(f"q{i}", FIRST, gap=2.0)
    (row,) = measure_quality(book.records, n_resamples=100).true_accuracy_by_gap
    assert (row.low, row.high, row.share.n) == (2.0, 2.0, 4)


# -- the store ------------------------------------------------------------------------------------


def test_an_adversary_among_three_is_named(book: Book) -> None:
    for i in range(60):
        truth, other = (FIRST, SECOND) if i % 3 else (SECOND, FIRST)
        for name in ("ann", "bob"):
            book.add(f"q{i}", truth if i % 10 else TIE, name)
        book.add(f"q{i}", other, "eve")
    quality = measure_quality(book.records, n_resamples=100)
    ann, _, eve = quality.labellers
    assert ann.reliability is not None and ann.reliability > 0.8
    assert eve.reliability is not None and eve.reliability < 0.2
    assert any("contradicts" in flag for flag in eve.flags)
    assert ann.flags == ()
    assert any("rewrite the rubric" in flag for flag in quality.flags)


def test_hidden_known_pairs_count_towards_the_reliability(book: Book) -> None:
    for i in range(20):
        for name in ("ann", "bob", "eve"):
            book.add(f"q{i}", FIRST if i % 2 else SECOND, name)
    for i in range(20):
        book.add(f"known {i}", FIRST if i % 4 else SECOND, "eve", "gold", expected=FIRST)
        book.add(f"known {i}", FIRST, "ann", "gold", expected=FIRST)
    ann, bob, eve = (
        q.reliability for q in measure_quality(book.records, n_resamples=100).labellers
    )
    assert ann is not None and bob is not None and eve is not None
    # 15 of the 20 right, where bob was never asked: they all agree on the others.
    assert eve < bob - 0.05 and eve < ann - 0.1


def test_of_two_who_differ_nobody_is_called_unreliable(book: Book) -> None:
    for i in range(40):
        book.add(f"q{i}", FIRST if i % 3 else SECOND, "ann")
        book.add(f"q{i}", SECOND if i % 3 else FIRST, "eve")
    for quality in measure_quality(book.records, n_resamples=100).labellers:
        assert (quality.reliability, quality.n_shared) == (None, 40)
        # The same is said of both.
        (flag,) = quality.flags
        assert flag.startswith("agrees with the other labellers on 0 of 40 pairs")


def test_the_store_is_counted_by_kind_choice_and_query(book: Book) -> None:
    for name in ("ann", "bob"):
        book.add("a", FIRST, name)
    book.add("b", TIE)
    book.add("c", SKIP)
    book.add("a", FIRST, kind="repeat")
    book.add("g", FIRST, kind="gold", expected=FIRST)
    quality = measure_quality(book.records, n_resamples=100)
    assert {k: n for k, n in quality.n_answers.items() if n} == {
        "pairwise": 4,
        "gold": 1,
        "repeat": 1,
    }
    assert set(quality.n_answers) == set(KINDS)
    assert quality.choices == {"first": 2, "second": 0, "tie": 1, "skip": 1}
    assert (quality.n_queries, quality.n_shared_queries) == (3, 1)
    assert quality.flags == ()


def test_answers_replaced_or_taken_back_count_nowhere(book: Book) -> None:
    for i in range(3):
        book.add(f"g{i}", SECOND, kind="gold", expected=FIRST, seconds=0.1)
        book.add(f"g{i}", FIRST, kind="gold", expected=FIRST, supersedes=2 * i + 1)
    book.add("q", SECOND)  # 7, replaced by 8, which is taken back by 9
    book.add("q", FIRST, supersedes=7)
    book.add("q", FIRST, kind="retraction", supersedes=8)
    quality = measure_quality(book.records, n_resamples=100)
    assert (quality.n_superseded, quality.n_queries) == (5, 0)
    assert (quality.n_answers["gold"], quality.n_answers["pairwise"]) == (3, 0)
    (ann,) = quality.labellers
    assert (ann.gold.n_hits, ann.gold.n, ann.fast.n_hits) == (3, 3, 0)
    alone = measure_labeller("ann", book.records)
    assert (alone.gold, alone.fast) == (ann.gold, ann.fast)


def test_too_few_pairs_in_common_raise_a_flag_only_with_two_labellers(book: Book) -> None:
    for i in range(30):
        book.add(f"q{i}", FIRST, "ann")
    assert measure_quality(book.records, n_resamples=100).flags == ()
    book.add("q0", FIRST, "bob")
    (flag,) = measure_quality(book.records, n_resamples=100).flags
    assert flag.startswith("1 of 30 pairs were answered by two labellers")


def test_no_answer_at_all_gives_an_empty_report() -> None:
    quality = measure_quality([], n_resamples=100)
    assert (quality.labellers, quality.flags, quality.n_queries) == ((), (), 0)
    assert quality.agreement.alpha.value is None
    assert quality.agreement_by_gap == ()


def test_no_gap_bin_is_refused() -> None:
    with pytest.raises(ConfigError, match="`n_gap_bins` is 0"):
        measure_quality([], n_gap_bins=0)
