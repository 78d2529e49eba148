from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_gym.data import Array, RewardBatch
from rlhf_gym.envs import LearnedRewardWrapper, hide_reward, make_preference_ready
from rlhf_gym.envs.horizon import HorizonWarning
from rlhf_gym.envs.point_mass import PointMassEnv
from rlhf_gym.envs.reward_substitution import executed_action
from rlhf_gym.errors import ConfigError, DataError, NumericalError


def linear(batch: RewardBatch) -> Array:
    """sum(obs) + 2 sum(action) - 3 sum(next_obs): every part, and every mix-up, shows."""
    rewards: Array = batch.obs.sum(-1) + 2 * batch.actions.sum(-1) - 3 * batch.next_obs.sum(-1)
    return rewards


def point_mass(horizon: int) -> gym.Env[Any, Any]:
    return make_preference_ready(PointMassEnv(), horizon=horizon)


@settings(max_examples=25, deadline=None)
@given(
    horizon=st.integers(1, 7),
    seed=st.integers(0, 1000),
    hidden=st.booleans(),
)
def test_rewards_equal_a_rollout_by_hand_over_truncations(
    horizon: int, seed: int, hidden: bool
) -> None:
    plain = point_mass(horizon)
    base = hide_reward(point_mass(horizon)) if hidden else point_mass(horizon)
    env = LearnedRewardWrapper(base, linear)
    actions = np.random.default_rng(seed).uniform(-2, 2, (20, 2)).astype(np.float32)
    obs, _ = plain.reset(seed=seed)
    env.reset(seed=seed)
    for action in actions:  # half of them leave the box
        next_obs, true_reward, _, truncated, _ = plain.step(action)
        seen_obs, reward, _, seen_truncated, info = env.step(action)
        within = np.minimum(np.maximum(action.astype(np.float64), -1), 1)
        # float32 sums of at most 4 numbers below 1, times 3: error below 1e-5
        by_hand = obs.sum(dtype=np.float64) + 2 * within.sum() - 3 * next_obs.sum(dtype=np.float64)
        assert type(reward) is float
        assert reward == pytest.approx(by_hand, abs=1e-5)
        assert info["true_reward"] == true_reward
        np.testing.assert_array_equal(seen_obs, next_obs)
        assert seen_truncated == truncated
        obs = next_obs
        if truncated:
            obs, _ = plain.reset()
            env.reset()


def test_the_reward_function_sees_one_float32_step_of_raw_values() -> None:
    seen: list[RewardBatch] = []

    def record(batch: RewardBatch) -> Array:
        seen.append(batch)
        return np.zeros((1, 1), np.float32)

    env = LearnedRewardWrapper(gym.make("rlhf_gym/HalfCheetah-v0"), record)
    obs, _ = env.reset(seed=0)
    next_obs = env.step(np.full(6, 0.5, np.float32))[0]
    (batch,) = seen
    assert batch.obs.shape == batch.next_obs.shape == (1, 1, 17)
    assert batch.actions.shape == (1, 1, 6)
    assert batch.obs.dtype == batch.actions.dtype == batch.next_obs.dtype == np.float32
    np.testing.assert_array_equal(batch.obs[0, 0], obs.astype(np.float32))
    np.testing.assert_array_equal(batch.next_obs[0, 0], next_obs.astype(np.float32))


def test_the_env_receives_the_action_unchanged() -> None:
    # HalfCheetah's control cost counts the action as given: 0.1 * 6 * 2 ** 2 = 2.4.
    env = LearnedRewardWrapper(gym.make("rlhf_gym/HalfCheetah-v0"), linear)
    env.reset(seed=0)
    assert env.step(np.full(6, 2.0, np.float32))[4]["reward_ctrl"] == pytest.approx(-2.4)


def test_the_innermost_replacer_tells_the_truth() -> None:
    env = LearnedRewardWrapper(LearnedRewardWrapper(point_mass(5), linear), linear)
    plain = point_mass(5)
    env.reset(seed=4)
    plain.reset(seed=4)
    action = np.array([0.3, -0.2], np.float32)
    assert env.step(action)[4]["true_reward"] == plain.step(action)[1]


class Counter(gym.Env[Any, Any]):
    """Counts 1, 2, 3, ... in one array that it returns again and again; ends at 3."""

    observation_space = gym.spaces.Box(0, 10, (1,), np.float32)
    action_space = gym.spaces.Discrete(4)

    def __init__(self) -> None:
        self._count = np.ones(1, np.float32)  # float32: a cast would copy

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._count[0] = 1
        return self._count, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._count += 1
        return self._count, 0.25, bool(self._count[0] == 3), False, {}


def test_an_env_that_reuses_its_observation_array_is_rewarded_rightly() -> None:
    # 100 * obs + 10 * next_obs + action, over 1 -> 2 -> 3 (terminal) and again after the reset
    def digits(batch: RewardBatch) -> Array:
        rewards: Array = 100 * batch.obs[..., 0] + 10 * batch.next_obs[..., 0] + batch.actions
        return rewards

    env = LearnedRewardWrapper(Counter(), digits, allow_variable_horizon=True)
    rewards = []
    for _ in range(2):
        env.reset()
        rewards += [env.step(3)[1], env.step(2)[1]]
    assert rewards == [123.0, 232.0, 123.0, 232.0]


@pytest.mark.parametrize("allowed", [False, True])
def test_an_env_that_ends_early_is_warned_of_once(allowed: bool) -> None:
    env = LearnedRewardWrapper(
        gym.make("CartPole-v1"), lambda batch: batch.mask * 1.0, allow_variable_horizon=allowed
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(2):  # always to the left: the pole falls within a dozen steps of 500
            env.reset(seed=seed)
            while not any(env.step(0)[2:4]):
                pass
    ours = [w for w in caught if issubclass(w.category, HorizonWarning)]
    assert env.early_ends.n == 2 and len(ours) == (not allowed)
    assert all("CartPole-v1 ended before its horizon" in str(w.message) for w in ours)


def test_an_end_at_the_horizon_is_none_that_is_early() -> None:
    env = LearnedRewardWrapper(gym.wrappers.TimeLimit(Counter(), 2), lambda b: b.mask * 1.0)
    env.reset()
    assert [env.step(0)[2:4] for _ in range(2)] == [(False, False), (True, True)]
    assert env.early_ends.n == 0


def test_an_episode_s_steps_are_counted_from_its_reset() -> None:
    limited = gym.wrappers.TimeLimit(Counter(), 3)
    env = LearnedRewardWrapper(limited, lambda b: b.mask * 1.0, allow_variable_horizon=True)
    for n_early in (1, 2):
        env.reset()
        env.step(0)
        env.reset()  # the step before it is of another episode
        assert [env.step(0)[2] for _ in range(2)] == [False, True]
        assert env.early_ends.n == n_early


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(gym.error.ResetNeeded):
        LearnedRewardWrapper(Counter(), linear).step(0)


def test_a_reward_function_of_the_wrong_shape_is_refused() -> None:
    env = LearnedRewardWrapper(point_mass(5), lambda batch: batch.obs)
    env.reset(seed=0)
    with pytest.raises(DataError, match=r"shape \(1, 1, 4\)"):
        env.step(np.zeros(2, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_is_refused(bad: float) -> None:
    env = LearnedRewardWrapper(point_mass(5), lambda batch: np.full((1, 1), bad))
    env.reset(seed=0)
    with pytest.raises(NumericalError, match=str(bad)):
        env.step(np.zeros(2, np.float32))


def test_observations_that_are_no_array_are_refused_by_name() -> None:
    env = Counter()
    env.observation_space = gym.spaces.Dict(  # type: ignore[assignment]
        {"camera": gym.spaces.Box(0, 1, (3,))}
    )
    with pytest.raises(ConfigError, match="make_preference_ready"):
        LearnedRewardWrapper(env, linear)


def test_an_executed_action_lies_within_the_box_as_float32() -> None:
    box = gym.spaces.Box(np.array([-1, 0]), np.array([1, 2]), dtype=np.float64)
    action = executed_action(np.array([-5.0, 1.5]), box)
    assert action.dtype == np.float32
    np.testing.assert_array_equal(action, np.array([-1.0, 1.5]))
    assert executed_action(3, gym.spaces.Discrete(4)).shape == ()
