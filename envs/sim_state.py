"""The simulator's state of one step: kept with every clip, so that any clip can be rendered later.

A state is the simulator's own (MuJoCo: time, positions, velocities, actuators, plugins, mocap
bodies) followed by what the env adds through a hook. An env offers the hook by defining, on its
unwrapped class::

    def get_extra_state(self) -> np.ndarray:         # 1-D, float, always of one length
    def set_extra_state(self, state: np.ndarray) -> None:

for whatever its picture depends on that lies outside the simulator: a goal, a counter, a colour.
An env without MuJoCo may offer the hook alone.

A restored state shows the right picture and yields the right observation. It is not meant to
continue an episode bit for bit: the solver's warm start and the applied controls are left out.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import gymnasium as gym
import numpy as np

from rlhf_gym.data import Array
from rlhf_gym.envs.blame import is_renderers
from rlhf_gym.errors import ConfigError, DataError, MissingDependencyError

__all__ = ["SimStateReader", "get_sim_state", "missing_renderer", "render_state", "set_sim_state"]


class SimStateReader:
    """Reads and writes the state of one env; made once per env, because it is read every step.

    Args:
        env: Any env, wrapped or not.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._env: Any = env.unwrapped
        self._model: Any = None
        self._n_physics = 0
        # Whoever holds an MjModel has imported mujoco: no other env need pay for the import.
        self._mujoco: Any = sys.modules.get("mujoco")
        self._flags = 0
        if self._mujoco is not None:
            kinds = self._mujoco.mjtState
            # Mocap bodies are moved from outside the physics, yet are part of the picture.
            self._flags = int(kinds.mjSTATE_FULLPHYSICS) | int(kinds.mjSTATE_MOCAP_POS)
            self._flags |= int(kinds.mjSTATE_MOCAP_QUAT)
        self._has_hook = hasattr(self._env, "get_extra_state")
        if self._has_hook != hasattr(self._env, "set_extra_state"):
            raise ConfigError(
                f"{type(self._env).__name__} defines only one of `get_extra_state` and "
                "`set_extra_state`; a state must be both read and restored, define both."
            )

    @property
    def supported(self) -> bool:
        """Whether the env has a state at all: a MuJoCo model, or the hook."""
        return self._has_hook or self._physics_size() > 0

    @property
    def has_physics(self) -> bool:
        """Whether part of the state is that of a MuJoCo `model` and `data`."""
        return self._physics_size() > 0

    def _physics_size(self) -> int:
        """Number of physics values; 0 without MuJoCo. An env may swap its model at reset."""
        if self._mujoco is None:
            return 0
        model = getattr(self._env, "model", None)
        if model is not self._model:
            data = getattr(self._env, "data", None)
            is_mujoco = isinstance(model, self._mujoco.MjModel) and isinstance(
                data, self._mujoco.MjData
            )
            self._model = model
            self._n_physics = self._mujoco.mj_stateSize(model, self._flags) if is_mujoco else 0
        return self._n_physics

    def read(self) -> Array:
        """The state now, as a fresh float64 array of shape (S,).

        Raises:
            DataError: the env's hook returned something that is not one-dimensional.
        """
        n_physics = self._physics_size()
        extra = np.empty(0)
        if self._has_hook:
            extra = np.asarray(self._env.get_extra_state(), dtype=np.float64)
            if extra.ndim != 1:
                raise DataError(
                    f"`{type(self._env).__name__}.get_extra_state` returned shape {extra.shape}, "
                    "expected one dimension; flatten it."
                )
        state = np.empty(n_physics + len(extra))
        if n_physics:
            self._mujoco.mj_getState(self._model, self._env.data, state[:n_physics], self._flags)
        state[n_physics:] = extra
        return state

    def write(self, state: Array) -> None:
        """Put the env into a state that `read` returned, in this process or another.

        Args:
            state: (S,) of any float dtype; float32 is precise enough to render from.

        Raises:
            DataError: the state has another shape than this env's.
        """
        n_physics = self._physics_size()
        n_expected = len(self.read())
        if state.shape != (n_expected,):
            raise DataError(
                f"the simulator state has shape {state.shape}, but {type(self._env).__name__} "
                f"needs ({n_expected},); restore it into an env of the same id and arguments."
            )
        values = state.astype(np.float64)
        if n_physics:
            data = self._env.data
            self._mujoco.mj_setState(self._model, data, values[:n_physics], self._flags)
            self._mujoco.mj_forward(self._model, data)
        if self._has_hook:
            self._env.set_extra_state(values[n_physics:])


def get_sim_state(env: gym.Env[Any, Any]) -> Array | None:
    """The simulator state of `env` now: float64, shape (S,); None where the env has none.

    An env has one if its unwrapped class holds a MuJoCo `model` and `data`, or offers the hook
    described at the top of this module.
    """
    reader = SimStateReader(env)
    return reader.read() if reader.supported else None


def set_sim_state(env: gym.Env[Any, Any], state: Array) -> None:
    """Put `env` into a state that `get_sim_state` returned for an env of the same kind.

    Args:
        env: An env made with the same id and arguments; it need not have been reset.
        state: (S,) of any float dtype.

    Raises:
        ConfigError: the env has no simulator state.
        DataError: the state's shape is not this env's.
    """
    reader = SimStateReader(env)
    if not reader.supported:
        raise ConfigError(
            f"{env} has no simulator state: it holds no MuJoCo model and defines neither "
            "`get_extra_state` nor `set_extra_state`; define both on its class."
        )
    reader.write(state)


def render_state(env: gym.Env[Any, Any], state: Array) -> Array:
    """The picture of a stored state.

    Draws with the unwrapped env, so that one which was never reset will do.

    Args:
        env: An env of the kind the state came from, made with `render_mode="rgb_array"`.
        state: (S,) of any float dtype.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ConfigError: the env does not render to an array, or has no state.
        DataError: the state's shape is not this env's.
        MissingDependencyError: MuJoCo finds no OpenGL library to draw with.
    """
    if env.render_mode != "rgb_array":
        raise ConfigError(
            f"{env} was made with render_mode={env.render_mode!r}; pictures need "
            'render_mode="rgb_array".'
        )
    set_sim_state(env, state)
    frame = _render(env)
    if not isinstance(frame, np.ndarray):
        raise ConfigError(
            f"{env}.render() returned {type(frame).__name__}, expected an array of shape "
            "(height, width, 3); check the env's render method."
        )
    return frame


def _render(env: gym.Env[Any, Any]) -> Any:
    mujoco: Any = sys.modules.get("mujoco")
    if mujoco is None or not isinstance(getattr(env.unwrapped, "model", None), mujoco.MjModel):
        return env.unwrapped.render()
    try:
        return env.unwrapped.render()
    # A missing library surfaces as any of these, depending on where the backend trips over it.
    except (ImportError, AttributeError, RuntimeError, mujoco.FatalError) as error:
        if not is_renderers(error):  # of the env's own `render`
            raise
        raise missing_renderer(error) from error


def missing_renderer(error: Exception) -> MissingDependencyError:
    """What to tell a user for whom MuJoCo found no OpenGL library, and tripped with `error`."""
    backend = os.environ.get("MUJOCO_GL")
    return MissingDependencyError(
        f"MuJoCo cannot draw with MUJOCO_GL={backend!r} ({error}). Without a display set "
        "MUJOCO_GL=egl (Debian packages libegl1 libegl-mesa0 libgl1-mesa-dri) or MUJOCO_GL=osmesa "
        "(libosmesa6) in the environment before the program starts; to train without pictures, "
        "unset it."
    )
