"""A store that fails, a sitting left half way, and clocks that jump."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_gym.feedback.desk import LabelDesk
from tests.feedback.session_sitting import Sitting


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
