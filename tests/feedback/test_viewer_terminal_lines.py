"""Texts labelled by lines, where there is no terminal."""

from __future__ import annotations

import os
from io import StringIO

from rich.console import Console

from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.viewer.session import LabelSession
from rlhf_gym.feedback.viewer.terminal import run_terminal
from tests.feedback.terminal_sitting import choices, make_query, sit_down


def by_lines(session: LabelSession, typed: str) -> tuple[int, str]:
    reader, writer = os.pipe()
    os.write(writer, typed.encode())
    os.close(writer)
    out = StringIO()
    try:
        n = run_terminal(session, descriptor=reader, console=Console(file=out, width=60))
    finally:
        os.close(reader)
        session.close()
    return n, out.getvalue()


def test_where_there_is_no_terminal_lines_are_read(store: PreferenceStore) -> None:
    store.post([make_query(i) for i in range(5)])
    typed = "left\n 2 \nnonsense\nundo\ncomment both  fine\ntie\nSKIP\ns\n1\n"
    n, shown = by_lines(sit_down(store), typed)
    assert n == 4
    assert [value for value, _ in choices(store)][1:3] == ["tie", "skip"]
    assert [left for _, left in choices(store)] == [True, None, None, True]
    assert store.answer_records()[1].details["comment"] == "both  fine"
    assert "\x1b" not in shown
    assert shown.index("Question 0?") < shown.index("Question 1?") < shown.index("Question 4?")


def test_lines_end_with_the_last_answer_or_the_input(store: PreferenceStore) -> None:
    store.post([make_query(0)])
    assert by_lines(sit_down(store), "")[0] == 0
    n, shown = by_lines(sit_down(store, total=1), "1\n")
    assert n == 1 and "Thank you" in shown
