"""From what is stored of a clip to the pictures a person sees, and at which pace."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf_gym.data import Array, Clip
from rlhf_gym.envs.make import make_env
from rlhf_gym.envs.picture_info import step_seconds
from rlhf_gym.envs.sim_state import SimStateReader, render_state
from rlhf_gym.errors import CorruptDataError, DataError

__all__ = ["ClipFrames", "ClipRenderer", "playback", "recorded_frames"]

_MAX_FPS = 30.0  # what a viewer draws on 2 cores, and more than a person needs
_SHORTEST_SECONDS, _LONGEST_SECONDS = 1.5, 2.0  # of a clip of 50 steps
_LONGEST_STEP_SECONDS = _LONGEST_SECONDS / 50  # of longer clips
_HUGE = 1e10  # MuJoCo's own limit (mjMAXVAL), beyond which it calls a state unstable


@dataclass(frozen=True, eq=False)
class ClipFrames:
    """The pictures of a clip, each shown for the same time.

    Raises:
        DataError: not pictures, none of them, or a time that is not positive.
    """

    frames: npt.NDArray[np.uint8]
    """(N, H, W, 3) uint8, N at least 1."""
    seconds_per_frame: float
    """How long each is shown, at least 1/30."""

    def __post_init__(self) -> None:
        shape, dtype = self.frames.shape, self.frames.dtype
        if len(shape) != 4 or shape[3] != 3 or 0 in shape or dtype != np.uint8:
            raise DataError(
                f"`ClipFrames.frames` has shape {shape} and dtype {dtype}, expected "
                "(n, height, width, 3) uint8 with at least one picture."
            )
        if not (math.isfinite(self.seconds_per_frame) and self.seconds_per_frame > 0):
            raise DataError(
                f"`ClipFrames.seconds_per_frame` is {self.seconds_per_frame}, expected above 0."
            )

    @property
    def seconds(self) -> float:
        """How long one loop takes, without a pause at its end."""
        return len(self.frames) * self.seconds_per_frame


def playback(n_steps: int, dt: float) -> tuple[list[int], float]:
    """Which states of a clip are shown, and how long each.

    A clip is shown in its own time where that lies between 1.5 s and 2 s, otherwise in slower or
    faster motion; clips of more than 50 steps may take 0.04 s per step. At most 30 pictures are
    shown per second: a little slower motion, within the 2 s, rather than states left out.

    Args:
        n_steps: T of the clip, at least 1; it has T + 1 states.
        dt: Seconds that one step takes in the robot's world, above 0.

    Returns:
        The states' indices, from 0 to `n_steps`, ascending, at even distances (they differ by at
        most one), and the seconds each is shown, at least 1/30.

    Raises:
        DataError: `n_steps` is below 1, or `dt` not positive.
    """
    if n_steps < 1:
        raise DataError(f"`n_steps` is {n_steps}, expected at least 1.")
    if not (math.isfinite(dt) and dt > 0):
        raise DataError(f"`dt` is {dt}, expected a positive number of seconds.")
    all_states = (n_steps + 1) / _MAX_FPS
    fits = _SHORTEST_SECONDS < all_states <= _LONGEST_SECONDS
    shortest = all_states if fits else _SHORTEST_SECONDS
    longest = max(_LONGEST_SECONDS, n_steps * _LONGEST_STEP_SECONDS)
    seconds = min(max(n_steps * dt, shortest), longest)
    n_most = math.floor(seconds * _MAX_FPS + 1e-9)  # 1.7 * 30 is 51, also in floats
    stride = math.ceil((n_steps + 1) / n_most)
    n_gaps = max(n_steps // stride, 1)
    indices = [round(k * n_steps / n_gaps) for k in range(n_gaps + 1)]
    return indices, seconds / len(indices)


def recorded_frames(clip: Clip) -> ClipFrames:
    """What the env showed while it acted, for clips that carry `pictures`; needs no env.

    Raises:
        DataError: the clip has no pictures, or damaged ones; the message names it.
    """
    if clip.pictures is None:
        raise DataError(f"clip {clip.id} carries no pictures; draw it with `ClipRenderer`.")
    indices, seconds_per_frame = playback(len(clip), clip.pictures.step_seconds)
    try:
        return ClipFrames(clip.pictures.decode(indices), seconds_per_frame)
    except CorruptDataError as error:
        raise CorruptDataError(f"clip {clip.id} cannot be shown: {error}") from error


class ClipRenderer:
    """Draws the clips of one env from their simulator states. Nothing else is in the picture.

    A clip with pictures that were taken while the env acted is shown as it was then.

    A robot with a MuJoCo model is drawn by `FastRenderer`, any other env by its own `render`. Where
    the env might be MuJoCo's, call `rlhf_gym.gl.choose_gl` first.

    Args:
        env_id: As for `make_env`.
        env_kwargs: As for `make_env`; the same as when the clips were recorded.
        size: (height, width) in pixels of MuJoCo robots; other envs have their own size.

    Raises:
        UnknownNameError: nobody registered the id.
        MissingDependencyError: a package that the env needs is not installed.
        ConfigError: the env cannot draw pictures ("rgb_array").
    """

    def __init__(
        self,
        env_id: str,
        env_kwargs: Mapping[str, Any] | None = None,
        size: tuple[int, int] = (480, 480),
    ) -> None:
        kwargs = {k: v for k, v in (env_kwargs or {}).items() if k != "render_mode"}
        self._env_id = env_id
        self._env = make_env(env_id, render_mode="rgb_array", env_kwargs=kwargs)
        try:
            # Some envs build what they draw, or swap their model, only when they are reset.
            self._env.reset(seed=0)
            self._reader = SimStateReader(self._env)
            self._draw, self._close_drawing = self._choose(size)
            self.step_seconds = step_seconds(self._env)
        except BaseException:
            self._env.close()
            raise

    def _choose(self, size: tuple[int, int]) -> tuple[Callable[[Array], Array], Callable[[], None]]:
        # Imports mujoco: not before an env that has not done so itself.
        if hasattr(self._env.unwrapped, "model") and hasattr(self._env.unwrapped, "data"):
            from rlhf_gym.envs.fast_renderer import FastRenderer, has_mujoco_model

            if has_mujoco_model(self._env):
                fast = FastRenderer(self._env, size)
                return fast.render_state, fast.close
        return lambda state: render_state(self._env, state), lambda: None

    def render(self, clip: Clip) -> ClipFrames:
        """Draw a clip.

        Raises:
            DataError: the clip has neither pictures nor simulator states, or damaged ones; the
                message names it.
            MissingDependencyError: MuJoCo finds no OpenGL library to draw with.
        """
        if clip.pictures is not None:
            return recorded_frames(clip)
        return self.render_states(clip.id, clip.sim_states)

    def render_states(self, clip_id: str, states: Array | None) -> ClipFrames:
        """Draw a clip of which only this is known.

        Args:
            clip_id: For messages.
            states: (T + 1, S) simulator states of any float dtype, or None.

        Raises:
            DataError: there are no states, or damaged ones; the message names the clip.
            MissingDependencyError: MuJoCo finds no OpenGL library to draw with.
        """
        states = self._checked(clip_id, states)
        indices, seconds_per_frame = playback(len(states) - 1, self.step_seconds)
        frames: list[Array] = [self._draw(states[index]) for index in indices]
        first = frames[0]
        for index, frame in zip(indices, frames, strict=True):
            if frame.shape != first.shape or frame.dtype != np.uint8:
                raise DataError(
                    f"state {index} of clip {clip_id} was drawn as {frame.shape} {frame.dtype}, "
                    f"the first as {first.shape} {first.dtype}; `render` of {self._env_id} must "
                    "return (height, width, 3) uint8 of one size."
                )
        return ClipFrames(np.stack(frames), seconds_per_frame)  # (N, H, W, 3)

    def _checked(self, clip_id: str, states: Array | None) -> Array:
        if states is None or not self._reader.supported:
            raise DataError(
                f"clip {clip_id} cannot be shown: {self._env_id} offers no simulator state, and no "
                "pictures were taken while it acted. Record new clips with `--teacher human` or "
                "`--record-pictures`, or define `get_extra_state` and `set_extra_state` on the "
                "env's class (docs/guide-own-env.md)."
            )
        expected = len(self._reader.read())
        if states.ndim != 2 or states.shape[1] != expected or len(states) < 2:
            raise DataError(
                f"the simulator states of clip {clip_id} have shape {states.shape}, but "
                f"{self._env_id} needs (steps + 1, {expected}); the clip is damaged, or was "
                "recorded in an env of other arguments."
            )
        if states.dtype.kind != "f" or not (np.abs(states) < _HUGE).all():
            raise DataError(
                f"the simulator states of clip {clip_id} ({states.dtype}) hold NaN, infinity, "
                f"numbers beyond {_HUGE:g} or no floats; the clip is damaged and cannot be drawn. "
                "Other clips are not affected."
            )
        return states

    def close(self) -> None:
        """Close the env and free what it was drawn with."""
        self._close_drawing()
        self._env.close()
