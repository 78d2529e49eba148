"""Pictures taken while an env acts, for clips that could not be drawn later.

A clip of an env with a simulator state (`rlhf_gym.envs.sim_state`) is drawn when somebody is to see
it. Of any other env nothing is left but what it showed at the time: this wrapper asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, SupportsFloat, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from rlhf_gym.envs.info_keys import PICTURE, STEP_SECONDS
from rlhf_gym.envs.make import make_env
from rlhf_gym.envs.preference_ready import SimStateInfo, wrapper_layers
from rlhf_gym.errors import CannotDrawError, ConfigError, DataError
from rlhf_gym.pictures import PICTURE_PIXELS, encode_picture

__all__ = ["PictureInfo", "has_sim_states", "make_pictured_env", "step_seconds"]

_UNKNOWN_STEP_SECONDS = 1 / 30


class PictureInfo(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Puts what the env shows into `info["rlhf_gym.picture"]`, compressed (`rlhf_gym.pictures`).

    After `reset` it is the first picture, after `step` the one that the step led to: it belongs to
    the observation returned beside it. The info of `reset` also says how many seconds a step takes,
    `info["rlhf_gym.step_seconds"]`. A `Recorder` above keeps both for its clips.

    Args:
        env: An env made with `render_mode="rgb_array"`.
        pixels: The longer side of the pictures, about; smaller ones are left as they are.

    Raises:
        ConfigError: another render mode.
    """

    def __init__(self, env: gym.Env[Any, Any], pixels: int = PICTURE_PIXELS) -> None:
        RecordConstructorArgs.__init__(self, pixels=pixels)
        super().__init__(env)
        if env.render_mode != "rgb_array":
            raise ConfigError(
                f"{env} was made with render_mode={env.render_mode!r}; pictures are taken with "
                'render_mode="rgb_array".'
            )
        self._pixels = pixels
        self._step_seconds = step_seconds(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the env; `info["rlhf_gym.picture"]` is the first one."""
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, {**info, PICTURE: self.take(), STEP_SECONDS: self._step_seconds}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the env; `info["rlhf_gym.picture"]` shows what the step led to."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, PICTURE: self.take()}

    def take(self) -> bytes:
        """A picture of the env as it is, compressed.

        Raises:
            DataError: its `render` returned something else than a picture.
        """
        frame: Any = self.env.render()
        try:
            return encode_picture(frame, self._pixels)
        except DataError as error:
            raise DataError(
                f"no picture of {_name(self)} can be taken: {error} Correct its `render`."
            ) from error


def has_sim_states(env: gym.Env[Any, Any]) -> bool:
    """Whether an env that is ready for preferences puts its simulator state into each info."""
    return any(isinstance(layer, SimStateInfo) for layer in wrapper_layers(env))


def make_pictured_env(
    env_id: str, env_kwargs: Mapping[str, Any] | None = None, pixels: int = PICTURE_PIXELS
) -> gym.Env[Any, Any]:
    """Make an env that puts a picture into each info, and see that it can: it is reset once.

    Args:
        env_id: As for `make_env`.
        env_kwargs: As for `make_env`.
        pixels: The longer side of the pictures, about.

    Raises:
        ConfigError: the env draws no pictures, or not here.
        UnknownNameError, MissingDependencyError: As `make_env`.
    """
    try:
        env: gym.Env[Any, Any] = make_env(env_id, render_mode="rgb_array", env_kwargs=env_kwargs)
    except CannotDrawError as error:
        raise ConfigError(
            f"{env_id} has nothing to show people: no MuJoCo model to draw its clips from, and "
            'no render mode "rgb_array" to draw or take pictures with. Take `render_mode` in '
            'its constructor, list "rgb_array" in `metadata["render_modes"]` and define `render`; '
            "or let a program answer (`--teacher`)."
        ) from error
    pictured = PictureInfo(env, pixels)
    env.reset()  # what this raises is not about pictures
    try:
        pictured.take()  # now, rather than when training has begun
    except Exception as error:  # the env's own code, and its driver's
        env.close()
        raise ConfigError(
            f"the first picture of {env_id}, for clips that people are to see, cannot be taken "
            f"({type(error).__name__}: {error}). Without a display, SDL_VIDEODRIVER=dummy lets "
            "pygame draw, and MUJOCO_GL=egl MuJoCo."
        ) from error
    return pictured


def step_seconds(env: gym.Env[Any, Any]) -> float:
    """Seconds that one step takes: the env's `dt`, else one over its `render_fps`, else 1/30."""
    bare: Any = env.unwrapped
    fps = bare.metadata.get("render_fps")
    dt = getattr(bare, "dt", None)
    if _positive(dt):
        return float(dt)
    return 1 / float(fps) if _positive(fps) else _UNKNOWN_STEP_SECONDS


def _positive(value: Any) -> TypeGuard[float]:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return bool(is_number and math.isfinite(value) and value > 0)


def _name(env: gym.Env[Any, Any]) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
