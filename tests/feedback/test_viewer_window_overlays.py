"""What stands in front of the pair: help, rubric, comment, practice feedback and errors."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_gym.data import Choice
from tests.feedback.window_sitting import control_pairs


def test_help_covers_the_pair_and_takes_no_answer(start: Any) -> None:
    sitting = start()
    sitting.wait(0.1)
    before = sitting.pixels
    sitting.press("?")
    assert sitting.pixels != before
    sitting.press("left", "1", "up", "z", "s")
    assert sitting.answers() == {} and sitting.viewer.view.overlay == "help"
    sitting.press("f1")
    assert sitting.viewer.view.overlay == "" and sitting.pixels == before
    sitting.press("?", "escape")
    assert sitting.viewer.view.overlay == "" and sitting.viewer.is_open


def test_the_rubric_stands_at_the_start_and_the_first_pair_is_shown_after_it(start: Any) -> None:
    sitting = start(rubric="# Task\n\n1. **Speed** first\n2. height")
    assert sitting.viewer.view.overlay == "rubric"
    sitting.wait(30.0)
    assert sitting.session.pair is None
    sitting.press("return")
    sitting.wait(2.0)
    sitting.press("left")
    assert sitting.store.answer_records()[0].seconds == pytest.approx(2.0)
    sitting.press("g")
    assert sitting.viewer.view.overlay == "rubric"


def test_a_long_rubric_scrolls_to_its_end_and_no_further(start: Any) -> None:
    sitting = start(rubric="\n\n".join(f"- criterion {n}" for n in range(60)))
    seen = {sitting.pixels}
    for _ in range(3):
        sitting.press("pagedown")
        seen.add(sitting.pixels)
    assert len(seen) == 4
    for _ in range(40):
        sitting.press("down")
    end = sitting.pixels
    sitting.press("down")
    assert sitting.pixels == end


def test_without_a_rubric_its_key_says_so(start: Any) -> None:
    sitting = start()
    sitting.press("g")
    assert sitting.viewer.view.overlay == "" and "no rubric" in sitting.viewer.view.message


def test_nobody_quits_by_one_key_but_who_is_done(start: Any) -> None:
    sitting = start(control_pairs(2), total=2)
    sitting.press("left", "escape")
    assert sitting.viewer.is_open and sitting.viewer.view.overlay == "quit"
    sitting.press("left", "space")  # answers nothing, and goes on
    assert len(sitting.answers()) == 1 and sitting.viewer.view.overlay == ""
    sitting.press("escape", "escape")
    assert sitting.viewer.is_open and sitting.viewer.view.overlay == ""
    sitting.press("left")
    assert sitting.session.state == "done"
    sitting.press("escape")
    assert not sitting.viewer.is_open


def test_a_comment_is_written_kept_and_goes_on_record_with_the_answer(start: Any) -> None:
    sitting = start()
    sitting.press("c")
    sitting.type("falls — q z 1")
    sitting.press("q", "z", "1")  # letters of the comment, not commands
    sitting.press("backspace", "return")
    assert sitting.session.pair.comment == "falls — q z"
    sitting.press("c")
    sitting.type("!!")
    sitting.press("escape")
    sitting.press("left")
    assert [r.details["comment"] for r in sitting.store.answer_records()] == ["falls — q z"]
    sitting.press("right")
    assert "comment" not in sitting.store.answer_records()[1].details


def test_practice_feedback_is_shown_until_it_was_read(start: Any) -> None:
    queries = control_pairs(3)
    sitting = start(queries, gold={queries[0].id: Choice.FIRST}, n_practice=1)
    right = sitting.session.pair.question.side(Choice.FIRST)
    before = sitting.pixels
    sitting.press(right)
    assert sitting.session.feedback.is_right and sitting.pixels != before
    assert sitting.session.state == "feedback"
    sitting.press("space")
    assert sitting.session.state == "showing"
    assert [r.kind for r in sitting.store.answer_records()] == ["practice"]


def test_an_error_while_saving_is_shown_and_enter_tries_again(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    sitting = start()
    before, query_id = sitting.pixels, sitting.shown
    with monkeypatch.context() as patch:
        patch.setattr(sitting.session.desk, "answer", full)
        sitting.press("right")
        assert sitting.shown == query_id and sitting.pixels != before
        assert sitting.viewer.view.flash is None
    sitting.press("return")
    assert list(sitting.answers()) == [query_id] and sitting.session.error is None
