from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_gym.data import Array
from rlhf_gym.envs.array_spaces import (
    FlatObservation,
    check_action_space,
    component_name,
    sample_actions,
    unsupported_spaces,
)
from rlhf_gym.errors import ConfigError


class Shows(gym.Env[Any, Any]):
    """Observes random samples of a space, and keeps what it returned last."""

    def __init__(self, space: spaces.Space[Any], action_space: Any = None) -> None:
        self.observation_space = space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.last: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.last = self.observation_space.sample()
        return self.last, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.last = self.observation_space.sample()
        return self.last, 0.0, False, False, {}


def leaves() -> st.SearchStrategy[spaces.Space[Any]]:
    shape = st.lists(st.integers(1, 3), min_size=0, max_size=2).map(tuple)
    sizes = st.lists(st.integers(1, 4), min_size=1, max_size=3)
    return st.one_of(
        st.builds(lambda s, d: spaces.Box(-5, 5, s, d), shape, st.sampled_from(["f4", "f8"])),
        st.builds(lambda s: spaces.Box(0, 255, s, np.uint8), shape),
        st.builds(lambda n, start: spaces.Discrete(n, start=start), sizes.map(len), sizes.map(sum)),
        st.builds(spaces.MultiDiscrete, sizes),
        st.builds(spaces.MultiBinary, st.integers(1, 4)),
    )


def dicts(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[spaces.Dict]:
    """Keys in an order of their own: Gymnasium sorts those of a plain dict only."""
    names = st.lists(st.sampled_from("zyxabc"), min_size=1, max_size=4, unique=True)
    return names.flatmap(
        lambda keys: st.tuples(*[parts for _ in keys]).map(
            lambda chosen: spaces.Dict(list(zip(keys, chosen, strict=True)))
        )
    )


trees = st.recursive(
    leaves(), lambda parts: dicts(parts) | st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple)
)


@settings(max_examples=60)
@given(space=dicts(trees), data=st.data())
def test_chosen_keys_flatten_as_gymnasium_flattens_the_filtered_dict(
    space: spaces.Dict, data: st.DataObject
) -> None:
    keys = data.draw(st.lists(st.sampled_from(list(space)), unique=True))
    inner = Shows(space)
    env = FlatObservation(inner, keys)
    filtered = spaces.Dict([(k, s) for k, s in space.items() if not keys or k in keys])
    assert env.obs_keys == tuple(filtered)
    assert isinstance(env.observation_space, spaces.Box)
    assert env.observation_space == spaces.flatten_space(filtered)
    for seed in (data.draw(st.integers(0, 1000)), None):
        obs = env.reset(seed=seed)[0] if seed is not None else env.step(0)[0]
        expected = spaces.flatten(filtered, {key: inner.last[key] for key in filtered})
        assert obs.dtype == expected.dtype
        np.testing.assert_array_equal(obs, expected)
        assert env.observation_space.contains(obs)


NINE = spaces.Box(-9, 9, (1,))


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (spaces.Discrete(4, start=-1), 1, [0, 0, 1, 0]),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
        (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), [1, 0, 1]),
        (
            spaces.Tuple((spaces.Discrete(2), spaces.Box(-9, 9, (2, 1)))),
            (1, np.array([[3.0], [4.0]])),
            [0, 1, 3, 4],
        ),
        (
            # Gymnasium sorts the keys of a plain dict: "a" stands before "b", "m" before "n".
            spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Dict({"n": NINE, "m": NINE})}),
            {"b": 0, "a": {"n": np.array([5.0]), "m": np.array([6.0])}},
            [6, 5, 1, 0],
        ),
    ],
)
def test_vectors_by_hand(space: Any, value: Any, expected: list[float]) -> None:
    env = FlatObservation(Shows(space))
    flat = env.observation(value)
    np.testing.assert_array_equal(flat, expected)
    assert env.observation_space.shape == (len(expected),)


def test_an_observation_is_a_fresh_array() -> None:
    position = np.zeros(2, np.float32)
    env = FlatObservation(Shows(spaces.Dict({"position": spaces.Box(-1, 1, (2,))})))
    first = env.observation({"position": position})
    position[:] = 1.0
    np.testing.assert_array_equal(first, [0.0, 0.0])


def test_the_order_in_which_keys_are_listed_does_not_matter() -> None:
    space = spaces.Dict({"a": spaces.Box(0, 1, (1,)), "b": spaces.Box(2, 3, (1,))})
    for keys in (("a", "b"), ("b", "a"), ["b", "b", "a"]):
        env = FlatObservation(Shows(space), keys)
        assert env.obs_keys == ("a", "b")
        np.testing.assert_array_equal(env.observation_space.low, [0.0, 2.0])


def test_an_unknown_key_is_named_with_those_that_are_there() -> None:
    env = Shows(spaces.Dict({"joints": spaces.Box(0, 1, (1,)), "goal": spaces.Box(0, 1, (1,))}))
    with pytest.raises(ConfigError, match=r"\['gaol'\].*its keys are \['goal', 'joints'\]"):
        FlatObservation(env, ("joints", "gaol"))


def test_keys_for_an_observation_without_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match="have no keys"):
        FlatObservation(Shows(spaces.Discrete(3)), ("joints",))


TEXT = spaces.Text(8)
BOX = spaces.Box(0, 1, (1,))


@pytest.mark.parametrize(
    ("space", "where"),
    [
        (TEXT, "Text(1, 8"),
        (spaces.Sequence(BOX), "Sequence"),
        (spaces.Graph(BOX, None), "Graph"),
        (spaces.OneOf((BOX, BOX)), "OneOf"),
        (spaces.Dict({"a": BOX, "b": spaces.Tuple((BOX, TEXT))}), "(at 'b/1')"),
    ],
)
def test_spaces_without_a_vector_form_are_refused_naming_the_supported(
    space: spaces.Space[Any], where: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        FlatObservation(Shows(space))
    assert where in str(caught.value)
    assert "Supported are Box, Discrete, MultiDiscrete and MultiBinary, and Dict" in str(
        caught.value
    )


def test_a_text_that_is_not_among_the_chosen_keys_does_no_harm() -> None:
    env = FlatObservation(Shows(spaces.Dict({"joints": BOX, "task": TEXT})), ("joints",))
    assert env.observation_space.shape == (1,)
    assert unsupported_spaces(spaces.Dict({"joints": BOX, "task": TEXT})) != []


@pytest.mark.parametrize(
    "space", [TEXT, spaces.Tuple((BOX, BOX)), spaces.Dict({"a": BOX}), spaces.Sequence(BOX)]
)
def test_actions_that_are_no_arrays_are_refused_naming_the_supported(space: Any) -> None:
    with pytest.raises(ConfigError, match="Supported are Box, Discrete, MultiDiscrete and Multi"):
        check_action_space(Shows(BOX, space))


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 2], start=[0, 1])]
)
def test_choices_that_do_not_begin_at_0_are_refused(space: Any) -> None:
    with pytest.raises(ConfigError, match="counts choices from 0"):
        check_action_space(Shows(BOX, space))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-1, 0]), np.array([1, 5]), dtype=np.float32),
        spaces.Box(-1, 1, (2, 2), np.float64),
        spaces.Box(0, 2, (2,), np.int32),
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 5]),
        spaces.MultiDiscrete([2, 5], start=[-1, 3]),
        spaces.MultiBinary(2),
    ],
)
def test_drawn_actions_lie_in_the_space_and_reach_its_ends(space: Any) -> None:
    actions: Array = sample_actions(space, 500, np.random.default_rng(0))
    assert actions.shape == (500, *space.shape)
    assert all(space.contains(action.astype(space.dtype)) for action in actions)
    again = sample_actions(space, 500, np.random.default_rng(0))
    np.testing.assert_array_equal(actions, again)
    flat = actions.reshape(500, -1).astype(np.float64)
    # 500 draws miss one of 5 values, or the outer tenth of an interval, with less than 1e-22.
    if np.dtype(space.dtype).kind == "f":
        low, high = space.low.flatten(), space.high.flatten()
        assert (flat.min(0) < low + (high - low) / 10).all()
        assert (flat.max(0) > high - (high - low) / 10).all()
    else:
        n_values = {
            spaces.Box: [3, 3],
            spaces.Discrete: [3],
            spaces.MultiDiscrete: [2, 5],
            spaces.MultiBinary: [2, 2],
        }
        assert [len(np.unique(column)) for column in flat.T] == n_values[type(space)]


def test_a_box_without_bounds_cannot_be_explored_at_random() -> None:
    with pytest.raises(ConfigError, match="declare the bounds"):
        sample_actions(spaces.Box(-np.inf, np.inf, (1,)), 1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (1,)), "declare the bounds"),
        (spaces.Box(-1, np.inf, (1,)), "declare the bounds"),
        (spaces.MultiDiscrete(np.full((2, 3), 4)), "one row"),
        (spaces.MultiBinary((2, 3)), "one row"),
        (spaces.Box(0, 3, (2,), np.int64), "a Box of int64.*MultiDiscrete"),
        (spaces.Box(-1, 1, (0,)), "holds no number"),
    ],
)
def test_actions_that_no_policy_can_choose_are_refused(space: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_action_space(Shows(BOX, space))


def test_random_actions_of_other_spaces_are_refused() -> None:
    with pytest.raises(ConfigError, match="supported are Box"):
        sample_actions(TEXT, 1, np.random.default_rng(0))


F32, F64 = np.finfo(np.float32).max, np.finfo(np.float64).max


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-F32, F32, (2,), np.float32),
        spaces.Box(np.array([-1, -3.4e38], np.float32), np.ones(2, np.float32)),
        spaces.Box(-F64, F64, (2,), np.float64),
    ],
)
def test_the_largest_float_is_no_bound(space: spaces.Box) -> None:
    for refuse in (
        lambda: check_action_space(Shows(BOX, space)),
        lambda: sample_actions(space, 1, np.random.default_rng(0)),
    ):
        with pytest.raises(
            ConfigError, match=r"has no bounds \(component \d runs from -\d.*Transf"
        ):
            refuse()


def test_what_an_unbounded_box_is_told_to_do_works() -> None:
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    env: Any = Shows(BOX, space)
    low, high = np.array([0, -2], np.float32), np.array([1, 2], np.float32)
    check_action_space(
        gym.wrappers.TransformAction(env, lambda action: action, spaces.Box(low, high))
    )


def test_a_component_is_named_by_its_place_in_the_dict_that_was_flattened() -> None:
    inner = spaces.Dict([("m", spaces.Box(0, 1, (2,))), ("n", spaces.Discrete(3))])
    env = FlatObservation(Shows(spaces.Dict([("arm", inner), ("goal", BOX)])))
    names = [component_name(env, i) for i in range(6)]
    paths = ["arm/m", "arm/m", "arm/n", "arm/n", "arm/n", "goal"]
    assert names == [f"component {i} ({path!r})" for i, path in enumerate(paths)]
    assert component_name(Shows(BOX), 0) == "component 0"
