from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest

from rlhf_gym.envs.hopper import HopperEnv


def settled(height: float, angle: float) -> float:
    """The reward of one step without torque from rest at the given height and angle."""
    env = HopperEnv()
    env.reset(seed=0)
    qpos, qvel = env.init_qpos.copy(), np.zeros_like(env.init_qvel)
    qpos[1:3] = height, angle
    env.set_state(qpos, qvel)
    return float(env.step(np.zeros(3, np.float32))[1])


def test_the_reward_equals_its_formula_from_positions() -> None:
    env = gym.make("rlhf_gym/Hopper-v0")
    _, info = env.reset(seed=3)
    lowest, furthest = math.inf, 0.0
    for action in np.random.default_rng(0).uniform(-1, 1, (300, 3)).astype(np.float32):
        before = info["rlhf_gym.sim_state"]
        _, reward, terminated, _, info = env.step(action)
        _, x, height, angle = info["rlhf_gym.sim_state"][:4]
        velocity = (x - before[1]) / 0.008
        penalty = 2 * (1.1 - height) if height < 1.1 else 0.0
        expected = velocity + 1 - penalty - math.sqrt(angle**2)
        assert reward == pytest.approx(expected, abs=1e-9)
        assert terminated is False
        lowest, furthest = min(lowest, height), max(furthest, abs(angle))
    assert lowest < 0.6 and furthest > 1.0  # it fell, and went on


def test_standing_earns_one_and_falling_costs() -> None:
    # At rest for 0.008 s in the air: no velocity along the track, heights and angles as given.
    assert settled(1.3, 0.0) == pytest.approx(1.0, abs=0.01)  # it drops by 0.3 mm
    assert settled(1.3, 0.5) == pytest.approx(0.5, abs=0.02)  # the limbs swing a little
    fallen = settled(0.3, math.pi / 2)
    assert fallen < -1.5 < settled(0.3, 0.0) < settled(1.3, 0.0)


def test_observations_equal_v5_beyond_its_termination() -> None:
    ours = gym.make("rlhf_gym/Hopper-v0")
    theirs = gym.make("Hopper-v5", terminate_when_unhealthy=False)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    for action in np.random.default_rng(1).uniform(-1, 1, (200, 3)).astype(np.float32):
        np.testing.assert_array_equal(ours.step(action)[0], theirs.step(action)[0])


def test_v5s_control_cost_and_termination_can_be_asked_for() -> None:
    paid, free = HopperEnv(ctrl_cost_weight=0.1), HopperEnv()
    rewards = []
    for env in (paid, free):
        env.reset(seed=0)
        rewards.append(float(env.step(np.full(3, 0.5, np.float32))[1]))
    assert rewards[1] - rewards[0] == pytest.approx(0.1 * 3 * 0.25, abs=1e-9)
    ending = HopperEnv(terminate_when_unhealthy=True)
    ending.reset(seed=0)
    rng = np.random.default_rng(0)
    assert any(ending.step(rng.uniform(-1, 1, 3).astype(np.float32))[2] for _ in range(60))


def test_the_docstring_states_the_gears_of_the_model() -> None:
    gears = HopperEnv().model.actuator_gear[:, 0]
    assert len(set(gears)) == 1
    rows = [line for line in (HopperEnv.__doc__ or "").splitlines() if "torque /" in line]
    assert {float(row.split("torque / ")[1].split()[0]) for row in rows} == set(gears)
