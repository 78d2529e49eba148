from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from rlhf_gym.envs import hide_reward, make_preference_ready
from rlhf_gym.envs.point_mass import PointMassEnv
from rlhf_gym.envs.preference_ready import SimStateInfo, horizon_of, wrapper_layers
from rlhf_gym.errors import ConfigError


def episode_length(env: gym.Env[Any, Any]) -> int:
    env.reset(seed=0)
    for n_steps in range(1, 1001):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            return n_steps
    raise AssertionError("no end within 1000 steps")


def test_a_horizon_is_added_where_the_env_has_none() -> None:
    env = make_preference_ready(PointMassEnv(), horizon=7)
    assert horizon_of(env) == 7
    assert episode_length(env) == 7


def test_an_env_without_any_horizon_is_refused_and_told_how() -> None:
    with pytest.raises(ConfigError, match=r"make_preference_ready\(env, horizon=N\)"):
        make_preference_ready(PointMassEnv())


@pytest.mark.parametrize("horizon", [0, -3])
def test_a_horizon_below_one_step_is_refused(horizon: int) -> None:
    with pytest.raises(ConfigError, match=f"`horizon` is {horizon}"):
        make_preference_ready(PointMassEnv(), horizon=horizon)


def test_a_horizon_that_contradicts_the_envs_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="already ends its episodes after 50 steps"):
        make_preference_ready(gym.make("rlhf_gym/PointMass-v0"), horizon=20)


def test_calling_it_again_changes_nothing() -> None:
    env = make_preference_ready(PointMassEnv(), horizon=7)
    assert make_preference_ready(env) is env
    assert make_preference_ready(env, horizon=7) is env
    hidden = hide_reward(env)
    assert make_preference_ready(hidden) is hidden


def test_the_horizon_of_nested_limits_is_the_shortest() -> None:
    assert horizon_of(TimeLimit(TimeLimit(PointMassEnv(), 5), 9)) == 5
    assert horizon_of(PointMassEnv()) is None


def test_layers_run_from_the_outermost_wrapper_to_the_bare_env() -> None:
    env = make_preference_ready(PointMassEnv(), horizon=7)
    assert [type(layer) for layer in wrapper_layers(env)] == [SimStateInfo, TimeLimit, PointMassEnv]


def test_the_state_in_info_belongs_to_the_observation_beside_it() -> None:
    env = make_preference_ready(PointMassEnv(), horizon=7)
    obs, info = env.reset(seed=1)
    for _ in range(5):
        state = info["sim_state"]
        assert state.dtype == np.float64
        np.testing.assert_array_equal(state[:2], obs[:2])
        np.testing.assert_array_equal(state[4:], obs[2:])
        obs, _, _, _, info = env.step(np.ones(2, np.float32))


@pytest.mark.parametrize("env_id", ["rlhf_gym/PointMass-v0", "rlhf_gym/HalfCheetah-v0"])
def test_every_state_is_an_array_of_its_own(env_id: str) -> None:
    env = gym.make(env_id)
    states = [env.reset(seed=1)[1]["sim_state"]]
    low, high = -np.ones(env.action_space.shape or ()), np.ones(env.action_space.shape or ())
    for _ in range(4):
        states.append(env.step(high)[4]["sim_state"])
    copies = [state.copy() for state in states]
    env.step(low)
    for state, copy in zip(states, copies, strict=True):
        np.testing.assert_array_equal(state, copy)
    assert len({state.tobytes() for state in states}) == 5


def test_an_env_without_state_is_given_no_wrapper_for_it() -> None:
    env = make_preference_ready(gym.make("CartPole-v1"))
    assert not any(isinstance(layer, SimStateInfo) for layer in wrapper_layers(env))
