from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Query
from rlhf_gym.feedback.quality.measure import measure_quality
from rlhf_gym.feedback.quality.patterns import (
    FALSE_ALARMS,
    HONEST_SHARE,
    HONEST_SIDE,
    AnswerWarning,
    answer_warnings,
    at_chance,
    find_patterns,
    nearly_all,
    standing_warnings,
)
from rlhf_gym.feedback.records import AnswerRecord
from rlhf_gym.feedback.teachers import PRESETS
from rlhf_gym.protocols import FitReport

FIRST, SECOND, TIE, SKIP = Choice.FIRST, Choice.SECOND, Choice.TIE, Choice.SKIP


def answers(choices: Sequence[Choice], who: str = "ann", kind="pairwise", left=(), start=0):
    return [
        AnswerRecord(
            sequence=start + i + 1, uuid=f"{who}{kind}{i}", query_id=f"q{i}", round=0, kind=kind,
            choice=choice, teacher="human", labeller=who, shown_at=0.0, answered_at=0.0,
            details={"left": left[i]} if left else {},
        )
        for i, choice in enumerate(choices)
    ]  # fmt: skip


def kinds(records) -> list[str]:
    return [warning.kind for warning in find_patterns(records)]


def drawn(n: int, p: float = 0.5, seed: int = 0) -> list[Choice]:
    return [FIRST if hit else SECOND for hit in np.random.default_rng(seed).random(n) < p]


def tail(n: int, k: int, p: float) -> float:
    """P(X >= k) of a binomial, term by term."""
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize("n", [1, 6, 9, 10, 11, 20, 31, 70])
def test_the_tests_are_the_binomial_ones(n: int) -> None:
    for k in range(n + 1):
        assert nearly_all(k, n, 0.5) == (k >= 0.9 * n and tail(n, k, 0.5) < 1e-3)
        below = 1 - tail(n, k + 1, HONEST_SHARE)
        assert at_chance(k, n) == (tail(n, k, 0.5) >= 0.05 and below < 1e-3)
    assert not nearly_all(0, 0, 0.5) and not at_chance(0, 0)


def alarms(test, p: float, n: int) -> float:
    """Share of runs in which n answers, looked at after each of them, raise an alarm."""
    table = np.array([[k <= m and test(k, m) for k in range(n + 1)] for m in range(n + 1)])
    hits = np.random.default_rng(1).random((4000, n)) < p
    counts = np.cumsum(hits, axis=1)
    return float(table[np.arange(1, n + 1), counts].any(axis=1).mean())


def test_honest_answers_raise_an_alarm_less_often_than_promised() -> None:
    def side(k: int, n: int) -> bool:
        return nearly_all(k, n, HONEST_SIDE) or nearly_all(n - k, n, HONEST_SIDE)

    assert alarms(at_chance, HONEST_SHARE, 100) < FALSE_ALARMS
    assert alarms(at_chance, 0.8, 100) < FALSE_ALARMS / 10
    assert alarms(side, HONEST_SIDE, 200) < FALSE_ALARMS
    assert alarms(lambda k, n: nearly_all(k, n, 0.5), 0.5, 200) < FALSE_ALARMS
    # And a coin is found out: mostly within a hundred answers.
    assert alarms(at_chance, 0.5, 100) > 0.8


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([TIE] * 8, ["ties"]),
        ([TIE] * 7, []),
        ([TIE] * 8 + [SKIP] * 5, ["ties"]),
        ([TIE] * 99 + [FIRST], ["ties"]),
        ([TIE] * 18 + [FIRST, SECOND], []),  # a sparse task's oracle
        ([SKIP] * 8, ["can't tell"]),
        ([FIRST] * 20, ["one side"]),
        ([SECOND] * 20, ["one side"]),
        ([FIRST] * 12, []),
        ([FIRST, SECOND] * 6, ["in turn"]),
        ([FIRST, TIE, SECOND, SKIP] * 6, ["in turn"]),
        ([FIRST, SECOND] * 4, []),
        ([FIRST, FIRST, SECOND] * 20, []),
        (drawn(300), []),
        (drawn(300, 0.65), []),
    ],
)
def test_degenerate_answers_are_seen_and_others_are_not(choices, expected) -> None:
    assert kinds(answers(choices)) == expected


def test_a_side_is_one_of_the_screen_where_a_viewer_recorded_it() -> None:
    left = ["first" if hit else "second" for hit in np.random.default_rng(3).random(40) < 0.5]
    always_left = [Choice(side) for side in left]
    (warning,) = find_patterns(answers(always_left, left=left))
    assert str(warning).startswith("ann chose the left one 40 of 40 times, whatever it showed")
    # Always the first clip, which stood now here, now there: chosen for what it showed.
    assert kinds(answers([FIRST] * 40, left=left)) == []
    # A real liking for the left, two times in three, on top of what is seen.
    rng = np.random.default_rng(4)
    choices = [s if rng.random() < 0.66 else FIRST if s is SECOND else SECOND for s in always_left]
    assert kinds(answers(choices, left=left)) == []


def test_re_shown_pairs_answered_the_other_way_round_contradict() -> None:
    first = drawn(12, seed=5)
    other = [SECOND if choice is FIRST else FIRST for choice in first]
    twice = answers(first) + answers(other, kind="repeat", start=20)
    (warning,) = find_patterns(twice)
    assert (warning.kind, warning.who) == ("contradictions", "ann")
    assert "only 0 of 12 re-shown pairs as before" in warning.text
    same = answers(first) + answers(first[:10] + other[10:], kind="repeat", start=20)
    assert kinds(same) == []


def test_one_of_three_who_answers_by_a_coin_is_named() -> None:
    truth = drawn(80, seed=6)
    good = answers(truth, "ann") + answers(truth, "bob", start=100)
    wrong = np.random.default_rng(7).permutation(80) < 40
    said = [
        (SECOND if c is FIRST else FIRST) if w else c for c, w in zip(truth, wrong, strict=True)
    ]
    coin = answers(said, "eve", start=200)
    (warning,) = find_patterns(good + coin)
    assert (warning.kind, warning.who) == ("others", "eve")
    (ann, bob, eve) = measure_quality(good + coin, n_resamples=100).labellers
    assert eve.flags[0] == warning.text and not ann.flags and not bob.flags


def fit(n_right: int, n: int) -> FitReport:
    share = n_right / n if n else float("nan")
    return FitReport(9, n, 1, 0.0, 0.0, 1.0, share, 0.0, 0.0, 0.0, n_heldout_decisive=n)


def test_a_reward_that_predicts_no_better_than_a_coin_is_said_to() -> None:
    records = answers(drawn(40))
    (warning,) = answer_warnings(records, 0, fit(30, 62))
    assert warning.text.startswith("the learned reward predicts 30 of 62 held-out answers")
    for honest in (fit(50, 62), fit(3, 6), fit(0, 0), None):
        assert answer_warnings(records, 0, honest) == []


def test_a_round_of_nothing_but_cant_tell_is_said_with_what_is_there() -> None:
    skipped = AnswerRecord(99, "z", "z", 2, "pairwise", SKIP, "human", "ann", 0.0, 0.0)
    records = [*answers(drawn(9)), skipped]
    (warning,) = answer_warnings(records, 2, None)
    assert str(warning).startswith('round 3: all 1 answers are "can\'t tell"')
    assert "learned from the 9 answers of earlier rounds" in warning.text


def test_what_stands_is_of_the_last_look_and_of_rounds_without_a_choice() -> None:
    row = [
        {"kind": k, "who": w, "text": "."} for k, w in (("ties", "a"), ("can't tell", "round 1:"))
    ]
    metrics = [{"warnings": row}, {"warnings": [{"kind": "chance", "who": "", "text": "x"}]}, {}]
    found = standing_warnings(metrics)
    assert found == [AnswerWarning("can't tell", "round 1:", "."), AnswerWarning("chance", "", "x")]
    assert standing_warnings(metrics, {"chance"}) == found[1:]
    assert standing_warnings([]) == []


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_no_shipped_teacher_is_taken_for_a_bad_one(name: str) -> None:
    rng = np.random.default_rng(8)

    def clip() -> Clip:
        rewards = rng.normal(size=6).astype(np.float32)
        return Clip(rng.normal(size=(7, 2)).astype(np.float32), np.zeros((6, 1), np.float32), "E",
                    rewards)  # fmt: skip

    choices: list[Choice] = []
    for round_ in range(20):
        queries = [Query((clip(), clip()), 0, round_, i) for i in range(15)]
        choices += [p.choice for p in PRESETS[name].answer(queries)]
        assert find_patterns(answers(choices, who=name)) == []
