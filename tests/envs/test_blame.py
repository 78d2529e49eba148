from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import pytest

from rlhf_gym.envs.blame import is_about_contract, is_renderers
from rlhf_gym.envs.make import make_env
from rlhf_gym.envs.sim_state import render_state
from rlhf_gym.errors import ConfigError, MissingDependencyError
from rlhf_gym.watch import _frame


@pytest.fixture(autouse=True)
def keep_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    before = set(gym.registry)
    yield
    for env_id in set(gym.registry) - before:
        del gym.registry[env_id]


def raised_within(module: str, error: Exception) -> Exception:
    """The error, as if code of this module had raised it."""
    scope: dict[str, Any] = {"__name__": module, "error": error}
    exec("def fail(*_, **__):\n    raise error", scope)
    try:
        scope["fail"]()
    except Exception as caught:
        return caught
    raise AssertionError


def raising(module: str, error: Exception) -> Any:
    scope: dict[str, Any] = {"__name__": module, "error": error}
    exec("def fail(*_, **__):\n    raise error", scope)
    return scope["fail"]


OWN_ERRORS = [
    RuntimeError("serial port /dev/ttyUSB0 is in use"),
    AttributeError("'Arm' object has no attribute 'motor'"),
    TypeError("turn() got an unexpected keyword argument 'speed'"),
    ImportError("firmware too old"),
    ValueError("no such joint"),
]


@pytest.mark.parametrize("error", OWN_ERRORS)
@pytest.mark.parametrize("mujoco_is_there", [True, False])
def test_a_constructors_own_error_is_never_called_the_renderers(
    error: Exception, mujoco_is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not mujoco_is_there:
        monkeypatch.delitem(__import__("sys").modules, "mujoco", raising=False)
    gym.register("Own-v0", entry_point=raising("my_envs", error), max_episode_steps=5)
    with pytest.raises((type(error), MissingDependencyError), match=str(error)[-20:]) as caught:
        make_env("Own-v0")
    assert "MuJoCo" not in str(caught.value)
    if not isinstance(error, ImportError):
        assert "Own-v0" in str(getattr(caught.value, "__notes__", caught.value))


@pytest.mark.parametrize(
    ("module", "error"),
    [
        ("mujoco.egl", AttributeError("'NoneType' object has no attribute 'eglQueryString'")),
        ("OpenGL.platform.egl", ImportError("Unable to load EGL library")),
        ("mujoco.gl_context", RuntimeError("invalid value for environment variable MUJOCO_GL")),
        ("gymnasium.envs.mujoco.mujoco_rendering", RuntimeError("MUJOCO_GL must be one of")),
    ],
)
def test_an_error_on_the_way_to_opengl_is_the_renderers(module: str, error: Exception) -> None:
    assert is_renderers(raised_within(module, error))
    gym.register("Sim-v0", entry_point=raising(module, error), max_episode_steps=5)
    with pytest.raises(MissingDependencyError, match="MuJoCo cannot draw with MUJOCO_GL='egl'"):
        make_env("Sim-v0")


def test_an_argument_error_is_about_the_arguments_that_were_passed_only() -> None:
    error = TypeError("Arm.__init__() got an unexpected keyword argument 'gravity'")
    gym.register("Arm-v0", entry_point=raising("my_envs", error), max_episode_steps=5)
    with pytest.raises(ConfigError, match="does not take one of the arguments"):
        make_env("Arm-v0", env_kwargs={"gravity": 9.81})
    with pytest.raises(TypeError, match="gravity"):
        make_env("Arm-v0", env_kwargs={"mass": 1.0})


def test_what_a_mujoco_robots_own_render_raises_stays_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = make_env("rlhf_gym/HalfCheetah-v0", render_mode="rgb_array")
    state = env.reset(seed=0)[1]["rlhf_gym.sim_state"]
    own = raising("my_envs", AttributeError("no attribute 'overlay'"))
    monkeypatch.setattr(env.unwrapped, "render", own)
    with pytest.raises(AttributeError, match="overlay"):
        render_state(env, state)
    theirs = raising("mujoco.renderer", RuntimeError("no context"))
    monkeypatch.setattr(env.unwrapped, "render", theirs)
    with pytest.raises(MissingDependencyError, match="MuJoCo cannot draw"):
        render_state(env, state)


def test_a_missing_render_is_told_from_one_that_calls_something_missing() -> None:
    class Blind(gym.Env[Any, Any]):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    class Half(Blind):
        def render(self):
            raise NotImplementedError("colour filter")

    with pytest.raises(ConfigError, match="has no `render`"):
        _frame(Blind())
    with pytest.raises(NotImplementedError, match="colour filter"):
        _frame(Half())


def test_only_gymnasiums_own_callers_speak_of_the_contract() -> None:
    wrong = ValueError("not enough values to unpack")
    assert not is_about_contract(raised_within("my_envs", wrong))  # this test called it, besides
