from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlhf_gym.data import Array, Choice, Clip, Query
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk, Question
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.viewer.session import LabelSession
from rlhf_gym.text_clips import text_clip

START = 1_700_000_000.0
N_FRAMES, FRAME_SECONDS = 10, 0.1


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Pictures:
    frames: Array
    seconds_per_frame: float = FRAME_SECONDS


@dataclass
class FakeFrames:
    """Draws at once, or when told to; remembers what it was asked for."""

    is_slow: bool = False
    requested: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)

    def request(self, clips: Sequence[Clip]) -> None:
        self.requested = [clip.id for clip in clips]

    def get(self, clip_id: str) -> Pictures | None:
        if self.is_slow or clip_id in self.broken:
            return None
        return Pictures(np.zeros((self.lengths.get(clip_id, N_FRAMES), 4, 4, 3), np.uint8))

    def error(self, clip_id: str) -> str | None:
        return self.broken.get(clip_id)


def make_queries(n: int, start: int = 0) -> list[Query]:
    def clip(i: int) -> Clip:
        return Clip(np.full((4, 2), i, np.float32), np.full((3, 1), i, np.float32), "Env-v0")

    return [
        Query((clip(2 * i), clip(2 * i + 1)), seed=0, round=0, index=i)
        for i in range(start, start + n)
    ]


class Sitting:
    """A session on a store, with clocks and pictures in the test's hands."""

    def __init__(self, folder: Path, n: int = 5, **options: Any) -> None:
        self.clock, self.wall = Clock(1000.0), Clock(START)
        self.frames = FakeFrames(is_slow=bool(options.pop("is_slow", False)))
        self.store = PreferenceStore(folder / "run")
        self.queries = options.pop("queries", None) or make_queries(n)
        self.store.post(self.queries)
        self.store.mark_gold(options.pop("gold", {}), "owner")
        plain = DeskSettings(gold_share=0, repeat_share=0)
        self.desk = LabelDesk(self.store, "anna", options.pop("settings", plain), self.wall)
        frames = None if options.pop("no_frames", False) else self.frames
        self.session = LabelSession(self.desk, frames, clock=self.clock, wall=self.wall, **options)

    def wait(self, seconds: float, per_tick: float = 0.05) -> None:
        for _ in range(round(seconds / per_tick)):
            self.clock.now += per_tick
            self.wall.now += per_tick
            self.session.tick()

    @property
    def shown(self) -> Question:
        assert self.session.pair is not None
        return self.session.pair.question

    def answers(self) -> dict[str, Choice]:
        return {r.query_id: r.choice for r in self.store.answer_records() if r.kind != "practice"}


@pytest.fixture
def sitting(tmp_path: Path) -> Iterator[Sitting]:
    made = Sitting(tmp_path)
    yield made
    made.session.close()
    made.store.close()


# --- answering ------------------------------------------------------------------------------


def test_an_answer_is_in_the_store_when_the_next_pair_shows(sitting: Sitting) -> None:
    for n in range(1, 6):
        question = sitting.shown
        assert sitting.session.answer("left")
        assert len(sitting.answers()) == n
        assert sitting.answers()[question.query.id] is question.choice("left")
    assert sitting.session.state == "waiting"
    assert sitting.session.n_answers == 5


def test_every_side_is_kept_as_the_choice_it_means(sitting: Sitting) -> None:
    for side in ("left", "right", "tie", "skip"):
        question = sitting.shown
        sitting.session.answer(side)  # type: ignore[arg-type]  # one of the sides
        assert sitting.answers()[question.query.id] is question.choice(side)  # type: ignore[arg-type]  # one of the sides


def test_what_is_recorded_about_the_looking(sitting: Sitting) -> None:
    sitting.wait(0.45)  # frames 0 to 4 of 10
    sitting.session.change_speed(1)
    sitting.session.comment("  the left one\nfalls ")
    sitting.session.answer("left", "mouse")
    record = sitting.store.answer_records()[0]
    assert record.seconds == pytest.approx(0.45)
    assert record.shown_at == START and record.answered_at == pytest.approx(START + 0.45)
    wanted = {
        "watched_fraction": 0.5,
        "replays": 0,
        "speed": 1.5,
        "input": "mouse",
        "comment": "the left one falls",
        "shown_monotonic": 1000.0,
        "answered_monotonic": pytest.approx(1000.45),
        "sitting": sitting.desk.sitting,
    }
    assert {key: record.details[key] for key in wanted} == wanted
    assert record.details["viewer"] and record.details["left"] in ("first", "second")


def test_replays_are_loops_and_restarts_after_the_first_showing(sitting: Sitting) -> None:
    sitting.wait(1.6)  # a loop takes 1.0 s and 0.5 s of pause
    sitting.session.restart()
    sitting.session.answer("left")
    details = sitting.store.answer_records()[0].details
    assert (details["replays"], details["watched_fraction"]) == (2, 1.0)
    assert "comment" not in details


def test_the_speed_stays_and_the_pause_ends_with_the_pair(sitting: Sitting) -> None:
    sitting.session.change_speed(-1)
    sitting.session.toggle_pause()
    sitting.session.answer("left")
    assert sitting.session.pair is not None and sitting.session.pair.playback is not None
    assert sitting.session.pair.playback.speed == 0.75
    assert not sitting.session.pair.playback.is_paused


def test_a_shorter_clip_ends_earlier(tmp_path: Path) -> None:
    made = Sitting(tmp_path, 1, is_slow=True)
    left, _ = made.session.question.sides  # type: ignore[union-attr]  # one pair is open
    made.frames.lengths[left.id], made.frames.is_slow = 4, False
    made.wait(0.05)
    playback = made.session.pair.playback  # type: ignore[union-attr]  # it is shown now
    assert playback is not None and playback.n_frames == (4, N_FRAMES)
    assert playback.has_ended(0, made.session.play_time + 0.45)


def test_postponed_pairs_come_after_all_others(sitting: Sitting) -> None:
    first = sitting.shown
    sitting.session.postpone()
    order = []
    while sitting.session.state == "showing":
        order.append(sitting.shown.query.id)
        sitting.session.answer("left")
    assert order == [q.id for q in sitting.queries if q.id != first.query.id] + [first.query.id]


def test_putting_off_the_only_pair_shows_it_again_and_says_so(tmp_path: Path) -> None:
    made = Sitting(tmp_path, 1)
    made.session.postpone()
    assert made.session.state == "showing"
    assert "only open pair" in made.session.message


def test_undo_goes_back_to_the_first_answer_and_no_further(sitting: Sitting) -> None:
    shown = []
    for _ in range(5):
        shown.append(sitting.shown.query.id)
        sitting.session.answer("right")
    for query_id in reversed(shown):
        sitting.session.undo()
        assert sitting.shown.query.id == query_id
        assert query_id not in sitting.answers()
    assert sitting.answers() == {}
    sitting.session.undo()
    assert "Nothing to take back" in sitting.session.message
    assert sitting.session.n_answers == 0


# --- pictures -------------------------------------------------------------------------------


def test_a_pair_without_pictures_is_loading_and_takes_no_answer(tmp_path: Path) -> None:
    made = Sitting(tmp_path, is_slow=True)
    made.wait(1.0)
    assert made.session.state == "loading" and made.session.pair is None
    assert not made.session.answer("left")
    assert made.answers() == {}
    made.frames.is_slow = False
    made.wait(0.05)
    assert made.session.state == "showing"
    made.session.answer("left")
    record = made.store.answer_records()[0]
    assert record.shown_at == pytest.approx(START + 1.05)  # not before it could be seen
    assert made.session.seconds_waiting == pytest.approx(1.05)


def test_the_pictures_of_the_next_three_pairs_are_asked_for_nearest_first(
    sitting: Sitting,
) -> None:
    sitting.session.tick()
    assert sitting.frames.requested == []  # the present pair is drawn before anything is fetched
    sitting.session.tick()
    wanted = [clip.id for q in sitting.desk.upcoming(4) for clip in q.sides]
    assert len(wanted) == 8
    assert sitting.frames.requested == wanted
    assert wanted[:2] == [clip.id for clip in sitting.shown.sides]


def test_a_damaged_clip_puts_its_pair_off_and_never_blocks(sitting: Sitting) -> None:
    bad = sitting.queries[1]
    sitting.frames.broken[bad.first.id] = "state 3 holds NaN"
    shown = []
    for _ in range(4):
        shown.append(sitting.shown.query.id)
        sitting.session.answer("left")
        assert ("state 3 holds NaN" in sitting.session.message) == (len(shown) == 1)
    assert bad.id not in shown and len(set(shown)) == 4
    assert sitting.session.state == "waiting"
    assert sitting.session.damaged == {bad.id: "state 3 holds NaN"}
    assert bad.id not in sitting.answers()  # it is nobody's answer: not even "can't tell"
    sitting.frames.broken.clear()  # the renderer was restarted
    sitting.wait(1.1)
    assert sitting.shown.query.id == bad.id
    assert sitting.session.damaged == {}


def test_damage_found_while_drawing_goes_on_to_the_next_pair(tmp_path: Path) -> None:
    made = Sitting(tmp_path, is_slow=True)
    first = made.queries[0]
    made.wait(0.2)
    made.frames.broken[first.second.id] = "cannot be drawn"
    made.frames.is_slow = False
    made.wait(0.05)
    assert made.shown.query.id == made.queries[1].id


def test_where_nothing_can_be_drawn_few_pairs_are_kept_from_others(tmp_path: Path) -> None:
    made = Sitting(tmp_path, 40, no_frames=True)
    made.wait(5.0)
    assert made.session.state == "waiting"
    assert "nothing here can draw" in made.session.message
    with LabelDesk(made.store, "bert", made.desk.settings, made.wall) as other:
        assert len(other.upcoming(40)) >= 25


# --- nothing to show ------------------------------------------------------------------------


def test_new_clips_are_noticed_within_a_second(sitting: Sitting) -> None:
    while sitting.session.state == "showing":
        sitting.session.answer("tie")
    sitting.wait(3.0)
    assert sitting.session.state == "waiting"
    sitting.store.post(make_queries(2, start=5))
    sitting.wait(1.05)
    assert sitting.session.state == "showing"


def test_while_waiting_the_trainer_s_status_is_shown(tmp_path: Path) -> None:
    lines = iter(f"round {n}" for n in range(100))
    made = Sitting(tmp_path, 1, status=lambda: next(lines))
    made.session.answer("left")
    assert made.session.status_line == "round 0"
    made.wait(2.1)
    assert made.session.status_line == "round 2"


def test_a_status_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    def fail() -> str:
        raise OSError("gone")

    made = Sitting(tmp_path, 1, status=fail)
    made.session.answer("left")
    assert made.session.state == "waiting" and made.session.status_line == ""


def test_all_wanted_answers_given_is_the_end_and_undo_still_works(tmp_path: Path) -> None:
    made = Sitting(tmp_path, 2, total=2)
    made.session.answer("left")
    made.session.answer("left")
    assert made.session.state == "done"
    made.session.undo()
    assert made.session.state == "showing"


def test_pace_and_eta_count_answering_alone(tmp_path: Path) -> None:
    made = Sitting(tmp_path, 5, total=45)
    assert made.session.eta_seconds is None
    for _ in range(5):
        made.wait(4.0)
        made.session.answer("left")
    assert made.session.state == "waiting"
    made.wait(60.0)
    made.store.post(make_queries(2, start=5))
    made.wait(1.05)
    assert made.session.per_minute == pytest.approx(15, rel=0.02)  # one in 4 s, give or take a tick
    assert made.session.eta_seconds == pytest.approx(40 * 4, rel=0.02)


# --- practice and qualification -------------------------------------------------------------


def trial(tmp_path: Path, is_slow: bool = False, **more: Any) -> Sitting:
    queries = make_queries(6)
    return Sitting(
        tmp_path,
        queries=queries,
        is_slow=is_slow,
        total=more.pop("total", None),
        gold={q.id: Choice.FIRST for q in queries[:3]},
        settings=DeskSettings(gold_share=0, repeat_share=0, **more),
    )


def test_practice_says_what_was_right_and_goes_on_when_told_to(tmp_path: Path) -> None:
    made = trial(tmp_path, n_practice=2)
    right = made.shown.side(Choice.FIRST)
    made.session.answer(right)
    assert made.session.state == "feedback"
    assert made.session.feedback is not None and made.session.feedback.is_right
    pair = made.session.pair
    made.wait(2.0)
    assert made.session.pair is pair  # it still plays: look at it again
    made.session.proceed()
    wrong = "left" if made.shown.side(Choice.FIRST) == "right" else "right"
    made.session.answer(wrong)  # type: ignore[arg-type]  # one of the sides
    assert made.session.feedback is not None and not made.session.feedback.is_right
    made.session.answer("left")  # any answer key goes on, and answers nothing
    assert made.session.state == "showing" and made.shown.kind == "pairwise"
    assert [r.kind for r in made.store.answer_records()] == ["practice", "practice"]


def test_who_fails_the_qualification_is_told_and_cannot_try_again(tmp_path: Path) -> None:
    made = trial(tmp_path, n_qualification=3, pass_mark=1.0)
    for _ in range(3):
        made.session.answer("skip")
    assert made.session.state == "disqualified"
    made.session.undo()
    assert made.session.state == "disqualified"
    assert len(made.store.answer_records()) == 3


def break_and_draw(made: Sitting, broken: Sequence[Query]) -> None:
    """Pictures were being drawn all along; now all are there but for those of some pairs."""
    made.frames.broken |= {query.first.id: f"no states of {query.index}" for query in broken}
    made.frames.is_slow = False
    made.wait(0.05)


@pytest.mark.parametrize("kind", ["practice", "qualification"])
def test_a_measuring_pair_that_cannot_be_drawn_is_left_out_for_another(
    tmp_path: Path, kind: str
) -> None:
    made = trial(tmp_path, is_slow=True, **{f"n_{kind}": 2})
    assert made.session.question is not None
    bad = made.session.question.query
    break_and_draw(made, [bad])
    word = "practice pair" if kind == "practice" else "test pair"
    expected = f"A {word} was left out, it cannot be shown: no states of {bad.index}"
    assert made.session.message == expected
    shown = []
    for _ in range(2):
        assert made.shown.kind == kind
        shown.append(made.shown.query.id)
        made.session.answer(made.shown.side(Choice.FIRST))
        made.session.proceed()
        assert made.session.message == ""  # told once
    assert made.shown.kind == "pairwise" and len({*shown, bad.id}) == 3
    assert made.session.damaged == {bad.id: f"no states of {bad.index}"}


@pytest.mark.parametrize("kind", ["practice", "qualification"])
def test_where_no_measuring_pair_can_be_drawn_they_end_and_ordinary_pairs_go_on(
    tmp_path: Path, kind: str
) -> None:
    made = trial(tmp_path, is_slow=True, total=3, **{f"n_{kind}": 2})
    break_and_draw(made, made.queries[:3])
    word = "practice pair" if kind == "practice" else "test pair"
    assert made.session.message == f"No {word} is left that can be shown: they end here."
    for query in made.queries[3:]:
        assert made.shown.query.id == query.id and made.shown.kind == "pairwise"
        made.session.answer("left")
        assert made.session.message == ""
    # What was left out for good does not keep the sitting from its end.
    assert made.session.state == "done"
    assert set(made.session.damaged) == {query.id for query in made.queries[:3]}


def test_more_measuring_pairs_than_a_broken_renderer_explains_do_not_block_either(
    tmp_path: Path,
) -> None:
    queries = make_queries(15)
    made = Sitting(
        tmp_path,
        queries=queries,
        is_slow=True,
        gold={query.id: Choice.FIRST for query in queries[:14]},
        settings=DeskSettings(gold_share=0, repeat_share=0, n_practice=1),
    )
    break_and_draw(made, queries[:14])
    assert made.shown.query.id == queries[14].id


def test_a_hidden_known_pair_that_cannot_be_drawn_is_left_out_for_another(tmp_path: Path) -> None:
    queries = make_queries(9)
    gold = {query.id: Choice.FIRST for query in queries[:3]}
    made = Sitting(tmp_path, queries=queries, gold=gold)
    for _ in range(3):  # the known ones want no more answers: others get them as "gold" alone
        made.session.answer("left")
    made.session.close()
    made.frames.broken[queries[0].first.id] = "no states"
    made.desk = LabelDesk(made.store, "bert", DeskSettings(gold_share=0.5, repeat_share=0))
    made.session = LabelSession(made.desk, made.frames, clock=made.clock, wall=made.wall)
    kinds, messages = [], []
    while made.session.state == "showing":
        kinds.append((made.shown.kind, made.shown.query.id))
        made.session.answer("left")
        messages.append(made.session.message)
    known = [key for kind, key in kinds if kind == "gold"]
    assert sorted(known) == sorted(query.id for query in queries[1:3])
    assert sum(kind == "pairwise" for kind, _ in kinds) == 6
    # Not even the message says that the pair was there to measure.
    left_out = "A pair was left out, it cannot be shown: no states"
    assert [words for words in messages if words] == [left_out]


# --- faults ---------------------------------------------------------------------------------


def test_an_answer_that_cannot_be_saved_keeps_its_pair_and_can_be_retried(
    sitting: Sitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    question, given = sitting.shown, sitting.desk.answer
    seen: list[str] = []

    def full(*_: Any, **options: Any) -> None:
        seen.append(options["uuid"])
        raise OSError("the disk is full")

    monkeypatch.setattr(sitting.desk, "answer", full)
    assert not sitting.session.answer("right")
    assert sitting.shown is question and sitting.session.can_retry
    assert "could not be saved: the disk is full" in (sitting.session.error or "")
    sitting.wait(3.0)
    assert sitting.shown is question
    assert not sitting.session.retry()
    assert seen[0] == seen[1]  # the same answer, so that it is never kept twice
    assert not sitting.session.answer("left")
    assert seen[2] != seen[0]  # a changed mind is another answer
    monkeypatch.setattr(sitting.desk, "answer", given)
    assert sitting.session.retry()
    assert sitting.session.error is None and not sitting.session.can_retry
    assert sitting.answers() == {question.query.id: question.choice("left")}


@pytest.mark.parametrize("call", ["upcoming", "renew", "progress", "undo"])
def test_a_store_that_fails_is_reported_and_the_sitting_recovers(
    sitting: Sitting, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError("the store is locked")

    sitting.session.answer("left")
    with monkeypatch.context() as patch:
        patch.setattr(sitting.desk, call, fail)
        if call == "upcoming":
            sitting.session.answer("left")
        if call == "undo":
            sitting.session.undo()
        sitting.wait(31.0, per_tick=0.5)
        assert "the store is locked" in (sitting.session.error or "")
    sitting.wait(1.1)
    assert sitting.session.state == "showing"
    n = len(sitting.answers())
    sitting.session.answer("left")
    assert len(sitting.answers()) == n + 1
    assert sitting.session.error is None


def test_leases_are_renewed_while_a_pair_is_looked_at(sitting: Sitting) -> None:
    sitting.wait(600.0, per_tick=0.5)
    with LabelDesk(sitting.store, "bert", sitting.desk.settings, sitting.wall) as other:
        assert sitting.shown.query.id not in [q.query.id for q in other.upcoming(5)]


def test_closing_gives_unanswered_pairs_back_at_once(sitting: Sitting) -> None:
    sitting.wait(0.1)
    sitting.session.close()
    sitting.session.close()
    with LabelDesk(sitting.store, "bert", sitting.desk.settings, sitting.wall) as other:
        assert len(other.upcoming(5)) == 5
    assert sitting.answers() == {}


def test_clocks_that_jump_give_no_negative_times(sitting: Sitting) -> None:
    sitting.wait(0.2)
    sitting.clock.now -= 500
    sitting.wall.now -= 3600
    sitting.session.tick()
    sitting.session.answer("left")
    sitting.clock.now += 5000
    sitting.wall.now += 7200
    sitting.session.tick()
    sitting.session.answer("right")
    for record in sitting.store.answer_records():
        assert record.seconds is not None and record.seconds >= 0
        assert record.answered_at >= record.shown_at
        assert 0 <= record.details["watched_fraction"] <= 1
        assert record.details["replays"] <= 1  # a machine that slept saw nothing


# --- covered --------------------------------------------------------------------------------


def test_a_pair_that_is_covered_from_the_start_is_shown_when_it_can_be_seen(
    tmp_path: Path,
) -> None:
    made = Sitting(tmp_path, is_slow=True)
    made.session.cover(True)
    made.frames.is_slow = False
    made.wait(10.0)
    assert made.session.state == "loading"
    made.session.cover(False)
    made.wait(0.5)
    made.session.answer("left")
    assert made.store.answer_records()[0].shown_at == pytest.approx(START + 10.05)


def test_a_pair_that_no_time_has_passed_on_is_not_shown_when_something_covers_it(
    sitting: Sitting,
) -> None:
    sitting.session.cover(True)  # a rubric at the start, before the first drawing
    sitting.wait(10.0)
    assert sitting.session.pair is None
    sitting.session.cover(False)
    sitting.wait(0.05)
    assert sitting.session.pair is not None
    assert sitting.session.pair.shown_at == pytest.approx(START + 10.05)


def test_the_clips_stand_still_while_they_are_covered(sitting: Sitting) -> None:
    sitting.wait(0.2)
    sitting.session.cover(True)
    before = sitting.session.play_time
    sitting.wait(5.0)
    assert sitting.session.play_time == before
    assert sitting.session.pair.watched.fraction < 0.5  # type: ignore[union-attr]  # a control pair


# --- text -----------------------------------------------------------------------------------


def test_text_pairs_are_shown_by_side_and_record_no_playback(tmp_path: Path) -> None:
    clips = text_clip("Why?", "Because."), text_clip("Why?", "No reason — ümläut.")
    made = Sitting(tmp_path, queries=[Query(clips, 0, 0, 0)], no_frames=True)
    text = made.session.pair.text  # type: ignore[union-attr]  # it is shown at once
    assert text is not None and text.prompt == "Why?"
    first_is_left = made.shown.left == "first"
    assert (text.left == "Because.") is first_is_left
    made.session.toggle_pause()
    made.session.step(1)
    made.session.scrub(0.5)
    made.session.answer("left")
    details = made.store.answer_records()[0].details
    assert not {"replays", "watched_fraction", "speed"} & set(details)


# --- against a model ------------------------------------------------------------------------


class SessionMachine(RuleBasedStateMachine):
    """Anything a labeller may do, in any order, against a list and a dictionary."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.sitting = Sitting(Path(self.folder.name), 4)
        self.given: list[tuple[str, Choice]] = []
        self.n_posted = 4

    def teardown(self) -> None:
        self.sitting.session.close()
        self.sitting.store.close()
        self.folder.cleanup()

    @precondition(lambda self: self.sitting.session.state == "showing")
    @rule(side=st.sampled_from(["left", "right", "tie", "skip"]))
    def answer(self, side: Any) -> None:
        question = self.sitting.shown
        assert self.sitting.session.answer(side)
        self.given.append((question.query.id, question.choice(side)))

    @rule()
    def undo(self) -> None:
        if self.given:
            query_id, _ = self.given.pop()
            self.sitting.session.undo()
            assert self.sitting.shown.query.id == query_id
        else:
            self.sitting.session.undo()

    @rule()
    def postpone(self) -> None:
        self.sitting.session.postpone()

    @rule(seconds=st.sampled_from([0.1, 1.1, 40.0]))
    def wait(self, seconds: float) -> None:
        self.sitting.wait(seconds, per_tick=seconds / 2)

    @precondition(lambda self: self.n_posted < 8)
    @rule()
    def post(self) -> None:
        self.sitting.store.post(make_queries(1, start=self.n_posted))
        self.n_posted += 1

    @invariant()
    def the_store_holds_what_was_answered(self) -> None:
        assert self.sitting.answers() == dict(self.given)
        assert self.sitting.session.n_answers == len(self.given)

    @invariant()
    def what_is_shown_wants_an_answer(self) -> None:
        session = self.sitting.session
        if session.state == "showing":
            assert self.sitting.shown.query.id not in dict(self.given)
        else:
            assert session.state == "waiting"


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, derandomize=True
)
