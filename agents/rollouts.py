"""Whole episodes on separate environments, to measure a policy without disturbing training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from rlhf_gym.data import Array, Trajectory
from rlhf_gym.envs.float_observation import check_observation
from rlhf_gym.errors import NumericalError

__all__ = ["play_episodes"]


def play_episodes(
    envs: Sequence[gymnasium.Env[Any, Any]],
    act: Callable[[Array], Array],
    n_episodes: int,
    seed: np.random.SeedSequence,
    context_id: str,
) -> list[Trajectory]:
    """Play episodes in lockstep, so that the policy is asked once for all envs.

    Args:
        envs: Distinct envs that return the true reward; at most this many run at once.
        act: (n, ...) raw observations -> (n, ...) actions.
        n_episodes: How many; episode i starts from the i-th seed, whatever the number of envs.
        seed: Its state gives the reset seeds.
        context_id: Written into the trajectories.

    Raises:
        NumericalError: a true reward is not finite, or float32 does not hold an observation.
    """
    seeds = seed.generate_state(n_episodes)
    trajectories: list[Trajectory] = []
    for start in range(0, n_episodes, len(envs)):
        wave = seeds[start : start + len(envs)]
        trajectories += _play_wave(envs[: len(wave)], act, wave, context_id)
    return trajectories


def _play_wave(
    envs: Sequence[gymnasium.Env[Any, Any]],
    act: Callable[[Array], Array],
    seeds: Array,
    context_id: str,
) -> list[Trajectory]:
    # Copies: an env may return one array at every step, and write into it and into its action.
    obs = [[np.array(env.reset(seed=int(s))[0])] for env, s in zip(envs, seeds, strict=True)]
    actions: list[list[Array]] = [[] for _ in envs]
    rewards: list[list[float]] = [[] for _ in envs]
    flags = [(False, False)] * len(envs)
    running = list(range(len(envs)))
    for i in running:
        check_observation(obs[i][0], context_id, "at the reset of an evaluation episode", i)
    while running:
        chosen = act(np.stack([obs[i][-1] for i in running]))
        for i, action in zip(running, chosen, strict=True):
            actions[i].append(np.array(action))
            next_obs, reward, terminated, truncated, _ = envs[i].step(action)
            obs[i].append(np.array(next_obs))
            when = f"at step {len(rewards[i])} of an evaluation episode"
            check_observation(obs[i][-1], context_id, when, i)
            rewards[i].append(float(reward))
            flags[i] = (terminated, truncated)
        running = [i for i in running if not any(flags[i])]
    return [
        Trajectory(
            obs=_as_recorded(obs[i]),
            actions=_as_recorded(actions[i]),
            true_rewards=_finite(rewards[i], context_id),
            terminated=flags[i][0],
            truncated=flags[i][1],
            context_id=context_id,
        )
        for i in range(len(envs))
    ]


def _as_recorded(steps: list[Array]) -> Array:
    array = np.stack(steps)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _finite(rewards: list[float], context_id: str) -> Array:
    array = np.asarray(rewards, dtype=np.float32)
    if not np.isfinite(array).all():
        step = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise NumericalError(
            f"{context_id} returned the true reward {array[step]} at step {step} of an evaluation "
            "episode; check the environment's reward there."
        )
    return array
