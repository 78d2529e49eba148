"""Sessions without a window, and what they are held on: queries, a desk and drawn frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_gym.data import Choice, Clip, Query
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk, Question
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.viewer.session import LabelSession
from tests.feedback.fakes import Clock, Pictures

START = 1_700_000_000.0
N_FRAMES = 10


@dataclass
class FakeFrames:
    """Draws at once, or when told to; remembers what it was asked for."""

    is_slow: bool = False
    requested: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)

    def request(self, clips: Sequence[Clip]) -> None:
        self.requested = [clip.id for clip in clips]

    def get(self, clip_id: str) -> Pictures | None:
        if self.is_slow or clip_id in self.broken:
            return None
        return Pictures(np.zeros((self.lengths.get(clip_id, N_FRAMES), 4, 4, 3), np.uint8))

    def error(self, clip_id: str) -> str | None:
        return self.broken.get(clip_id)


def make_queries(n: int, start: int = 0) -> list[Query]:
    def clip(i: int) -> Clip:
        return Clip(np.full((4, 2), i, np.float32), np.full((3, 1), i, np.float32), "Env-v0")

    return [
        Query((clip(2 * i), clip(2 * i + 1)), seed=0, round=0, index=i)
        for i in range(start, start + n)
    ]


class Sitting:
    """A session on a store, with clocks and pictures in the test's hands."""

    def __init__(self, folder: Path, n: int = 5, **options: Any) -> None:
        self.clock, self.wall = Clock(1000.0), Clock(START)
        self.frames = FakeFrames(is_slow=bool(options.pop("is_slow", False)))
        self.store = PreferenceStore(folder / "run")
        self.queries = options.pop("queries", None) or make_queries(n)
        self.store.post(self.queries)
        self.store.mark_gold(options.pop("gold", {}), "owner")
        plain = DeskSettings(gold_share=0, repeat_share=0)
        self.desk = LabelDesk(self.store, "anna", options.pop("settings", plain), self.wall)
        frames = None if options.pop("no_frames", False) else self.frames
        self.session = LabelSession(self.desk, frames, clock=self.clock, wall=self.wall, **options)

    def wait(self, seconds: float, per_tick: float = 0.05) -> None:
        for _ in range(round(seconds / per_tick)):
            self.clock.now += per_tick
            self.wall.now += per_tick
            self.session.tick()

    @property
    def shown(self) -> Question:
        assert self.session.pair is not None
        return self.session.pair.question

    def answers(self) -> dict[str, Choice]:
        return {r.query_id: r.choice for r in self.store.answer_records() if r.kind != "practice"}
