from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest

from rlhf_gym.envs.inverted_double_pendulum import InvertedDoublePendulumEnv


def tip_height(lower: float, upper: float) -> float:
    """By the geometry of the model: two poles of 0.6 m, the upper angle from the lower pole."""
    return 0.6 * math.cos(lower) + 0.6 * math.cos(lower + upper)


def test_the_reward_is_the_height_of_the_tip_also_where_v5_would_have_ended() -> None:
    env = gym.make("rlhf_gym/InvertedDoublePendulum-v0")
    env.reset(seed=3)
    heights = []
    for action in np.random.default_rng(0).uniform(-1, 1, (50, 1)).astype(np.float32):
        _, reward, terminated, _, info = env.step(action)
        heights.append(tip_height(*info["rlhf_gym.sim_state"][2:4]))
        assert reward == pytest.approx(heights[-1], abs=1e-9)
        assert terminated is False
    assert heights[0] > 1.0 > 0.0 > min(heights)


def test_hanging_poles_earn_minus_and_standing_poles_plus_one_metre_twenty() -> None:
    env = InvertedDoublePendulumEnv()
    env.reset(seed=0)
    for lower, expected in ((0.0, 1.2), (math.pi, -1.2)):
        env.set_state(np.array([0.0, lower, 0.0]), np.zeros(3))
        assert env.step(np.zeros(1, np.float32))[1] == pytest.approx(expected, abs=1e-3)


def test_the_robot_moves_as_v5s() -> None:
    ours = gym.make("rlhf_gym/InvertedDoublePendulum-v0").unwrapped
    theirs = gym.make("InvertedDoublePendulum-v5").unwrapped
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    for action in np.random.default_rng(1).uniform(-1, 1, (50, 1)).astype(np.float32):
        np.testing.assert_array_equal(ours.step(action)[0], theirs.step(action)[0])
