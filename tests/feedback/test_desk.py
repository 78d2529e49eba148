"""One labeller at the desk: what is asked, what is kept, and what is taken back."""

from __future__ import annotations

import math

import pytest

from rlhf_gym.data import Choice
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback import desk as module
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk, Question
from rlhf_gym.feedback.store import PreferenceStore
from tests.feedback.desk_rounds import PLAIN, answer_all, ids, make_query, make_round
from tests.feedback.fakes import Clock


def test_pairs_come_in_order_and_stay_until_answered(store: PreferenceStore) -> None:
    queries = make_round(6)
    store.post(queries)
    desk = LabelDesk(store, "ann", PLAIN)
    first = desk.upcoming(3)
    assert ids(first) == [query.id for query in queries[:3]]
    again = desk.upcoming(4)
    assert again[:3] == first and ids(again) == [query.id for query in queries[:4]]
    desk.answer(again[1], "left", shown_at=1.0)  # not the first one: the others stay
    assert ids(desk.upcoming(4)) == [queries[i].id for i in (0, 2, 3, 4)]


def test_a_question_carries_no_true_rewards(store: PreferenceStore) -> None:
    store.post(make_round(1))
    [question] = LabelDesk(store, "ann", PLAIN).upcoming(1)
    assert all(clip.true_rewards is None for clip in question.query.clips)
    assert question.query.first.id == make_query(0).first.id


@pytest.mark.parametrize("left", ["first", "second"])
def test_a_side_means_the_clip_that_stood_there(left: str) -> None:
    query = make_query(0)
    question = Question(query, "pairwise", left, side_seed=0)  # type: ignore[arg-type]
    right = {"first": "second", "second": "first"}[left]
    assert question.choice("left").value == left and question.choice("right").value == right
    assert question.choice("tie") is Choice.TIE and question.choice("skip") is Choice.SKIP
    assert question.sides[0] is getattr(query, left) and question.sides[1] is getattr(query, right)
    for choice in Choice:
        assert question.choice(question.side(choice)) is choice


def test_an_answer_is_recorded_with_sides_times_and_sitting(store: PreferenceStore) -> None:
    store.post(make_round(1))
    clock = Clock(500.0)
    desk = LabelDesk(store, "ann", PLAIN, clock=clock)
    [question] = desk.upcoming(1)
    desk.answer(question, "right", shown_at=498.5, details={"replays": 2}, uuid="u1")
    [record] = store.answer_records()
    assert (record.uuid, record.labeller, record.teacher) == ("u1", "ann", "human")
    assert (record.shown_at, record.answered_at, record.kind) == (498.5, 500.0, "pairwise")
    assert record.details == {
        "replays": 2,
        "left": question.left,
        "side_seed": question.side_seed,
        "sitting": desk.sitting,
    }
    assert record.chose_left is False
    assert store.preferences()[0].choice is question.choice("right")


def test_an_answer_given_before_the_clock_was_set_back_is_kept(store: PreferenceStore) -> None:
    store.post(make_round(1))
    clock = Clock(10_000.0)
    desk = LabelDesk(store, "ann", PLAIN, clock=clock)
    [question] = desk.upcoming(1)
    clock.now -= 3600
    desk.answer(question, "tie", shown_at=10_000.0)
    [record] = store.answer_records()
    assert record.answered_at == record.shown_at == 10_000.0


def test_the_same_uuid_twice_is_one_answer_and_one_undo(store: PreferenceStore) -> None:
    store.post(make_round(2))
    desk = LabelDesk(store, "ann", PLAIN)
    [question] = desk.upcoming(1)
    for _ in range(2):
        desk.answer(question, "left", shown_at=0.0, uuid="once")
    assert len(store.answer_records(superseded=True)) == 1
    assert desk.progress().n_sitting == 1
    assert desk.undo() is question and desk.undo() is None


def test_a_full_disk_leaves_the_pair_open_and_the_desk_usable(
    store: PreferenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.post(make_round(3))
    desk = LabelDesk(store, "ann", PLAIN)
    question = desk.upcoming(2)[0]

    def fail(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(module, "release_leases", fail)
    with pytest.raises(OSError, match="no space"):
        desk.answer(question, "left", shown_at=0.0, uuid="u")
    assert store.counts()["n_answers"] == 0
    assert desk.upcoming(1) == [question] and desk.progress().n_sitting == 0
    monkeypatch.undo()
    desk.answer(question, "left", shown_at=0.0, uuid="u")
    assert [record.uuid for record in store.answer_records()] == ["u"]


def test_a_postponed_pair_comes_after_all_that_is_open(store: PreferenceStore) -> None:
    queries = make_round(3)
    store.post(queries)
    desk = LabelDesk(store, "ann", PLAIN)
    late = desk.upcoming(1)[0]
    desk.postpone(late)
    desk.postpone(late)
    assert desk.progress().n_postponed == 1
    assert ids(answer_all(desk, 3)) == [queries[i].id for i in (1, 2, 0)]
    assert desk.upcoming(1) == []


def test_undo_goes_back_to_the_first_answer_of_the_sitting(store: PreferenceStore) -> None:
    store.post(make_round(4))
    desk = LabelDesk(store, "ann", PLAIN)
    asked = answer_all(desk, 4)
    for question in reversed(asked):
        assert desk.undo() is question
        assert desk.upcoming(1) == [question]
    assert desk.undo() is None
    assert store.counts()["n_answers"] == 0 and store.counts()["n_open"] == 4
    answer_all(desk, 4, side="right")
    assert store.counts() == {
        "n_queries": 4, "n_open": 0, "n_answers": 4, "n_clips": 8, "n_superseded": 8
    }  # fmt: skip
    assert [record.chose_left for record in store.answer_records()] == [False] * 4
    kinds = [record.kind for record in store.answer_records(superseded=True)]
    assert kinds == ["pairwise"] * 4 + ["retraction"] * 4 + ["pairwise"] * 4


def test_undo_takes_back_an_answer_that_repeated_an_earlier_sittings(
    store: PreferenceStore,
) -> None:
    store.post(make_round(1))
    clock = Clock()
    one, two = (LabelDesk(store, "ann", PLAIN, clock=clock) for _ in range(2))
    [of_one] = one.upcoming(1)
    clock.now += 121
    [of_two] = two.upcoming(1)
    one.answer(of_one, "left", shown_at=0.0)
    two.answer(of_two, "left", shown_at=0.0)  # says the same: one answer stands
    assert store.counts()["n_answers"] == 1
    assert two.undo() is of_two
    assert store.counts()["n_answers"] == 0 and store.counts()["n_open"] == 1


def test_a_new_round_reaches_a_waiting_desk(store: PreferenceStore) -> None:
    desk = LabelDesk(store, "ann", PLAIN)
    assert desk.upcoming(4) == []
    store.post(make_round(2, round_=3))
    assert len(desk.upcoming(4)) == 2


def test_a_damaged_shard_is_left_out_reported_and_given_back(store: PreferenceStore) -> None:
    bad, good = make_round(2), make_round(2, round_=1)
    store.post(bad)
    store.post(good)
    (store.path.parent / "clips" / "round-0000" / "obs.npy").write_bytes(b"rubbish")
    desk = LabelDesk(store, "ann", PLAIN)
    assert ids(desk.upcoming(3)) == [query.id for query in good]
    assert set(desk.damaged) == {query.id for query in bad}
    assert "round-0000" in desk.damaged[bad[0].id]
    assert ids(answer_all(desk, 2)) == [query.id for query in good]
    assert desk.upcoming(1) == []
    assert store.rows("SELECT count(*) FROM leases") == [(0,)]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1b[31m", "a\x00b", "\udc80"])
def test_a_name_that_cannot_be_shown_is_refused(store: PreferenceStore, name: str) -> None:
    with pytest.raises(ConfigError, match="--labeller"):
        LabelDesk(store, name)


@pytest.mark.parametrize("name", ["Åse 你好 🙂", "x'; DROP TABLE answers; --", '"%_\\'])
def test_odd_but_printable_names_are_kept_as_they_are(store: PreferenceStore, name: str) -> None:
    store.post(make_round(2))
    answer_all(LabelDesk(store, name, PLAIN), 1)
    assert [record.labeller for record in store.answer_records()] == [name]
    assert store.forget_labeller(name) == 1 and store.answer_records() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"gold_share": -0.1}, {"gold_share": 0.6}, {"repeat_share": math.nan}, {"n_practice": -1},
        {"n_qualification": -1}, {"pass_mark": 1.1}, {"lease_seconds": 0},
        {"lease_seconds": math.nan},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DeskSettings(**wrong)  # type: ignore[arg-type]
