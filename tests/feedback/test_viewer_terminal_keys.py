"""The bytes that a terminal sends, put together into keys."""

from __future__ import annotations

import os
import pty

from rlhf_gym.feedback.viewer.terminal_keys import KeyReader, Typed


def test_keys_that_arrive_in_pieces_are_put_together() -> None:
    master, slave = pty.openpty()
    try:
        with KeyReader(slave) as keys:
            assert keys.is_terminal and keys.read(0) is None
            for piece in (b"\x1b", b"[", b"D"):
                os.write(master, piece)
            assert keys.read(1) == Typed("left")
            os.write(master, "é".encode()[:1])
            assert keys.read(0.01) is None
            os.write(master, "é".encode()[1:] + b"Q")
            assert [keys.read(1), keys.read(1)] == [Typed("é", "é"), Typed("q", "Q")]
            os.write(master, b"\x1b[1;5Cx\x1bOP\x1b")  # Ctrl-Right has no name here
            found = [keys.read(1) for _ in range(4)]
            assert found == [Typed(""), Typed("x", "x"), Typed("f1"), Typed("escape")]
        os.close(master)
        master = -1
        with KeyReader(slave) as keys:
            assert keys.read(1) == Typed("end of input")
    finally:
        os.close(slave)
        if master >= 0:
            os.close(master)
