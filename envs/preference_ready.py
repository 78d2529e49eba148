"""Make any Gymnasium env ready for preferences: fixed horizon, flat observations, stored states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TimeLimit

from rlhf_gym.config import is_whole
from rlhf_gym.envs.array_spaces import FlatObservation, check_action_space, refuse_images
from rlhf_gym.envs.contract import ContractCheck
from rlhf_gym.envs.float_observation import FloatObservation, holds_fractions
from rlhf_gym.envs.info_keys import SIM_STATE
from rlhf_gym.envs.sim_state import SimStateReader
from rlhf_gym.errors import ConfigError

__all__ = [
    "SimStateInfo",
    "check_horizon",
    "check_obs_keys",
    "horizon_of",
    "make_preference_ready",
    "wrapper_layers",
]


class SimStateInfo(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Puts the simulator's state into `info["rlhf_gym.sim_state"]`, to render clips from later.

    After `reset` it is the initial state, after `step` the state that the step led to: it belongs
    to the observation returned beside it. A fresh float64 array of shape (S,) each time; see
    `rlhf_gym.envs.sim_state` for what it holds.

    Args:
        env: An env with a simulator state.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._reader = SimStateReader(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the env; `info["rlhf_gym.sim_state"]` is the initial state."""
        obs, info = self.env.reset(seed=seed, options=options)
        info[SIM_STATE] = self._reader.read()
        return obs, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the env; `info["rlhf_gym.sim_state"]` is the state after the step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        info[SIM_STATE] = self._reader.read()
        return obs, reward, terminated, truncated, info


def wrapper_layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    """The env and everything it wraps, from the outermost wrapper to the bare env."""
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env


def horizon_of(env: gym.Env[Any, Any]) -> int | None:
    """The number of steps after which a TimeLimit ends every episode; None without one."""
    limits = [
        layer._max_episode_steps for layer in wrapper_layers(env) if isinstance(layer, TimeLimit)
    ]
    return min(limits, default=None)


def check_horizon(horizon: Any, name: str = "horizon") -> None:
    """Refuse a number of steps that is no whole number of at least 1, or None.

    Raises:
        ConfigError: naming the option `name`.
    """
    if horizon is not None and not is_whole(horizon):
        raise ConfigError(
            f"`{name}` is {horizon!r}; accepted is a whole number of steps, at least 1."
        )


def check_obs_keys(keys: Any) -> None:
    """Refuse keys that are no list of strings; a single string would be taken letter by letter.

    Raises:
        ConfigError: another type.
    """
    is_list = isinstance(keys, Sequence) and not isinstance(keys, str)
    if not is_list or not all(isinstance(key, str) for key in keys):
        raise ConfigError(f"`obs_keys` is {keys!r}; accepted is a list of keys, e.g. ['position'].")


def make_preference_ready(
    env: gym.Env[Any, Any], horizon: int | None = None, obs_keys: Sequence[str] = ()
) -> gym.Env[Any, Any]:
    """Give an env what learning from preferences needs. Calling it twice changes nothing.

    1. A time limit. Where an episode's length depends on the task, it tells the agent about it past
       the reward model; an env that terminates by itself is left to, and whoever records it or
       substitutes its reward warns of the first episode that ends early (`HorizonWarning`).
    2. Gymnasium's contract, checked at each reset and the first steps (`ContractCheck`).
    3. Observations that are arrays: a Dict or Tuple, nested or not, and Discrete, MultiDiscrete
       and MultiBinary are flattened (`FlatObservation`); a Box keeps its shape. They are float32
       or float64: whole numbers, bool and other floats become float32 (`FloatObservation`).
    4. The simulator's state in `info["rlhf_gym.sim_state"]`, to render clips from later, where the
       env has one (a MuJoCo model, or the hook of `rlhf_gym.envs.sim_state`).

    The reward is left alone: hide it with `hide_reward`. So are the actions: an agent maps its own,
    within [-1, 1], onto the env's box (`rlhf_gym.agents.scaled_actions`).

    Args:
        env: Any Gymnasium env.
        horizon: Steps per episode, for an env without a time limit of its own.
        obs_keys: The keys of a Dict observation to keep, e.g. ("observation", "desired_goal");
            () keeps all. They follow each other in the space's order.

    Returns:
        The env, wrapped as far as it needs to be.

    Raises:
        ConfigError: it is no single env; no horizon is known, it is no whole number of at least 1,
            or it contradicts the env's own; the keys are no list of strings, are not there, or
            contradict an earlier choice; a space that clips cannot hold, or pictures.
    """
    if not isinstance(env, gym.Env):
        raise ConfigError(
            f"`env` is {env!r}; accepted is one Gymnasium env, no id "
            "(`rlhf_gym.envs.make_env` takes ids) and no vector env (make its envs ready singly)."
        )
    check_horizon(horizon)
    check_obs_keys(obs_keys)
    check_action_space(env)
    # Innermost of what is ours: an error that the others would trip over is named before.
    if not any(isinstance(layer, ContractCheck) for layer in wrapper_layers(env)):
        env = ContractCheck(env)
    env = _with_horizon(_with_floats(_with_flat_observations(env, obs_keys)), horizon)
    if any(isinstance(layer, SimStateInfo) for layer in wrapper_layers(env)):
        return env
    return SimStateInfo(env) if SimStateReader(env).supported else env


def _with_flat_observations(env: gym.Env[Any, Any], obs_keys: Sequence[str]) -> gym.Env[Any, Any]:
    flat = [layer for layer in wrapper_layers(env) if isinstance(layer, FlatObservation)]
    if not flat:
        space = env.observation_space
        is_array = isinstance(space, spaces.Box) and np.size(space.low) > 0 < len(space.shape)
        if not is_array or obs_keys:
            return FlatObservation(env, obs_keys)
        refuse_images(env, space)
        return env
    if obs_keys and set(obs_keys) != set(flat[0].obs_keys):
        raise ConfigError(
            f"`obs_keys` is {list(obs_keys)}, but the observations of {env} were already flattened "
            f"from {list(flat[0].obs_keys)}; choose the keys where that was done, or register the "
            "env with its Dict observations."
        )
    return env


def _with_floats(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    space = env.observation_space
    assert isinstance(space, spaces.Box)
    return env if holds_fractions(space) else FloatObservation(env)


def _with_horizon(env: gym.Env[Any, Any], horizon: int | None) -> gym.Env[Any, Any]:
    current = horizon_of(env)
    if current is None and horizon is None:
        raise ConfigError(
            f"{env} has no time limit, and learning from preferences needs a fixed horizon; "
            "register it with `max_episode_steps=N`, or pass one: "
            "`make_preference_ready(env, horizon=N)`, on the command line `--horizon N`."
        )
    if current is not None and horizon is not None and horizon != current:
        raise ConfigError(
            f"`horizon` is {horizon}, but {env} already ends its episodes after {current} steps; "
            f"leave `horizon` out, or make the env with `max_episode_steps={horizon}`."
        )
    return TimeLimit(env, max_episode_steps=horizon) if current is None and horizon else env
