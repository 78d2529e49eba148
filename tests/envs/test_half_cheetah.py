from __future__ import annotations

import gymnasium as gym
import numpy as np

from rlhf_gym.envs.half_cheetah import HalfCheetahEnv


def test_observations_and_rewards_equal_v5_step_by_step_over_an_episode() -> None:
    ours, theirs = gym.make("rlhf_gym/HalfCheetah-v0"), gym.make("HalfCheetah-v5")
    obs, _ = ours.reset(seed=11)
    np.testing.assert_array_equal(obs, theirs.reset(seed=11)[0])
    actions = np.random.default_rng(0).uniform(-1.5, 1.5, (1000, 6)).astype(np.float32)
    for n_steps, action in enumerate(actions, start=1):
        step, reference = ours.step(action), theirs.step(action)
        np.testing.assert_array_equal(step[0], reference[0])
        assert step[1:4] == reference[1:4]
        assert step[2] is False
        assert step[3] is (n_steps == 1000)
        assert {key: step[4][key] for key in reference[4]} == reference[4]
    obs, _ = ours.reset()
    np.testing.assert_array_equal(obs, theirs.reset()[0])


def test_spaces_equal_those_of_v5() -> None:
    ours, theirs = gym.make("rlhf_gym/HalfCheetah-v0"), gym.make("HalfCheetah-v5")
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata == theirs.metadata


def test_the_state_is_time_positions_and_velocities() -> None:
    env = gym.make("rlhf_gym/HalfCheetah-v0")
    env.reset(seed=0)
    obs, _, _, _, info = env.step(np.ones(6, np.float32))
    state = info["rlhf_gym.sim_state"]
    assert state.shape == (19,)
    assert state[0] == 0.05  # one action: 5 simulation steps of 0.01 s
    assert state[1] == info["x_position"]
    np.testing.assert_array_equal(state[2:], obs)


def test_the_docstring_states_the_gears_of_the_model() -> None:
    gears = HalfCheetahEnv().model.actuator_gear[:, 0]
    assert gears.tolist() == [120, 90, 60, 120, 60, 30]
    rows = [line for line in (HalfCheetahEnv.__doc__ or "").splitlines() if "torque /" in line]
    assert [int(row.split("torque / ")[1].split()[0]) for row in rows] == gears.tolist()
