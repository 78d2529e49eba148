from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TransformReward
from stable_baselines3.common.monitor import Monitor

from rlhf_gym.envs import LearnedRewardWrapper, hide_reward, is_hidden
from rlhf_gym.envs.hide_reward import HideReward


@pytest.fixture
def env() -> gym.Env[Any, Any]:
    return gym.make("rlhf_gym/PointMass-v0")


def test_the_reward_is_exactly_zero_and_the_true_one_is_in_info(env: gym.Env[Any, Any]) -> None:
    hidden, plain = hide_reward(env), gym.make("rlhf_gym/PointMass-v0")
    hidden.reset(seed=2)
    plain.reset(seed=2)
    for _ in range(50):
        action = env.action_space.sample()
        obs, reward, terminated, truncated, info = hidden.step(action)
        expected = plain.step(action)
        assert type(reward) is float and reward == 0.0 and math.copysign(1.0, reward) == 1.0
        assert type(info["true_reward"]) is float and info["true_reward"] == expected[1]
        np.testing.assert_array_equal(obs, expected[0])
        assert (terminated, truncated) == expected[2:4]
    assert truncated


def test_hiding_twice_is_hiding_once(env: gym.Env[Any, Any]) -> None:
    hidden = hide_reward(env)
    assert hide_reward(hidden) is hidden


def test_a_hidden_env_under_another_wrapper_keeps_its_true_reward(env: gym.Env[Any, Any]) -> None:
    hidden = hide_reward(TransformReward(hide_reward(env), lambda _: 5.0))
    hidden.reset(seed=2)
    _, reward, _, _, info = hidden.step(np.zeros(2, np.float32))
    assert reward == 0.0
    assert info["true_reward"] < 0.0  # the distance to the goal, neither 0.0 nor 5.0


def test_monitor_inside_still_logs_the_true_return(env: gym.Env[Any, Any]) -> None:
    hidden = hide_reward(Monitor(env))
    hidden.reset(seed=2)
    truth = 0.0
    truncated = False
    while not truncated:
        _, _, _, truncated, info = hidden.step(np.ones(2, np.float32))
        truth += info["true_reward"]
    assert info["episode"]["r"] == pytest.approx(truth, abs=1e-5)  # Monitor rounds to 6 digits


def test_a_true_reward_of_nan_stays_in_info(env: gym.Env[Any, Any]) -> None:
    hidden = hide_reward(TransformReward(env, lambda _: float("nan")))
    hidden.reset(seed=2)
    _, reward, _, _, info = hidden.step(np.zeros(2, np.float32))
    assert reward == 0.0
    assert math.isnan(info["true_reward"])


def test_is_hidden_sees_through_harmless_wrappers_only(env: gym.Env[Any, Any]) -> None:
    def one(batch: Any) -> Any:
        return np.ones(batch.mask.shape, np.float32)

    hidden = hide_reward(env)
    assert not is_hidden(env)
    assert is_hidden(hidden)
    assert is_hidden(Monitor(hidden))
    assert not is_hidden(LearnedRewardWrapper(hidden, one))
    assert is_hidden(hide_reward(LearnedRewardWrapper(env, one)))


def test_a_hidden_env_can_be_made_again_from_its_spec(env: gym.Env[Any, Any]) -> None:
    spec = hide_reward(env).spec
    assert spec is not None
    assert isinstance(gym.make(spec), HideReward)
