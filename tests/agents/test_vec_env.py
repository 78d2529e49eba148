from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from rlhf_gym.agents.vec_env import SerialVecEnv
from rlhf_gym.data import Array
from rlhf_gym.envs.make import make_env


def equal(first: object, second: object) -> bool:
    """Deep equality of what an env returns: arrays bit by bit, containers entry by entry."""
    if isinstance(first, dict):
        assert isinstance(second, dict) and first.keys() == second.keys()
        return all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        assert isinstance(second, (list, tuple)) and len(first) == len(second)
        return all(equal(a, b) for a, b in zip(first, second, strict=True))
    return bool(np.array_equal(np.asarray(first), np.asarray(second)))


@pytest.mark.parametrize("env_id", ["rlhf_gym/PointMass-v0", "rlhf_gym/HalfCheetah-v0"])
def test_it_returns_what_stock_sb3_returns_over_episode_ends(env_id: str) -> None:
    kwargs = {"max_episode_steps": 20} if "Cheetah" in env_id else {}
    ours, stock = (
        kind([lambda: make_env(env_id, env_kwargs=kwargs)] * 3)
        for kind in (SerialVecEnv, DummyVecEnv)
    )
    for venv in (ours, stock):
        venv.seed(7)
    assert equal(ours.reset(), stock.reset())
    rng = np.random.default_rng(0)
    n_ended = 0
    for _ in range(110):
        actions = rng.uniform(-1, 1, (3, *ours.action_space.shape)).astype(np.float32)
        mine, theirs = ours.step(actions), stock.step(actions)
        assert equal(mine, theirs)
        assert equal(ours.reset_infos, stock.reset_infos)
        n_ended += int(mine[2].sum())
    assert n_ended >= 6  # two episodes of each env: the comparison covers resets
    ours.close()
    stock.close()


class ReusingEnv(gym.Env[Array, Array]):
    """Hands out the same info dict at every step, as Gymnasium allows."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.info = {"t": 0}

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.info["t"] += 1
        return np.zeros(1, np.float32), 0.0, False, False, self.info


def test_infos_of_earlier_steps_stay_as_they_were() -> None:
    venv = SerialVecEnv([ReusingEnv])
    venv.reset()
    action = np.zeros((1, 1), np.float32)
    kept = [venv.step(action)[3][0] for _ in range(3)]
    assert [info["t"] for info in kept] == [1, 2, 3]
