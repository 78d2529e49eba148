"""What reaches a terminal: text that only prints, whoever wrote it.

A labeller's name, a column, a path, a completion or an error about them may hold escape sequences
that repaint the screen, set the clipboard or forge a link, and rich would read "[/]" as markup.
Everything is printed through `say` or `Screen`, which show such characters as what they are; a test
looks for any other way.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

__all__ = ["PrintableStream", "Screen", "printable", "say"]

_COLOUR = re.compile(r"(\x1b\[[\d;]*m)")
_KEPT = "\n\t\u200c\u200d"  # joiners are part of words and of emoji


def printable(text: object, *, newline: str = "\n") -> str:
    r"""A text that only prints: what could steer the terminal, or cannot be seen, is a number.

    That is every control character, C1's among them, what turns the direction of writing, halves
    of characters, and what Unicode has not named.

    Args:
        text: Anything; `str` is taken of it.
        newline: What stands for the end of a line; "\\n" where all is to be on one.

    >>> printable("a\x1b]52;c;eA==\x07")
    'a\\x1b]52;c;eA==\\x07'
    """
    shown = str(text).replace("\r\n", "\n")
    if not shown.isprintable():
        shown = "".join(map(_shown, shown))
    return shown.replace("\n", newline)


def _shown(character: str) -> str:
    if character.isprintable() or character in _KEPT:
        return character
    if unicodedata.category(character) == "Zs":  # a no-break space, an em space
        return " "
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def say(*parts: object, file: TextIO | None = None) -> None:
    """As `print`, of text that only prints; standard output by default."""
    file = sys.stdout if file is None else file
    text = printable(" ".join(map(str, parts)))
    encoding = getattr(file, "encoding", None) or "utf-8"
    # A terminal without UTF-8 shows "?" rather than nothing at all.
    print(text.encode(encoding, "replace").decode(encoding), file=file)


class PrintableStream:
    """Standard output or error for a library that prints what it was given.

    Colours pass where they reach a terminal.

    Args:
        stream: Where it goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's, of text that only prints."""
        parts = _COLOUR.split(text) if self._stream.isatty() else [text]
        parts[::2] = [printable(part) for part in parts[::2]]
        return self._stream.write("".join(parts))


class Screen(Console):
    """A rich console that reads no markup, and prints nothing that steers the terminal.

    The title of a `Panel` alone is markup whatever the console says: give it a `Text`.

    Args:
        options: rich's.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich's; only rich's own control segments (the cursor's) pass as they are."""
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                segment = Segment(printable(segment.text), segment.style)
            yield segment
