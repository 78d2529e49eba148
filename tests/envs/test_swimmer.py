from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest


def test_the_reward_is_the_distance_swum_per_second_and_nothing_else() -> None:
    env = gym.make("rlhf_gym/Swimmer-v0")
    _, info = env.reset(seed=3)
    for action in np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32):
        before = info["rlhf_gym.sim_state"]
        _, reward, _, _, info = env.step(action)
        after = info["rlhf_gym.sim_state"]
        # state: time, then positions, the first of them along x; 0.04 s per action
        assert after[0] - before[0] == pytest.approx(0.04, abs=1e-9)
        assert reward == pytest.approx((after[1] - before[1]) / 0.04, abs=1e-9)


def test_observations_equal_v5_and_rewards_differ_by_its_control_cost() -> None:
    ours, theirs = gym.make("rlhf_gym/Swimmer-v0"), gym.make("Swimmer-v5")
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for action in np.random.default_rng(1).uniform(-1, 1, (50, 2)).astype(np.float32):
        step, reference = ours.step(action), theirs.step(action)
        np.testing.assert_array_equal(step[0], reference[0])
        cost = 1e-4 * float(np.square(action).sum())  # v5's weight
        assert step[1] == pytest.approx(float(reference[1]) + cost, abs=1e-9)


def test_v5s_control_cost_can_be_asked_for() -> None:
    ours = gym.make("rlhf_gym/Swimmer-v0", ctrl_cost_weight=1e-4)
    theirs = gym.make("Swimmer-v5")
    ours.reset(seed=1)
    theirs.reset(seed=1)
    action = np.array([0.5, -1.0], np.float32)
    assert ours.step(action)[1] == theirs.step(action)[1]
