"""Envs that hand out the same arrays and infos again, and write into what they are given."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from rlhf_gym.agents.recorder import Recorder
from rlhf_gym.agents.rollouts import play_episodes
from rlhf_gym.agents.vec_env import SerialVecEnv
from rlhf_gym.agents.vec_reward import VecLearnedReward
from rlhf_gym.data import Array
from rlhf_gym.envs.hide_reward import hide_reward
from rlhf_gym.errors import NotHiddenError

LENGTH = 3


class Reuses(gym.Env[Any, Any]):
    """Observation [step]; one array and one info for all of its life, and actions doubled."""

    observation_space = spaces.Box(-99, 99, (1,), np.float32)

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space
        self.obs, self.nested = np.zeros(1, np.float32), np.zeros(1, np.float32)
        self.info: dict[str, Any] = {}

    def reset(self, *, seed=None, options=None):
        self.obs[:] = self.nested[:] = 0
        self.info.clear()
        return self.obs, self.info

    def step(self, action):
        action[...] = 0  # writes into what it was given
        self.obs += 1
        self.nested += 1
        self.info["parts"] = {"array": self.nested, "list": [self.nested]}
        self.info.update({"true_reward": -5.0, "terminal_observation": "mine"})
        self.info["TimeLimit.truncated"] = "mine"
        self.info["picture"], self.info["sim_state"] = "a name of my own", 7
        return self.obs, float(self.obs[0]), False, bool(self.obs[0] == LENGTH), self.info


BOX = spaces.Box(-1, 1, (2,), np.float32)
CHOICES = spaces.MultiDiscrete([3, 3])


def forked(makes: list[Any]) -> VecEnv:
    return SubprocVecEnv(makes, start_method="fork")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", [DummyVecEnv, SerialVecEnv, forked])
@pytest.mark.parametrize("space", [BOX, CHOICES])
def test_what_was_recorded_is_what_happened(kind, space: Any) -> None:
    venv = kind([lambda: hide_reward(Reuses(space))] * 2)
    recorder = Recorder(venv, context_id="Reuses-v0", n_steps=8, horizon=LENGTH)
    recorder.reset()
    value: Any = np.ones((2, 2), space.dtype)
    for step in range(1, 8):
        actions = value.copy()
        obs, rewards, dones, infos = recorder.step(actions)
        ended = step % LENGTH == 0
        assert obs.ravel().tolist() == [0.0 if ended else step % LENGTH] * 2
        assert dones.tolist() == [ended] * 2 and not rewards.any()
        np.testing.assert_array_equal(actions, value)  # the learner's own are left alone
        for info in infos:
            assert info["true_reward"] == (step - 1) % LENGTH + 1
            if ended:
                assert info["terminal_observation"].tolist() == [LENGTH]
                assert info["TimeLimit.truncated"] is True
                assert info["parts"]["array"].tolist() == [LENGTH]
                assert info["parts"]["list"][0].tolist() == [LENGTH]
    batch, truths, _ = recorder.rollout(6)
    np.testing.assert_array_equal(truths, [[2, 3, 1, 2, 3, 1]] * 2)
    np.testing.assert_array_equal(batch.obs[..., 0], [[1, 2, 0, 1, 2, 0]] * 2)
    np.testing.assert_array_equal(batch.next_obs[..., 0], [[2, 3, 1, 2, 3, 1]] * 2)
    np.testing.assert_array_equal(batch.actions, np.ones((2, 6, 2)))
    (clip, *_) = recorder.clips(1, 3, np.random.default_rng(0))
    assert clip.pictures is None and clip.sim_states is None  # those words were the env's own
    recorder.close()


@pytest.mark.parametrize("kind", [DummyVecEnv, SerialVecEnv])
def test_rewards_step_by_step_see_the_last_observation(kind) -> None:
    def last(batch: Any) -> Array:
        rewards: Array = batch.next_obs[..., 0] * batch.actions[..., 0]
        return rewards

    env = VecLearnedReward(kind([lambda: hide_reward(Reuses(CHOICES))]), last, horizon=LENGTH)
    env.reset()
    rewards = [float(env.step(np.ones((1, 2), np.int64))[1][0]) for _ in range(6)]
    assert rewards == [1, 2, 3, 1, 2, 3]
    with pytest.raises(NotHiddenError, match="hide_reward"):
        VecLearnedReward(kind([lambda: Reuses(CHOICES)]), last)


@pytest.mark.parametrize("space", [BOX, CHOICES])
def test_evaluation_episodes_keep_what_happened(space: Any) -> None:
    (episode,) = play_episodes(
        [Reuses(space)],
        lambda obs: np.ones((len(obs), 2), space.dtype),
        1,
        np.random.SeedSequence(0),
        "Reuses-v0",
    )
    assert episode.obs.ravel().tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(episode.actions, np.ones((3, 2)))


def test_a_true_reward_of_an_env_that_is_not_hidden_is_not_taken_for_ours() -> None:
    recorder = Recorder(DummyVecEnv([lambda: Reuses(CHOICES)]), context_id="R", n_steps=4)
    recorder.reset()
    recorder.step(np.ones((1, 2), np.int64))
    recorder.step(np.ones((1, 2), np.int64))
    assert recorder.clips(1, 2, np.random.default_rng(0))[0].true_rewards is None
