"""Lengths and letters of the viewer, readable at any window size."""

from __future__ import annotations

from pathlib import Path

from rlhf_gym.feedback.viewer.typeface import Typeface

__all__ = ["Theme"]

_SMALLEST, _LARGEST = 0.8, 2.0  # below the first, letters are no longer read with ease


class Theme:
    """Letters and lengths for one window size; made anew when the size changes.

    Args:
        size: Width and height of the window, in pixels.
        font: A TrueType file; None for the one that comes with pygame (Latin, Greek, Cyrillic).
    """

    def __init__(self, size: tuple[int, int], font: Path | None = None) -> None:
        self.scale = min(max(min(size[0] / 1280, size[1] / 720), _SMALLEST), _LARGEST)
        self.small = Typeface(font, self.px(13))
        self.normal = Typeface(font, self.px(15))
        self.reading = Typeface(font, self.px(17))
        self.large = Typeface(font, self.px(18))
        self.title = Typeface(font, self.px(25))

    def px(self, length: float) -> int:
        """A length at 1280x720, in pixels of this window, at least 1."""
        return max(round(length * self.scale), 1)
