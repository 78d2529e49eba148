from __future__ import annotations

import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
import yaml

from rlhf_gym.cli import main
from rlhf_gym.errors import DataError

Ending = Callable[..., tuple[object, str]]


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ending:
    """Exit status and standard error of a command in which a library raises an error."""

    def run(error: Exception) -> tuple[object, str]:
        future: Future[None] = Future()
        future.set_exception(error)
        # Raised by a method of Python's own: a function of this file would be a user's code.
        monkeypatch.setattr("rlhf_gym.report.write_report", future.result)
        with pytest.raises(SystemExit) as stop:
            main(["report", "folder"])
        return stop.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "error",
    [
        RecursionError("too deep"), OverflowError("too large"), sqlite3.OperationalError("no such"),
        MemoryError(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), struct.error("unpack"),
        EOFError("early"), yaml.YAMLError("bad"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"),
    ],
)  # fmt: skip
def test_what_libraries_raise_on_bad_files_is_one_sentence(
    ending: Ending, error: Exception
) -> None:
    status, text = ending(error)
    assert status == 2
    assert text.startswith("rlhf-gym: ") and text.count("\n") == 1
    assert type(error).__name__ in text and "Traceback" not in text


@pytest.mark.parametrize("error", [KeyError("x"), ZeroDivisionError(), AssertionError("y")])
def test_a_bug_is_one_sentence_that_says_how_to_see_more(ending: Ending, error: Exception) -> None:
    status, text = ending(error)
    assert status == 70
    assert text.startswith("rlhf-gym: this is a bug in rlhf_gym: ") and text.count("\n") == 1
    assert "RLHF_GYM_TRACEBACK=1" in text and "Traceback" not in text


def test_the_environment_brings_the_traceback_back(
    ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_GYM_TRACEBACK", "1")
    for error, expected in ((KeyError("x"), 70), (DataError("wrong"), 2)):
        status, text = ending(error)
        assert status == expected
        assert "Traceback (most recent call last)" in text and "cli.py" in text


def test_a_message_of_any_kind_only_prints_and_is_not_endless(ending: Ending) -> None:
    for error in (
        DataError("a\x1b[2J[/]\x9b"),
        OSError(5, "a\x1b[2J[/]\x9b", "b\x07"),
        KeyError("\x1b"),
    ):
        _, text = ending(error)
        assert "\\x1b" in text
        assert all(c.isprintable() or c == "\n" for c in text)
    _, text = ending(DataError("x" * 1_000_000))
    assert len(text) < 3000


def test_own_code_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(folder: Path) -> Path:
        raise FileNotFoundError("the mesh of my robot")

    monkeypatch.setattr("rlhf_gym.report.write_report", step)
    with pytest.raises(SystemExit) as stop:
        main(["report", "folder"])
    text = capsys.readouterr().err
    assert stop.value.code == 1
    assert "Traceback" in text and "the mesh of my robot" in text
    assert f"your own code, {__file__}, line " in text


def test_a_reader_that_goes_away_ends_the_command_without_a_word() -> None:
    program = (
        "from rlhf_gym.last_resort import one_sentence\n"
        "with one_sentence():\n"
        "    print('x' * 1_000_000)\n"
    )
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        result = subprocess.run(
            [sys.executable, "-c", program], stdout=write_end, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write_end)
    assert (result.returncode, result.stderr) == (141, b"")
