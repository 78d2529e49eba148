from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pygame
import pytest

from rlhf_gym.data import Array, Choice, Clip, Query
from rlhf_gym.errors import ConfigError, MissingDependencyError
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.viewer import display
from rlhf_gym.feedback.viewer.keymap import ACTIONS, DEFAULT_KEYS, Keymap, load_keymap
from rlhf_gym.feedback.viewer.layout import CONTROL_TOOLS, TEXT_TOOLS
from rlhf_gym.feedback.viewer.screen import Screen
from rlhf_gym.feedback.viewer.session import LabelSession
from rlhf_gym.feedback.viewer.text_panes import TextView
from rlhf_gym.feedback.viewer.window import Viewer, key_name, run_viewer
from rlhf_gym.text_clips import text_clip

CODES = {
    "left": pygame.K_LEFT,
    "right": pygame.K_RIGHT,
    "up": pygame.K_UP,
    "down": pygame.K_DOWN,
    "space": pygame.K_SPACE,
    "backspace": pygame.K_BACKSPACE,
    "escape": pygame.K_ESCAPE,
    "return": pygame.K_RETURN,
    "f1": pygame.K_F1,
    "pageup": pygame.K_PAGEUP,
    "pagedown": pygame.K_PAGEDOWN,
}


@dataclass
class Pictures:
    frames: Array
    seconds_per_frame: float = 0.1


@dataclass
class FakeFrames:
    """Every clip has its own shade of grey, and frames that differ."""

    requested: list[str] = field(default_factory=list)

    def request(self, clips: Sequence[Clip]) -> None:
        self.requested = [clip.id for clip in clips]

    def get(self, clip_id: str) -> Pictures:
        frames = np.full((10, 20, 30, 3), int(clip_id[:2], 16) // 2, np.uint8)
        return Pictures(frames + np.arange(10, dtype=np.uint8)[:, None, None, None])

    def error(self, clip_id: str) -> str | None:
        return None


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def control_pairs(n: int) -> list[Query]:
    def clip(i: int) -> Clip:
        return Clip(np.full((4, 2), i, np.float32), np.full((3, 1), i, np.float32), "a/Env-v0")

    return [Query((clip(2 * i), clip(2 * i + 1)), 0, 0, i) for i in range(n)]


def text_pairs(n: int, words: int = 12) -> list[Query]:
    def pair(i: int) -> tuple[Clip, Clip]:
        prompt = f"Question {i}?"
        return text_clip(prompt, f"yes {i} " * words), text_clip(prompt, f"no {i} " * words)

    return [Query(pair(i), 0, 0, i) for i in range(n)]


class Sitting:
    """A viewer on a store, driven by real events in pygame's queue."""

    def __init__(
        self,
        folder: Path,
        queries: list[Query],
        *,
        gold: dict[str, Choice] | None = None,
        n_practice: int = 0,
        size: tuple[int, int] = (1280, 720),
        keymap: Keymap | None = None,
        **options: Any,
    ) -> None:
        self.store = PreferenceStore(folder / "run")
        self.store.post(queries)
        self.store.mark_gold(gold or {}, "owner")
        settings = DeskSettings(gold_share=0, repeat_share=0, n_practice=n_practice)
        self.clock = Clock()
        desk = LabelDesk(self.store, "anna", settings)
        self.session = LabelSession(desk, FakeFrames(), clock=self.clock, **options)
        self.viewer = Viewer(self.session, size=size, keymap=keymap)
        self.viewer.turn()

    def close(self) -> None:
        self.viewer.close()
        self.store.close()

    def press(self, *keys: str, mod: int = 0) -> None:
        for key in keys:
            code = CODES[key] if key in CODES else ord(key)
            typed = "" if key in CODES else key
            event = pygame.event.Event(pygame.KEYDOWN, key=code, unicode=typed, mod=mod)
            assert pygame.event.post(event)
            self.viewer.turn()

    def type(self, words: str) -> None:
        pygame.event.post(pygame.event.Event(pygame.TEXTINPUT, text=words))
        self.viewer.turn()

    def click(self, place: tuple[int, int]) -> None:
        for kind in (pygame.MOUSEBUTTONDOWN, pygame.MOUSEBUTTONUP):
            pygame.event.post(pygame.event.Event(kind, button=1, pos=place))
        self.viewer.turn()

    def click_on(self, action: str) -> None:
        assert self.viewer.screen.layout
        self.click(self.viewer.screen.layout.buttons[action].center)

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.viewer.turn()

    @property
    def shown(self) -> str:
        assert self.session.pair is not None
        return self.session.pair.question.query.id

    @property
    def pixels(self) -> bytes:
        surface = pygame.display.get_surface()
        assert surface is not None
        return pygame.image.tobytes(surface, "RGB")

    def answers(self) -> dict[str, Choice]:
        return {record.query_id: record.choice for record in self.store.answer_records()}


@pytest.fixture
def open_sittings() -> Iterator[list[Sitting]]:
    made: list[Sitting] = []
    yield made
    for sitting in made:
        sitting.close()


@pytest.fixture
def start(tmp_path: Path, open_sittings: list[Sitting]) -> Any:
    def make(queries: list[Query] | None = None, **options: Any) -> Sitting:
        open_sittings.append(Sitting(tmp_path, queries or control_pairs(6), **options))
        return open_sittings[-1]

    return make


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
    assert not sitting.viewer.is_open


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


# --- overlays -------------------------------------------------------------------------------


def test_help_covers_the_pair_and_takes_no_answer(start: Any) -> None:
    sitting = start()
    sitting.wait(0.1)
    before = sitting.pixels
    sitting.press("?")
    assert sitting.pixels != before
    sitting.press("left", "1", "up", "z", "s")
    assert sitting.answers() == {} and sitting.viewer.view.overlay == "help"
    sitting.press("f1")
    assert sitting.viewer.view.overlay == "" and sitting.pixels == before
    sitting.press("?", "escape")
    assert sitting.viewer.view.overlay == "" and sitting.viewer.is_open


def test_the_rubric_stands_at_the_start_and_the_first_pair_is_shown_after_it(start: Any) -> None:
    sitting = start(rubric="# Task\n\n1. **Speed** first\n2. height")
    assert sitting.viewer.view.overlay == "rubric"
    sitting.wait(30.0)
    assert sitting.session.pair is None
    sitting.press("return")
    sitting.wait(2.0)
    sitting.press("left")
    assert sitting.store.answer_records()[0].seconds == pytest.approx(2.0)
    sitting.press("g")
    assert sitting.viewer.view.overlay == "rubric"


def test_a_long_rubric_scrolls_to_its_end_and_no_further(start: Any) -> None:
    sitting = start(rubric="\n\n".join(f"- criterion {n}" for n in range(60)))
    seen = {sitting.pixels}
    for _ in range(3):
        sitting.press("pagedown")
        seen.add(sitting.pixels)
    assert len(seen) == 4
    for _ in range(40):
        sitting.press("down")
    end = sitting.pixels
    sitting.press("down")
    assert sitting.pixels == end


def test_without_a_rubric_its_key_says_so(start: Any) -> None:
    sitting = start()
    sitting.press("g")
    assert sitting.viewer.view.overlay == "" and "no rubric" in sitting.viewer.view.message


def test_a_comment_is_written_kept_and_goes_on_record_with_the_answer(start: Any) -> None:
    sitting = start()
    sitting.press("c")
    sitting.type("falls — q z 1")
    sitting.press("q", "z", "1")  # letters of the comment, not commands
    sitting.press("backspace", "return")
    assert sitting.session.pair.comment == "falls — q z"
    sitting.press("c")
    sitting.type("!!")
    sitting.press("escape")
    sitting.press("left")
    assert [r.details["comment"] for r in sitting.store.answer_records()] == ["falls — q z"]
    sitting.press("right")
    assert "comment" not in sitting.store.answer_records()[1].details


def test_practice_feedback_is_shown_until_it_was_read(start: Any) -> None:
    queries = control_pairs(3)
    sitting = start(queries, gold={queries[0].id: Choice.FIRST}, n_practice=1)
    right = sitting.session.pair.question.side(Choice.FIRST)
    before = sitting.pixels
    sitting.press(right)
    assert sitting.session.feedback.is_right and sitting.pixels != before
    assert sitting.session.state == "feedback"
    sitting.press("space")
    assert sitting.session.state == "showing"
    assert [r.kind for r in sitting.store.answer_records()] == ["practice"]


def test_an_error_while_saving_is_shown_and_enter_tries_again(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    sitting = start()
    before, query_id = sitting.pixels, sitting.shown
    with monkeypatch.context() as patch:
        patch.setattr(sitting.session.desk, "answer", full)
        sitting.press("right")
        assert sitting.shown == query_id and sitting.pixels != before
        assert sitting.viewer.view.flash is None
    sitting.press("return")
    assert list(sitting.answers()) == [query_id] and sitting.session.error is None


# --- texts ----------------------------------------------------------------------------------


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


# --- the window -----------------------------------------------------------------------------


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


def test_a_window_closed_in_the_middle_of_a_pair_writes_nothing_and_gives_it_back(
    start: Any,
) -> None:
    sitting = start()
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    assert sitting.viewer.run().n_answers == 0
    sitting.viewer.close()
    assert sitting.answers() == {}
    with LabelDesk(sitting.store, "bert", sitting.session.desk.settings) as other:
        assert len(other.upcoming(6)) == 6


@pytest.mark.parametrize("key", ["q", "escape"])
def test_run_viewer_ends_by_a_key_and_says_how_many_answers_stand(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = iter(["left", "right", "z", "up", key])
    turn = Viewer.turn

    def press_and_turn(viewer: Viewer) -> None:
        name = next(keys)
        code, typed = (CODES[name], "") if name in CODES else (ord(name), name)
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=code, unicode=typed, mod=0))
        turn(viewer)

    monkeypatch.setattr(Viewer, "turn", press_and_turn)
    with PreferenceStore(tmp_path / "run") as store:
        store.post(control_pairs(4))
        session = LabelSession(LabelDesk(store, "anna"), FakeFrames())
        assert run_viewer(session).n_answers == 2
        assert store.counts()["n_answers"] == 2
        assert store.rows("SELECT count(*) FROM leases") == [(0,)]
    assert not pygame.display.get_init()


# --- what may be missing --------------------------------------------------------------------


def session_on(folder: Path) -> tuple[PreferenceStore, LabelSession]:
    store = PreferenceStore(folder / "run")
    store.post(control_pairs(2))
    return store, LabelSession(LabelDesk(store, "anna"), FakeFrames())


def test_without_a_display_one_error_says_what_to_do_and_pairs_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(display.sys, "platform", "linux")
    store, session = session_on(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"no display .*`--terminal`.*xvfb-run"):
        run_viewer(session)
    assert store.rows("SELECT count(*) FROM leases") == [(0,)]
    store.close()


@pytest.mark.parametrize(("chosen", "expected"), [(None, "0"), ("opengl", "opengl")])
def test_the_window_is_not_put_through_opengl_unless_one_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, expected: str
) -> None:
    environ = {"SDL_VIDEODRIVER": "nowhere"}
    if chosen is not None:
        environ["SDL_FRAMEBUFFER_ACCELERATION"] = chosen
    monkeypatch.setattr(display.os, "environ", environ)
    seen: list[str] = []
    monkeypatch.setattr(
        display.pygame.display,
        "init",
        lambda: seen.append(environ["SDL_FRAMEBUFFER_ACCELERATION"]),
    )
    monkeypatch.setattr(display.pygame.display, "set_mode", lambda *_: pygame.Surface((1, 1)))
    monkeypatch.setattr(display.pygame.display, "set_caption", lambda _: None)
    monkeypatch.setattr(display.pygame.key, "stop_text_input", lambda: None)
    display.open_window((1, 1), "window")
    assert seen == [expected]  # SDL reads it then


def test_a_display_that_cannot_be_opened_is_the_same_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "nowhere")
    store, session = session_on(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"no display .*nowhere"):
        run_viewer(session)
    store.close()


def test_another_package_in_the_place_of_pygame_ce_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(pygame, "IS_CE")
    with pytest.raises(MissingDependencyError, match="not pygame-ce: both install under one name"):
        display.check_pygame()


def test_a_font_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.ttf").write_text("no font")
    for name in ("bad.ttf", "missing.ttf"):
        store, session = session_on(tmp_path)
        with pytest.raises(ConfigError, match=name):
            run_viewer(session, font=tmp_path / name)
        store.close()
