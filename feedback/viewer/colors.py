"""The viewer's colours; the accents are those of Okabe and Ito (2008), safe for colour-blind eyes.

No meaning rests on a colour alone.
"""

from __future__ import annotations

__all__ = [
    "ACCENTS",
    "BACKGROUND",
    "BLUE",
    "BUTTON",
    "DIFFERENT",
    "GREEN",
    "HOVER",
    "LINE",
    "MUTED",
    "ORANGE",
    "PANEL",
    "PURPLE",
    "TEXT",
    "VERMILLION",
    "YELLOW",
    "Color",
]

Color = tuple[int, int, int]

BACKGROUND: Color = (22, 24, 29)
PANEL: Color = (36, 39, 46)
BUTTON: Color = (54, 58, 68)
HOVER: Color = (74, 80, 94)
LINE: Color = (96, 102, 116)
TEXT: Color = (240, 240, 240)
MUTED: Color = (172, 178, 190)
DIFFERENT: Color = (84, 80, 24)
"""The ground of words that differ; they are underlined, too."""

BLUE: Color = (86, 180, 233)
ORANGE: Color = (230, 159, 0)
GREEN: Color = (0, 178, 130)
PURPLE: Color = (214, 141, 184)
YELLOW: Color = (240, 228, 66)
VERMILLION: Color = (213, 94, 0)

ACCENTS = {"left": BLUE, "tie": GREEN, "skip": PURPLE, "right": ORANGE}
"""Of the four answers."""
