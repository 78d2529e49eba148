"""Evaluation episodes against what their env did."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlhf_gym.agents.rollouts import play_episodes
from rlhf_gym.agents.vec_env import SerialVecEnv
from rlhf_gym.data import Array
from rlhf_gym.envs.preference_ready import make_preference_ready


class OneArrayEnv(gym.Env[Array, Array]):
    """Counts its steps in the one array that it returns every time."""

    observation_space = spaces.Box(0.0, 100.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.x = np.zeros(1, np.float32)

    def reset(self, *, seed=None, options=None):
        self.x[:] = 0
        return self.x, {}

    def step(self, action):
        self.x += 1
        return self.x, float(self.x[0]), False, False, {}


@pytest.fixture
def env() -> gym.Env[Array, Array]:
    return make_preference_ready(OneArrayEnv(), horizon=3)


def test_an_episode_holds_what_each_step_returned(env: gym.Env[Array, Array]) -> None:
    def act(obs: Array) -> Array:
        return np.zeros((len(obs), 1), np.float32)

    episodes = play_episodes([env], act, 2, np.random.SeedSequence(0), "One-v0")
    for episode in episodes:
        assert episode.obs[:, 0].tolist() == [0, 1, 2, 3]
        assert episode.true_rewards is not None and episode.true_rewards.tolist() == [1, 2, 3]


def test_the_last_observation_survives_the_reset(env: gym.Env[Array, Array]) -> None:
    venv = SerialVecEnv([lambda: env])
    assert venv.reset().tolist() == [[0]]
    steps = [venv.step(np.zeros((1, 1), np.float32)) for _ in range(3)]
    assert [obs.tolist() for obs, *_ in steps] == [[[1]], [[2]], [[0]]]
    assert steps[-1][3][0]["terminal_observation"].tolist() == [3]
