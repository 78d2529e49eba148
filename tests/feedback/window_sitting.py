"""A viewer's window on a store, used by real events in pygame's queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pygame

from rlhf_gym.data import Choice, Clip, Query
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.viewer.keymap import Keymap
from rlhf_gym.feedback.viewer.session import LabelSession
from rlhf_gym.feedback.viewer.window import Viewer
from rlhf_gym.text_clips import text_clip
from tests.feedback.fakes import Clock, Pictures

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
        self.clock = Clock(1000.0)
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
