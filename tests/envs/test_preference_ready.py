from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import WrapperSpec
from gymnasium.wrappers import TimeLimit

from rlhf_gym.envs import hide_reward, make_preference_ready
from rlhf_gym.envs.contract import ContractCheck
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


@pytest.mark.parametrize("horizon", [0, -3, True, 10.5, "5"])
def test_a_horizon_that_is_no_number_of_steps_is_refused(horizon: Any) -> None:
    with pytest.raises(ConfigError, match=f"`horizon` is {horizon!r}; accepted is a whole number"):
        make_preference_ready(PointMassEnv(), horizon=horizon)


@pytest.mark.parametrize("env", ["CartPole-v1", gym.make_vec("CartPole-v1", 2), None])
def test_what_is_no_single_env_is_refused(env: Any) -> None:
    with pytest.raises(ConfigError, match="accepted is one Gymnasium env"):
        make_preference_ready(env)


@pytest.mark.parametrize("keys", ["ab", "a", [1], None, 3])
def test_keys_that_are_no_list_of_names_are_refused(keys: Any) -> None:
    with pytest.raises(ConfigError, match=r"`obs_keys` is .*; accepted is a list of keys"):
        make_preference_ready(gym.make("rlhf_gym/PointMass-v0"), obs_keys=keys)


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
    found = [type(layer) for layer in wrapper_layers(env)]
    assert found == [SimStateInfo, TimeLimit, ContractCheck, PointMassEnv]


def test_the_state_in_info_belongs_to_the_observation_beside_it() -> None:
    env = make_preference_ready(PointMassEnv(), horizon=7)
    obs, info = env.reset(seed=1)
    for _ in range(5):
        state = info["rlhf_gym.sim_state"]
        assert state.dtype == np.float64
        np.testing.assert_array_equal(state[:2], obs[:2])
        np.testing.assert_array_equal(state[4:], obs[2:])
        obs, _, _, _, info = env.step(np.ones(2, np.float32))


@pytest.mark.parametrize("env_id", ["rlhf_gym/PointMass-v0", "rlhf_gym/HalfCheetah-v0"])
def test_every_state_is_an_array_of_its_own(env_id: str) -> None:
    env = gym.make(env_id)
    states = [env.reset(seed=1)[1]["rlhf_gym.sim_state"]]
    low, high = -np.ones(env.action_space.shape or ()), np.ones(env.action_space.shape or ())
    for _ in range(4):
        states.append(env.step(high)[4]["rlhf_gym.sim_state"])
    copies = [state.copy() for state in states]
    env.step(low)
    for state, copy in zip(states, copies, strict=True):
        np.testing.assert_array_equal(state, copy)
    assert len({state.tobytes() for state in states}) == 5


def test_an_env_without_state_is_given_no_wrapper_for_it() -> None:
    env = make_preference_ready(gym.make("CartPole-v1"))
    assert not any(isinstance(layer, SimStateInfo) for layer in wrapper_layers(env))


class Arm(PointMassEnv):
    """PointMass that observes a Dict: its four numbers by name, and a sensor of no use."""

    parts = gym.spaces.Dict(
        {
            "position": gym.spaces.Box(-1, 1, (2,)),
            "goal": gym.spaces.Box(-1, 1, (2,)),
            "noise": gym.spaces.Discrete(3),
        }
    )

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = self.parts  # type: ignore[assignment]

    def _by_name(self, obs: Any) -> Any:
        return {"position": obs[:2], "goal": obs[2:], "noise": 1}

    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return self._by_name(obs), info

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        return self._by_name(obs), *rest


def test_a_dict_becomes_the_vector_of_its_chosen_keys_and_keeps_its_state() -> None:
    plain = PointMassEnv()
    seen, _ = plain.reset(seed=3)
    env = make_preference_ready(Arm(), horizon=7, obs_keys=("position", "goal"))
    obs, info = env.reset(seed=3)
    np.testing.assert_array_equal(obs, np.concatenate([seen[2:], seen[:2]]))  # sorted: goal first
    np.testing.assert_array_equal(info["rlhf_gym.sim_state"][:2], seen[:2])
    assert episode_length(env) == 7


def test_without_chosen_keys_all_are_kept() -> None:
    env = make_preference_ready(Arm(), horizon=7)
    assert env.observation_space == gym.spaces.flatten_space(Arm.parts)
    obs, _ = env.reset(seed=3)
    np.testing.assert_array_equal(obs[2:5], [0, 1, 0])  # goal, noise, position


def test_flattening_again_changes_nothing() -> None:
    env = make_preference_ready(Arm(), horizon=7, obs_keys=("goal", "position"))
    assert make_preference_ready(env) is env
    assert make_preference_ready(env, obs_keys=("position", "goal")) is env
    everything = make_preference_ready(Arm(), horizon=7)
    assert make_preference_ready(everything) is everything


def test_another_choice_of_keys_after_flattening_is_refused() -> None:
    env = make_preference_ready(Arm(), horizon=7, obs_keys=("goal",))
    with pytest.raises(ConfigError, match=r"already flattened from \['goal'\]"):
        make_preference_ready(env, obs_keys=("position",))


def test_a_box_is_left_as_it_is_and_has_no_keys_to_choose() -> None:
    assert make_preference_ready(PointMassEnv(), horizon=7).observation_space.shape == (4,)
    with pytest.raises(ConfigError, match="have no keys"):
        make_preference_ready(PointMassEnv(), horizon=7, obs_keys=("position",))


def test_a_box_of_a_single_number_becomes_a_vector_of_one() -> None:
    env = PointMassEnv()
    env.observation_space = gym.spaces.Box(-1, 1, ())
    ready = make_preference_ready(env, horizon=7)
    assert ready.observation_space == gym.spaces.Box(-1, 1, (1,))


@pytest.mark.parametrize(
    "space", [gym.spaces.Dict({}), gym.spaces.Tuple(()), gym.spaces.Box(-1, 1, (3, 0))]
)
def test_observations_of_no_number_are_refused(space: Any) -> None:
    env = PointMassEnv()
    env.observation_space = space
    with pytest.raises(ConfigError, match="holds no number"):
        make_preference_ready(env, horizon=7)


@pytest.mark.parametrize("space", [gym.spaces.Text(5), gym.spaces.Tuple((gym.spaces.Text(5),))])
def test_text_is_refused_wherever_it_stands(space: Any) -> None:
    for name in ("observation_space", "action_space"):
        env = PointMassEnv()
        setattr(env, name, space)
        with pytest.raises(ConfigError, match="Supported are Box, Discrete"):
            make_preference_ready(env, horizon=7)


def test_a_registered_choice_of_keys_survives_json() -> None:
    wrapper = WrapperSpec(
        "make_preference_ready",
        "rlhf_gym.envs.preference_ready:make_preference_ready",
        {"obs_keys": ["goal"]},
    )
    gym.register("Arm-v0", Arm, max_episode_steps=7, additional_wrappers=(wrapper,))
    try:
        env = gym.make("Arm-v0")
        assert env.observation_space.shape == (2,)
        assert env.spec is not None
        flat = [w for w in env.spec.additional_wrappers if w.name == "FlatObservation"]
        assert [w.kwargs for w in flat] == [{"obs_keys": ["goal"]}]
        assert str(gym.make(env.spec)) == str(env)
    finally:
        del gym.registry["Arm-v0"]
