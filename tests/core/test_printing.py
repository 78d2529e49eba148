from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlhf_gym.printing import Screen, printable, say

STEER = (
    "\x1b[31mred\x1b]52;c;aGk=\x07\x1b]8;;http://x\x1b\\\x9b2J\u202eevil\r\x08[/]x[red]\x7f\u2028"
)


def steers(text: str) -> list[str]:
    kinds = ("Cc", "Cf", "Cs", "Zl")
    return [c for c in text if unicodedata.category(c) in kinds and c not in "\n\t"]


@given(st.text())
def test_whatever_could_steer_is_a_number_and_all_else_stays(text: str) -> None:
    shown = printable(text)
    assert not [c for c in steers(shown) if c not in "\u200c\u200d"]
    if not steers(text) and text.isprintable():
        assert shown == text


def test_each_kind_is_shown_as_what_it_is() -> None:
    assert printable("a\x1b[2J\x9b\u202e\r\n\ud800b") == "a\\x1b[2J\\x9b\\u202e\n\\ud800b"
    assert printable("a\u00a0b, 👩\u200d🚀, नमस्ते") == "a b, 👩\u200d🚀, नमस्ते"
    assert printable("one\ntwo", newline="\\n") == "one\\ntwo"
    assert printable(3) == "3"


def test_say_prints_what_only_prints_even_where_the_terminal_lacks_the_letter() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say(f"é{STEER}", "x", file=file)
    file.flush()
    written = file.buffer.getvalue()  # type: ignore[attr-defined]  # a BytesIO
    assert written.startswith(b"?\\x1b[31mred") and written.endswith(b" x\n")


@pytest.mark.parametrize("colour", [False, True])
def test_a_screen_prints_neither_markup_nor_steering_whatever_it_is_given(colour: bool) -> None:
    def drawn(text: str) -> str:
        file = io.StringIO()
        screen = Screen(file=file, force_terminal=colour, width=300)
        table = Table(text, title=text, caption=text)
        table.add_row(text)
        table.add_row(Text(text, style="red"))
        for renderable in (text, Text(text), table, Panel(text, title=Text(text))):
            screen.print(renderable)
        with Live(text, console=screen, auto_refresh=False):
            screen.print(text)
        return file.getvalue()

    harmless = "".join(c if c.isprintable() else "?" for c in STEER)
    n_harmless, n_found = (
        sum(map(drawn(text).count, "\x1b\x9b\x07\u202e\r")) for text in (harmless, STEER)
    )
    assert n_found == n_harmless, "rich's own colours and cursor, and none of the text's"
    assert "[/]x[red]" in drawn(STEER)
