"""Pairs that measure the labeller: practice, qualification, and known ones in between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf_gym.data import Choice, Query
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk
from rlhf_gym.feedback.viewer.session import LabelSession
from tests.feedback.session_sitting import Sitting, make_queries


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
