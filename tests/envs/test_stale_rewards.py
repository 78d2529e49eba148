from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rlhf_gym.agents.vec_reward import VecLearnedReward
from rlhf_gym.envs import LearnedRewardWrapper, hide_reward, make_env
from rlhf_gym.envs.stale_rewards import StaleRewardWarning

ENV = "rlhf_gym/PointMass-v0"


def ones(batch: Any) -> Any:
    return np.ones(batch.mask.shape, np.float32)


def vectorised() -> VecEnv:
    return VecLearnedReward(DummyVecEnv([lambda: hide_reward(make_env(ENV))]), ones)


def single() -> VecEnv:
    return DummyVecEnv([lambda: LearnedRewardWrapper(make_env(ENV), ones)])


def found(act: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [str(w.message) for w in caught if w.category is StaleRewardWarning]


@pytest.mark.parametrize("make", [vectorised, single])
def test_an_off_policy_algorithm_is_warned_by_name_and_once(make) -> None:
    model = SAC("MlpPolicy", make(), learning_starts=1000, buffer_size=100, device="cpu")

    def learn_twice() -> None:
        model.learn(60)
        model.learn(60)

    (text,) = found(learn_twice)
    assert "SAC learns from a replay buffer" in text and "SubstituteReward" in text


@pytest.mark.parametrize("make", [vectorised, single])
def test_an_on_policy_algorithm_may_change_its_reward_in_silence(make) -> None:
    venv = make()
    model = PPO("MlpPolicy", venv, n_steps=16, batch_size=16, n_epochs=1, device="cpu")

    def learn_and_change() -> None:
        model.learn(16)
        wrapper = venv if make is vectorised else venv.envs[0]
        wrapper.reward_function = lambda batch: 2 * ones(batch)
        model.learn(16)

    assert found(learn_and_change) == []


def test_under_an_unknown_learner_a_changed_reward_function_is_warned_of() -> None:
    env = LearnedRewardWrapper(make_env(ENV), ones)
    env.reward_function = lambda batch: 3 * ones(batch)  # nothing was rewarded yet
    env.reset(seed=0)
    assert env.step(np.zeros(2, np.float32))[1] == 3.0

    def change() -> None:
        for factor in (2, 5):
            env.reward_function = lambda batch, factor=factor: factor * ones(batch)

    (text,) = found(change)
    assert "LearnedRewardWrapper: the reward function was replaced" in text
    assert env.step(np.zeros(2, np.float32))[1] == 5.0
