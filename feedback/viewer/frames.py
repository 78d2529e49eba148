"""Where the pictures of clips come from: a worker that draws ahead, seen from the viewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlhf_gym.data import Array, Clip

__all__ = ["FrameSource", "Frames"]


class Frames(Protocol):
    """The pictures of one clip."""

    @property
    def frames(self) -> Array:
        """(N, H, W, 3) uint8 RGB, N at least 1."""

    @property
    def seconds_per_frame(self) -> float:
        """How long each is shown at normal speed."""


class FrameSource(Protocol):
    """Draws clips in the background; none of these calls waits for a picture."""

    def request(self, clips: Sequence[Clip]) -> None:
        """Draw these next, the first soonest; replaces what was asked for before."""

    def get(self, clip_id: str) -> Frames | None:
        """The pictures of a clip, or None while they are being drawn."""

    def error(self, clip_id: str) -> str | None:
        """Why a clip cannot be drawn, or None."""
