"""The line at the top: what is labelled, how far it is, how fast it goes, when it was saved."""

from __future__ import annotations

import time

import pygame
from pygame import Rect, Surface

from rlhf_gym.feedback.viewer import colors
from rlhf_gym.feedback.viewer.drawing import text
from rlhf_gym.feedback.viewer.session import LabelSession
from rlhf_gym.feedback.viewer.theme import Theme

__all__ = ["draw_status", "duration", "status_words"]


def duration(seconds: float) -> str:
    """A time span as one reads it.

    >>> duration(20), duration(200), duration(5400)
    ('under 1 min', '3 min', '1 h 30 min')
    """
    minutes = round(seconds / 60)
    if minutes < 1:
        return "under 1 min"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def status_words(session: LabelSession) -> tuple[str, str, str]:
    """Progress, pace with the time left, and the last-saved mark."""
    progress = session.progress
    n = progress.n_answers if progress else 0
    reached = f"{n} answers" if session.total is None else f"{n} / {session.total}"
    if session.pair and session.pair.question.kind == "practice":
        reached = "practice"  # of all that measures a labeller, this alone is told
    pace = ""
    if session.per_minute is not None:
        pace = f"{session.per_minute:.0f} per min"
        if session.eta_seconds:
            pace += f", {duration(session.eta_seconds)} left"
    saved = ""
    if session.can_retry:
        saved = "NOT SAVED"
    elif session.last_saved is not None:
        saved = time.strftime("saved %H:%M:%S", time.localtime(session.last_saved))
    return reached, pace, saved


def draw_status(
    surface: Surface, area: Rect, session: LabelSession, task: str, theme: Theme
) -> None:
    """Draw the line, and how much of the total is done as a bar under it."""
    reached, pace, saved = status_words(session)
    bar = Rect(area.left, area.bottom - theme.px(5), area.width, theme.px(5))
    line = Rect(area.left, area.top, area.width, area.height - bar.height)
    quarter = line.width // 4
    columns = [Rect(line.left + i * quarter, line.top, quarter, line.height) for i in range(4)]
    text(surface, theme.normal, task, columns[0], colors.TEXT, "left")
    text(surface, theme.large, reached, columns[1], colors.TEXT)
    text(surface, theme.normal, pace, columns[2], colors.MUTED)
    color = colors.YELLOW if session.can_retry else colors.MUTED
    text(surface, theme.normal, saved, columns[3], color, "right")
    pygame.draw.rect(surface, colors.BUTTON, bar, border_radius=theme.px(2))
    if session.total and session.progress:
        share = min(session.progress.n_answers / session.total, 1.0)
        done = Rect(bar.left, bar.top, round(bar.width * share), bar.height)
        pygame.draw.rect(surface, colors.GREEN, done, border_radius=theme.px(2))
