"""Texts labelled by lines, where there is no terminal."""

from __future__ import annotations

import os
from io import StringIO

import pytest
from rich.console import Console

from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.viewer.session import LabelSession
from rlhf_gym.feedback.viewer.terminal import run_terminal
from rlhf_gym.feedback.viewer.terminal_keys import Typed
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


def test_a_rubric_and_help_are_printed_and_take_no_answer(store: PreferenceStore) -> None:
    store.post([make_query(i) for i in range(3)])
    n, shown = by_lines(
        sit_down(store, rubric="Judge by honesty."), "tie\nhelp\nskip\nrubric\ntie\n"
    )
    assert n == 3 and [value for value, _ in choices(store)] == ["tie", "skip", "tie"]
    assert shown.index("Judge by honesty.") < shown.index("Question 0?")
    assert shown.count("Judge by honesty.") == 2


def test_keys_that_are_not_seen_still_write_a_comment(
    store: PreferenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal to type in, and an output that goes to a file: keys, not lines."""
    typed = [
        Typed("c", "c"),
        Typed("w", "w"),
        Typed("y", "y"),
        Typed("return", ""),
        Typed("1", "1"),
    ]

    class Keys:
        is_terminal = True

        def __init__(self, descriptor: int) -> None: ...
        def __enter__(self) -> Keys:
            return self

        def __exit__(self, *_: object) -> None: ...
        def read(self, seconds: float) -> Typed:
            return typed.pop(0) if typed else Typed("end of input", "")

    monkeypatch.setattr("rlhf_gym.feedback.viewer.terminal.KeyReader", Keys)
    store.post([make_query(0)])
    session = sit_down(store)
    run_terminal(session, descriptor=0, console=Console(file=StringIO(), width=60))
    session.close()
    assert store.answer_records()[0].details["comment"] == "wy"


def test_a_closed_input_is_one_clear_error(
    store: PreferenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigError, match="standard input is closed"):
        run_terminal(sit_down(store))
