"""Gymnasium environments, and the wrappers that hide and replace their reward.

Importing this package registers the shipped tasks with Gymnasium; their simulators are imported
when an env is made, not before. A registered id returns the task's true reward like any Gymnasium
env: hiding it (`hide_reward`) is the training loop's business.
"""

from __future__ import annotations

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

from rlhf_gym.envs.hide_reward import HideReward, hide_reward, is_hidden
from rlhf_gym.envs.horizon import HorizonWarning, early_end_warning
from rlhf_gym.envs.make import env_table, make_env, space_info
from rlhf_gym.envs.preference_ready import make_preference_ready
from rlhf_gym.envs.reward_substitution import LearnedRewardWrapper
from rlhf_gym.envs.sim_state import get_sim_state, render_state, set_sim_state

__all__ = [
    "TASK_IDS",
    "TEXT_TASK_IDS",
    "HideReward",
    "HorizonWarning",
    "LearnedRewardWrapper",
    "early_end_warning",
    "env_table",
    "get_sim_state",
    "hide_reward",
    "is_hidden",
    "make_env",
    "make_preference_ready",
    "register_tasks",
    "render_state",
    "set_sim_state",
    "space_info",
]

# id -> (entry point, horizon in steps)
_TASKS = {
    "rlhf_gym/Ant-v0": ("rlhf_gym.envs.ant:AntEnv", 300),
    "rlhf_gym/HalfCheetah-v0": ("rlhf_gym.envs.half_cheetah:HalfCheetahEnv", 1000),
    "rlhf_gym/Hopper-v0": ("rlhf_gym.envs.hopper:HopperEnv", 300),
    "rlhf_gym/HopperBackflip-v0": ("rlhf_gym.envs.hopper_backflip:HopperBackflipEnv", 300),
    "rlhf_gym/InvertedDoublePendulum-v0": (
        "rlhf_gym.envs.inverted_double_pendulum:InvertedDoublePendulumEnv",
        50,
    ),
    "rlhf_gym/Pendulum-v0": ("rlhf_gym.envs.pendulum:PendulumEnv", 200),
    "rlhf_gym/PointMass-v0": ("rlhf_gym.envs.point_mass:PointMassEnv", 50),
    "rlhf_gym/Reacher-v0": ("rlhf_gym.envs.reacher:ReacherEnv", 50),
    "rlhf_gym/Swimmer-v0": ("rlhf_gym.envs.swimmer:SwimmerEnv", 1000),
    "rlhf_gym/Walker2d-v0": ("rlhf_gym.envs.walker2d:Walker2dEnv", 300),
}

# id -> (entry point of the token env, of the completion vector env)
_TEXT_TASKS = {
    f"rlhf_gym/{name}-v0": (
        f"rlhf_gym.envs.text.{name.lower()}:{name}Env",
        f"rlhf_gym.envs.text.{name.lower()}:{name.lower()}_vector_env",
    )
    for name in ("Arithmetic", "Enumerable", "Format", "Sentiment")
}

TASK_IDS: tuple[str, ...] = tuple(sorted(_TASKS))
"""The ids of the shipped control tasks, sorted."""

TEXT_TASK_IDS: tuple[str, ...] = tuple(sorted(_TEXT_TASKS))
"""The ids of the shipped text tasks, sorted: `gymnasium.make` gives their `TokenEnv`, and
`gymnasium.make_vec` their `CompletionVectorEnv`."""


def register_tasks() -> None:
    """Register the shipped tasks with Gymnasium; ids already registered are left alone.

    Each control task is registered through `make_preference_ready`, the function that users call
    on their own envs. A text ends by itself or after T tokens, so text tasks have no time limit.
    Entry points are strings, so that a spec survives JSON and a task costs no import.
    """
    ready = WrapperSpec(
        name="make_preference_ready",
        entry_point="rlhf_gym.envs.preference_ready:make_preference_ready",
        kwargs={},
    )
    for env_id, (entry_point, horizon) in _TASKS.items():
        if env_id not in gym.registry:
            gym.register(
                id=env_id,
                entry_point=entry_point,
                max_episode_steps=horizon,
                additional_wrappers=(ready,),
            )
    for env_id, (entry_point, vector_entry_point) in _TEXT_TASKS.items():
        if env_id not in gym.registry:
            gym.register(id=env_id, entry_point=entry_point, vector_entry_point=vector_entry_point)


register_tasks()
