"""Pairs of texts labelled in a terminal, over SSH as well: the same sitting and the same keys.

Where the input is no terminal, commands are read by lines: a key or the name of an action each,
and `comment` with its text behind it. Pictures need the window.
"""

from __future__ import annotations

import sys
from typing import Literal, get_args

from rich.console import Console, ConsoleRenderable
from rich.control import Control
from rich.segment import Segment, Segments
from rich.text import Text

from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.desk import Side
from rlhf_gym.feedback.viewer.keymap import ACTIONS, Keymap
from rlhf_gym.feedback.viewer.session import LabelSession
from rlhf_gym.feedback.viewer.terminal_keys import KeyReader, Typed
from rlhf_gym.feedback.viewer.terminal_page import (
    feedback_line,
    help_page,
    key_line,
    lines_of,
    pair_page,
    rubric_page,
    status_line,
)
from rlhf_gym.printing import Screen, printable
from rlhf_gym.text_clips import is_text_clip

__all__ = ["run_terminal"]

_TICK_SECONDS = 0.1
_ENDS = {
    "done": "All answers that were wanted are there. Thank you!",
    "disqualified": "The qualification was not passed: no further pairs are given.",
}
_SIDES: dict[str, Side] = {side: side for side in get_args(Side)}


def run_terminal(
    session: LabelSession,
    *,
    keymap: Keymap | None = None,
    descriptor: int | None = None,
    console: Console | None = None,
) -> int:
    """Label texts until the labeller quits; the session is not closed here.

    Args:
        session: The sitting.
        keymap: Which key does what; default: the standard one.
        descriptor: Where keys come from; default: the standard input.
        console: Where the texts go; default: the standard output.

    Returns:
        How many answers were given and not taken back.

    Raises:
        ConfigError: the pairs are clips of an environment, or the standard input is closed.
    """
    if descriptor is None and sys.stdin is None:
        raise ConfigError("the standard input is closed; answers come from there, key by key.")
    screen = console or Screen()
    with KeyReader(sys.stdin.fileno() if descriptor is None else descriptor) as keys:
        by_key = keys.is_terminal and screen.is_terminal
        if by_key:
            screen.set_alt_screen(True)
        try:
            _Viewer(session, keymap or Keymap(), keys, screen, by_key).run()
        except KeyboardInterrupt:
            pass  # Ctrl-C quits: every answer is saved already
        finally:
            if by_key:
                screen.set_alt_screen(False)
    return session.n_answers


class _Viewer:
    """What is looked at, and what the keys do to it."""

    def __init__(
        self, session: LabelSession, keymap: Keymap, keys: KeyReader, console: Console, by_key: bool
    ) -> None:
        self._session, self._keymap, self._keys = session, keymap, keys
        self._console, self._by_key = console, by_key
        self._page: Literal["pair", "help", "rubric", "comment", "quit"] = "pair"
        self._comment = ""
        self._show_diff = False
        self._offset = 0
        self._pair: object = None
        self._drawn: object = None
        self._is_over = False
        if session.rubric:
            self._open("rubric")

    def run(self) -> None:
        while not self._is_over:
            self._session.tick()
            self._refuse_pictures()
            if self._session.pair is not self._pair:
                self._pair, self._offset = self._session.pair, 0
            self._draw_what_changed()
            if not self._by_key and self._session.state in _ENDS:
                return
            typed = self._keys.read(_TICK_SECONDS)
            if typed is not None:
                self._handle(typed)

    def _refuse_pictures(self) -> None:
        session = self._session
        if session.pair is not None and session.pair.text is not None:
            return
        asked = session.desk.upcoming(1) if session.pair or session.damaged else []
        if asked and not is_text_clip(asked[0].query.first):
            raise ConfigError(
                f"a terminal shows texts, and these pairs are clips of "
                f"{asked[0].query.context_id}; label them in the window: leave `--terminal` out, "
                "on a machine with a display."
            )

    # --- keys -------------------------------------------------------------------------------

    def _handle(self, typed: Typed) -> None:
        if typed.key == "end of input":
            self._is_over = True
        elif self._page == "comment":
            self._edit(typed)
        elif self._page == "quit" and typed.key in ("return", "y"):
            self._is_over = True
        elif self._page != "pair":
            self._open("pair")
        else:
            # By lines, the action's own name does as well.
            named = typed.key if not self._by_key and typed.key in ACTIONS else None
            self._do(self._keymap.action(typed.key) or named, typed.text)

    def _do(self, action: str | None, text: str) -> None:
        session = self._session
        if action == "quit":
            # By lines it was spelt out and sent; a single key may have been a mistake.
            if not self._by_key or session.state in _ENDS:
                self._is_over = True
            else:
                self._open("quit")
        elif action == "undo":
            session.undo()
        elif session.state == "feedback":
            session.proceed()
        elif action in _SIDES:
            session.answer(_SIDES[action])
        elif action == "postpone":
            session.postpone()
        elif action in ("back", "forward"):
            half = max(self._room() // 2, 1)
            self._offset = max(self._offset + (half if action == "forward" else -half), 0)
        elif action == "restart":
            self._offset = 0
        elif action == "diff":
            self._show_diff = not self._show_diff
        elif action == "comment" and session.pair is not None:
            if self._keys.is_terminal:
                self._comment, self._page = session.pair.comment, "comment"
            else:
                session.comment(text)
        elif action == "help" or (action == "rubric" and session.rubric):
            self._open("help" if action == "help" else "rubric")

    def _open(self, page: Literal["pair", "help", "rubric", "quit"]) -> None:
        if not self._by_key and page != "pair":
            # By lines nothing is turned: the next line is an answer already.
            self._console.print(self._text_page(page))
            return
        self._page, self._offset = page, 0
        self._session.cover(page != "pair")

    def _edit(self, typed: Typed) -> None:
        """Comments are written key by key, so that leases are renewed meanwhile."""
        if typed.key == "return":
            self._session.comment(self._comment)
            self._page = "pair"
        elif typed.key == "escape":
            self._page = "pair"
        elif typed.key == "backspace":
            self._comment = self._comment[:-1]
        else:
            self._comment += typed.text

    # --- drawing ----------------------------------------------------------------------------

    def _draw_what_changed(self) -> None:
        session = self._session
        seen: tuple[object, ...] = (session.state, session.pair, self._page, self._show_diff)
        seen += (session.error, session.message, session.status_line)
        if self._by_key:
            seen += (self._offset, self._comment, status_line(session), self._console.size)
        if seen == self._drawn:
            return
        self._drawn = seen
        if self._by_key:
            self._draw_screen()
        else:
            self._console.print(Text(status_line(session), "dim"))
            self._console.print(self._content())
            for line in self._notes():
                self._console.print(line)

    def _room(self) -> int:
        """Lines between the status line and the notes."""
        return max(self._console.height - 1 - len(self._notes()) - 1, 1)

    def _draw_screen(self) -> None:
        console, notes, room = self._console, self._notes(), self._room()
        lines = lines_of(console, self._content())
        self._offset = min(self._offset, max(len(lines) - room, 0))
        shown = lines[self._offset : self._offset + room]
        rest = len(lines) - self._offset - len(shown)
        status = status_line(self._session) + (f"  ·  {rest} more lines" if rest else "")
        console.control(Control.home(), Control.clear())
        console.print(Text(status, "dim"), no_wrap=True, overflow="ellipsis", crop=True)
        console.print(
            Segments([part for line in shown for part in (*line, Segment.line())]), end=""
        )
        for note in notes:
            console.print(note, no_wrap=True, overflow="ellipsis", crop=True)

    def _content(self) -> ConsoleRenderable:
        session = self._session
        if self._page in ("help", "rubric"):
            return self._text_page(self._page)
        if self._page == "quit":
            return Text(
                "Quit labelling? Every answer is saved. Enter quits, any other key goes on."
            )
        if session.pair is not None and session.pair.text is not None:
            return pair_page(self._console, session.pair.text, show_diff=self._show_diff)
        if session.state in _ENDS:
            return Text(_ENDS[session.state])
        return Text(f"Waiting for new pairs. {session.status_line}".strip())

    def _text_page(self, page: str) -> ConsoleRenderable:
        return (
            help_page(self._keymap) if page == "help" else rubric_page(self._session.rubric or "")
        )

    def _notes(self) -> list[Text]:
        """Under the pair: what was wrong or right, the comment, the keys."""
        session = self._session
        notes = []
        if session.error:
            notes.append(Text(f"! {printable(session.error)}", "bold"))
        if session.feedback is not None:
            notes.append(feedback_line(session.feedback))
        elif session.message:
            notes.append(Text(printable(session.message), "italic"))
        if self._page == "comment":
            notes.append(Text(f"Comment (Enter keeps it): {self._comment}_"))
        elif session.pair is not None and session.pair.comment:
            notes.append(Text(f"Comment: {session.pair.comment}"))
        return [*notes, Text(key_line(self._keymap), "dim")]
