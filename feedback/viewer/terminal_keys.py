"""What is typed: single keys from a terminal, or commands by the line where there is none."""

from __future__ import annotations

import os
import re
import select
import termios
import tty
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

__all__ = ["KeyReader", "Typed"]

_ESCAPE_SECONDS = 0.05  # the rest of an arrow key's sequence comes within that, over SSH too
_SEQUENCE = re.compile(rb"\x1b(\[[0-9;?]*[ -/]*[@-~]|O.)", re.DOTALL)
_UNFINISHED = re.compile(rb"\x1b(\[[0-9;?]*[ -/]*|O)?\Z")
_SEQUENCES = {
    b"[A": "up", b"[B": "down", b"[C": "right", b"[D": "left", b"[H": "home", b"[F": "end",
    b"OA": "up", b"OB": "down", b"OC": "right", b"OD": "left", b"OH": "home", b"OF": "end",
    b"OP": "f1", b"OQ": "f2", b"OR": "f3", b"OS": "f4", b"[1~": "home", b"[4~": "end",
    b"[2~": "insert", b"[3~": "delete", b"[5~": "pageup", b"[6~": "pagedown",
    b"[11~": "f1", b"[12~": "f2", b"[13~": "f3", b"[14~": "f4",
}  # fmt: skip
_CONTROLS = {
    b"\r": "return", b"\n": "return", b"\t": "tab", b" ": "space", b"\x7f": "backspace",
    b"\x08": "backspace", b"\x04": "end of input",
}  # fmt: skip


@dataclass(frozen=True)
class Typed:
    """A key, or in line mode the first word of a line."""

    key: str
    """As `keymap.KEYS` spells it, lower case; "end of input" where nothing more will come; empty
    for a key that has no name here."""
    text: str = ""
    """The character that was typed, as it was; in line mode the rest of the line."""


class KeyReader:
    """Reads what is typed without ever waiting longer than asked; a context manager.

    A terminal is put into a mode where every key counts at once and is not echoed, and is put back
    at the end. Anything else, a pipe or a file, is read by lines.

    Args:
        descriptor: Of the input, an open file descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = b""
        self._has_ended = False
        self._before: list[Any] | None = None
        self.is_terminal = os.isatty(descriptor)
        """Whether single keys are read."""

    def __enter__(self) -> Self:
        if self.is_terminal:
            self._before = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            try:
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
            except termios.error:
                pass  # the terminal is gone: there is nothing to put back

    def read(self, seconds: float) -> Typed | None:
        """The next key or line.

        Args:
            seconds: How long to wait for one at most.

        Returns:
            None where nothing came.
        """
        while (typed := self._next()) is None and not self._has_ended:
            if not self._fill(seconds):
                return None
        return typed or Typed("end of input")

    def _fill(self, seconds: float) -> bool:
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._descriptor, 4096)
        except OSError:  # a terminal that hung up
            data = b""
        self._has_ended = not data
        self._buffer += data
        return True

    def _next(self) -> Typed | None:
        return self._next_key() if self.is_terminal else self._next_line()

    def _next_line(self) -> Typed | None:
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline and not (self._has_ended and line):
            return None
        self._buffer = rest
        word, _, text = line.decode(errors="replace").strip().partition(" ")
        return Typed(word.lower() or "return", text.strip())

    def _next_key(self) -> Typed | None:
        if not self._buffer:
            return None
        while _UNFINISHED.match(self._buffer) and self._fill(_ESCAPE_SECONDS):
            if self._has_ended:
                break
        sequence = _SEQUENCE.match(self._buffer)
        if sequence:
            self._buffer = self._buffer[sequence.end() :]
            return Typed(_SEQUENCES.get(sequence[1], ""))
        if self._buffer[:1] == b"\x1b":
            self._buffer = self._buffer[1:]
            return Typed("escape")
        return self._next_character()

    def _next_character(self) -> Typed | None:
        first = self._buffer[0]
        length = 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        if len(self._buffer) < length and not self._has_ended:
            return None
        raw, self._buffer = self._buffer[:length], self._buffer[length:]
        text = raw.decode(errors="replace")
        name = _CONTROLS.get(raw) or (text.lower() if text.isprintable() else "")
        return Typed(name, text if text.isprintable() else "")
