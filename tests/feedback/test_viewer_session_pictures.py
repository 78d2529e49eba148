"""A pair is shown when its pictures are there and nothing covers them, and put off when broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_gym.feedback.desk import LabelDesk
from tests.feedback.session_sitting import START, Sitting

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
