from __future__ import annotations

import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from rlhf_gym.data import Array
from rlhf_gym.envs.fast_renderer import FastRenderer, has_mujoco_model
from rlhf_gym.errors import ConfigError

# mujoco reads MUJOCO_GL when it is imported, and other tests import it: pictures are drawn in a
# process of their own, once for all tests.
DRAW = """
import sys
from types import SimpleNamespace
import gymnasium as gym, mujoco, numpy as np
from rlhf_gym.envs import get_sim_state, make_env, render_state
from rlhf_gym.envs.fast_renderer import FastRenderer

SIZE = (120, 160)
SIDES = {"height": 120, "width": 160}
found = {}

def keep(name, frame):
    assert frame.dtype == np.uint8, frame.dtype
    found[name] = frame

# What the env draws itself: first, since Gymnasium shares its context with nobody.
states = {}
for task in ("HalfCheetah", "Reacher"):
    env = make_env(f"rlhf_gym/{task}-v0", render_mode="rgb_array", env_kwargs=SIDES)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(20):
        env.step(env.action_space.sample())
    states[task] = get_sim_state(env).astype(np.float32)
    keep(f"{task}-own", render_state(env, states[task]))
    env.close()

for task, state in states.items():
    env = make_env(f"rlhf_gym/{task}-v0")  # no render mode, never reset
    quality = env.unwrapped.model.vis.quality
    before = quality.offsamples, quality.shadowsize
    renderer = FastRenderer(env, SIZE)
    keep(f"{task}-ours", renderer.render_state(state))
    keep(f"{task}-again", renderer.render())
    moved = state.copy()
    moved[1] += 0.37
    keep(f"{task}-moved", renderer.render_state(moved))
    assert (quality.offsamples, quality.shadowsize) == before
    renderer.close()
    keep(f"{task}-reopened", renderer.render_state(state))
    renderer.close()

# A plain floor, seen by a camera that goes along with the only body: a box that slides on it.
class Box(gym.Env):
    def __init__(self, colour):
        self.paint(colour)
    def paint(self, colour):
        self.model = mujoco.MjModel.from_xml_string(f'''<mujoco>
          <visual><global offwidth="64" offheight="64"/></visual>
          <worldbody><light pos="0 0 9"/><geom type="plane" size="0 0 1" rgba="{colour} 1"/>
          <body pos="0 0 .2"><freejoint/><geom type="box" size=".2 .2 .2" rgba="1 0 0 1"/></body>
          </worldbody></mujoco>''')
        self.data = mujoco.MjData(self.model)

for name, colour in (("light", ".9 .9 .9"), ("dark", ".1 .1 .1")):
    box = Box(colour)
    n_geoms = box.model.ngeom
    renderer = FastRenderer(box, SIZE)
    state = get_sim_state(box)
    for step, x in enumerate((0.0, 0.13)):
        state[1] = x
        keep(f"{name}-{step}", renderer.render_state(state))
    assert box.model.ngeom == n_geoms
box.paint("0 .9 0")  # another model, as an env may swap it at reset
keep("swapped", renderer.render_state(state))
small = FastRenderer(box, (30, 40))  # two at once, by turns
keep("small", small.render_state(state))
keep("swapped-again", renderer.render_state(state))
calls = []
box._render_callback = lambda: calls.append(1)
renderer.render()
assert calls == [1]
np.savez(sys.argv[1], **found)
"""


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Array]:
    file = tmp_path_factory.mktemp("frames") / "frames.npz"
    done = run(DRAW, str(file), backend=os.environ.get("MUJOCO_GL") or "egl")
    if not file.exists() and "MissingDependencyError" in done.stderr:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(done.stderr)
        pytest.skip("needs Debian's libegl1 libegl-mesa0 libgl1-mesa-dri")
    assert done.returncode == 0, done.stderr
    with np.load(file, allow_pickle=False) as found:
        return dict(found)


def run(code: str, *arguments: str, backend: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MUJOCO_GL": backend}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )


def difference(a: Array, b: Array) -> float:
    """Mean over pixels and colours, in grey levels of 255."""
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("task", ["HalfCheetah", "Reacher"])
def test_a_robot_is_seen_as_its_env_shows_it(frames: dict[str, Array], task: str) -> None:
    own, ours = frames[f"{task}-own"], frames[f"{task}-ours"]
    assert ours.shape == own.shape == (120, 160, 3)

    def edges(frame: Array) -> Array:
        grey = frame.astype(float).mean(axis=2)
        return np.hypot(*np.gradient(grey))

    # Colours differ by shadows, reflections and the sky; outlines lie in the same places. In a
    # mirrored view they do not, though walls and floor look the same.
    alike = np.corrcoef(edges(own).ravel(), edges(ours).ravel())[0, 1]
    mirrored = np.corrcoef(edges(own).ravel(), edges(ours[:, ::-1]).ravel())[0, 1]
    assert alike > 0.85 > mirrored


@pytest.mark.parametrize("task", ["HalfCheetah", "Reacher"])
def test_a_state_has_one_picture_and_another_state_another(
    frames: dict[str, Array], task: str
) -> None:
    ours = frames[f"{task}-ours"]
    np.testing.assert_array_equal(frames[f"{task}-again"], ours)
    np.testing.assert_array_equal(frames[f"{task}-reopened"], ours)
    # HalfCheetah only moved along the track, and the camera with it: the floor shows it.
    assert difference(frames[f"{task}-moved"], ours) > 0.5


def test_the_background_is_one_colour_that_is_not_black(frames: dict[str, Array]) -> None:
    top = frames["HalfCheetah-ours"][:10].reshape(-1, 3)
    assert (top == top[0]).all()
    assert top[0].min() > 50


@pytest.mark.parametrize("floor", ["light", "dark"])
def test_a_plain_floor_shows_motion_under_a_camera_that_follows(
    frames: dict[str, Array], floor: str
) -> None:
    here, there = frames[f"{floor}-0"], frames[f"{floor}-1"]
    red = (here[..., 0] > 100) & (here[..., 1] < 60)
    assert red.sum() > 50
    red_there = (there[..., 0] > 100) & (there[..., 1] < 60)
    assert (red != red_there).sum() < 0.2 * red.sum()  # the box stays in the middle
    assert difference(here, there) > 1.0  # and the floor's lines pass below it


def test_a_model_that_was_swapped_is_drawn(frames: dict[str, Array]) -> None:
    floor = frames["swapped"][-5:].reshape(-1, 3).astype(int)
    green = (floor[:, 1] > 2 * floor[:, 0]) & (floor[:, 1] > 60)
    assert green.mean() > 0.5
    assert difference(frames["swapped"], frames["dark-1"]) > 5.0


def test_two_renderers_share_a_process(frames: dict[str, Array]) -> None:
    assert frames["small"].shape == (30, 40, 3)
    np.testing.assert_array_equal(frames["swapped-again"], frames["swapped"])


@pytest.mark.parametrize("backend", ["disable", "no_such_backend"])
def test_without_a_renderer_the_error_names_the_packages(backend: str) -> None:
    code = """
from rlhf_gym.envs import make_env
from rlhf_gym.errors import MissingDependencyError
try:
    env = make_env("rlhf_gym/Reacher-v0")
    from rlhf_gym.envs.fast_renderer import FastRenderer
    FastRenderer(env).render()
except MissingDependencyError as error:
    print("MISSING", error)
"""
    done = run(code, backend=backend)
    assert done.stdout.startswith("MISSING"), done.stderr
    assert "libegl1" in done.stdout


def test_an_env_without_a_model_is_refused() -> None:
    env = gym.make("rlhf_gym/PointMass-v0")
    assert not has_mujoco_model(env)
    with pytest.raises(ConfigError, match="render_state"):
        FastRenderer(env)


def test_a_size_of_nothing_is_refused() -> None:
    env = gym.make("rlhf_gym/Reacher-v0")
    assert has_mujoco_model(env)
    with pytest.raises(ConfigError, match=r"\(0, 480\)"):
        FastRenderer(env, (0, 480))
