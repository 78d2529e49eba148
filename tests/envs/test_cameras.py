from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import pytest

from rlhf_gym.envs.cameras import following, still

TRAVELLERS = ["Ant", "HalfCheetah", "Hopper", "HopperBackflip", "Swimmer", "Walker2d"]


@pytest.mark.parametrize("name", TRAVELLERS)
def test_a_robot_that_travels_is_drawn_by_the_camera_that_follows_it(name: str) -> None:
    env: Any = gym.make(f"rlhf_gym/{name}-v0").unwrapped
    camera = env.model.camera(env.mujoco_renderer.camera_id)
    assert camera.name == "track"
    assert camera.mode[0] == mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM


@pytest.mark.parametrize(
    "own", [{"camera_id": 0}, {"camera_name": "mine"}, {"default_camera_config": None}]
)
def test_a_camera_of_the_users_own_is_left_alone(own: dict[str, Any]) -> None:
    arguments = {"frame_skip": 2, **own}
    assert following(arguments) == arguments
    assert still(arguments, {"distance": 1.0}) == arguments


def test_without_one_a_camera_is_added_and_the_rest_kept() -> None:
    assert following({"frame_skip": 2}) == {"frame_skip": 2, "camera_name": "track"}
    assert still({}, {"distance": 1.0}) == {"default_camera_config": {"distance": 1.0}}
