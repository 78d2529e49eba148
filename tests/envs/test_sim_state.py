from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_gym.data import Array
from rlhf_gym.envs import get_sim_state, render_state, set_sim_state
from rlhf_gym.envs.half_cheetah import HalfCheetahEnv
from rlhf_gym.envs.point_mass import PointMassEnv
from rlhf_gym.errors import ConfigError, DataError


class PaintedCheetah(HalfCheetahEnv):
    """A MuJoCo env with something of its own beside the simulator."""

    paint = 0.25

    def get_extra_state(self) -> Array:
        return np.array([self.paint])

    def set_extra_state(self, state: Array) -> None:
        self.paint = float(state[0])


class HalfAHook(PointMassEnv):
    set_extra_state = property()


class FlatlessHook(PointMassEnv):
    def get_extra_state(self) -> Array:
        return np.zeros((2, 3))


def after_steps(env: gym.Env[Any, Any], n_steps: int) -> Array:
    env.reset(seed=5)
    env.action_space.seed(5)
    obs: Array = np.empty(0)
    for _ in range(n_steps):
        obs = env.step(env.action_space.sample())[0]
    return obs


def test_a_state_stored_as_float32_gives_another_cheetah_the_same_observation() -> None:
    obs = after_steps(source := gym.make("rlhf_gym/HalfCheetah-v0"), 30)
    state = get_sim_state(source)
    assert state is not None
    other = HalfCheetahEnv()  # never reset
    set_sim_state(other, state.astype(np.float32))
    restored = np.concatenate((other.data.qpos[1:], other.data.qvel))  # v5's observation
    np.testing.assert_allclose(restored, obs, rtol=1e-5)
    # What is derived from the state (here the bodies' places) must have been computed anew.
    bodies = source.unwrapped.get_wrapper_attr("data").xpos
    other_bodies = other.data.xpos
    assert np.abs(bodies).max() > 0.1
    # MuJoCo leaves derived places one simulation step behind after a step: 0.01 s at < 5 m/s.
    np.testing.assert_allclose(other_bodies, bodies, atol=0.05)


def test_a_state_gives_another_point_mass_the_identical_picture() -> None:
    source = gym.make("rlhf_gym/PointMass-v0", render_mode="rgb_array")
    after_steps(source, 9)
    state, frame = get_sim_state(source), source.render()
    assert state is not None
    after_steps(source, 20)
    other = gym.make("rlhf_gym/PointMass-v0", render_mode="rgb_array")  # never reset
    again = render_state(other, state.astype(np.float32))
    assert again.dtype == np.uint8
    np.testing.assert_array_equal(again, frame)
    assert (again != source.render()).any()


def test_what_lies_outside_the_simulator_is_appended_and_restored() -> None:
    env = PaintedCheetah()
    env.reset(seed=0)
    env.paint = 0.75
    state = get_sim_state(env)
    assert state is not None
    assert state.shape == (20,)  # time, 9 positions, 9 velocities, the paint
    assert state[-1] == 0.75
    other = PaintedCheetah()
    set_sim_state(other, state)
    assert other.paint == 0.75
    np.testing.assert_array_equal(other.data.qpos, env.data.qpos)
    np.testing.assert_array_equal(other.data.qvel, env.data.qvel)
    assert other.data.time == env.data.time


def test_mocap_bodies_are_part_of_the_state() -> None:
    import mujoco

    class Mocap(gym.Env[Any, Any]):
        def __init__(self) -> None:
            body = "<body mocap='true'><geom size='.1'/></body>"
            self.model = mujoco.MjModel.from_xml_string(
                f"<mujoco><worldbody>{body}</worldbody></mujoco>"
            )
            self.data = mujoco.MjData(self.model)

    env, other = Mocap(), Mocap()
    env.data.mocap_pos[0] = [1.0, 2.0, 3.0]
    state = get_sim_state(env)
    assert state is not None
    set_sim_state(other, state)
    np.testing.assert_array_equal(other.data.mocap_pos[0], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(other.data.geom_xpos[0], [1.0, 2.0, 3.0])


def test_a_model_without_data_is_no_state() -> None:
    import mujoco

    env = gym.make("CartPole-v1")
    env.unwrapped.model = mujoco.MjModel.from_xml_string("<mujoco><worldbody/></mujoco>")
    assert get_sim_state(env) is None


def test_an_env_without_state_has_none_and_refuses_one() -> None:
    env = gym.make("CartPole-v1")
    assert get_sim_state(env) is None
    with pytest.raises(ConfigError, match="no simulator state"):
        set_sim_state(env, np.zeros(4))


def test_a_state_of_another_size_is_refused_and_changes_nothing() -> None:
    env = HalfCheetahEnv()
    env.reset(seed=0)
    before = env.data.qpos.copy()
    with pytest.raises(DataError, match=r"shape \(6,\), but HalfCheetahEnv needs \(19,\)"):
        set_sim_state(env, np.ones(6))
    np.testing.assert_array_equal(env.data.qpos, before)


def test_half_a_hook_is_refused() -> None:
    with pytest.raises(ConfigError, match="only one of"):
        get_sim_state(HalfAHook())


def test_an_extra_state_of_two_dimensions_is_refused() -> None:
    with pytest.raises(DataError, match=r"returned shape \(2, 3\)"):
        get_sim_state(FlatlessHook())


def test_pictures_need_an_env_that_renders_to_arrays() -> None:
    with pytest.raises(ConfigError, match='render_mode="rgb_array"'):
        render_state(PointMassEnv(), np.zeros(6))


DRAW_CHEETAH = """
import numpy as np
from rlhf_gym.envs import get_sim_state, make_env, render_state
from rlhf_gym.errors import MissingDependencyError

def make():
    size = {"width": 120, "height": 90}
    return make_env("rlhf_gym/HalfCheetah-v0", render_mode="rgb_array", env_kwargs=size)

try:
    source, other = make(), make()
except MissingDependencyError as error:
    print("MISSING", error)
    raise SystemExit(0)
source.reset(seed=0)
first = get_sim_state(source)
for _ in range(15):
    source.step(np.ones(6, np.float32))
state = get_sim_state(source).astype(np.float32)
try:
    frame = render_state(other, state)
except MissingDependencyError as error:
    print("MISSING", error)
    raise SystemExit(0)
assert frame.shape == (90, 120, 3) and frame.dtype == np.uint8 and frame.std() > 5, frame.shape
again = render_state(source, state)
changed = render_state(other, first.astype(np.float32))
print("DRAWN", np.abs(frame.astype(int) - again).mean(), np.abs(frame.astype(int) - changed).mean())
"""


# Makes ctypes behave as on a machine without the EGL library.
WITHOUT_EGL = """
import ctypes
load = ctypes.CDLL.__init__
def refuse_egl(self, name=None, *args, **kwargs):
    if "EGL" in str(name):
        raise OSError(f"{name}: cannot open shared object file")
    load(self, name, *args, **kwargs)
ctypes.CDLL.__init__ = refuse_egl
"""


def draw_cheetah(backend: str, prelude: str = "") -> str:
    environment = os.environ | {"MUJOCO_GL": backend}
    code = prelude + DRAW_CHEETAH
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_stored_cheetah_state_is_drawn_alike_in_any_env() -> None:
    output = draw_cheetah("egl")
    if output.startswith("MISSING") and os.environ.get("CI") != "true":
        pytest.skip(f"needs Debian's libegl1 libegl-mesa0 libgl1-mesa-dri: {output}")
    words = output.split()
    assert words[0] == "DRAWN", output
    assert float(words[1]) == 0.0  # one state, two envs
    assert float(words[2]) > 1.0  # two states, one env (grey levels of 255)


@pytest.mark.parametrize(
    ("backend", "prelude"), [("disable", ""), ("egl", WITHOUT_EGL), ("no_such_backend", "")]
)
def test_without_a_renderer_the_error_names_the_packages(backend: str, prelude: str) -> None:
    output = draw_cheetah(backend, prelude)
    assert output.startswith("MISSING")
    assert "MUJOCO_GL=egl" in output
    assert "libegl1" in output
