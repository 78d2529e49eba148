from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlhf_gym.envs.contract import ContractCheck, try_env
from rlhf_gym.envs.make import make_env
from rlhf_gym.envs.preference_ready import make_preference_ready
from rlhf_gym.errors import ConfigError, DataError, NumericalError, RlhfGymError

# Gymnasium's own checker says some of it too, and goes on.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

ONES = np.ones(2, np.float32)
BOX = spaces.Box(-9, 9, (2,), np.float32)


class Told(gym.Env[Any, Any]):
    """Returns what it was told to."""

    observation_space = BOX
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    first: Any = (ONES, {})
    then: Any = (ONES, 0.5, False, False, {})

    def __init__(self, **_: Any) -> None:
        self.n_steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.first

    def step(self, action):
        self.n_steps += 1
        return self.then(self.n_steps) if callable(self.then) else self.then


@pytest.fixture(autouse=True)
def keep_registry() -> Iterator[None]:
    before = set(gym.registry)
    yield
    for env_id in set(gym.registry) - before:
        del gym.registry[env_id]


def told(base: type = Told, **attributes: Any) -> Callable[[], gym.Env[Any, Any]]:
    """Registers such an env and makes it as a run does, through all of Gymnasium's wrappers."""
    kind = type("ToldEnv", (base,), attributes)
    gym.register("Told-v0", entry_point=kind, max_episode_steps=50)
    return lambda: make_env("Told-v0")


def after(*values: Any) -> tuple[Any, ...]:
    usual: list[Any] = list(Told.then)
    usual[: len(values)] = values
    return tuple(usual)


NAMED = spaces.Dict({"arm": BOX, "gripper": spaces.Discrete(2)})

WRONG_RESETS = [
    ({"first": ([1.0, 1.0], {})}, r"observation \[1.0, 1.0\] \(list\); expected.*\(2,\).*float32"),
    ({"first": (np.ones(3, np.float32), {})}, r"shape \(3,\).*expected.*shape \(2,\)"),
    ({"first": (np.ones((1, 2), np.float32), {})}, r"shape \(1, 2\)"),
    ({"first": (np.array(["a", "b"]), {})}, r"dtype <U1"),
    ({"first": (np.ones(2, object), {})}, r"dtype object"),
    ({"first": (None, {})}, r"observation None"),
    ({"first": ONES}, r"returned of shape \(2,\).*expected is a tuple of 2"),
    ({"first": None}, r"returned None; expected is a tuple of 2"),
    ({"first": (ONES, {}, {})}, r"returned 3 values; expected is a tuple of 2"),
    ({"first": (ONES, None)}, r"info.*None"),
    ({"observation_space": NAMED, "first": ({"arm": ONES}, {})}, r"without the keys \['gripper'\]"),
    ({"observation_space": NAMED, "first": (ONES, {})}, r"a dict with the keys"),
    (
        {"observation_space": NAMED, "first": ({"arm": ONES, "gripper": 2}, {})},
        r"2 \(int\) \(at 'gripper'\).*Discrete\(2\)",
    ),
    ({"observation_space": spaces.Box(0, 9, (2,), np.int64)}, r"dtype float32.*dtype int64"),
    ({"observation_space": spaces.Box(0, 9, (2,), np.uint8), "first": (np.array([300, 1]), {})},
     r"dtype int64.*dtype uint8"),
    ({"observation_space": spaces.Tuple([BOX, BOX]), "first": ((ONES,), {})}, r"a tuple of 2"),
]  # fmt: skip


@pytest.mark.parametrize(("attributes", "message"), WRONG_RESETS)
def test_a_reset_that_breaks_the_contract_is_refused_by_name(attributes, message: str) -> None:
    make = told(**attributes)
    with pytest.raises(DataError, match=rf"(?s)^Told-v0: `reset` .*{message}|info") as caught:
        try_env(make())
    assert "\n" not in str(caught.value)


WRONG_STEPS = [
    (after(ONES, np.array([0.5])), r"reward of shape \(1,\).*expected is one number"),
    (after(ONES, None), r"reward None"),
    (after(ONES, "0.5"), r"reward '0.5' \(str\)"),
    (after(ONES, 1j), r"reward 1j \(complex\)"),
    (after(ONES, [0.5]), r"reward \[0.5\] \(list\)"),
    (after(ONES, 0.5, None), r"terminated = None.*True or False"),
    (after(ONES, 0.5, "no"), r"terminated = 'no' \(str\)"),
    (after(ONES, 0.5, False, np.array([False])), r"truncated = of shape \(1,\)"),
    (after(ONES, 0.5, False, 7), r"truncated = 7 \(int\)"),
    (after(ONES, 0.5, False, False, None), r"(info|dictionary).*None"),
    (after(ONES, 0.5, False, False, []), r"(info|dictionary).*list"),
    (after([1.0, 1.0]), r"observation \[1.0, 1.0\] \(list\)"),
    (after(None), r"observation None"),
    (after(np.ones(3, np.float32)), r"observation of shape \(3,\)"),
    ((ONES, 0.5, False, {}), r"expected 5, got 4"),
    ((ONES, 0.5, False), r"number of elements returned: 3"),
    (list(after()), r"tuple.*list"),
    (None, r"tuple.*None"),
    (after(ONES, 0.5, False, False, {"episode": 3}), r"3 \(int\) under `episode`.*another name"),
    (after(ONES, 0.5, False, False, {"episode": {"r": 1.0, "l": 3}}), r"under `episode`"),
]


@pytest.mark.parametrize(("values", "message"), WRONG_STEPS)
@pytest.mark.parametrize("through_gymnasium", [True, False])
def test_a_step_that_breaks_the_contract_is_refused_by_name(
    values, message: str, through_gymnasium: bool
) -> None:
    make = told(then=values)
    if not through_gymnasium:
        bare = type("ToldEnv", (Told,), {"then": values})
        make = lambda: ContractCheck(bare())  # noqa: E731
        message = message if "`episode`" in message or "reward" in message else ""
    name = "Told-v0" if through_gymnasium else "ToldEnv"
    with pytest.raises(DataError, match=rf"(?s)^{name}: `step` .*{message}"):
        try_env(make())


class OldReset(Told):
    def reset(self):  # type: ignore[override]
        return self.first


class NoOptions(Told):
    def reset(self, seed=None):  # type: ignore[override]
        return self.first


@pytest.mark.parametrize(("base", "missing"), [(OldReset, "seed"), (NoOptions, "options")])
def test_a_reset_that_takes_no_seed_or_options_is_refused(base: type, missing: str) -> None:
    make = told(base)
    with pytest.raises(DataError, match=rf"^Told-v0: `reset` .*argument '{missing}'.*expected is"):
        try_env(make())
    with pytest.raises(DataError, match=rf"`reset` .*argument '{missing}'"):
        make_preference_ready(base(), horizon=5).reset(seed=0)


@pytest.mark.parametrize("attributes", [{"action_space": None}, {"observation_space": None}])
def test_a_space_that_is_none_is_refused_when_the_env_is_made(attributes) -> None:
    with pytest.raises(ConfigError, match=r"Told-v0 cannot be made: .*space"):
        told(**attributes)()


def test_numbers_that_are_not_finite_are_refused_before_a_run() -> None:
    for values, message in (
        (after(ONES * np.nan), "`step` returned a non-finite observation"),
        (after(ONES, float("nan")), "`step` returned the true reward nan"),
        (after(ONES, -np.inf), "`step` returned the true reward -inf"),
    ):
        make = told(then=values)
        with pytest.raises(NumericalError, match=rf"^Told-v0: {message}"):
            try_env(make())


@pytest.mark.parametrize(
    "values",
    [
        after(ONES, 1),
        after(ONES, np.float32(1)),
        after(ONES, np.int64(1)),
        after(ONES, np.array(1.0)),
        after(ONES, True),
        after(ONES, 0.5, np.bool_(False), 0),
        after(ONES.astype(np.float64)),
        after(ONES.astype(np.int64)),
        after(100 * ONES),  # outside of its bounds: common, and harmless
        after(ONES, 0.5, True, False, {"episode": {"r": 1.0, "l": 1, "t": 0.1}}),
    ],
)
def test_what_does_no_harm_passes(values) -> None:
    make = told(then=values)
    env = make()
    try_env(env)
    if not values[2]:
        for _ in range(9):  # beyond the steps that are looked at thoroughly
            obs, reward = env.step(env.action_space.sample())[:2]
            assert obs is values[0] and reward is values[1]


@pytest.mark.parametrize(
    "values",
    [
        after([1.0, 1.0]),
        after(np.ones(3, np.float32)),
        after(ONES, np.array([0.5])),
        after(ONES, None),
        after(ONES, 0.5, False, False, None),
        after(ONES, 0.5, False, False, {"episode": 3}),
        (ONES, 0.5, False, {}),
    ],
)
def test_what_breaks_later_is_noticed_as_well(values) -> None:
    make = told(then=lambda self, n: values if n == 20 else after())
    env = make()
    env.reset()
    for _ in range(19):
        env.step(env.action_space.sample())
    with pytest.raises(DataError, match=r"^Told-v0: `step`"):
        env.step(env.action_space.sample())


def test_an_error_of_the_envs_own_stays_itself_and_says_whose_it_is() -> None:
    class Jams(Told):
        def step(self, action):
            if self.n_steps == 7:
                self.motor.turn()  # type: ignore[attr-defined]
            return super().step(action)

    env = told(Jams)()
    env.reset()
    with pytest.raises(AttributeError, match="motor") as caught:
        for _ in range(9):
            env.step(env.action_space.sample())
    shown = "".join(traceback.format_exception(caught.value))
    assert "self.motor.turn()" in shown
    assert "raised by `step` of Told-v0, in the env's own code" in shown


@pytest.mark.parametrize(
    "error", [TypeError, ValueError, AssertionError, KeyError, ZeroDivisionError]
)
def test_what_the_envs_own_code_raises_is_never_taken_for_a_broken_contract(error: type) -> None:
    def broken(self, **_):
        raise error("mine")

    for method in ("reset", "step"):
        env = told(**{method: lambda self, *_, **__: broken(self)})()
        with pytest.raises(error, match="mine") as caught:
            env.reset()
            env.step(env.action_space.sample())
        assert not isinstance(caught.value, RlhfGymError)


def test_a_step_before_the_first_reset_is_still_gymnasiums_error() -> None:
    with pytest.raises(gym.error.ResetNeeded):
        told()().step(np.zeros(1, np.float32))


def test_trying_an_env_draws_nothing_from_its_spaces() -> None:
    env = told()()
    env.action_space.seed(3)
    expected = [env.action_space.sample() for _ in range(3)]
    env.action_space.seed(3)
    try_env(env)
    np.testing.assert_array_equal([env.action_space.sample() for _ in range(3)], expected)
