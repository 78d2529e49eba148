from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.clip_frames import ClipFrames, ClipRenderer, playback
from rlhf_gym.data import Array, Clip
from rlhf_gym.envs import make_env
from rlhf_gym.envs.picture_info import step_seconds
from rlhf_gym.envs.point_mass import draw_point_mass
from rlhf_gym.errors import ConfigError, DataError

STEPS = st.integers(1, 2000)
DTS = st.floats(1e-4, 1.0)


@pytest.mark.parametrize(
    ("dt", "seconds"),
    [
        (0.05, 2.0),  # HalfCheetah, Ant, Pendulum: 2.5 s of the robot's time, a little faster
        (0.04, 2.0),  # Swimmer: real time
        (0.035, 1.75),  # real time
        (0.02, 1.7),  # Reacher: 1.0 s, slow motion; all 51 states at 30 a second take 1.7 s
        (0.008, 1.7),  # Hopper, Walker2d: 0.4 s
        (0.1, 2.0),  # PointMass
    ],
)
def test_a_clip_of_50_steps_takes_between_1_5_and_2_seconds_and_shows_every_state(
    dt: float, seconds: float
) -> None:
    indices, seconds_per_frame = playback(50, dt)
    assert indices == list(range(51))
    assert len(indices) * seconds_per_frame == pytest.approx(seconds)


def test_long_clips_leave_states_out_rather_than_time() -> None:
    # 200 steps of 0.008 s are 1.6 s of real time, at most 48 frames: every fifth state fits.
    indices, seconds_per_frame = playback(200, 0.008)
    assert indices == list(range(0, 201, 5))
    assert len(indices) * seconds_per_frame == pytest.approx(1.6)
    # 200 steps of 0.05 s are 10 s, shown in 0.04 s a step: 8 s, every state.
    indices, seconds_per_frame = playback(200, 0.05)
    assert indices == list(range(201))
    assert len(indices) * seconds_per_frame == pytest.approx(8.0)


def test_a_single_step_is_shown_as_before_and_after() -> None:
    assert playback(1, 0.05) == ([0, 1], 0.75)


@given(n_steps=STEPS, dt=DTS)
def test_playback_keeps_its_rules_for_any_clip(n_steps: int, dt: float) -> None:
    indices, seconds_per_frame = playback(n_steps, dt)
    gaps = np.diff(indices)
    assert (indices[0], indices[-1]) == (0, n_steps)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    assert 1 / seconds_per_frame <= 30 + 1e-6
    seconds = len(indices) * seconds_per_frame
    assert 1.5 - 1e-9 <= seconds <= max(2.0, 0.04 * n_steps) + 1e-9
    own_time = n_steps * dt
    if 1.5 <= own_time <= 2.0 and not 45 < n_steps + 1 <= 60:
        assert seconds == pytest.approx(own_time)  # 45 and 60 states fill 1.5 s and 2 s


@pytest.mark.parametrize(("n_steps", "dt"), [(0, 0.1), (-1, 0.1), (5, 0.0), (5, math.nan)])
def test_playback_of_nothing_is_refused(n_steps: int, dt: float) -> None:
    with pytest.raises(DataError):
        playback(n_steps, dt)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"dt": 0.02}, 0.02),
        ({"dt": np.float32(0.25), "fps": 10}, 0.25),
        ({"fps": 10}, 0.1),
        ({"dt": 0.0, "fps": 10}, 0.1),
        ({"dt": "fast", "fps": None}, 1 / 30),
        ({"dt": math.inf}, 1 / 30),
    ],
)
def test_the_time_of_a_step_is_what_the_env_says_of_it(
    attributes: dict[str, Any], expected: float
) -> None:
    bare = SimpleNamespace(metadata={"render_fps": attributes.pop("fps", None)}, **attributes)
    env: Any = SimpleNamespace(unwrapped=bare)
    assert step_seconds(env) == pytest.approx(expected)


@pytest.mark.parametrize(
    "frames",
    [np.zeros((0, 4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3))],
)
def test_frames_that_are_no_pictures_are_refused(frames: Array) -> None:
    with pytest.raises(DataError, match="expected"):
        ClipFrames(frames, 0.04)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_frames_are_shown_for_some_time(seconds: float) -> None:
    with pytest.raises(DataError, match="seconds_per_frame"):
        ClipFrames(np.zeros((2, 4, 4, 3), np.uint8), seconds)


def a_point_mass_clip(n_steps: int = 20) -> Clip:
    env = make_env("rlhf_gym/PointMass-v0")
    obs, info = env.reset(seed=1)
    steps = [(obs, info["rlhf_gym.sim_state"])]
    for _ in range(n_steps):
        obs, *_, info = env.step(np.array([0.5, -0.25], np.float32))
        steps.append((obs, info["rlhf_gym.sim_state"]))
    return Clip(
        obs=np.array([obs for obs, _ in steps]),
        actions=np.zeros((n_steps, 2), np.float32),
        context_id="rlhf_gym/PointMass-v0",
        sim_states=np.array([state for _, state in steps], np.float32),
    )


@pytest.fixture(scope="module")
def renderer() -> Iterator[ClipRenderer]:
    renderer = ClipRenderer("rlhf_gym/PointMass-v0", {"render_mode": "human"})  # that is ours
    yield renderer
    renderer.close()


def test_an_env_without_mujoco_draws_its_states_itself(renderer: ClipRenderer) -> None:
    clip = a_point_mass_clip()
    drawn = renderer.render(clip)
    assert renderer.step_seconds == pytest.approx(0.1)  # 10 frames per second by its metadata
    assert drawn.seconds == pytest.approx(2.0)  # 20 steps of 0.1 s
    assert len(drawn.frames) == 21
    assert clip.sim_states is not None
    for state, frame in zip(clip.sim_states, drawn.frames, strict=True):
        expected = draw_point_mass(state[:2], state[2:4], state[4:])
        np.testing.assert_array_equal(frame, expected)


DRAW_REACHER = """
import numpy as np
from rlhf_gym.clip_frames import ClipRenderer
from rlhf_gym.envs import make_env
from rlhf_gym.errors import MissingDependencyError

states = np.zeros((51, 9), np.float32)
states[:, 1] = np.linspace(0, 3, 51)  # the first hinge turns
states[:, 3] = 0.1  # the target's place
try:
    renderer = ClipRenderer("rlhf_gym/Reacher-v0", size=(60, 80))
    drawn = renderer.render_states("abc", states)
except MissingDependencyError as error:
    print("MISSING", error)
    raise SystemExit(0)
from rlhf_gym.envs.fast_renderer import FastRenderer
fast = FastRenderer(make_env("rlhf_gym/Reacher-v0"), (60, 80))
for k in (0, 20, 50):
    assert (fast.render_state(states[k]) == drawn.frames[k]).all(), k
renderer.close()
print("DRAWN", *drawn.frames.shape, drawn.seconds, (drawn.frames[0] != drawn.frames[50]).any())
"""


def test_a_mujoco_robot_is_drawn_by_the_fast_renderer() -> None:
    environment = os.environ | {"MUJOCO_GL": os.environ.get("MUJOCO_GL") or "egl"}
    done = subprocess.run(
        [sys.executable, "-c", DRAW_REACHER], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("MISSING") and os.environ.get("CI", "").lower() not in {"1", "true"}:
        pytest.skip(done.stdout)
    # 50 steps of 0.02 s: all 51 states, at 30 a second.
    assert done.stdout.split() == ["DRAWN", "51", "60", "80", "3", "1.7", "True"]


def with_states(clip: Clip, states: Array | None) -> Clip:
    return Clip.from_storage(
        clip.id, obs=clip.obs, actions=clip.actions, context_id="x", sim_states=states
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e30])
def test_damaged_states_are_refused_and_the_clip_named(
    renderer: ClipRenderer, value: float
) -> None:
    clip = a_point_mass_clip()
    assert clip.sim_states is not None
    clip.sim_states[7, 2] = value
    with pytest.raises(DataError, match=rf"{clip.id}.*damaged"):
        renderer.render(clip)


@pytest.mark.parametrize(
    "states",
    [
        np.zeros((21, 5), np.float32),
        np.zeros((1, 6), np.float32),
        np.zeros(6, np.float32),
        np.zeros((21, 6), np.int64),
    ],
)
def test_states_of_another_shape_are_refused_and_the_clip_named(
    renderer: ClipRenderer, states: Array
) -> None:
    clip = with_states(a_point_mass_clip(), states)
    with pytest.raises(DataError, match=clip.id):
        renderer.render(clip)


def test_a_clip_without_states_says_what_the_env_must_offer(renderer: ClipRenderer) -> None:
    clip = with_states(a_point_mass_clip(), None)
    with pytest.raises(DataError, match=r"no simulator state.*set_extra_state"):
        renderer.render(clip)


def test_an_env_without_states_says_what_it_must_offer() -> None:
    renderer = ClipRenderer("CartPole-v1")
    with pytest.raises(DataError, match=r"CartPole-v1 offers no simulator state.*get_extra_state"):
        renderer.render_states("abc", np.zeros((5, 4)))
    renderer.close()


class Wobbly(gym.Env[Any, Any]):
    """Its pictures grow."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.side = 3

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}

    def get_extra_state(self) -> Array:
        return np.array([float(self.side)])

    def set_extra_state(self, state: Array) -> None:
        self.side = int(state[0])

    def render(self) -> Any:
        return np.zeros((self.side, self.side, 3), np.uint8)


def test_pictures_of_several_sizes_are_refused() -> None:
    gym.register("Wobbly-v0", Wobbly, max_episode_steps=9)
    try:
        renderer = ClipRenderer("Wobbly-v0")
        assert renderer.render_states("abc", np.full((3, 1), 4.0)).frames.shape == (3, 4, 4, 3)
        with pytest.raises(DataError, match="of one size"):
            renderer.render_states("abc", np.array([[3.0], [4.0]]))
    finally:
        del gym.registry["Wobbly-v0"]


def test_an_env_that_cannot_draw_is_refused() -> None:
    class Blind(Wobbly):
        metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    gym.register("Blind-v0", Blind, max_episode_steps=9)
    try:
        with pytest.raises(ConfigError, match="rgb_array"):
            ClipRenderer("Blind-v0")
    finally:
        del gym.registry["Blind-v0"]
