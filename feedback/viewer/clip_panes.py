"""The two clips and the position bar under them."""

from __future__ import annotations

import numpy as np
import pygame
from pygame import Rect, Surface

from rlhf_gym.data import Array
from rlhf_gym.feedback.viewer import colors
from rlhf_gym.feedback.viewer.drawing import panel, text
from rlhf_gym.feedback.viewer.playback import Playback
from rlhf_gym.feedback.viewer.theme import Theme

__all__ = ["draw_picture", "draw_timeline", "letterbox", "timeline_share"]


def letterbox(size: tuple[int, int], area: Rect) -> Rect:
    """The largest rectangle of a picture's proportions within an area, in its middle."""
    scale = min(area.width / size[0], area.height / size[1])
    place = Rect(0, 0, max(int(size[0] * scale), 1), max(int(size[1] * scale), 1))
    place.center = area.center
    return place


def draw_picture(
    surface: Surface, area: Rect, frame: Array, theme: Theme, *, has_ended: bool
) -> Rect:
    """One frame of a clip, as large as its pane allows.

    Args:
        surface: Where.
        area: The pane.
        frame: (H, W, 3) uint8 RGB.
        theme: Colours and fonts.
        has_ended: This clip is over while the other still plays: say so.

    Returns:
        Where the picture is; around it nothing changes from frame to frame.
    """
    height, width = frame.shape[:2]
    place = letterbox((width, height), area)
    # Shares the frame's memory; the conversion below makes the only copy.
    picture = pygame.image.frombuffer(np.ascontiguousarray(frame).data, (width, height), "RGB")
    if place.size != (width, height):
        # Converted before it is scaled: blitting needs 32 bits per pixel anyway.
        picture = pygame.transform.smoothscale(picture.convert(surface), place.size)
    surface.blit(picture, place)
    if has_ended:
        before = surface.get_clip()
        surface.set_clip(place)  # what leaves the picture would stand there for ever
        tag = Rect(0, 0, theme.px(84), theme.px(28))
        tag.midbottom = (place.centerx, place.bottom - theme.px(8))
        panel(surface, tag, theme, colors.BACKGROUND)
        text(surface, theme.normal, "ended", tag, colors.TEXT)
        surface.set_clip(before)
    return place


def draw_timeline(
    surface: Surface, area: Rect, playback: Playback, time: float, theme: Theme
) -> None:
    """How far the loop is, where the shorter clip ends, how fast it plays or that it is paused."""
    surface.fill(colors.BACKGROUND, area)
    bar, label = _parts(area, theme)
    line = Rect(bar.left, bar.centery - theme.px(3), bar.width, theme.px(6))
    pygame.draw.rect(surface, colors.BUTTON, line, border_radius=theme.px(3))
    share = playback.position(time) / playback.seconds
    x = bar.left + round(share * bar.width)
    done = Rect(line.left, line.top, max(x - line.left, 1), line.height)
    pygame.draw.rect(surface, colors.MUTED, done, border_radius=theme.px(3))
    for n, seconds in zip(playback.n_frames, playback.seconds_per_frame, strict=True):
        if n * seconds < playback.seconds:
            end = bar.left + round(n * seconds / playback.seconds * bar.width)
            pygame.draw.line(surface, colors.TEXT, (end, bar.top), (end, bar.bottom), 2)
    pygame.draw.circle(surface, colors.TEXT, (x, bar.centery), theme.px(8))
    state = "paused" if playback.is_paused else f"{playback.speed:g}x"
    text(surface, theme.small, state, label, colors.TEXT, "right")


def timeline_share(area: Rect, x: int, theme: Theme) -> float:
    """The share of the loop that a place on the timeline stands for, in [0, 1]."""
    bar, _ = _parts(area, theme)
    return min(max((x - bar.left) / bar.width, 0.0), 1.0)


def _parts(area: Rect, theme: Theme) -> tuple[Rect, Rect]:
    """The bar, and the label to its right."""
    label = Rect(0, area.top, theme.px(64), area.height)
    label.right = area.right
    width = max(area.width - label.width - theme.px(16), 1)
    return Rect(area.left + theme.px(8), area.top, width, area.height), label
