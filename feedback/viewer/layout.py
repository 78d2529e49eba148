"""Where everything stands in the window, for any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pygame import Rect

from rlhf_gym.feedback.viewer.theme import Theme

__all__ = ["ANSWERS", "CONTROL_TOOLS", "TEXT_TOOLS", "Layout"]

ANSWERS = ("left", "tie", "skip", "right")
"""The big buttons, in the order of the screen."""

_COMMON = ("comment", "rubric", "help", "quit")
CONTROL_TOOLS = (
    *("postpone", "undo", "pause", "back", "forward", "slower", "faster", "restart"),
    *_COMMON,
)
"""The small buttons under a pair of clips."""

TEXT_TOOLS = ("postpone", "undo", "back", "forward", "restart", "diff", *_COMMON)
"""The small buttons under a pair of texts."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The rectangles of one window size; none is ever empty, however small the window."""

    window: Rect
    top: Rect
    """Task, progress, pace, time left, last saved."""
    prompt: Rect
    """Of text pairs; of no use to others."""
    panes: tuple[Rect, Rect]
    """Left and right."""
    timeline: Rect
    """Position in the loop; of no use to text pairs."""
    message: Rect
    buttons: dict[str, Rect]
    """By action."""

    @classmethod
    def make(
        cls, size: tuple[int, int], theme: Theme, tools: Sequence[str], prompt_height: int = 0
    ) -> Layout:
        """Lay the window out.

        Args:
            size: Width and height, in pixels.
            theme: Of this size.
            tools: Actions of the small buttons.
            prompt_height: Pixels for the prompt of a text pair; 0 for clips.
        """
        px, width, height = theme.px, size[0], size[1]
        gap, margin = px(8), px(12)
        inner = max(width - 2 * margin, 1)
        y = height - px(8) - px(44)
        buttons = _row(Rect(margin, y, inner, px(44)), tools, px(6))
        y -= gap + px(52)
        buttons |= _row(Rect(margin, y, inner, px(52)), ANSWERS, gap)
        y -= px(4) + px(22)
        message = _rect(margin, y, inner, px(22))
        y -= px(4) + px(20)
        timeline = _rect(margin, y, inner, px(20))
        top = _rect(margin, px(8), inner, px(40))
        start = top.bottom + gap
        prompt = _rect(margin, start, inner, prompt_height)
        if prompt_height:
            start = prompt.bottom + gap
            y = timeline.bottom  # text has no timeline
        pane_height, pane_width = y - gap - start, (inner - gap) // 2
        left = _rect(margin, start, pane_width, pane_height)
        right = _rect(margin + pane_width + gap, start, pane_width, pane_height)
        whole = _rect(0, 0, width, height)
        return cls(whole, top, prompt, (left, right), timeline, message, buttons)


def _rect(x: int, y: int, width: int, height: int) -> Rect:
    return Rect(x, y, max(width, 1), max(height, 1))


def _row(area: Rect, actions: Sequence[str], gap: int) -> dict[str, Rect]:
    """Buttons of one width, side by side."""
    width = (area.width - gap * (len(actions) - 1)) / len(actions)
    lefts = [area.left + round(i * (width + gap)) for i in range(len(actions))]
    return {
        action: _rect(left, area.top, int(width), area.height)
        for action, left in zip(actions, lefts, strict=True)
    }
