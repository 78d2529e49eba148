from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from rlhf_gym.data import Array
from rlhf_gym.envs.clip_camera import ClipCamera, floor_planes
from rlhf_gym.envs.sim_state import get_sim_state, set_sim_state

FLOOR = "<geom type='plane' size='9 9 1'/>"
ROVER = "<body name='rover' pos='1 2 1'>{joint}<geom size='.2' mass='1'/></body>"
FREE = ROVER.format(joint="<freejoint/>")


class Bare(gym.Env[Any, Any]):
    """A model and its data, and what else a test gives it."""

    def __init__(self, world: str, **attributes: Any) -> None:
        self.model = mujoco.MjModel.from_xml_string(
            f"<mujoco><worldbody>{world}</worldbody></mujoco>"
        )
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        for name, value in attributes.items():
            setattr(self, name, value)


def lookat(camera: ClipCamera, env: Any) -> Array:
    return np.array(camera.view(env.data).lookat)


def test_a_camera_of_the_model_that_the_env_names_is_taken_as_it_is() -> None:
    env = gym.make("rlhf_gym/HalfCheetah-v0").unwrapped
    camera = ClipCamera(env)
    view = camera.view(env.get_wrapper_attr("data"))
    assert (view.type, view.fixedcamid) == (mujoco.mjtCamera.mjCAMERA_FIXED, 0)
    assert camera.follows  # "track" goes along with the centre of mass


def test_a_configured_free_camera_stands_as_gymnasium_sets_it() -> None:
    env = gym.make("rlhf_gym/Reacher-v0").unwrapped
    camera = ClipCamera(env)
    view = camera.view(env.get_wrapper_attr("data"))
    assert view.type == mujoco.mjtCamera.mjCAMERA_FREE
    assert (view.distance, view.elevation, view.azimuth) == (0.85, -90.0, 90.0)
    np.testing.assert_array_equal(view.lookat, np.zeros(3))
    assert not camera.follows


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Swimmer-v5"])
def test_a_free_camera_goes_along_with_a_robot_that_travels_but_not_up(env_id: str) -> None:
    env: Any = gym.make(env_id).unwrapped
    env.reset(seed=0)
    camera = ClipCamera(env)
    assert camera.follows
    state = get_sim_state(env)
    assert state is not None
    before = lookat(camera, env)
    state[1] += 30.0  # the first position is the place along the track; state[0] is the time
    set_sim_state(env, state)
    np.testing.assert_allclose(lookat(camera, env) - before, [30.0, 0.0, 0.0], atol=1e-9)
    if env_id == "Ant-v5":
        state[3] += 5.0
        set_sim_state(env, state)
        np.testing.assert_allclose(lookat(camera, env) - before, [30.0, 0.0, 0.0], atol=1e-9)


def test_a_robot_at_rest_is_seen_as_gymnasium_shows_it() -> None:
    env: Any = gym.make("HalfCheetah-v5").unwrapped
    mujoco.mj_kinematics(env.model, env.data)
    view = ClipCamera(env).view(env.data)
    # OffScreenViewer._init_camera, and the env's own configuration.
    np.testing.assert_allclose(view.lookat, np.median(env.data.geom_xpos, axis=0), atol=1e-12)
    assert view.distance == 4.0


@pytest.mark.parametrize(
    ("config", "follows"),
    [
        ({}, True),
        ({"distance": 3.0}, True),
        ({"trackbodyid": 1}, True),
        ({"trackbodyid": 0}, False),
        ({"trackbodyid": -1}, False),
        ({"lookat": [0, 0, 1]}, False),
        ({"lookat": [0, 0, 1], "trackbodyid": 1}, True),
    ],
)
def test_the_configuration_says_whether_a_free_camera_follows(
    config: dict[str, Any], follows: bool
) -> None:
    theirs = SimpleNamespace(default_cam_config=config, camera_id=-1)
    assert ClipCamera(Bare(FLOOR + FREE, mujoco_renderer=theirs)).follows is follows


@pytest.mark.parametrize(
    ("world", "follows"),
    [
        (FREE, False),  # nothing would show that it moves
        (FLOOR + ROVER.format(joint=""), False),
        (FLOOR + ROVER.format(joint="<joint type='hinge'/>"), False),
        (FLOOR + ROVER.format(joint="<joint type='slide' limited='true' range='-1 1'/>"), False),
        (FLOOR + ROVER.format(joint="<joint type='slide'/>"), True),
    ],
)
def test_only_what_can_leave_the_picture_over_a_floor_is_followed(
    world: str, follows: bool
) -> None:
    assert ClipCamera(Bare(world)).follows is follows


def test_of_several_bodies_the_heaviest_is_followed() -> None:
    light = "<body pos='0 0 1'><freejoint/><geom size='.1' mass='.5'/></body>"
    env = Bare(FLOOR + light + FREE + light)
    camera = ClipCamera(env)
    before = lookat(camera, env)
    env.data.qpos[7:9] += (3.0, 4.0)  # seven positions of each free joint: the second is the rover
    mujoco.mj_forward(env.model, env.data)
    np.testing.assert_allclose(lookat(camera, env) - before, [3.0, 4.0, 0.0])


CAMERAS = "<camera name='a'/><camera name='track'/><camera name='b'/>"


@pytest.mark.parametrize(
    ("world", "attributes", "expected"),
    [
        (CAMERAS, {}, 1),
        (CAMERAS, {"camera_name": "b"}, 2),
        (CAMERAS, {"camera_id": 0}, 0),
        (CAMERAS, {"camera_name": "nowhere"}, 1),
        ("<camera name='top'/>", {}, 0),
        ("<camera name='a'/><camera name='b'/>", {}, -1),
        ("", {}, -1),
    ],
)
def test_an_env_without_gymnasiums_renderer_is_drawn_by_a_camera_of_its_model(
    world: str, attributes: dict[str, Any], expected: int
) -> None:
    env = Bare(FLOOR + world, **attributes)
    assert ClipCamera(env).view(env.data).fixedcamid == expected


def test_the_envs_visual_options_are_kept() -> None:
    flag = mujoco.mjtVisFlag.mjVIS_JOINT
    env = gym.make("rlhf_gym/Hopper-v0", visual_options={int(flag): True})
    assert ClipCamera(env).options.flags[flag]
    assert not ClipCamera(gym.make("rlhf_gym/Hopper-v0")).options.flags[flag]


def test_floors_are_planes_of_the_world_and_say_whether_they_have_a_texture() -> None:
    table = f"<body pos='0 0 1'>{FLOOR}</body>"
    world = "<geom size='1'/>" + FLOOR + FREE + table
    assert floor_planes(Bare(world).model) == [(1, False), (3, False)]
    cheetah: Any = gym.make("rlhf_gym/HalfCheetah-v0").unwrapped
    assert [textured for _, textured in floor_planes(cheetah.model)] == [True]
