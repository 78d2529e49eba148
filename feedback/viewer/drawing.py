"""Small things that the viewer draws: text, keys, buttons, marks."""

from __future__ import annotations

import pygame
from pygame import Rect, Surface

from rlhf_gym.feedback.viewer import colors
from rlhf_gym.feedback.viewer.colors import Color
from rlhf_gym.feedback.viewer.keymap import key_label
from rlhf_gym.feedback.viewer.theme import Theme
from rlhf_gym.feedback.viewer.typeface import Typeface

__all__ = [
    "arrow",
    "button",
    "cross_mark",
    "fitted",
    "key_cap",
    "panel",
    "printable",
    "text",
    "tick_mark",
    "wrap",
]

_ARROWS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def printable(string: str) -> str:
    """A string that a font can draw: control characters, which end or break it, as spaces."""
    return "".join(c if c.isprintable() else " " for c in string)


def fitted(font: Typeface, string: str, width: int) -> str:
    """A string, cut with an ellipsis where it is wider than so many pixels."""
    string = printable(string)
    if font.width(string) <= width:
        return string
    while string and font.width(string + "…") > width:
        string = string[: -1 - len(string) // 20]
    return string + "…"


def text(
    surface: Surface,
    font: Typeface,
    string: str,
    area: Rect,
    color: Color,
    align: str = "center",
) -> Rect:
    """Draw one line, cut to the area's width.

    Args:
        surface: Where.
        font: In which.
        string: What.
        area: Within.
        color: In which colour.
        align: "left", "center" or "right"; vertically always in the middle.

    Returns:
        What was drawn on.
    """
    image = font.render(fitted(font, string, area.width), color)
    place = image.get_rect(center=area.center)
    if align == "left":
        place.left = area.left
    elif align == "right":
        place.right = area.right
    surface.blit(image, place)
    return place


def wrap(font: Typeface, string: str, width: int) -> list[str]:
    """Lines of at most so many pixels, broken between words; line breaks are kept."""
    lines: list[str] = []
    for paragraph in string.splitlines() or [""]:
        line = ""
        for word in printable(paragraph).split(" "):
            longer = f"{line} {word}" if line else word
            if line and font.width(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def panel(surface: Surface, area: Rect, theme: Theme, color: Color | None = None) -> None:
    """A filled, rounded area."""
    pygame.draw.rect(surface, color or colors.PANEL, area, border_radius=theme.px(6))


def arrow(surface: Surface, center: tuple[int, int], size: int, key: str, color: Color) -> None:
    """A triangle that points where an arrow key does; `size` is its half length in pixels."""
    (x, y), (dx, dy) = center, _ARROWS[key]
    tip = (x + dx * size, y + dy * size)
    base = (x - dx * size, y - dy * size)
    points = [tip, (base[0] - dy * size, base[1] - dx * size)]
    points.append((base[0] + dy * size, base[1] + dx * size))
    pygame.draw.polygon(surface, color, points)


def key_cap(surface: Surface, key: str, center: tuple[int, int], theme: Theme) -> Rect:
    """A key as it looks on a keyboard; arrow keys show their arrow."""
    label = "" if key in _ARROWS else key_label(key)
    width = max(theme.small.width(label) + theme.px(10), theme.px(20))
    area = Rect(0, 0, width, theme.px(19))
    area.center = center
    pygame.draw.rect(surface, colors.BACKGROUND, area, border_radius=theme.px(4))
    pygame.draw.rect(surface, colors.LINE, area, width=1, border_radius=theme.px(4))
    if label:
        text(surface, theme.small, label, area.inflate(theme.px(8), 0), colors.TEXT)
    else:
        arrow(surface, area.center, theme.px(5), key, colors.TEXT)
    return area


def button(
    surface: Surface,
    area: Rect,
    label: str,
    key: str,
    theme: Theme,
    *,
    accent: Color | None = None,
    is_hovered: bool = False,
    is_flashing: bool = False,
    is_active: bool = False,
    is_enabled: bool = True,
) -> None:
    """A button with its key printed on it.

    Args:
        surface: Where.
        area: The button.
        label: What it does.
        key: The main key that does the same.
        theme: Colours and fonts.
        accent: A stripe of this colour; for the answers.
        is_hovered: The mouse is over it.
        is_flashing: It was just chosen: inverted, and marked with a tick.
        is_active: It is switched on: framed.
        is_enabled: Whether it does anything now.
    """
    color = colors.YELLOW if is_flashing else colors.HOVER if is_hovered else colors.BUTTON
    color = color if is_enabled else colors.PANEL
    panel(surface, area, theme, color)
    if accent and is_enabled and not is_flashing:
        stripe = Rect(area.left, area.top, area.width, theme.px(5))
        pygame.draw.rect(
            surface,
            accent,
            stripe,
            border_top_left_radius=theme.px(6),
            border_top_right_radius=theme.px(6),
        )
    if is_active or is_flashing:
        line = theme.px(3)
        pygame.draw.rect(surface, colors.TEXT, area, width=line, border_radius=theme.px(6))
    ink = colors.BACKGROUND if is_flashing else colors.TEXT if is_enabled else colors.LINE
    font = theme.large if accent else theme.small
    half = area.height // 2
    upper = Rect(area.left + 2, area.top + theme.px(4), area.width - 4, half - theme.px(2))
    drawn = text(surface, font, label, upper, ink)
    if is_flashing:
        tick_mark(surface, (drawn.left - theme.px(14), drawn.centery), theme.px(7), ink)
    key_cap(surface, key, (area.centerx, area.bottom - half // 2 - theme.px(1)), theme)


def tick_mark(surface: Surface, center: tuple[int, int], size: int, color: Color) -> None:
    """A tick: right, or done."""
    x, y = center
    points = [(x - size, y), (x - size // 3, y + size * 2 // 3), (x + size, y - size * 2 // 3)]
    pygame.draw.lines(surface, color, False, points, max(size // 3, 2))


def cross_mark(surface: Surface, center: tuple[int, int], size: int, color: Color) -> None:
    """A cross: not right."""
    x, y = center
    for sign in (-1, 1):
        start, stop = (x - size, y - sign * size), (x + size, y + sign * size)
        pygame.draw.line(surface, color, start, stop, max(size // 3, 2))
