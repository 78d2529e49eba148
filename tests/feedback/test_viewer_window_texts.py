"""Texts in the window: scrolled, compared, cut off, and of any characters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pygame
import pytest

from rlhf_gym.data import Choice, Query
from rlhf_gym.feedback.viewer.text_panes import TextView
from rlhf_gym.text_clips import text_clip
from tests.feedback.window_sitting import text_pairs


def test_long_texts_scroll_together_by_keys_and_wheel(start: Any) -> None:
    sitting = start(text_pairs(1, words=600))
    view = sitting.viewer.view
    top = sitting.pixels
    sitting.press(".")
    assert view.text.scroll > 0 and sitting.pixels != top
    sitting.press(",", ",")
    assert view.text.scroll == 0 and sitting.pixels == top
    pygame.event.post(pygame.event.Event(pygame.MOUSEWHEEL, x=0, y=-1))
    sitting.viewer.turn()
    assert view.text.scroll > 0
    sitting.press("r")
    assert view.text.scroll == 0
    for _ in range(20):
        sitting.press("pagedown")
    end = view.text.scroll
    sitting.press("pagedown")
    assert view.text.scroll == end


def test_the_difference_key_marks_words_and_stays_on_for_the_next_pair(start: Any) -> None:
    sitting = start(text_pairs(3))
    plain = sitting.pixels
    sitting.press("d")
    assert sitting.pixels != plain
    sitting.press("d")
    assert sitting.pixels == plain
    sitting.press("d", "left")
    assert sitting.viewer.view.text.show_diff


def test_a_text_that_a_length_limit_cut_off_is_marked_above_its_pane_alone(start: Any) -> None:
    pair = text_clip("Why?", "because it", finished=False), text_clip("Why?", "so there")
    sitting = start([Query(pair, 0, 0, 0)])
    surface, layout = pygame.display.get_surface(), sitting.viewer.screen.layout
    assert surface is not None and layout is not None
    view = sitting.viewer.view.text
    is_left = sitting.session.pair.question.left == "first"
    assert view.pair.cut_off == (is_left, not is_left)
    ended = TextView(replace(view.pair, cut_off=(False, False)))
    marked = pygame.surfarray.array3d(surface)
    ended.draw(surface, layout.prompt, layout.panes, sitting.viewer.screen.theme((1280, 720)))
    xs, ys = np.nonzero((pygame.surfarray.array3d(surface) != marked).any(axis=2))
    pane = layout.panes[0 if is_left else 1]
    head = pygame.Rect(pane.topleft, (pane.width, 30))
    assert len(xs) and head.contains((xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1))


@pytest.mark.parametrize("size", [(1280, 720), (640, 480)])
def test_practice_feedback_hides_no_word_of_either_text(start: Any, size: tuple[int, int]) -> None:
    queries = text_pairs(1, words=600)
    gold = {queries[0].id: Choice.FIRST}
    sitting = start(queries, gold=gold, n_practice=1, size=size)
    surface, layout = pygame.display.get_surface(), sitting.viewer.screen.layout
    assert surface is not None and layout is not None
    theme = sitting.viewer.screen.theme(size)
    before = pygame.surfarray.array3d(surface)
    sitting.press("left")
    assert sitting.session.feedback is not None
    after = pygame.surfarray.array3d(surface)
    assert (before != after).any()
    view, frame = sitting.viewer.view.text, theme.px(6)  # which marks the better one
    for pane in layout.panes:
        body = view._body(pane, theme).clip(pane.inflate(-2 * frame, -2 * frame))
        part = np.s_[body.left : body.right, body.top : body.bottom]
        assert (before[part] == after[part]).all()


def test_the_task_is_the_title_where_it_is_known(start: Any) -> None:
    assert start(text_pairs(1), task="Sentiment-v0").viewer.view.task == "Sentiment-v0"


def test_characters_that_the_font_lacks_are_reported(start: Any) -> None:
    clips = text_clip("?", "漢字 ü"), text_clip("?", "plain")
    sitting = start([Query(clips, 0, 0, 0)])
    assert sitting.viewer.view.text.missing(sitting.viewer.screen.theme((1280, 720)).reading) == {
        "漢",
        "字",
    }


@pytest.mark.parametrize("text", ["", "\x00\x07 \t\r\n tab", "x" * 5000, "a\n" * 300, "‮مرحبا 👍"])
def test_any_text_can_be_shown(start: Any, text: str) -> None:
    clips = text_clip(text, text + "1"), text_clip(text, "2" + text)
    sitting = start([Query(clips, 0, 0, 0)])
    sitting.press("d", ".", "left")
    assert len(sitting.answers()) == 1
