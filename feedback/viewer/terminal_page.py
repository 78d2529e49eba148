"""What a pair of texts, and what lies over it, looks like in a terminal."""

from __future__ import annotations

import difflib
import re
import time

from rich.console import Console, ConsoleRenderable, Group
from rich.markdown import Markdown
from rich.panel import Panel
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from rlhf_gym.feedback.viewer.keymap import ACTIONS, Keymap
from rlhf_gym.feedback.viewer.session import LabelSession, PracticeFeedback
from rlhf_gym.feedback.viewer.shown_pair import TextPair
from rlhf_gym.printing import printable

__all__ = [
    "differing_spans",
    "feedback_line",
    "help_page",
    "key_line",
    "lines_of",
    "pair_page",
    "rubric_page",
    "status_line",
]

_DIFFERENT = "bold underline"  # not by colour alone
_EXACT_WORDS = 4000  # beyond, difflib's shortcut for frequent words keeps it under a second
_SAYS = {
    "left": "the left one is better",
    "right": "the right one is better",
    "tie": "both are equally good",
    "skip": "nobody can tell",
}


def differing_spans(left: str, right: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Where the words stand, in both texts, that the other one lacks: starts and ends.

    Words are what white space separates; `difflib` matches them.
    """
    places = [[match.span() for match in re.finditer(r"\S+", text)] for text in (left, right)]
    words = [[t[a:b] for a, b in spans] for t, spans in zip((left, right), places, strict=True)]
    is_long = max(map(len, words)) > _EXACT_WORDS
    matcher = difflib.SequenceMatcher(None, words[0], words[1], autojunk=is_long)
    same: tuple[set[int], set[int]] = (set(), set())
    for first, second, n in matcher.get_matching_blocks():
        same[0].update(range(first, first + n))
        same[1].update(range(second, second + n))
    left_spans, right_spans = (
        [span for i, span in enumerate(places[side]) if i not in same[side]] for side in (0, 1)
    )
    return left_spans, right_spans


def pair_page(console: Console, pair: TextPair, *, show_diff: bool) -> ConsoleRenderable:
    """The prompt, and under it both texts in columns of equal width and height."""
    prompt, left, right = (
        printable(text).expandtabs(4) for text in (pair.prompt, pair.left, pair.right)
    )
    texts = Text(left or "(empty)"), Text(right or "(empty)")
    if show_diff:
        for text, spans in zip(texts, differing_spans(left, right), strict=True):
            for start, end in spans:
                text.stylize(_DIFFERENT, start, end)
    width = max(console.width // 2, 8)
    inner = console.options.update(width=width - 4)
    height = max(len(console.render_lines(text, inner, pad=False)) for text in texts) + 2
    columns = Table.grid()
    for _ in texts:
        columns.add_column(width=width)
    titles = [
        title + " · cut off" * is_cut_off
        for title, is_cut_off in zip(("LEFT", "RIGHT"), pair.cut_off, strict=True)
    ]
    columns.add_row(
        *(
            Panel(text, title=title, title_align="left", width=width, height=height)
            for text, title in zip(texts, titles, strict=True)
        )
    )
    if not prompt:
        return columns
    return Group(Panel(Text(prompt), title="PROMPT", title_align="left", width=2 * width), columns)


def rubric_page(rubric: str) -> ConsoleRenderable:
    """What to judge by."""
    return Group(Markdown(printable(rubric), hyperlinks=False), Text("\nAny key goes on.", "dim"))


def help_page(keymap: Keymap) -> ConsoleRenderable:
    """Every action with its keys."""
    table = Table.grid(padding=(0, 2))
    for name, action in ACTIONS.items():
        table.add_row(Text(keymap.labels(name), "bold"), action.help)
    more = Text('\nA text marked "cut off" met a length limit: it did not end by itself.')
    return Group(table, more, Text("\nAny key goes on.", "dim"))


def feedback_line(feedback: PracticeFeedback) -> Text:
    """Whether a practice answer was right, in words."""
    if feedback.is_right:
        return Text(f"✓ RIGHT: {_SAYS[feedback.right_answer]}. Any key goes on.", "bold")
    said, known = _SAYS[feedback.said], _SAYS[feedback.right_answer]
    return Text(f"✗ NOT SO: you said that {said}; {known}. Any key goes on.", "bold")


def status_line(session: LabelSession) -> str:
    """Progress, pace, the time left, and when the last answer was saved."""
    n = session.progress.n_answers if session.progress else 0
    kind = session.pair.question.kind if session.pair else ""
    parts = [f"{n} answers" if session.total is None else f"{n} / {session.total}"]
    if kind in ("practice", "qualification"):
        parts = ["practice" if kind == "practice" else "test"]
    if session.task:
        parts.insert(0, printable(session.task))
    if session.per_minute is not None:
        parts.append(f"{session.per_minute:.0f} per min")
        if session.eta_seconds:
            parts.append(f"{max(round(session.eta_seconds / 60), 1)} min left")
    if session.can_retry:
        parts.append("NOT SAVED")
    elif session.last_saved is not None:
        parts.append(time.strftime("saved %H:%M:%S", time.localtime(session.last_saved)))
    return "  ·  ".join(parts)


def key_line(keymap: Keymap) -> str:
    """The keys one needs all the time."""
    # A narrow terminal cuts the end off, and help names them all.
    names = ("left", "right", "tie", "skip", "help", "quit", "undo", "postpone", "diff")
    return "  ".join(f"{keymap.label(name)} {ACTIONS[name].label.lower()}" for name in names)


def lines_of(console: Console, page: ConsoleRenderable) -> list[list[Segment]]:
    """A page cut into lines of the terminal's width, to be scrolled."""
    return console.render_lines(page, console.options.update(height=None), pad=False)
