"""A window that opens or says why it cannot, and that ends without harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pygame
import pytest

from rlhf_gym.errors import ConfigError, MissingDependencyError
from rlhf_gym.feedback.desk import LabelDesk
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.viewer import display
from rlhf_gym.feedback.viewer.session import LabelSession
from rlhf_gym.feedback.viewer.window import Viewer, run_viewer
from tests.feedback.window_sitting import CODES, FakeFrames, control_pairs


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
    # What is no yes goes on.
    keys = iter(["left", "right", "z", "up", key, "escape", key, "left", key, "return"])
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
