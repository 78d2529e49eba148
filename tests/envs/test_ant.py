from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_gym.envs.ant import AntEnv


def one_step_from(orientation: Any) -> float:
    """The reward of a step without torque, the ant put into the air as given."""
    env = AntEnv(reset_noise_scale=0.0)
    env.reset(seed=0)
    qpos = env.init_qpos.copy()
    qpos[2], qpos[3:7] = 3.0, orientation  # high enough to touch nothing
    qpos[[8, 14]], qpos[[10, 12]] = 1.0, -1.0  # ankles within their range, which excludes 0
    env.set_state(qpos, np.zeros_like(env.init_qvel))
    return float(env.step(np.zeros(8, np.float32))[1])


def test_the_reward_is_forward_velocity_less_the_cost_of_turning_over() -> None:
    env = AntEnv()
    env.reset(seed=3)
    worst = 0.0
    for action in np.random.default_rng(0).uniform(-1, 1, (150, 8)).astype(np.float32):
        before = env.data.body("torso").xpos[0]
        _, reward, terminated, _, _ = env.step(action)
        velocity = (env.data.body("torso").xpos[0] - before) / 0.05
        w, x, y, z = env.data.qpos[3:7] / np.linalg.norm(env.data.qpos[3:7])
        # the z axis, turned by q: q (0, 0, 0, 1) q*, of which the vertical component
        up = w * w - x * x - y * y + z * z
        assert reward == pytest.approx(velocity + up - 1.0, abs=1e-9)
        assert terminated is False
        worst = max(worst, 1.0 - up)
    assert worst > 0.05  # the term was put to the test


def test_on_its_back_an_ant_loses_two_per_step_and_on_its_side_one() -> None:
    assert one_step_from([1, 0, 0, 0]) == pytest.approx(0.0, abs=1e-6)
    assert one_step_from([0, 1, 0, 0]) == pytest.approx(-2.0, abs=1e-6)
    assert one_step_from([0.5**0.5, 0, 0.5**0.5, 0]) == pytest.approx(-1.0, abs=1e-6)


def test_observations_are_v5s_without_contact_forces() -> None:
    ours = gym.make("rlhf_gym/Ant-v0")
    theirs = gym.make("Ant-v5", terminate_when_unhealthy=False)
    assert ours.observation_space.shape == (27,)
    assert ours.action_space == theirs.action_space
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0][:27])
    for action in np.random.default_rng(1).uniform(-1, 1, (60, 8)).astype(np.float32):
        np.testing.assert_array_equal(ours.step(action)[0], theirs.step(action)[0][:27])


def test_v5s_costs_and_bonus_can_be_asked_for() -> None:
    env = AntEnv(ctrl_cost_weight=0.5, healthy_reward=1.0)
    plain = AntEnv()
    rewards = []
    for robot in (env, plain):
        robot.reset(seed=0)
        rewards.append(float(robot.step(np.full(8, 0.5, np.float32))[1]))
    assert rewards[0] - rewards[1] == pytest.approx(1.0 - 0.5 * 8 * 0.25, abs=1e-9)


def test_the_docstring_names_the_driven_joints_in_the_models_order() -> None:
    model = AntEnv().model
    joints = [model.joint(model.actuator_trnid[i, 0]).name for i in range(model.nu)]
    # the model's legs 1 to 4: left front, right front, left back, right back
    numbers = [4, 4, 1, 1, 2, 2, 3, 3]
    kinds = ["hip", "ankle"] * 4
    assert joints == [f"{kind}_{n}" for kind, n in zip(kinds, numbers, strict=True)]
    assert model.actuator_gear[:, 0].tolist() == [150.0] * 8
