"""What holds for every shipped task, whatever its robot."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_gym.data import Array
from rlhf_gym.envs import TASK_IDS, make_env, set_sim_state
from rlhf_gym.envs.preference_ready import horizon_of

N_STEPS = 40

HORIZONS = {
    "rlhf_gym/Ant-v0": 300,
    "rlhf_gym/HalfCheetah-v0": 1000,
    "rlhf_gym/Hopper-v0": 300,
    "rlhf_gym/HopperBackflip-v0": 300,
    "rlhf_gym/InvertedDoublePendulum-v0": 50,
    "rlhf_gym/Pendulum-v0": 200,
    "rlhf_gym/PointMass-v0": 50,
    "rlhf_gym/Reacher-v0": 50,
    "rlhf_gym/Swimmer-v0": 1000,
    "rlhf_gym/Walker2d-v0": 300,
}

# Observations that no state determines: the force at the rail's ends over the last step.
NOT_IN_THE_STATE = {"rlhf_gym/InvertedDoublePendulum-v0": 8}


def play(env: gym.Env[Any, Any], seed: int, n_steps: int) -> tuple[Array, Array, Array]:
    """Observations (T+1, D), rewards (T,) and states (T+1, S) of seeded random actions."""
    env.action_space.seed(seed)
    obs, info = env.reset(seed=seed)
    observations, rewards, states = [obs.copy()], [], [info["rlhf_gym.sim_state"]]
    for _ in range(n_steps):
        obs, reward, _, _, info = env.step(env.action_space.sample())
        observations.append(obs.copy())
        rewards.append(reward)
        states.append(info["rlhf_gym.sim_state"])
    return np.stack(observations), np.array(rewards, np.float64), np.stack(states)


@pytest.mark.parametrize("env_id", TASK_IDS)
def test_the_horizon_is_the_documented_one_and_the_docstring_says_so(env_id: str) -> None:
    env = gym.make(env_id)
    assert horizon_of(env) == HORIZONS[env_id]
    text = type(env.unwrapped).__doc__ or ""
    assert f"Truncated after {HORIZONS[env_id]} steps" in text


@pytest.mark.parametrize("kind", ["random", "lowest", "highest", "alternating"])
@pytest.mark.parametrize("env_id", TASK_IDS)
def test_no_task_ever_terminates_and_rewards_stay_finite(env_id: str, kind: str) -> None:
    env = gym.make(env_id)
    env.reset(seed=1)
    env.action_space.seed(1)
    assert isinstance(env.action_space, gym.spaces.Box)
    low, high = env.action_space.low, env.action_space.high
    n_steps = min(HORIZONS[env_id], 300)
    for n_done in range(1, n_steps + 1):
        action = {
            "random": env.action_space.sample(),
            "lowest": low,
            "highest": high,
            "alternating": high if n_done // 20 % 2 else low,
        }[kind]
        obs, reward, terminated, truncated, _ = env.step(action)
        assert terminated is False
        assert truncated is (n_done == HORIZONS[env_id])
        assert np.isfinite(obs).all() and np.isfinite(reward)


@pytest.mark.parametrize("env_id", TASK_IDS)
def test_the_seed_decides_everything(env_id: str) -> None:
    first, again, other = (play(make_env(env_id), seed, N_STEPS) for seed in (4, 4, 5))
    for values, repeated in zip(first, again, strict=True):
        np.testing.assert_array_equal(values, repeated)
    assert (first[0][0] != other[0][0]).any()


@pytest.mark.parametrize("env_id", TASK_IDS)
def test_a_restored_state_yields_the_observation_that_stood_beside_it(env_id: str) -> None:
    observations, _, states = play(make_env(env_id), 2, N_STEPS)
    other = make_env(env_id)  # never reset
    observe = other.unwrapped.get_wrapper_attr("_observe" if "PointMass" in env_id else "_get_obs")
    for obs, state in zip(observations, states, strict=True):
        set_sim_state(other, state)
        restored = observe()
        if env_id in NOT_IN_THE_STATE:
            restored[NOT_IN_THE_STATE[env_id]] = obs[NOT_IN_THE_STATE[env_id]]
        np.testing.assert_allclose(restored, obs, atol=1e-12)


@pytest.mark.parametrize("env_id", [i for i in TASK_IDS if "PointMass" not in i])
def test_a_pickled_env_keeps_its_arguments(env_id: str) -> None:
    env = gym.make(env_id).unwrapped
    if not hasattr(env, "reset_model"):  # Pendulum holds no simulator: it pickles as it is
        assert type(pickle.loads(pickle.dumps(env))) is type(env)
        return
    noisy = type(env)(frame_skip=7)  # type: ignore[call-arg]  # every MuJoCo robot takes it
    again: Any = pickle.loads(pickle.dumps(noisy))
    assert again.frame_skip == 7
    assert again.observation_space == env.observation_space
    assert again.mujoco_renderer.camera_id == env.get_wrapper_attr("mujoco_renderer").camera_id


@pytest.mark.parametrize("env_id", TASK_IDS)
def test_the_data_sheet_has_every_section_and_one_line_to_list(env_id: str) -> None:
    text = type(gym.make(env_id).unwrapped).__doc__ or ""
    sections = [line.strip()[3:] for line in text.splitlines() if line.strip().startswith("## ")]
    assert sections == [
        "Description",
        "Action Space",
        "Observation Space",
        "Rewards",
        "Starting State",
        "Episode End",
        "Arguments",
        "Version History",
    ]
    assert "andom actions" in " ".join(text.split())  # what a return is measured against
