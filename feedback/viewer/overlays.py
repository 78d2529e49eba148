"""What lies over the pair or stands in its place: help, rubric, waiting, practice, errors."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pygame
from pygame import Rect, Surface

from rlhf_gym.feedback.viewer import colors
from rlhf_gym.feedback.viewer.drawing import (
    button,
    cross_mark,
    key_cap,
    panel,
    text,
    tick_mark,
    wrap,
)
from rlhf_gym.feedback.viewer.keymap import ACTIONS, Keymap
from rlhf_gym.feedback.viewer.session import LabelSession, PracticeFeedback
from rlhf_gym.feedback.viewer.text_panes import wrap_words
from rlhf_gym.feedback.viewer.theme import Theme

__all__ = [
    "RubricLine",
    "draw_comment",
    "draw_error",
    "draw_feedback",
    "draw_help",
    "draw_notice",
    "draw_quit",
    "draw_rubric",
    "notice_lines",
    "quit_buttons",
    "rubric_lines",
]

_SAYS = {
    "left": "the left one is better",
    "right": "the right one is better",
    "tie": "both are equally good",
    "skip": "nobody can tell",
}
_MORE_HELP = (
    "Mouse: buttons, bar, wheel.  Texts: PgUp and PgDn scroll a page, with Shift the prompt.",
    'A text marked "cut off" met a length limit: it did not end by itself.',
)
_CLOSE = "Space, Enter or a click closes this page"


def _page(surface: Surface, title: str, theme: Theme, widest: float) -> tuple[Rect, Rect]:
    """A page over everything: the area for its text, and the line at its foot."""
    shade = Surface(surface.get_size())
    shade.set_alpha(215)
    surface.blit(shade, (0, 0))
    room = surface.get_rect().inflate(-theme.px(32), -theme.px(32))
    page = Rect(0, 0, min(room.width, theme.px(widest)), room.height)
    page.center = room.center
    panel(surface, page, theme)
    inner = page.inflate(-theme.px(56), -theme.px(28))
    head = Rect(inner.left, inner.top, inner.width, theme.px(44))
    text(surface, theme.title, title, head, colors.TEXT, "left")
    foot = Rect(inner.left, inner.bottom - theme.px(28), inner.width, theme.px(28))
    body = Rect(inner.left, head.bottom, inner.width, max(foot.top - head.bottom, 1))
    return body, foot


def draw_help(surface: Surface, keymap: Keymap, theme: Theme) -> None:
    """Every action with its keys."""
    body, foot = _page(surface, "Keys", theme, 900)
    step = min(body.height // (len(ACTIONS) + len(_MORE_HELP)), theme.px(36))
    for n, action in enumerate(ACTIONS.values()):
        row = Rect(body.left, body.top + n * step, body.width, step)
        x = row.left
        for key in keymap.keys[action.name]:
            cap = key_cap(surface, key, (x + theme.px(34), row.centery), theme)
            x = max(cap.right, x + theme.px(76))
        column = min(row.left + theme.px(190), row.left + row.width // 3)
        words = Rect(column, row.top, row.right - column, step)
        text(surface, theme.normal, action.help, words, colors.TEXT, "left")
    for n, more in enumerate(_MORE_HELP, start=len(ACTIONS)):
        row = Rect(body.left, body.top + n * step, body.width, step)
        text(surface, theme.normal, more, row, colors.MUTED, "left")
    text(surface, theme.small, _CLOSE, foot, colors.MUTED)


@dataclass(frozen=True)
class RubricLine:
    """A line of a rubric as it is drawn."""

    words: tuple[tuple[str, bool], ...]
    """Each with whether it is set in bold type."""
    is_heading: bool
    indent: int
    """Levels."""


def rubric_lines(rubric: str, width: int, theme: Theme) -> list[RubricLine]:
    """A Markdown text as lines of at most so many pixels; headings, lists and bold type count."""
    paragraphs: list[tuple[str, bool, int]] = []
    for line in rubric.splitlines():
        heading = re.match(r"#{1,6}\s+(.*)", line)
        item = re.match(r"\s*(?:[-*]|(\d+[.)]))\s+(.*)", line)
        if heading:
            paragraphs.append((heading[1], True, 0))
        elif item:
            paragraphs.append((f"{item[1] or '•'} {item[2]}", False, 1))
        elif line.strip() and paragraphs and paragraphs[-1][0] and not paragraphs[-1][1]:
            words, is_heading, indent = paragraphs[-1]  # Markdown joins the lines of a paragraph
            paragraphs[-1] = (f"{words} {line.strip()}", is_heading, indent)
        else:
            paragraphs.append((line.strip(), False, 0))
    lines: list[RubricLine] = []
    for words, is_heading, indent in paragraphs:
        font = theme.large if is_heading else theme.normal
        plain, marks = _bold_words(words)
        wrapped = wrap_words(font, plain, width - indent * theme.px(20), marks)
        lines += [RubricLine(tuple(line), is_heading, indent) for line in wrapped]
    return lines


def _bold_words(paragraph: str) -> tuple[str, list[bool]]:
    """A paragraph without Markdown's marks, and which of its words stood between asterisks."""
    words: list[str] = []
    marks: list[bool] = []
    is_bold, is_open = False, False
    for part in re.split(r"(\*\*|__|\s+)", paragraph.replace("`", "")):
        if part in ("**", "__"):
            is_bold = not is_bold
        elif not part.strip():
            is_open = is_open and not part  # nothing stands between two marks
        elif is_open:  # the mark ended, or began, in the middle of a word
            words[-1] += part
            marks[-1] |= is_bold
        else:
            words.append(part)
            marks.append(is_bold)
            is_open = True
    return " ".join(words), marks


def draw_rubric(surface: Surface, rubric: str, scroll: int, theme: Theme) -> int:
    """What to judge by.

    Args:
        surface: Where.
        rubric: Markdown: headings, lists and paragraphs.
        scroll: Lines that it is scrolled down by.
        theme: Colours and fonts.

    Returns:
        The scroll, kept within the text.
    """
    body, foot = _page(surface, "What to judge by", theme, 1000)
    lines = rubric_lines(rubric, body.width, theme)
    step = theme.large.line_height + theme.px(4)
    n_fit = max(body.height // step, 1)
    scroll = min(max(scroll, 0), max(len(lines) - n_fit, 0))
    for n, line in enumerate(lines[scroll : scroll + n_fit]):
        at = (body.left + line.indent * theme.px(20), body.top + n * step)
        _draw_rubric_line(surface, line, at, theme)
    more = "scroll for more; " if scroll + n_fit < len(lines) else ""
    text(surface, theme.small, more + _CLOSE, foot, colors.MUTED)
    return scroll


def _draw_rubric_line(
    surface: Surface, line: RubricLine, at: tuple[int, int], theme: Theme
) -> None:
    font, (x, y) = theme.large if line.is_heading else theme.normal, at
    for word, is_bold in line.words:
        color = colors.YELLOW if line.is_heading or is_bold else colors.TEXT
        surface.blit(font.render(word, color), (x, y))
        x += font.width(word) + font.width(" ")


def notice_lines(session: LabelSession) -> tuple[str, list[str]]:
    """What stands where no pair is: a title, and lines under it."""
    if session.state == "loading":
        return "Rendering…", ["The next pair appears as soon as its pictures are made."]
    if session.state == "disqualified":
        return "Thank you", [
            "The answers to the test pairs differ too often from the known ones,",
            "so no further pairs are given. Please speak with who runs this study.",
        ]
    lines = [session.status_line] if session.status_line else []
    if session.state == "done":
        title = "All done"
        lines = ["Every answer that was wanted is there. Thank you!", *lines]
    else:
        title = "Waiting for new clips"
        lines += ["New pairs appear here by themselves; closing the window does no harm."]
    if session.damaged:
        n, reason = len(session.damaged), next(iter(session.damaged.values()))
        lines += [f"{n} pair{'s' * (n > 1)} could not be shown: {reason}"]
    return title, lines


def draw_notice(surface: Surface, area: Rect, session: LabelSession, theme: Theme) -> None:
    """Why there is no pair."""
    panel(surface, area, theme)
    title, lines = notice_lines(session)
    wrapped = [part for line in lines for part in wrap(theme.normal, line, area.width * 3 // 4)]
    step = theme.px(30)
    y = area.centery - (step * (len(wrapped) + 2)) // 2
    row = Rect(area.left, y, area.width, step)
    text(surface, theme.title, title, row, colors.TEXT)
    for n, line in enumerate(wrapped):
        row = Rect(area.left, y + step * (n + 2) - step // 2, area.width, step)
        text(surface, theme.normal, line, row, colors.MUTED)


def draw_feedback(
    surface: Surface,
    panes: tuple[Rect, Rect],
    box: Rect,
    feedback: PracticeFeedback,
    theme: Theme,
) -> None:
    """After a practice pair: right or not, and which is better, in words, shapes and colour.

    Args:
        surface: Where.
        panes: Of the left and of the right one; the better is framed.
        box: For the words; no part of the pair.
        feedback: What to say.
        theme: Letters and lengths.
    """
    for side, pane in zip(("left", "right"), panes, strict=True):
        if side == feedback.right_answer:
            pygame.draw.rect(surface, colors.YELLOW, pane, width=theme.px(6))
            # Within the head of a pane, between its title and "more below": on no word of a text.
            tag = Rect(0, pane.top, min(theme.px(120), pane.width // 3), theme.px(26))
            tag.centerx = pane.centerx
            panel(surface, tag, theme, colors.YELLOW)
            text(surface, theme.normal, "better", tag, colors.BACKGROUND)
    panel(surface, box, theme, colors.BACKGROUND)
    color = colors.GREEN if feedback.is_right else colors.ORANGE
    pygame.draw.rect(surface, color, box, width=theme.px(3), border_radius=theme.px(6))
    verdict = "Right" if feedback.is_right else "Not quite"
    upper = Rect(box.left, box.top + theme.px(6), box.width, box.height // 2 - theme.px(4))
    line = f"{verdict}: {_SAYS[feedback.right_answer]}."
    drawn = text(surface, theme.title, line, upper.inflate(-theme.px(120), 0), colors.TEXT)
    mark = tick_mark if feedback.is_right else cross_mark
    mark(surface, (drawn.left - theme.px(30), drawn.centery), theme.px(11), color)
    lower = Rect(box.left, upper.bottom, box.width, box.bottom - upper.bottom - theme.px(6))
    hint = "This was practice. Space or a click: next pair."
    text(surface, theme.normal, hint, lower, colors.MUTED)


def _quit_box(surface: Surface, theme: Theme) -> Rect:
    box = Rect(0, 0, min(theme.px(560), surface.get_width()), theme.px(180))
    box.center = surface.get_rect().center
    return box


def quit_buttons(surface: Surface, theme: Theme) -> dict[str, Rect]:
    """Where "quit" and "stay" are drawn on the question whether to quit."""
    box = _quit_box(surface, theme)
    width, height, gap = box.width // 2 - theme.px(36), theme.px(44), theme.px(24)
    top = box.bottom - height - theme.px(20)
    return {
        "quit": Rect(box.left + gap, top, width, height),
        "stay": Rect(box.right - gap - width, top, width, height),
    }


def draw_quit(surface: Surface, session: LabelSession, theme: Theme) -> None:
    """Whether to quit, and what happens to the answers."""
    shade = Surface(surface.get_size())
    shade.set_alpha(160)
    surface.blit(shade, (0, 0))
    box = _quit_box(surface, theme)
    panel(surface, box, theme)
    row = Rect(box.left, box.top + theme.px(14), box.width, theme.px(40))
    text(surface, theme.title, "Quit labelling?", row, colors.TEXT)
    row.top += theme.px(42)
    n = session.n_answers
    saved = "Nothing was answered yet." if n == 0 else "Your last answer is saved."
    if n > 1:
        saved = f"All {n} answers of this sitting are saved."
    if session.can_retry:
        saved = "Your last answer could NOT be saved. Stay, and press Enter to save it."
    text(surface, theme.normal, saved, row, colors.MUTED)
    buttons = quit_buttons(surface, theme)
    button(surface, buttons["quit"], "Quit", "return", theme)
    button(surface, buttons["stay"], "Go on labelling", "escape", theme)


def draw_error(surface: Surface, top: int, message: str, hint: str, theme: Theme) -> None:
    """What went wrong, over the upper part of the pair, and what to do."""
    width = surface.get_width() - theme.px(48)
    lines = wrap(theme.normal, message, width - theme.px(80))[:6]
    height = theme.px(24) * (len(lines) + 1) + theme.px(20)
    box = Rect(theme.px(24), top + theme.px(8), width, height)
    panel(surface, box, theme, colors.BACKGROUND)
    pygame.draw.rect(surface, colors.VERMILLION, box, theme.px(3), border_radius=theme.px(6))
    center = (box.left + theme.px(30), box.top + theme.px(30))
    cross_mark(surface, center, theme.px(10), colors.VERMILLION)
    for n, line in enumerate([*lines, hint]):
        row = Rect(box.left + theme.px(60), box.top + theme.px(10 + 24 * n), width, theme.px(24))
        row.width = box.right - row.left - theme.px(10)
        color = colors.MUTED if n == len(lines) else colors.TEXT
        text(surface, theme.normal, line, row, color, "left")


def draw_comment(surface: Surface, message: Rect, words: str, theme: Theme) -> None:
    """The line in which a comment is written."""
    box = Rect(message.left, message.top - theme.px(36), message.width, theme.px(58))
    panel(surface, box, theme, colors.BACKGROUND)
    pygame.draw.rect(surface, colors.YELLOW, box, theme.px(2), border_radius=theme.px(6))
    row = Rect(box.left + theme.px(12), box.top + theme.px(4), box.width, theme.px(24))
    row.width -= theme.px(24)
    hint = "Comment on this pair. Enter keeps it, Esc leaves it as it was."
    text(surface, theme.small, hint, row, colors.MUTED, "left")
    shown = words
    while shown and theme.normal.width(shown + "|") > row.width:
        shown = shown[max(len(shown) // 20, 1) :]  # the end is what is being written
    row.top = row.bottom + theme.px(2)
    text(surface, theme.normal, shown + "|", row, colors.TEXT, "left")
