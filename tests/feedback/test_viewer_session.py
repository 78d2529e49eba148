"""Pair after pair is answered, put off or taken back, until there is none to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_gym.data import Query
from rlhf_gym.text_clips import text_clip
from tests.feedback.session_sitting import N_FRAMES, START, Sitting, make_queries

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
