from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest

from rlhf_gym.envs import set_sim_state
from rlhf_gym.envs.reacher import ReacherEnv


def fingertip(angles: Any) -> npt.NDArray[np.float64]:
    """By the geometry of the model: links of 0.1 m and 0.11 m to the fingertip's middle."""
    first, both = angles[0], angles[0] + angles[1]
    return np.array(
        [
            0.1 * math.cos(first) + 0.11 * math.cos(both),
            0.1 * math.sin(first) + 0.11 * math.sin(both),
        ]
    )


def test_the_reward_is_minus_the_distance_to_the_target_and_nothing_else() -> None:
    env = gym.make("rlhf_gym/Reacher-v0")
    env.reset(seed=3)
    for action in np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32):
        obs, reward, _, _, info = env.step(action)
        positions = info["rlhf_gym.sim_state"][1:5]
        gap = fingertip(positions[:2]) - positions[2:]
        assert reward == pytest.approx(-float(np.hypot(*gap)), abs=1e-9)
        np.testing.assert_allclose(obs[8:], gap, atol=1e-9)


def test_the_arm_moves_as_v5s_and_sees_the_same_to_a_few_millimetres() -> None:
    ours, theirs = gym.make("rlhf_gym/Reacher-v0"), gym.make("Reacher-v5")
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    assert ours.observation_space == theirs.observation_space
    for action in np.random.default_rng(1).uniform(-1, 1, (49, 2)).astype(np.float32):
        obs, reward, _, _, _ = ours.step(action)
        reference = theirs.step(action)
        np.testing.assert_array_equal(obs[:8], reference[0][:8])
        # v5 reads the fingertip where the integration's last stage left it.
        np.testing.assert_allclose(obs[8:], reference[0][8:], atol=3e-3)
        assert reward == pytest.approx(reference[4]["reward_dist"], abs=3e-3)


def test_a_restored_state_brings_its_target_along() -> None:
    source, other = gym.make("rlhf_gym/Reacher-v0"), ReacherEnv()
    _, info = source.reset(seed=7)
    other.reset(seed=8)
    target = other.get_body_com("target").copy()
    set_sim_state(other, info["rlhf_gym.sim_state"].astype(np.float32))
    restored = other.get_body_com("target")
    assert np.abs(restored - target).max() > 0.01
    np.testing.assert_allclose(restored[:2], info["rlhf_gym.sim_state"][3:5], atol=1e-6)


def test_v5s_control_cost_can_be_asked_for() -> None:
    free, paid = ReacherEnv(), ReacherEnv(reward_control_weight=1.0)
    action = np.array([0.5, -1.0], np.float32)
    rewards = []
    for env in (free, paid):
        env.reset(seed=0)
        rewards.append(float(env.step(action)[1]))
    assert rewards[0] - rewards[1] == pytest.approx(0.25 + 1.0, abs=1e-9)
