"""Questions that measure a labeller: practice, qualification, known pairs, repeats."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import ConfigError, DataError, UnknownNameError
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk, Question
from rlhf_gym.feedback.gold import gold_from_true_returns, next_measure
from rlhf_gym.feedback.quality.labeller import measure_labeller
from rlhf_gym.feedback.store import PreferenceStore


def make_query(index: int, first: float, second: float, round_: int = 0) -> Query:
    """A pair of clips of 3 steps with these rewards per step; NaN: not known."""

    def clip(reward: float, i: int) -> Clip:
        rewards = None if np.isnan(reward) else np.full(3, reward, np.float32)
        obs, actions = np.full((4, 1), i, np.float32), np.full((3, 1), round_, np.float32)
        return Clip(obs, actions, "Env-v0", true_rewards=rewards)

    clips = clip(first, 2 * index), clip(second, 2 * index + 1)
    return Query(clips, seed=0, round=round_, index=index)


def make_round(n: int, round_: int = 0) -> list[Query]:
    return [make_query(index, 0.0, 1.0, round_) for index in range(n)]


def post_gold(store: PreferenceStore, n: int, *, closed: bool = False) -> list[Query]:
    """Pairs of round 9 whose second clip is better; closed: somebody has answered them."""
    queries = make_round(n, round_=9)
    store.post(queries)
    store.mark_gold({query.id: Choice.SECOND for query in queries}, "owner")
    if closed:
        answers = [Preference(q, Choice.SECOND, "human", labeller="owner") for q in queries]
        store.answer(answers)
    return queries


def give(desk: LabelDesk, choice: Choice, ahead: int = 4) -> Question:
    """Answer the next question, whatever stands where."""
    question = desk.upcoming(ahead)[0]
    desk.answer(question, question.side(choice), shown_at=0.0)
    return question


# --- which pairs are known ------------------------------------------------------------------


def test_the_clearest_true_returns_are_gold(store: PreferenceStore) -> None:
    gaps = [1.0, -9.0, 2.0, 0.0, 8.0, -3.0, 4.0, -5.0, 6.0, -7.0]
    queries = [make_query(i, gap, 0.0) for i, gap in enumerate(gaps)]
    unknown = make_query(10, np.nan, 100.0)
    store.post([*queries, unknown])
    # Of the nine pairs that differ, the quantile 0.8 of |gap| (returns: 3 times as much) lies at
    # 7.4: -9 and 8 are beyond.
    assert gold_from_true_returns(store, share=0.2) == 2
    assert store.gold() == {queries[1].id: Choice.SECOND, queries[4].id: Choice.FIRST}
    assert gold_from_true_returns(store, share=1.0) == 9
    assert queries[3].id not in store.gold() and unknown.id not in store.gold()


def test_true_return_gaps_are_first_less_second(store: PreferenceStore) -> None:
    queries = [make_query(0, 1.0, 3.0), make_query(1, 2.0, -2.0), make_query(2, np.nan, 1.0)]
    store.post(queries)
    assert store.return_gaps() == {queries[0].id: -6.0, queries[1].id: 12.0}
    store.answer([Preference(query, Choice.TIE, "human") for query in queries])
    assert [record.return_gap for record in store.answer_records()] == [-6.0, 12.0, None]


def test_without_true_rewards_gold_is_marked_by_hand(store: PreferenceStore) -> None:
    query = make_query(0, np.nan, np.nan)
    store.post([query])
    with pytest.raises(DataError, match="mark_gold"):
        gold_from_true_returns(store)
    with pytest.raises(ConfigError, match=r"is 1\.5"):
        gold_from_true_returns(store, share=1.5)
    store.mark_gold({query.id: Choice.TIE}, "owner")
    store.mark_gold({query.id: Choice.FIRST}, "owner")  # marked anew
    assert store.gold() == {query.id: Choice.FIRST}


def test_an_unknown_pair_marks_nothing_of_the_batch(store: PreferenceStore) -> None:
    query = make_query(0, 0.0, 1.0)
    store.post([query])
    with pytest.raises(UnknownNameError, match="nowhere"):
        store.mark_gold({query.id: Choice.FIRST, "nowhere": Choice.FIRST}, "owner")
    assert store.gold() == {}


# --- before the first real pair -------------------------------------------------------------


def test_practice_comes_first_with_the_right_answer_and_is_not_trained_on(
    store: PreferenceStore,
) -> None:
    store.post(make_round(5))
    gold = post_gold(store, 4)
    desk = LabelDesk(store, "ann", DeskSettings(n_practice=3))
    asked = []
    for _ in range(3):
        assert len(desk.upcoming(4)) == 1  # nothing real before the practice is over
        asked.append(give(desk, Choice.FIRST))
    assert [question.kind for question in asked] == ["practice"] * 3
    assert [question.expected for question in asked] == [Choice.SECOND] * 3
    assert {q.query.id for q in asked} < {q.id for q in gold} and len({q.query for q in asked}) == 3
    assert store.counts()["n_answers"] == 0 and store.counts()["n_open"] == 9
    assert not desk.disqualified  # practice judges nobody
    [first, *_] = desk.upcoming(4)
    assert first.kind == "pairwise" and first.expected is None


@pytest.mark.parametrize(("n_right", "passes"), [(16, True), (15, False)])
def test_sixteen_of_twenty_pass_the_qualification(
    store: PreferenceStore, n_right: int, passes: bool
) -> None:
    store.post(make_round(3))
    post_gold(store, 25)
    settings = DeskSettings(n_qualification=20)
    desk = LabelDesk(store, "ann", settings)
    for i in range(20):
        # The wrong ones first: nobody is turned away before the end.
        question = give(desk, Choice.SECOND if i >= 20 - n_right else Choice.TIE)
        assert question.kind == "qualification" and question.expected is None
        if i < 19:
            assert not desk.disqualified
    assert [q.kind for q in desk.upcoming(2)] == (["pairwise"] * 2 if passes else [])
    assert desk.disqualified is not passes
    records = [r for r in store.answer_records() if r.kind == "qualification"]
    assert measure_labeller("ann", records).qualified is passes
    assert {r.details["pass_mark"] for r in records} == {0.8}
    # Another day, another sitting, the same verdict; other labellers are not concerned.
    again = LabelDesk(store, "ann", settings)
    assert bool(again.upcoming(1)) is passes and again.disqualified is not passes
    assert LabelDesk(store, "ben", settings).upcoming(1)[0].kind == "qualification"


def test_a_failed_qualification_cannot_be_undone_until_it_is_passed(
    store: PreferenceStore,
) -> None:
    store.post(make_round(3))
    post_gold(store, 4)
    desk = LabelDesk(store, "ann", DeskSettings(n_qualification=2, pass_mark=1.0))
    give(desk, Choice.FIRST)
    question = desk.undo()  # before the verdict a slip of the finger may be taken back
    assert question is not None and question.kind == "qualification"
    give(desk, Choice.FIRST)
    give(desk, Choice.SECOND)
    assert desk.upcoming(1) == [] and desk.disqualified
    assert desk.undo() is None


def test_too_few_known_pairs_judge_by_those_there_are(store: PreferenceStore) -> None:
    store.post(make_round(3))
    post_gold(store, 2)
    settings = DeskSettings(n_practice=1, n_qualification=5, pass_mark=1.0)
    good, bad = LabelDesk(store, "good", settings), LabelDesk(store, "bad", settings)
    assert [give(good, Choice.SECOND).kind for _ in range(3)] == [
        "practice", "qualification", "pairwise"
    ]  # fmt: skip
    give(bad, Choice.SECOND)
    give(bad, Choice.FIRST)
    assert bad.upcoming(1) == [] and bad.disqualified


def test_who_fails_the_test_pairs_that_can_be_shown_has_failed(store: PreferenceStore) -> None:
    store.post(make_round(3))
    post_gold(store, 3)
    desk = LabelDesk(store, "ann", DeskSettings(n_qualification=3, pass_mark=1.0))
    give(desk, Choice.FIRST)
    assert not desk.disqualified  # two more to come
    for _ in range(2):
        desk.set_aside(desk.upcoming(1)[0], "no pictures")
    assert desk.upcoming(4) == [] and desk.disqualified
    assert list(desk.damaged.values()) == ["no pictures"] * 2


@pytest.mark.parametrize("kind", ["n_practice", "n_qualification"])
def test_the_trial_cannot_be_got_around_by_putting_it_off(
    store: PreferenceStore, kind: str
) -> None:
    store.post(make_round(5))
    post_gold(store, 3)
    desk = LabelDesk(store, "ann", DeskSettings(**{kind: 2}))  # type: ignore[arg-type]
    seen = set()
    for _ in range(12):
        upcoming = desk.upcoming(4)
        assert {question.kind for question in upcoming} == {kind.removeprefix("n_")}
        seen.add(upcoming[0].query.id)
        desk.postpone(upcoming[0])
    assert len(seen) == 3
    for _ in range(3):
        give(desk, Choice.SECOND)
    assert desk.upcoming(4)[0].kind == "pairwise"


# --- now and then ---------------------------------------------------------------------------


def test_shares_of_gold_and_repeats_are_kept_and_look_like_any_pair(
    store: PreferenceStore,
) -> None:
    n = 200
    store.post(make_round(n))
    gold = post_gold(store, 30, closed=True)
    desk = LabelDesk(store, "ann", DeskSettings())
    asked = [give(desk, Choice.SECOND) for _ in range(n)]
    kinds = Counter(question.kind for question in asked)
    # 5 % of 200 is 10; at most one measuring question is in line, so the share lags by one.
    assert 9 <= kinds["gold"] <= 10 and 9 <= kinds["repeat"] <= 10
    assert all(question.expected is None for question in asked)
    golden = [q.query.id for q in asked if q.kind == "gold"]
    assert len(set(golden)) == len(golden) and set(golden) <= {query.id for query in gold}
    records = store.answer_records()
    assert all((r.expected is Choice.SECOND) == (r.query_id in store.gold()) for r in records)
    # Only the ordinary ones are trained on.
    assert store.counts()["n_answers"] == kinds["pairwise"] + 30


def test_repeats_are_swapped_old_and_asked_once(store: PreferenceStore) -> None:
    n = 150
    store.post(make_round(n))
    desk = LabelDesk(store, "ann", DeskSettings(gold_share=0, repeat_share=0.2))
    place: dict[str, tuple[int, str]] = {}
    repeated = []
    for i in range(n):
        question = give(desk, Choice.SECOND if i % 3 else Choice.TIE)
        if question.kind == "pairwise":
            place[question.query.id] = (i, question.left)
        else:
            before, left = place[question.query.id]
            assert question.kind == "repeat" and {left, question.left} == {"first", "second"}
            # It waits behind 10 others, up to 4 of which were in line with it.
            assert i - before >= 10
            repeated.append(question.query.id)
    assert 28 <= len(repeated) == len(set(repeated)) <= 30
    answers = {r.query_id: r.choice for r in store.answer_records() if r.kind == "pairwise"}
    assert all(answers[key] is Choice.SECOND for key in repeated)  # a tie cannot show a side


def test_a_gold_pair_answered_as_an_ordinary_one_measures_already(store: PreferenceStore) -> None:
    ordinary = make_round(40)
    store.post(ordinary)
    store.mark_gold({query.id: Choice.SECOND for query in ordinary[:20]}, "owner")
    post_gold(store, 10, closed=True)
    desk = LabelDesk(store, "ann", DeskSettings(gold_share=0.5, repeat_share=0))
    asked = [give(desk, Choice.SECOND, ahead=1) for _ in range(20)]
    # 20 ordinary ones whose answers are known keep the share of 0.5 from the second question on.
    assert Counter(q.kind for q in asked)["gold"] <= 1


def test_a_pair_whose_answer_was_told_in_practice_does_not_measure(store: PreferenceStore) -> None:
    known = make_round(1)
    store.post(known)
    store.mark_gold({known[0].id: Choice.SECOND}, "owner")
    settings = DeskSettings(n_practice=1, gold_share=0.5, repeat_share=0)
    desk = LabelDesk(store, "ann", settings)
    assert [give(desk, Choice.SECOND).kind for _ in range(2)] == ["practice", "pairwise"]
    closed = post_gold(store, 1, closed=True)
    # 1 of 2 would be the gold share, were the answer that practice had told counted.
    measure = next_measure(store, "ann", settings)
    assert measure.question is not None and measure.question.query_id == closed[0].id


def test_one_labellers_answers_measure_nobody_else(store: PreferenceStore) -> None:
    store.post(make_round(60), n_wanted=2)
    ann, ben = (LabelDesk(store, n, DeskSettings(repeat_share=0.5)) for n in ("ann", "ben"))
    for _ in range(40):
        give(ann, Choice.SECOND)
    kinds = [give(ben, Choice.SECOND).kind for _ in range(10)]
    assert kinds == ["pairwise"] * 10  # nothing of ben's is old enough to be shown again
