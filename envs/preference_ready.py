"""Make any Gymnasium env ready for preferences: a fixed horizon, and states to render from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TimeLimit

from rlhf_gym.envs.sim_state import SimStateReader
from rlhf_gym.errors import ConfigError

__all__ = ["SimStateInfo", "horizon_of", "make_preference_ready", "wrapper_layers"]


class SimStateInfo(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Puts the simulator's state into `info["sim_state"]`, so that clips can be rendered later.

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
        """Reset the env; `info["sim_state"]` is the initial state."""
        obs, info = self.env.reset(seed=seed, options=options)
        info["sim_state"] = self._reader.read()
        return obs, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the env; `info["sim_state"]` is the state after the step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        info["sim_state"] = self._reader.read()
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


def make_preference_ready(env: gym.Env[Any, Any], horizon: int | None = None) -> gym.Env[Any, Any]:
    """Give an env what learning from preferences needs. Calling it twice changes nothing.

    1. A fixed horizon: without one an episode's length depends on the task, and tells the agent
       about it past the reward model.
    2. The simulator's state in `info["sim_state"]`, to render clips from later, where the env has
       one (a MuJoCo model, or the hook of `rlhf_gym.envs.sim_state`).

    The reward is left alone: hide it with `hide_reward`.

    Args:
        env: Any Gymnasium env.
        horizon: Steps per episode, for an env without a time limit of its own.

    Returns:
        The env, wrapped as far as it needs to be.

    Raises:
        ConfigError: no horizon is known, it is below 1, or it contradicts the env's own.
    """
    if horizon is not None and horizon < 1:
        raise ConfigError(f"`horizon` is {horizon}, expected at least 1 step.")
    current = horizon_of(env)
    if current is None and horizon is None:
        raise ConfigError(
            f"{env} has no time limit, and learning from preferences needs a fixed horizon; "
            "register it with `max_episode_steps=N`, or pass one: "
            "`make_preference_ready(env, horizon=N)`."
        )
    if current is not None and horizon is not None and horizon != current:
        raise ConfigError(
            f"`horizon` is {horizon}, but {env} already ends its episodes after {current} steps; "
            f"leave `horizon` out, or make the env with `max_episode_steps={horizon}`."
        )
    if current is None and horizon is not None:
        env = TimeLimit(env, max_episode_steps=horizon)
    if any(isinstance(layer, SimStateInfo) for layer in wrapper_layers(env)):
        return env
    return SimStateInfo(env) if SimStateReader(env).supported else env
