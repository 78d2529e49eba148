"""Every key, every button and the timeline do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pygame
import pytest

from rlhf_gym.data import Query
from rlhf_gym.feedback.viewer.keymap import ACTIONS, DEFAULT_KEYS, load_keymap
from rlhf_gym.feedback.viewer.layout import CONTROL_TOOLS, TEXT_TOOLS
from rlhf_gym.feedback.viewer.overlays import quit_buttons
from rlhf_gym.feedback.viewer.theme import Theme
from rlhf_gym.feedback.viewer.window import key_name
from tests.feedback.window_sitting import Sitting, control_pairs, text_pairs

# --- whole sittings -------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [control_pairs(8), text_pairs(8)], ids=["control", "text"])
def test_a_sitting_by_keys_puts_every_answer_into_the_store(
    start: Any, queries: list[Query]
) -> None:
    sitting = start(queries)
    keys = {"left": "left", "1": "left", "right": "right", "2": "right"}
    keys |= {"up": "tie", "=": "tie", "down": "skip", "0": "skip"}
    expected = {}
    for n, (key, side) in enumerate(keys.items()):
        question = sitting.session.pair.question
        expected[question.query.id] = question.choice(side)
        sitting.press(key)
        assert sitting.answers() == expected and len(expected) == n + 1
        assert sitting.viewer.view.flash == side
    assert sitting.session.state == "waiting"
    assert {r.details["input"] for r in sitting.store.answer_records()} == {"key"}


@pytest.mark.parametrize("queries", [control_pairs(6), text_pairs(6)], ids=["control", "text"])
def test_every_button_does_with_the_mouse_what_its_key_does(
    start: Any, queries: list[Query]
) -> None:
    sitting = start(queries, rubric="Judge.")
    sitting.press("space")  # closes the rubric
    tools = TEXT_TOOLS if queries[0].context_id.startswith("text:") else CONTROL_TOOLS
    assert set(sitting.viewer.screen.layout.buttons) == {"left", "right", "tie", "skip", *tools}
    for side in ("left", "tie", "skip", "right"):
        question = sitting.session.pair.question
        sitting.click_on(side)
        assert sitting.answers()[question.query.id] is question.choice(side)
    assert {r.details["input"] for r in sitting.store.answer_records()} == {"mouse"}
    sitting.click_on("undo")
    assert len(sitting.answers()) == 3
    before = sitting.shown
    sitting.click_on("postpone")
    assert sitting.shown != before
    for overlay in ("help", "rubric"):
        sitting.click_on(overlay)
        assert sitting.viewer.view.overlay == overlay
        sitting.click((5, 5))
        assert sitting.viewer.view.overlay == ""
    sitting.click_on("comment")
    assert sitting.viewer.view.overlay == "comment"
    sitting.press("escape")
    if "diff" in tools:
        sitting.click_on("diff")
        assert sitting.viewer.view.text.show_diff
    else:
        check_playing_buttons(sitting)
    sitting.click_on("quit")
    assert sitting.viewer.view.overlay == "quit"
    sitting.click(quit_button("stay").center)
    assert sitting.viewer.view.overlay == "" and sitting.viewer.is_open
    sitting.click_on("quit")
    sitting.click(quit_button("quit").center)
    assert not sitting.viewer.is_open


def quit_button(name: str) -> pygame.Rect:
    surface = pygame.display.get_surface()
    assert surface is not None
    return quit_buttons(surface, Theme(surface.get_size(), None))[name]


def check_playing_buttons(sitting: Sitting) -> None:
    pair = sitting.session.pair
    assert pair is not None and pair.playback is not None
    sitting.click_on("pause")
    assert pair.playback.is_paused
    sitting.click_on("forward")
    assert pair.playback.frame(0, sitting.session.play_time) == 1
    sitting.click_on("back")
    assert pair.playback.frame(0, sitting.session.play_time) == 0
    sitting.click_on("faster")
    assert pair.playback.speed == 1.5
    sitting.click_on("slower")
    sitting.click_on("slower")
    assert pair.playback.speed == 0.75
    sitting.click_on("restart")
    assert not pair.playback.is_paused


def test_undo_by_both_its_keys_goes_back_any_number_of_pairs(start: Any) -> None:
    sitting = start()
    order = []
    for key in ("left", "right", "up"):
        order.append(sitting.shown)
        sitting.press(key)
    for key, query_id in zip(("z", "backspace", "z"), reversed(order), strict=True):
        sitting.press(key)
        assert sitting.shown == query_id
    assert sitting.answers() == {}
    sitting.press("z")
    assert "Nothing to take back" in sitting.viewer.view.message


# --- every key ------------------------------------------------------------------------------


def test_every_key_of_the_help_page_does_its_action(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sitting = start()
    done: list[str] = []
    monkeypatch.setattr(sitting.viewer, "act", lambda action, kind: done.append(action))
    pressed = [(action, key) for action, keys in DEFAULT_KEYS.items() for key in keys]
    sitting.press(*(key for _, key in pressed))
    assert done == [action for action, _ in pressed]
    assert set(done) == set(ACTIONS)


def test_playing_keys_move_both_clips_together(start: Any) -> None:
    sitting = start()
    playback = sitting.session.pair.playback

    def frame(side: int) -> int:
        return int(sitting.session.pair.playback.frame(side, sitting.session.play_time))

    sitting.wait(0.25)
    assert frame(0) == frame(1) == 2
    sitting.press("space")
    sitting.wait(0.4)
    assert frame(0) == 2
    sitting.press(".", ".")
    assert frame(0) == frame(1) == 4
    sitting.press(",")
    assert frame(0) == 3
    sitting.press("r")
    assert frame(0) == 0
    sitting.press("+")
    assert sitting.session.pair.playback.speed > playback.speed
    sitting.press("-", "-")
    assert sitting.session.pair.playback.speed < playback.speed


def test_keys_held_with_control_or_alt_are_not_answers(start: Any) -> None:
    sitting = start()
    sitting.press("1", "z", "q", mod=pygame.KMOD_LCTRL)
    sitting.press("left", mod=pygame.KMOD_LALT)
    assert sitting.answers() == {} and sitting.viewer.is_open
    typed = pygame.event.Event(
        pygame.KEYDOWN, key=ord("ß"), unicode="?", mod=pygame.KMOD_LCTRL | pygame.KMOD_RALT
    )
    assert key_name(typed) == "?"  # AltGr, which types it on some keyboards


def test_other_keys_do_nothing(start: Any) -> None:
    sitting = start()
    before = sitting.shown
    sitting.press("x", "7", "return", "pagedown", "ä")
    assert sitting.shown == before and sitting.answers() == {}


def test_remapped_keys_work_and_are_printed(start: Any, tmp_path: Path) -> None:
    (tmp_path / "keys.yml").write_text("left: a\nright: l\n")
    sitting = start(keymap=load_keymap(tmp_path / "keys.yml"))
    query_id = sitting.shown
    sitting.press("left")
    assert sitting.answers() == {}
    sitting.press("a")
    assert list(sitting.answers()) == [query_id]


# --- the timeline ---------------------------------------------------------------------------


def test_dragging_the_bar_scrubs_and_lets_go(start: Any) -> None:
    sitting = start()
    bar = sitting.viewer.screen.layout.timeline
    sitting.press("space")
    event = pygame.event.Event

    def position() -> float:
        playback = sitting.session.pair.playback
        return float(playback.position(sitting.session.play_time) / playback.seconds)

    pygame.event.post(event(pygame.MOUSEBUTTONDOWN, button=1, pos=bar.center))
    sitting.viewer.turn()
    assert 0.4 < position() < 0.6
    pygame.event.post(event(pygame.MOUSEMOTION, pos=(bar.left - 50, 0), rel=(0, 0), buttons=()))
    sitting.viewer.turn()
    assert position() == 0.0
    pygame.event.post(event(pygame.MOUSEBUTTONUP, button=1, pos=bar.center))
    pygame.event.post(event(pygame.MOUSEMOTION, pos=bar.center, rel=(0, 0), buttons=()))
    sitting.viewer.turn()
    assert position() == 0.0
