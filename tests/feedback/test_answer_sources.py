from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.feedback.answer_sources import AtOnce, Due, People, Replay
from rlhf_gym.feedback.given import add_given, read_given
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.teachers import SyntheticTeacher
from rlhf_gym.protocols import SpaceInfo


def clip(i: int) -> Clip:
    rng = np.random.default_rng(i)
    obs, actions = rng.normal(size=(5, 3)), rng.normal(size=(4, 1))
    rewards = np.full(4, i, np.float32)
    return Clip(obs.astype(np.float32), actions.astype(np.float32), "Env-v0", rewards)


def queries(round_: int, n: int) -> list[Query]:
    start = 100 * round_
    return [Query((clip(start + 2 * i), clip(start + 2 * i + 1)), 7, round_, i) for i in range(n)]


def answer(query: Query, choice: Choice = Choice.FIRST, **fields) -> Preference:
    return Preference(query, choice, "human", labeller="anna", **fields)


@pytest.fixture
def store(tmp_path: Path):
    with PreferenceStore(tmp_path / "new") as opened:
        yield opened


def test_a_teacher_in_the_process_answers_what_is_open_and_nothing_twice(store) -> None:
    store.post(queries(0, 3))
    store.answer([answer(queries(0, 3)[0])])
    AtOnce(SyntheticTeacher()).collect(store, Due(0, 3, 3))
    assert [p.choice for p in store.preferences()] == [Choice.FIRST, Choice.SECOND, Choice.SECOND]
    AtOnce(SyntheticTeacher()).collect(store, Due(0, 3, 3))
    assert store.last_sequence == 3


@pytest.mark.parametrize(
    ("slack", "wait", "round_", "n_answers", "needed"),
    [
        (0.2, True, 0, 175, 140),  # 80 % of 175
        (0.2, True, 3, 351, 281),  # 280.8, rounded up
        (0.0, True, 1, 700, 700),
        (0.2, False, 0, 175, 140),  # the first round has nothing else to train on
        (0.2, False, 1, 700, 1),
        (0.9, True, 0, 1, 1),  # never without any answer
    ],
)
def test_people_are_waited_for_by_the_schedule_less_the_slack(
    slack: float, wait: bool, round_: int, n_answers: int, needed: int
) -> None:
    assert People(slack=slack, wait=wait).n_needed(Due(round_, n_answers, 1)) == needed


def test_answers_that_were_given_are_none_of_those_asked_for(store, tmp_path: Path) -> None:
    """Forgetting who gave them makes nobody wait for answers that nobody can give."""
    with PreferenceStore(tmp_path / "old") as old:
        old.post(queries(5, 9))
        old.answer([answer(query) for query in queries(5, 9)])
    info = SpaceInfo("Env-v0", spaces.Box(-9, 9, (3,)), spaces.Box(-1, 1, (1,)), 4)
    add_given(store, read_given(tmp_path / "old", "Env-v0", info))
    asked = queries(0, 5)
    store.post(asked)
    slept: list[float] = []

    def label_one(seconds: float) -> None:
        store.answer([answer(asked[len(slept)])])
        slept.append(seconds)

    People(slack=0.2, sleep=label_one).collect(store, Due(0, 5, 5))
    assert len(slept) == 4
    store.forget_labeller("anna")
    People(wait=False, sleep=label_one).collect(store, Due(1, 5, 1))
    assert len(slept) == 5, "one answer, of those asked for"


def test_a_round_that_asks_nothing_waits_for_nobody(store) -> None:
    def never(seconds: float) -> None:
        raise AssertionError("it waits")

    store.post(queries(0, 2))
    People(slack=0.0, sleep=never).collect(store, Due(1, 2, n_new=0))


def test_the_first_round_waits_for_an_answer_that_says_something(store) -> None:
    """A reward cannot be fitted to "can't tell" alone, and there are questions left."""
    asked = queries(0, 5)
    store.post(asked)
    store.answer([replace(answer(query), choice=Choice.SKIP) for query in asked[:4]])
    slept: list[float] = []

    def label_one(seconds: float) -> None:
        slept.append(seconds)
        store.answer([answer(asked[4])])

    People(slack=0.2, sleep=label_one).collect(store, Due(0, 5, 5))
    assert len(slept) == 1
    # With nothing open there is nobody to wait for: the fit says what is wrong.
    skipped = [replace(answer(query), choice=Choice.SKIP) for query in queries(0, 2)]
    with PreferenceStore(store.path.parent / "other") as other:
        other.post([p.query for p in skipped])
        other.answer(skipped)
        People(sleep=lambda s: pytest.fail("it waits")).collect(other, Due(0, 2, 2))


def test_a_round_goes_on_with_the_answer_that_was_missing(store) -> None:
    asked = queries(0, 10)
    store.post(asked)
    told: list[str] = []
    n_given = 0

    def label_one(seconds: float) -> None:
        nonlocal n_given
        assert n_given < 8, "it waits for more than 80 % of ten answers"
        store.answer([answer(asked[n_given])])
        n_given += 1

    People(slack=0.2, notify=told.append, sleep=label_one).collect(store, Due(0, 10, 10))
    assert n_given == 8
    assert told[0] == "waiting for answers: 0 of 8" and len(told) == 8


def test_an_answer_taken_back_is_waited_for_again(store) -> None:
    asked = queries(0, 2)
    store.post(asked)
    store.answer([answer(q) for q in asked])
    store.retract(store.answer_records()[0].uuid)
    waits = 0

    def label_again(seconds: float) -> None:
        nonlocal waits
        waits += 1
        store.answer([answer(asked[0], Choice.SECOND)])

    People(slack=0.0, sleep=label_again).collect(store, Due(0, 2, 2))
    assert waits == 1
    assert [p.choice for p in store.preferences()] == [Choice.SECOND, Choice.FIRST]


def test_the_last_round_waits_for_every_answer_and_says_what_to_do(store) -> None:
    asked = queries(0, 3)
    store.post(asked)
    store.answer([answer(query) for query in asked[:2]])
    said: list[str] = []

    def label_one(seconds: float) -> None:
        assert said, "it says so before it waits"
        store.answer([answer(asked[2])])

    people = People(slack=0.5, say=said.append, go_on="GO", sleep=label_one)
    # No new question in the last round: what is missing is of an earlier one.
    assert not people.collect(store, Due(1, 3, 0, is_last=True))
    assert store.counts()["n_answers"] == 3
    (text,) = said
    assert "the last round waits for all answers: 2 of 3 are there, 1 is missing" in text
    assert text.endswith("stop here (Ctrl-C), then\n  GO")


def test_without_waiting_the_last_round_trains_on_what_there_is(store) -> None:
    store.post(queries(0, 3))
    store.answer([answer(queries(0, 3)[0])])
    people = People(wait=False, sleep=lambda seconds: pytest.fail("it waits"))
    assert not people.collect(store, Due(1, 3, 0, is_last=True))
    assert not people.collect(store, Due(1, 3, 0))


def test_who_waits_for_long_is_told_once_what_to_do(store) -> None:
    asked = queries(0, 2)
    store.post(asked)
    said: list[str] = []
    n_looks = 0

    def later(seconds: float) -> None:
        nonlocal n_looks
        n_looks += 1
        assert len(said) == (n_looks > 2)
        if n_looks == 4:
            store.answer([answer(query) for query in asked])

    People(say=said.append, poll_seconds=30.0, sleep=later).collect(store, Due(0, 2, 2))
    # The first round waits in any case: a smaller share is what helps.
    assert "0 of 2 are there, 2 are missing" in said[0] and "--label-slack 0.9" in said[0]


def test_whoever_cannot_tell_at_all_is_asked_on(store) -> None:
    asked = queries(0, 4)
    store.post(asked[:2])
    skips = [replace(answer(query), choice=Choice.SKIP) for query in asked]
    store.answer(skips[:2])
    people = People(slack=0.0, sleep=lambda seconds: pytest.fail("it waits"))
    assert people.collect(store, Due(0, 2, 2))
    store.post(asked[2:])
    store.answer([skips[2], answer(asked[3])])
    assert not people.collect(store, Due(0, 4, 2, n_in_vain=2))
    # The round is played again after a kill: what came later does not count yet.
    assert people.collect(store, Due(0, 2, 2))


class Rogue:
    """A teacher that answers as it is told to."""

    name = "rogue"

    def __init__(self, give) -> None:
        self.answer = give


def good(asked) -> list[Preference]:
    return [Preference(query, Choice.FIRST, "rogue") for query in asked]


@pytest.mark.parametrize(
    ("give", "what"),
    [
        (lambda asked: None, "returned NoneType"),
        (lambda asked: (p for p in good(asked)), "returned generator"),
        (lambda asked: good(asked)[:2], "answered 2"),
        (lambda asked: [], "answered 0"),
        (lambda asked: [*good(asked), *good(asked[:1])], "returned 4 answers, 1 of them to"),
        (lambda asked: [*good(asked[:2]), *good(asked[:1])], "returned 3 answers, 1 of them to"),
        (lambda asked: [*good(asked[:2]), *good(queries(9, 1))], "1 of its 3 answers are about"),
        (lambda asked: [*good(asked[:2]), "first"], "returned 3, one of them a str"),
        (lambda asked: [replace(p, choice="first") for p in good(asked)], "the `choice` 'first'"),
        (lambda asked: [replace(p, labeller=None) for p in good(asked)], "that is no text"),
    ],
)
def test_a_teacher_that_breaks_its_contract_is_named_and_nothing_is_kept(store, give, what) -> None:
    store.post(queries(0, 3))
    with pytest.raises(DataError) as caught:
        AtOnce(Rogue(give)).collect(store, Due(0, 3, 3))
    assert "the teacher 'rogue' was asked 3 queries and" in str(caught.value)
    assert what in str(caught.value)
    assert store.last_sequence == 0 and len(store.open_queries()) == 3
    assert not AtOnce(Rogue(good)).collect(store, Due(0, 3, 3)), "and it goes on from there"


def test_a_teacher_that_raises_keeps_its_own_error(store) -> None:
    def fail(asked):
        raise ZeroDivisionError("mine")

    store.post(queries(0, 3))
    with pytest.raises(ZeroDivisionError, match="mine"):
        AtOnce(Rogue(fail)).collect(store, Due(0, 3, 3))
    assert store.last_sequence == 0


def test_a_teacher_that_skips_all_it_may_be_asked_is_refused(store) -> None:
    skip = Rogue(lambda asked: [Preference(q, Choice.SKIP, "rogue") for q in asked])
    store.post(queries(0, 3))
    assert AtOnce(skip).collect(store, Due(0, 3, 3, n_left=1)), "there are questions left"
    with pytest.raises(DataError, match=r"'rogue' said \"can't tell\" to all 3 queries"):
        AtOnce(skip).collect(store, Due(0, 3, 3))


def test_a_recording_in_which_a_round_asked_again_asks_again(store, tmp_path: Path) -> None:
    asked = queries(0, 3)
    with PreferenceStore(tmp_path / "old") as old:
        old.post(asked)
        old.answer([answer(query, Choice.SKIP) for query in asked[:2]])
        old.answer([answer(asked[2])])
        # Somebody thought better of it, before the round began to train.
        old.answer([answer(asked[0], Choice.SECOND)])
    (tmp_path / "old" / "metrics.jsonl").write_text('{"round": 0, "last_sequence": 4}\n')
    replay = Replay(tmp_path / "old")
    store.post(asked[:2])
    assert replay.collect(store, Due(0, 2, 2))
    store.post(asked[2:])
    assert not replay.collect(store, Due(0, 3, 1, n_in_vain=2))
    assert len(store.preferences()) == 3
    with pytest.raises(DataError, match="are not about what this run asks in round 0"):
        with PreferenceStore(tmp_path / "other") as other:
            other.post(asked[:2])
            replay.collect(other, Due(0, 3, 1, n_in_vain=2))


@pytest.mark.parametrize("slack", [-0.1, 1.0, float("nan")])
def test_a_slack_out_of_range_is_refused(slack: float) -> None:
    with pytest.raises(ConfigError, match=r"`label_slack` is .*0\.2 is usual"):
        People(slack=slack)


def recorded(folder: Path) -> PreferenceStore:
    """Two rounds: round 0 trained on one answer, round 1 on three rows, one of them an undo."""
    store = PreferenceStore(folder)
    store.post(queries(0, 2))
    store.answer([answer(queries(0, 2)[0], shown_at=3.0, answered_at=4.0)])
    store.post(queries(1, 2))
    store.answer([answer(queries(0, 2)[1], Choice.TIE, details={"comment": "alike"})])
    store.retract(store.answer_records()[0].uuid, 9.0)
    store.answer([answer(queries(1, 2)[1])])
    marks = [{"round": 0, "last_sequence": 1}, {"round": 1, "last_sequence": 3}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in marks))
    return store


def test_a_recording_is_fed_up_to_what_each_round_was_trained_on(store, tmp_path: Path) -> None:
    with recorded(tmp_path / "old") as old:
        rows = old.answer_records(superseded=True)
    replay = Replay(tmp_path / "old")
    store.post(queries(0, 2))
    replay.collect(store, Due(0, 2, 2))
    assert store.answer_records(superseded=True) == rows[:1]
    store.post(queries(1, 2))
    replay.collect(store, Due(1, 4, 2))
    assert store.answer_records(superseded=True) == rows[:3]
    replay.collect(store, Due(1, 4, 2))  # a round that is played again
    assert store.answer_records(superseded=True) == rows[:3]
    with pytest.raises(DataError, match="are not about what this run asks in round 2"):
        replay.collect(store, Due(2, 4, 2))  # beyond the recording: it would train on, unanswered


def test_a_round_that_the_recording_did_not_finish_is_answered_as_far_as_it_went(
    store, tmp_path: Path
) -> None:
    recorded(tmp_path / "old").close()
    marks = (tmp_path / "old" / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "old" / "metrics.jsonl").write_text(marks[0] + "\n")
    replay = Replay(tmp_path / "old")
    store.post([*queries(0, 2), *queries(1, 2)])
    for _ in range(2):
        replay.collect(store, Due(1, 4, 2))
        assert [p.query.id for p in store.preferences(first_rounds=2)][-1] == queries(1, 2)[1].id


def test_a_run_that_was_thrown_back_is_fed_round_by_round(store, tmp_path: Path) -> None:
    """Round 2 was asked and answered before the last answer that round 1 was trained on."""
    asked = [queries(k, 1)[0] for k in range(3)]
    with PreferenceStore(tmp_path / "old") as old:
        old.post(asked)
        for k in (0, 2, 1):
            old.answer([answer(asked[k])])
    marks = [{"round": k, "last_sequence": last} for k, last in enumerate((1, 3, 3))]
    lines = "".join(json.dumps(mark) + "\n" for mark in marks)
    (tmp_path / "old" / "metrics.jsonl").write_text(lines)
    replay = Replay(tmp_path / "old")
    for k, query in enumerate(asked):
        store.post([query])
        replay.collect(store, Due(k, k + 1, 1))
        assert store.counts()["n_answers"] == k + 1


def test_a_bare_store_answers_what_is_asked(store, tmp_path: Path) -> None:
    recorded(tmp_path / "old").close()
    (tmp_path / "old" / "metrics.jsonl").unlink()
    store.post(queries(1, 2))
    for _ in range(2):  # a round that is played again, too: its answers are there already
        Replay(tmp_path / "old").collect(store, Due(1, 2, 2))
        assert [p.query.id for p in store.preferences()] == [queries(1, 2)[1].id]


def test_a_recording_of_a_run_that_was_killed_while_it_wrote_is_read(store, tmp_path: Path) -> None:
    recorded(tmp_path / "old").close()
    with (tmp_path / "old" / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "last_seq')
    store.post(queries(0, 2))
    Replay(tmp_path / "old").collect(store, Due(0, 2, 2))
    assert store.last_sequence == 1


@pytest.mark.parametrize("with_metrics", [True, False])
def test_a_recording_of_other_questions_is_refused(store, tmp_path, with_metrics) -> None:
    recorded(tmp_path / "old").close()
    if not with_metrics:
        (tmp_path / "old" / "metrics.jsonl").unlink()
    store.post(queries(5, 2))
    with pytest.raises(DataError, match="are not about what this run asks in round 0"):
        Replay(tmp_path / "old").collect(store, Due(0, 2, 2))
    assert store.last_sequence == 0


def test_a_recording_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no preference store at .*nowhere"):
        Replay(tmp_path / "nowhere")
