"""Two clips on one clock: which frame of each is shown when, as a pure function of the time.

Positions are seconds of clip time, at normal speed. Times are seconds of the caller's clock; the
functions never read one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rlhf_gym.errors import ConfigError

__all__ = ["END_PAUSE_SECONDS", "SPEEDS", "Playback", "Watched"]

END_PAUSE_SECONDS = 0.5
"""How long the last frame stands before a loop begins anew, at any speed."""

SPEEDS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""The speeds that the keys go through, as multiples of normal speed."""

_EPSILON = 1e-9  # seconds: a position meant as the start of a frame must not fall before it


@dataclass(frozen=True)
class Playback:
    """A loop over the longer of two clips; the shorter one holds its last frame.

    Raises:
        ConfigError: no frames, or a duration that is not positive.
    """

    n_frames: tuple[int, int]
    """Frames of the left and of the right clip, each at least 1."""
    seconds_per_frame: tuple[float, float]
    """How long a frame of the left and of the right clip is shown at normal speed."""
    anchor_time: float = 0.0
    """When the position was `anchor_position`."""
    anchor_position: float = 0.0
    """Seconds of clip time, in [0, `seconds`]."""
    speed: float = 1.0
    """Clip time per time."""
    is_paused: bool = False
    """Whether the position stands still."""

    def __post_init__(self) -> None:
        if min(self.n_frames) < 1 or not min(self.seconds_per_frame) > 0 or not self.speed > 0:
            raise ConfigError(
                f"a playback of {self.n_frames} frames, {self.seconds_per_frame} s each, at speed "
                f"{self.speed}: expected at least 1 frame and positive durations."
            )

    @property
    def seconds(self) -> float:
        """Length of the longer clip, in seconds of clip time."""
        pairs = zip(self.n_frames, self.seconds_per_frame, strict=True)
        return max(n * duration for n, duration in pairs)

    @property
    def cycle_seconds(self) -> float:
        """Time from one start to the next at the present speed, the pause at the end included."""
        return self.seconds / self.speed + END_PAUSE_SECONDS

    def position(self, time: float) -> float:
        """Where the loop is, in seconds of clip time from 0 to `seconds` (the end pause)."""
        if self.is_paused:
            return self.anchor_position
        phase = self._elapsed(time) % self.cycle_seconds
        return min(phase * self.speed, self.seconds)

    def n_loops(self, time: float) -> int:
        """How often the loop began anew by itself since the anchor."""
        return 0 if self.is_paused else int(self._elapsed(time) // self.cycle_seconds)

    def _elapsed(self, time: float) -> float:
        # A clock that was set back does not play backwards.
        return max(time - self.anchor_time, 0.0) + self.anchor_position / self.speed

    def frame(self, side: int, time: float) -> int:
        """Index of the frame to show.

        Args:
            side: 0 left, 1 right.
            time: Now.
        """
        return self.frame_at(side, self.position(time))

    def frame_at(self, side: int, position: float) -> int:
        """Index of the frame at a position."""
        index = int((position + _EPSILON) / self.seconds_per_frame[side])
        return min(index, self.n_frames[side] - 1)

    def has_ended(self, side: int, time: float) -> bool:
        """Whether this clip is over while the other, longer one still plays."""
        own = self.n_frames[side] * self.seconds_per_frame[side]
        return own < self.seconds - _EPSILON and self.position(time) >= own - _EPSILON

    # --- control ----------------------------------------------------------------------------

    def _at(self, time: float, position: float, **changes: float | bool) -> Playback:
        return replace(self, anchor_time=time, anchor_position=position, **changes)  # type: ignore[arg-type]  # of this class

    def paused(self, time: float, is_paused: bool) -> Playback:
        """The same position, standing still or going on."""
        return self._at(time, self.position(time), is_paused=is_paused)

    def faster(self, time: float, steps: int) -> Playback:
        """Another of `SPEEDS`: so many entries up, or down where negative; it stays in range."""
        nearest = min(range(len(SPEEDS)), key=lambda i: abs(math.log(SPEEDS[i] / self.speed)))
        index = min(max(nearest + steps, 0), len(SPEEDS) - 1)
        return self._at(time, self.position(time), speed=SPEEDS[index])

    def scrubbed(self, time: float, share: float) -> Playback:
        """Moved to a share of the loop, in [0, 1]; what plays goes on from there."""
        return self._at(time, min(max(share, 0.0), 1.0) * self.seconds)

    def stepped(self, time: float, n: int) -> Playback:
        """Paused, n frames (of the finer clip) further; it stops at both ends."""
        duration = min(self.seconds_per_frame)
        last = math.ceil(self.seconds / duration - _EPSILON) - 1
        here = min(int((self.position(time) + _EPSILON) / duration), last)
        return self._at(time, min(max(here + n, 0), last) * duration, is_paused=True)

    def restarted(self, time: float) -> Playback:
        """From the first frame, playing."""
        return self._at(time, 0.0, is_paused=False)


class Watched:
    """How much of a loop was on the screen, and how often it was seen again.

    Args:
        playback: Of the pair that is shown.
    """

    def __init__(self, playback: Playback) -> None:
        self._step = min(playback.seconds_per_frame)
        n = max(math.ceil(playback.seconds / self._step - _EPSILON), 1)
        self._seen = [False] * n
        self.replays = 0

    @property
    def fraction(self) -> float:
        """Share of the loop's frames that were shown at least once, in [0, 1]."""
        return sum(self._seen) / len(self._seen)

    def look(self, playback: Playback, before: float, now: float) -> None:
        """Take note of what was shown between two times of looking.

        Args:
            playback: As it was all along.
            before: The last time of looking.
            now: This one.
        """
        if playback.is_paused:
            self._see(playback.anchor_position, playback.anchor_position)
            return
        n_new = playback.n_loops(now) - playback.n_loops(before)
        start, stop = playback.position(before), playback.position(now)
        if n_new <= 0:
            self._see(start, stop)
            return
        self.replays += n_new
        self._see(start, playback.seconds)
        self._see(0.0, playback.seconds if n_new > 1 else stop)

    def _see(self, start: float, stop: float) -> None:
        last = len(self._seen) - 1
        first_index = min(int((start + _EPSILON) / self._step), last)
        last_index = min(int((stop + _EPSILON) / self._step), last)
        for index in range(first_index, last_index + 1):
            self._seen[index] = True
