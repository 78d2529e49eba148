"""A prompt and two texts side by side: wrapped, scrolled together, their differences marked."""

from __future__ import annotations

import difflib

import pygame
from pygame import Rect, Surface

from rlhf_gym.feedback.viewer import colors
from rlhf_gym.feedback.viewer.drawing import panel, printable, text
from rlhf_gym.feedback.viewer.shown_pair import TextPair
from rlhf_gym.feedback.viewer.theme import Theme
from rlhf_gym.feedback.viewer.typeface import Typeface

__all__ = ["TextView", "differing_words", "missing_characters", "wrap_words"]

Word = tuple[str, bool]
"""A word, and whether the other text lacks it."""

_SHARE_OF_PROMPT = 0.3  # of the height between the top bar and the buttons
_EXACT_WORDS = 4000  # beyond, difflib's shortcut for frequent words keeps it under a second


def differing_words(left: str, right: str) -> tuple[list[bool], list[bool]]:
    """For each word of both texts, in order, whether the other one lacks it there.

    Words are what white space separates; `difflib` matches them.
    """
    words = left.split(), right.split()
    is_long = max(map(len, words)) > _EXACT_WORDS
    matcher = difflib.SequenceMatcher(None, *words, autojunk=is_long)
    marks = [True] * len(words[0]), [True] * len(words[1])
    for first, second, n in matcher.get_matching_blocks():
        marks[0][first : first + n] = [False] * n
        marks[1][second : second + n] = [False] * n
    return marks


def wrap_words(
    font: Typeface, string: str, width: int, marks: list[bool] | None = None
) -> list[list[Word]]:
    """Lines of marked words, each at most `width` pixels wide; indentation is kept.

    Args:
        font: In which it is drawn.
        string: What; line breaks are kept.
        width: Pixels; a word that is wider is broken.
        marks: Of each word, as `differing_words` gives them; None: no word is marked.
    """
    remaining = iter(marks) if marks is not None else None
    space = font.width(" ")
    lines: list[list[Word]] = []
    for paragraph in string.splitlines() or [""]:
        line: list[Word] = []
        used = 0
        for word in paragraph.expandtabs(4).split(" "):
            # Other white space than blanks may stand in a word: it separates marked words, too.
            flags = [next(remaining) for _ in word.split()] if remaining is not None else []
            for part in _broken(font, printable(word), width):
                wide = font.width(part)
                if line and used + space + wide > width:
                    lines.append(line)
                    line, used = [], 0
                used += wide + (space if line else 0)
                line.append((part, any(flags)))
        lines.append(line)
    return lines


def _broken(font: Typeface, word: str, width: int) -> list[str]:
    """A word in parts that fit; most fit as they are."""
    if font.width(word) <= width:
        return [word]
    parts, part = [], ""
    for character in word:
        if part and font.width(part + character) > width:
            parts.append(part)
            part = ""
        part += character
    return [*parts, part]


def missing_characters(font: Typeface, *strings: str) -> set[str]:
    """The characters that a font has no picture of: it draws the same box for all of them."""
    box = _image(font, "\uffff")
    unusual = {c for string in strings for c in string if ord(c) > 126 and c.isprintable()}
    return {c for c in unusual if _image(font, c) == box}


def _image(font: Typeface, character: str) -> bytes:
    return pygame.image.tobytes(font.render(character, colors.TEXT), "RGBA")


class TextView:
    """How one pair of texts is looked at; made anew for every pair.

    Args:
        pair: Prompt and both texts.
        show_diff: Whether the differences are marked.
    """

    def __init__(self, pair: TextPair, *, show_diff: bool = False) -> None:
        self.pair = pair
        self.show_diff = show_diff
        self.scroll = 0
        """Pixels that both panes are scrolled down by."""
        self.prompt_scroll = 0
        self._marks = differing_words(pair.left, pair.right) if show_diff else None
        self._missing: set[str] | None = None
        self._wrapped: dict[tuple[int, int, bool, int], list[list[Word]]] = {}

    def toggle_diff(self) -> None:
        """Mark the words that differ, or no longer."""
        self.show_diff = not self.show_diff
        if self._marks is None:
            self._marks = differing_words(self.pair.left, self.pair.right)

    def step(self, theme: Theme) -> int:
        """Pixels from one line to the next."""
        return theme.reading.line_height + theme.px(4)

    def scroll_by(self, pixels: int, *, is_prompt: bool) -> None:
        """Scroll both texts, or the prompt, down; the next drawing keeps it within the ends."""
        if is_prompt:
            self.prompt_scroll = max(self.prompt_scroll + pixels, 0)
        else:
            self.scroll = max(self.scroll + pixels, 0)

    def missing(self, font: Typeface) -> set[str]:
        """Characters of this pair that the font cannot draw."""
        if self._missing is None:
            pair = self.pair
            self._missing = missing_characters(font, pair.prompt, pair.left, pair.right)
        return self._missing

    def prompt_height(self, width: int, room: int, theme: Theme) -> int:
        """Pixels for the prompt: all of it, up to a share of the room it divides with the texts."""
        if not self.pair.prompt:
            return 0
        lines = len(self._lines(2, width, theme))
        wanted = lines * self.step(theme) + theme.px(46)
        return min(wanted, max(int(room * _SHARE_OF_PROMPT), theme.px(70)))

    def draw(self, surface: Surface, prompt: Rect, panes: tuple[Rect, Rect], theme: Theme) -> None:
        """Draw the prompt and both texts; what they are scrolled by is kept within their ends."""
        if self.pair.prompt:
            self.prompt_scroll = self._draw(surface, prompt, 2, self.prompt_scroll, theme)
        most = max(self._most(side, panes[side], theme) for side in (0, 1))
        self.scroll = min(max(self.scroll, 0), most)
        for side in (0, 1):
            self._draw(surface, panes[side], side, self.scroll, theme)

    def _lines(self, part: int, width: int, theme: Theme) -> list[list[Word]]:
        """Of the left text (0), the right one (1), or the prompt (2) in a pane of this width."""
        marks = self._marks[part] if self._marks and self.show_diff and part < 2 else None
        key = (part, width, marks is not None, theme.reading.line_height)
        if key not in self._wrapped:
            string = (self.pair.left, self.pair.right, self.pair.prompt)[part]
            room = max(width - theme.px(40), theme.px(40))
            self._wrapped[key] = wrap_words(theme.reading, string, room, marks)
        return self._wrapped[key]

    def _body(self, area: Rect, theme: Theme) -> Rect:
        head = theme.px(28)
        return Rect(
            area.left + theme.px(16),
            area.top + head,
            area.width - theme.px(40),
            max(area.height - head - theme.px(10), 1),
        )

    def _most(self, part: int, area: Rect, theme: Theme) -> int:
        total = len(self._lines(part, area.width, theme)) * self.step(theme)
        return max(total - self._body(area, theme).height, 0)

    def _draw(self, surface: Surface, area: Rect, part: int, scroll: int, theme: Theme) -> int:
        most = self._most(part, area, theme)
        scroll = min(max(scroll, 0), most)
        panel(surface, area, theme)
        head = Rect(area.left + theme.px(16), area.top + theme.px(4), area.width, theme.px(22))
        head.width -= theme.px(32 + (120 if most else 0))  # "more below" stands on the right
        text(surface, theme.small, self._title(part), head, colors.MUTED, "left")
        body = self._body(area, theme)
        before = surface.get_clip()
        surface.set_clip(body)
        lines, step = self._lines(part, area.width, theme), self.step(theme)
        first = scroll // step
        for n in range(first, min(first + body.height // step + 2, len(lines))):
            _draw_line(surface, lines[n], (body.left, body.top + n * step - scroll), theme)
        surface.set_clip(before)
        if not any(word for line in lines for word, _ in line):
            text(surface, theme.reading, "(empty)", body, colors.MUTED)
        if most:
            self._draw_scrollbar(surface, area, scroll, most, theme)
        return scroll

    def _title(self, part: int) -> str:
        is_cut_off = (*self.pair.cut_off, False)[part]
        return ("LEFT", "RIGHT", "PROMPT")[part] + " · cut off" * is_cut_off

    def _draw_scrollbar(
        self, surface: Surface, area: Rect, scroll: int, most: int, theme: Theme
    ) -> None:
        body = self._body(area, theme)
        height = max(body.height * body.height // (body.height + most), theme.px(16))
        top = body.top + (body.height - height) * scroll // most
        bar = Rect(area.right - theme.px(14), top, theme.px(6), height)
        pygame.draw.rect(surface, colors.LINE, bar, border_radius=theme.px(3))
        if scroll < most:
            note = Rect(0, area.top + theme.px(4), theme.px(120), theme.px(22))
            note.right = area.right - theme.px(16)
            text(surface, theme.small, "more below", note, colors.YELLOW, "right")


def _draw_line(surface: Surface, line: list[Word], at: tuple[int, int], theme: Theme) -> None:
    """One line; marked words have another ground and a line under them."""
    font, (x, y) = theme.reading, at
    space = font.width(" ")
    if not any(is_marked for _, is_marked in line):
        surface.blit(font.render(" ".join(word for word, _ in line), colors.TEXT), at)
        return
    for word, is_marked in line:
        wide = font.width(word)
        if is_marked and word:
            ground = Rect(x - 1, y, wide + 2, font.line_height)
            pygame.draw.rect(surface, colors.DIFFERENT, ground, border_radius=3)
            under = ground.bottom - 2
            pygame.draw.line(surface, colors.YELLOW, (x, under), (x + wide, under), 2)
        surface.blit(font.render(word, colors.TEXT), (x, y))
        x += wide + space
