"""Stand-ins for what a sitting takes from the machine: its clock and its renderer's pictures."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_gym.data import Array


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, now: float = 1e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Pictures:
    frames: Array
    seconds_per_frame: float = 0.1
