"""Letters at one size: drawn twice as large and scaled down, which spaces them evenly.

SDL places letters on whole pixels; at the sizes of a window that tears words apart.
"""

from __future__ import annotations

from pathlib import Path

import pygame

from rlhf_gym.feedback.viewer.colors import Color

__all__ = ["Typeface"]

_MOST_CACHED = 600  # lines; a window shows fewer than a hundred


class Typeface:
    """A font at one size.

    Args:
        path: A TrueType file; None for the one that comes with pygame.
        height: Of the letters with their descents, in pixels.
    """

    def __init__(self, path: Path | None, height: int) -> None:
        # By its name pygame's own font gets the size that is asked for, by None a smaller one.
        name = pygame.font.get_default_font() if path is None else str(path)
        self._font = pygame.font.Font(name, 2 * height)
        self._images: dict[tuple[str, Color], pygame.Surface] = {}

    @property
    def line_height(self) -> int:
        """Pixels from one line to the next."""
        return (self._font.get_linesize() + 1) // 2

    def width(self, string: str) -> int:
        """How many pixels wide a line is."""
        return (self._font.size(string)[0] + 1) // 2

    def render(self, string: str, color: Color) -> pygame.Surface:
        """A line with a transparent ground; not to be drawn upon, it is kept for the next time."""
        key = (string, color)
        if key not in self._images:
            if len(self._images) >= _MOST_CACHED:
                self._images.clear()
            large = self._font.render(string, True, color)
            size = ((large.get_width() + 1) // 2, (large.get_height() + 1) // 2)
            self._images[key] = pygame.transform.smoothscale(large, size)
        return self._images[key]
