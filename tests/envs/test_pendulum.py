from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_gym.data import Array
from rlhf_gym.envs import get_sim_state, render_state
from rlhf_gym.envs.pendulum import PendulumEnv


def test_everything_equals_v1_over_an_episode() -> None:
    ours, theirs = gym.make("rlhf_gym/Pendulum-v0"), gym.make("Pendulum-v1")
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    for action in np.random.default_rng(1).uniform(-3, 3, (200, 1)).astype(np.float32):
        step, reference = ours.step(action), theirs.step(action)
        np.testing.assert_array_equal(step[0], reference[0])
        assert step[1:4] == reference[1:4]


def test_the_state_is_angle_velocity_and_the_last_torque() -> None:
    env = gym.make("rlhf_gym/Pendulum-v0")
    _, info = env.reset(seed=0)
    assert info["rlhf_gym.sim_state"][2] == 0.0  # no torque yet
    obs, _, _, _, info = env.step(np.array([3.0], np.float32))
    angle, velocity, torque = info["rlhf_gym.sim_state"]
    np.testing.assert_allclose(obs, [np.cos(angle), np.sin(angle), velocity], atol=1e-6)
    assert torque == 2.0  # bounded


def picture(env: gym.Env[Any, Any]) -> Array:
    frame = env.render()
    assert isinstance(frame, np.ndarray)
    return frame.copy()


@pytest.mark.parametrize("torque", [None, 0.0, -1.5, 2.0])
def test_a_restored_state_is_drawn_alike_in_an_env_never_reset(torque: float | None) -> None:
    source = gym.make("rlhf_gym/Pendulum-v0", render_mode="rgb_array")
    source.reset(seed=5)
    if torque is not None:
        source.step(np.array([torque], np.float32))
    state, frame = get_sim_state(source), picture(source)
    assert state is not None
    other = gym.make("rlhf_gym/Pendulum-v0", render_mode="rgb_array")
    np.testing.assert_array_equal(render_state(other, state), frame)
    still = PendulumEnv(render_mode="rgb_array")
    without_torque = render_state(still, np.array([*state[:2], 0.0]))
    assert (without_torque != frame).any() == bool(torque)


def test_a_restored_env_goes_on_as_the_one_it_came_from() -> None:
    source, other = PendulumEnv(), PendulumEnv()
    source.reset(seed=2)
    state = get_sim_state(source)
    assert state is not None
    other.set_extra_state(state)
    state[:] = 0.0  # the env keeps numbers of its own
    action = np.array([1.0], np.float32)
    np.testing.assert_array_equal(source.step(action)[0], other.step(action)[0])
