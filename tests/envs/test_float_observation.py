from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch  # noqa: F401  # first, as SB3 loads it
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from stable_baselines3.common.preprocessing import is_image_space

from rlhf_gym.data import Array
from rlhf_gym.envs import make_preference_ready
from rlhf_gym.envs.array_spaces import is_image
from rlhf_gym.envs.float_observation import (
    FloatObservation,
    RoundingWarning,
    check_observation,
)
from rlhf_gym.errors import ConfigError, NumericalError

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]


class Shows(gym.Env[Any, Any]):
    """Observes what it is given."""

    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, space: spaces.Space[Any], value: Any = None) -> None:
        self.observation_space = space
        self.value = value

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.value, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.value, 0.0, False, False, {}


def box(dtype: str, shape: tuple[int, ...] = (3,)) -> spaces.Box:
    if dtype == "bool":
        return spaces.Box(0, 1, shape, bool)  # type: ignore[arg-type]
    is_float = np.dtype(dtype).kind == "f"
    top = 100 if is_float else np.iinfo(dtype).max
    return spaces.Box(-100 if is_float else np.iinfo(dtype).min, top, shape, np.dtype(dtype))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool", "float16", "longdouble"])
@settings(max_examples=15)
@given(data=st.data())
def test_any_dtype_becomes_float32_with_the_same_numbers(dtype: str, data: st.DataObject) -> None:
    space = box(dtype, (2, 2))
    if dtype == "bool":
        elements: Any = st.booleans()
    elif np.dtype(dtype).kind == "f":
        elements = st.floats(-100, 100, width=16)
    else:  # as far as float32 is exact
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        elements = st.integers(max(low, -(2**24)), min(high, 2**24))
    value = data.draw(arrays(np.dtype(dtype), (2, 2), elements=elements))
    env = make_preference_ready(Shows(space, value), horizon=5)
    obs, _ = env.reset()
    assert env.observation_space.dtype == obs.dtype == np.float32
    assert obs.tolist() == [[float(x) for x in row] for row in value.tolist()]
    assert env.observation_space.contains(obs) and env.observation_space.contains(env.step(0)[0])
    assert make_preference_ready(env) is env


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float32_and_float64_are_left_as_they_are(dtype: str) -> None:
    value = np.array([0.1, 1 / 3, 1e-40], dtype)
    env = make_preference_ready(Shows(box(dtype), value), horizon=5)
    obs, _ = env.reset()
    assert obs is value and env.observation_space == box(dtype)
    layers = str(env)
    assert "FloatObservation" not in layers


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (spaces.Discrete(3), 2, [0, 0, 1]),
        (spaces.MultiBinary(2), np.array([1, 0], np.int8), [1, 0]),
        (spaces.MultiDiscrete([2, 2]), np.array([1, 0]), [0, 1, 1, 0]),
        (
            spaces.Dict({"a": box("uint8", (2,)), "b": box("bool", (1,))}),
            {"a": np.array([255, 3], np.uint8), "b": np.array([True])},
            [255, 3, 1],
        ),
        (
            spaces.Tuple((box("int16", (1,)), spaces.Discrete(2))),
            (np.array([-300], np.int16), 1),
            [-300, 0, 1],
        ),
    ],
)
def test_what_is_flattened_to_whole_numbers_becomes_float32_too(
    space: Any, value: Any, expected: list[float]
) -> None:
    env = make_preference_ready(Shows(space, value), horizon=5)
    obs, _ = env.reset()
    assert obs.dtype == env.observation_space.dtype == np.float32
    assert obs.tolist() == expected
    assert make_preference_ready(env) is env


def test_the_observation_is_an_array_of_its_own() -> None:
    value = np.zeros(3, np.uint8)
    env = FloatObservation(Shows(box("uint8"), value))
    obs, _ = env.reset()
    value[:] = 7
    assert obs.tolist() == [0, 0, 0]


CLOCK = spaces.Dict({"clock": spaces.Box(0, 2**40, (1,), np.int64), "gear": spaces.Discrete(2)})


@pytest.mark.parametrize(
    ("space", "value", "named"),
    [
        (CLOCK, {"clock": np.array([1_733_000_000]), "gear": 1}, r"component 0 \('clock'\)"),
        (
            spaces.Box(-(2**40), 0, (2, 2), np.int64),
            np.array([[0, 0], [0, -(2**25)]]),
            "component 3",
        ),
        (box("uint64"), np.array([2**24 + 1, 0, 0], np.uint64), "component 0"),
    ],
)
def test_whole_numbers_that_float32_rounds_are_named_once(
    space: Any, value: Any, named: str
) -> None:
    env = make_preference_ready(Shows(space, value), horizon=5)
    with pytest.warns(RoundingWarning, match=named):
        env.reset()
    env.step(0)  # warnings are errors


def test_2_to_the_24_is_exact_and_passes_without_a_word() -> None:
    env = make_preference_ready(Shows(box("int64", (1,)), np.array([2**24])), horizon=5)
    assert env.reset()[0] == [2**24]


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    dtype = draw(st.sampled_from([np.uint8, np.float32]))
    return spaces.Box(
        draw(st.sampled_from([0, 1])), draw(st.sampled_from([255, 254])), shape, dtype
    )


@settings(max_examples=60)
@given(boxes())
def test_an_image_is_what_sb3_calls_one(space: spaces.Box) -> None:
    assert is_image(space) == is_image_space(space)


IMAGE = spaces.Box(0, 255, (8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (IMAGE, "FlattenObservation"),
        (spaces.Dict({"arm": box("float32"), "eye": IMAGE}), r"at 'eye'.*obs_keys"),
        (spaces.Tuple((box("float32"), IMAGE)), "at '1'"),
    ],
)
def test_images_are_refused_by_name(space: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"uint8\).*image to Stable-Baselines3.*{says}|{says}"):
        make_preference_ready(Shows(space), horizon=5)


def test_an_image_that_is_not_kept_does_no_harm_and_a_flattened_grid_is_taken() -> None:
    space = spaces.Dict({"arm": box("float32"), "eye": IMAGE})
    assert make_preference_ready(Shows(space), 5, ["arm"]).observation_space.shape == (3,)
    grid = gym.wrappers.FlattenObservation(Shows(IMAGE, np.full((8, 8, 3), 9, np.uint8)))
    assert make_preference_ready(grid, horizon=5).reset()[0].tolist() == [9.0] * 192


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38, -1e300])
def test_an_observation_beyond_float32_is_refused_by_name(value: float) -> None:
    obs = np.zeros((2, 3))
    obs[1, 2] = value
    with pytest.raises(NumericalError, match=r"My-v0 .*at step 7 \(env 1, component 2\)") as caught:
        check_observation(obs, "My-v0", "at step 7")
    assert str(np.float64(value)) in str(caught.value)
    with pytest.raises(NumericalError, match=r"\(env 5, component 2\)"):
        check_observation(obs[1], "My-v0", "at step 7", env=5)


@pytest.mark.parametrize("obs", [np.full(2, 1e37), np.full(2, 2**63, np.uint64), np.zeros(0)])
def test_other_observations_pass(obs: Array) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_observation(obs, "My-v0", "at step 7")
