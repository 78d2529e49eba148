from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3.common.env_checker as sb3_checker
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from rlhf_gym.envs import TASK_IDS, is_hidden, register_tasks

# The only complaints a shipped task may raise: MuJoCo's observations have no bounds, and the
# actions of Pendulum-v1, with whose returns ours compare, are torques of up to 2 N m.
ACCEPTED_WARNINGS = (
    "A Box observation space minimum value is -infinity",
    "A Box observation space maximum value is infinity",
    "symmetric and normalized",
)


def unaccepted(caught: list[warnings.WarningMessage]) -> list[str]:
    texts = [str(warning.message) for warning in caught]
    return [text for text in texts if not any(accepted in text for accepted in ACCEPTED_WARNINGS)]


def test_importing_the_envs_registers_the_tasks_and_loads_no_simulator() -> None:
    code = (
        "import sys, gymnasium, rlhf_gym.envs as envs\n"
        "assert all(i in gymnasium.registry for i in envs.TASK_IDS)\n"
        "heavy = {'mujoco', 'pygame', 'torch', 'stable_baselines3', 'glfw'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_shipped_ids_are_sorted_and_complete() -> None:
    assert TASK_IDS == (
        "rlhf_gym/Ant-v0",
        "rlhf_gym/HalfCheetah-v0",
        "rlhf_gym/Hopper-v0",
        "rlhf_gym/HopperBackflip-v0",
        "rlhf_gym/InvertedDoublePendulum-v0",
        "rlhf_gym/Pendulum-v0",
        "rlhf_gym/PointMass-v0",
        "rlhf_gym/Reacher-v0",
        "rlhf_gym/Swimmer-v0",
        "rlhf_gym/Walker2d-v0",
    )


def test_registering_twice_is_harmless_and_overrides_nothing() -> None:
    before = [gym.spec(env_id) for env_id in TASK_IDS]
    register_tasks()  # Gymnasium would warn, and a warning is an error here
    assert [gym.spec(env_id) for env_id in TASK_IDS] == before


@pytest.mark.parametrize("env_id", TASK_IDS)
def test_a_spec_survives_json_and_makes_the_same_env(env_id: str) -> None:
    spec = gym.spec(env_id)
    assert EnvSpec.from_json(spec.to_json()) == spec
    made = gym.make(env_id)
    assert made.spec is not None
    remade = gym.make(EnvSpec.from_json(made.spec.to_json()))
    assert str(remade) == str(made)
    obs, info = made.reset(seed=3)
    obs_again, info_again = remade.reset(seed=3)
    np.testing.assert_array_equal(obs, obs_again)
    np.testing.assert_array_equal(info["rlhf_gym.sim_state"], info_again["rlhf_gym.sim_state"])


@pytest.mark.parametrize("env_id", TASK_IDS)
def test_a_registered_id_returns_the_true_reward_and_is_not_hidden(env_id: str) -> None:
    env = gym.make(env_id)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.ones(env.action_space.shape or ()))
    assert reward != 0.0
    assert "true_reward" not in info
    assert not is_hidden(env)


@pytest.mark.parametrize("env_id", TASK_IDS)
def test_gymnasiums_checker_finds_nothing_beyond_the_listed(
    env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gym.make(env_id).unwrapped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # MuJoCo's pictures need OpenGL libraries, and its window a display: test_sim_state draws.
        check_env(env, skip_render_check=hasattr(env, "model"))
    assert unaccepted(caught) == []


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("env_id", TASK_IDS)
def test_stable_baselines_checker_finds_nothing_beyond_the_listed(
    env_id: str, wrapped: bool
) -> None:
    env = gym.make(env_id)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sb3_checker.check_env(env if wrapped else env.unwrapped)
    assert unaccepted(caught) == []


def test_only_pendulums_actions_leave_the_unit_box() -> None:
    boxes = {env_id: gym.make(env_id).action_space for env_id in TASK_IDS}
    outside = [i for i, box in boxes.items() if box != gym.spaces.Box(-1, 1, box.shape)]
    assert outside == ["rlhf_gym/Pendulum-v0"]


def test_a_vectorised_task_carries_the_state_of_every_env() -> None:
    envs = gym.make_vec("rlhf_gym/PointMass-v0", num_envs=3)
    _, info = envs.reset(seed=0)
    assert info["rlhf_gym.sim_state"].shape == (3, 6)
    envs.close()
