"""Everything is drawn at any size, and again only where it changed."""

from __future__ import annotations

from typing import Any

import pygame
import pytest

from rlhf_gym.data import Query
from rlhf_gym.feedback.viewer.keymap import Keymap
from rlhf_gym.feedback.viewer.screen import Screen
from tests.feedback.window_sitting import control_pairs, text_pairs


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (800, 600), (300, 200), (40, 30)])
@pytest.mark.parametrize("queries", [control_pairs(1), text_pairs(1)], ids=["control", "text"])
def test_everything_can_be_drawn_at_any_size(
    start: Any, queries: list[Query], size: tuple[int, int]
) -> None:
    sitting = start(queries, size=size, rubric="# Judge\n\n- well", total=10)
    sitting.press("space", "?", "space", "c", "return", "d", ".", "left")
    assert sitting.session.state == "waiting"
    layout = sitting.viewer.screen.layout
    if size[0] >= 800:  # nothing overlaps, nothing leaves the window
        areas = [*layout.panes, layout.message, layout.top, *layout.buttons.values()]
        assert all(layout.window.contains(area) for area in areas)
        assert [area.collidelistall(areas) for area in areas] == [[n] for n in range(len(areas))]


def test_a_window_that_is_resized_is_laid_out_anew(start: Any) -> None:
    sitting = start()
    pygame.display.set_mode((1920, 1080), pygame.RESIZABLE)
    sitting.viewer.turn()
    assert sitting.viewer.screen.layout.window.size == (1920, 1080)
    query_id = sitting.shown
    sitting.click_on("right")
    assert list(sitting.answers()) == [query_id]


def test_only_what_changed_is_drawn(start: Any) -> None:
    sitting = start()
    surface = pygame.display.get_surface()
    screen, session, view = sitting.viewer.screen, sitting.session, sitting.viewer.view
    sitting.wait(0.01)
    assert screen.draw(surface, session, view) == []
    sitting.clock.now += 0.1
    session.tick()
    layout = screen.layout
    *pictures, bar = screen.draw(surface, session, view)
    assert bar == layout.timeline
    for picture, pane in zip(pictures, layout.panes, strict=True):
        assert pane.contains(picture) and picture.center == pane.center
    partial = sitting.pixels
    screen.forget()
    assert screen.draw(surface, session, view) == [surface.get_rect()]
    assert sitting.pixels == partial


def test_the_first_drawing_is_followed_by_one_of_new_frames_alone(start: Any) -> None:
    sitting = start()
    sitting.wait(0.01)
    screen, surface = Screen(Keymap()), pygame.Surface((1280, 720))
    assert screen.draw(surface, sitting.session, sitting.viewer.view) == [surface.get_rect()]
    sitting.clock.now += 0.1
    sitting.session.tick()
    assert len(screen.draw(surface, sitting.session, sitting.viewer.view)) == 3
