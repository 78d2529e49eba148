"""A sitting in a terminal, and a person on the other side of a pseudo-terminal."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import threading
import time

from rich.console import Console

from rlhf_gym.data import Query
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.viewer.keymap import Keymap
from rlhf_gym.feedback.viewer.session import LabelSession
from rlhf_gym.feedback.viewer.terminal import run_terminal
from rlhf_gym.text_clips import text_clip


def make_query(index: int, first: str = "", second: str = "") -> Query:
    prompt = f"Question {index}?"
    texts = first or f"good words {index}", second or f"bad words {index}"
    one, two = (text_clip(prompt, text) for text in texts)
    return Query((one, two), seed=0, round=0, index=index)


def sit_down(
    store: PreferenceStore,
    *,
    total: int | None = None,
    rubric: str | None = None,
    practice: int = 0,
) -> LabelSession:
    settings = DeskSettings(gold_share=0, repeat_share=0, n_practice=practice)
    return LabelSession(LabelDesk(store, "ann", settings), total=total, rubric=rubric)


class Person(threading.Thread):
    """Types keys into a terminal, each as soon as some text has appeared on it."""

    def __init__(self, master: int, script: list[tuple[str, bytes]]) -> None:
        super().__init__(daemon=True)
        self.master, self.script, self.seen, self.missed = master, script, "", ""
        self._has_left = threading.Event()
        # A read may end in the middle of a character: its rest comes with the next one.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def run(self) -> None:
        for expected, keys in self.script:
            end = time.monotonic() + 10
            since = len(self.seen)
            while not re.search(expected, self.seen[since:], re.DOTALL):
                if time.monotonic() > end:
                    self.missed = expected
                    while not self._has_left.wait(0.1):
                        os.write(self.master, b"q\r")
                    return
                self.look()
            os.write(self.master, keys)
        while not self._has_left.is_set():
            self.look()

    def look(self) -> None:
        if select.select([self.master], [], [], 0.05)[0]:
            self.seen += self._decoder.decode(os.read(self.master, 65536))

    def leave(self) -> None:
        self._has_left.set()
        self.join()


def at_terminal(
    session: LabelSession,
    script: list[tuple[str, bytes]],
    *,
    size: tuple[int, int] = (80, 24),
    keymap: Keymap | None = None,
) -> tuple[int, str]:
    """Run a whole sitting on a pseudo-terminal: what it returned, and all that was shown."""
    master, slave = pty.openpty()
    with os.fdopen(os.dup(slave), "w") as file:
        console = Console(
            file=file, force_terminal=True, width=size[0], height=size[1], highlight=False,
            color_system="standard", legacy_windows=False, _environ={"TERM": "xterm"},
        )  # fmt: skip
        person = Person(master, script)
        person.start()
        try:
            n = run_terminal(session, keymap=keymap, descriptor=slave, console=console)
        finally:
            file.flush()
            person.leave()
            session.close()
            os.close(master)
            os.close(slave)
    assert not person.missed, f"never seen: {person.missed}\n{person.seen}"
    return n, person.seen


def choices(store: PreferenceStore) -> list[tuple[str, bool | None]]:
    """What stands, and whether the left one was chosen."""
    return [(r.choice.value, r.chose_left) for r in store.answer_records()]
