from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from rlhf_gym.agents.preference_callback import PreferenceLearning
from rlhf_gym.agents.recorder import Recorder
from rlhf_gym.data import Choice, Preference, Query
from rlhf_gym.envs import hide_reward, make_env, space_info
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.feedback.acquisition import uniform
from rlhf_gym.feedback.reward_model import EnsembleRewardModel
from rlhf_gym.feedback.teachers import make_teacher

ENV = "rlhf_gym/PointMass-v0"


def test_a_stock_ppo_asks_as_planned_and_learns_from_the_fitted_reward() -> None:
    venv = DummyVecEnv([lambda: hide_reward(Monitor(make_env(ENV))) for _ in range(2)])
    recorder = Recorder(venv, context_id=ENV, n_steps=100)
    info = space_info(make_env(ENV))
    model = PPO("MlpPolicy", recorder, n_steps=50, batch_size=50, n_epochs=1, seed=0)
    seen: list[bool] = []
    reward_model = EnsembleRewardModel(info)
    rewards = reward_model.rewards

    def spy(batch):
        seen.append(True)
        return rewards(batch)

    reward_model.rewards = spy  # type: ignore[method-assign]
    callback = PreferenceLearning(
        reward_model,
        make_teacher("oracle", 0),
        uniform,
        [8, 4],
        rollouts_per_round=2,
        clip_length=10,
    )
    model.learn(7 * 100, callback=callback)
    assert [p.query.round for p in callback.preferences] == [0] * 8 + [1] * 4
    assert len(seen) == 6, "all rollouts but the first, which had no reward model yet"


def test_a_first_round_of_nothing_but_cant_tell_is_no_end() -> None:
    class Shy:
        name = "shy"

        def answer(self, queries: list[Query]) -> list[Preference]:
            choice = Choice.SKIP if queries[0].round == 0 else Choice.FIRST
            return [Preference(query, choice, self.name) for query in queries]

    venv = DummyVecEnv([lambda: hide_reward(Monitor(make_env(ENV))) for _ in range(2)])
    recorder = Recorder(venv, context_id=ENV, n_steps=100)
    model = PPO("MlpPolicy", recorder, n_steps=50, batch_size=50, n_epochs=1, seed=0)
    reward_model = EnsembleRewardModel(space_info(make_env(ENV)))
    callback = PreferenceLearning(reward_model, Shy(), uniform, [4, 4], clip_length=10)
    with pytest.warns(UserWarning, match="all 4 answers so far are"):
        model.learn(3 * 100, callback=callback)
    assert callback.reward_function == reward_model.rewards
    callback.teacher.answer = lambda queries: []  # type: ignore[method-assign]
    with pytest.raises(DataError, match="the teacher 'shy' was asked 4 queries and answered 0"):
        callback._ask_and_fit(1)


def test_impossible_plans_are_refused() -> None:
    info = space_info(make_env(ENV))
    for labels, rollouts in (([], 1), ([0], 1), ([5], 0)):
        with pytest.raises(ConfigError, match="at least 1"):
            PreferenceLearning(
                EnsembleRewardModel(info),
                make_teacher("oracle", 0),
                uniform,
                labels,
                rollouts_per_round=rollouts,
            )


def test_without_a_recorder_the_message_says_how_to_add_one() -> None:
    venv = DummyVecEnv([lambda: hide_reward(Monitor(make_env(ENV)))])
    info = space_info(make_env(ENV))
    model = PPO("MlpPolicy", venv, n_steps=50, batch_size=50)
    callback = PreferenceLearning(
        EnsembleRewardModel(info), make_teacher("oracle", 0), uniform, [np.int64(4)]
    )
    with pytest.raises(ConfigError, match="has no Recorder"):
        model.learn(50, callback=callback)
