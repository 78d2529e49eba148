from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from rlhf_gym import gl
from rlhf_gym.errors import MissingDependencyError
from rlhf_gym.gl import choose_gl, gl_works


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without display whose renderer nobody chose."""
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(name, "")
    return monkeypatch


@pytest.mark.parametrize(
    ("working", "chosen"), [({"egl", "osmesa"}, "egl"), ({"osmesa"}, "osmesa")]
)
def test_the_first_renderer_that_works_is_chosen(
    bare: pytest.MonkeyPatch, working: set[str], chosen: str
) -> None:
    bare.setattr(gl, "gl_works", lambda backend: backend in working)
    assert choose_gl() == chosen
    assert os.environ["MUJOCO_GL"] == chosen


def test_without_any_renderer_the_message_says_what_to_install(bare: pytest.MonkeyPatch) -> None:
    bare.setattr(gl, "gl_works", lambda backend: False)
    with pytest.raises(MissingDependencyError, match=r"apt-get install libegl1.*libosmesa6"):
        choose_gl()
    assert os.environ["MUJOCO_GL"] == ""


@pytest.mark.parametrize(
    ("name", "value", "result"), [("MUJOCO_GL", "glfw", "glfw"), ("DISPLAY", ":0", None)]
)
def test_a_choice_or_a_display_that_is_there_is_left_alone(
    bare: pytest.MonkeyPatch, name: str, value: str, result: str | None
) -> None:
    def never(backend: str) -> bool:
        raise AssertionError("a renderer was tried")

    bare.setattr(gl, "gl_works", never)
    bare.setenv(name, value)
    assert choose_gl() == result
    assert os.environ["MUJOCO_GL"] == (value if name == "MUJOCO_GL" else "")


def test_a_renderer_is_tried_once_and_a_hanging_one_does_not_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def run(command: list[str], *, env: dict[str, str], timeout: float, **_: Any) -> Any:
        tried.append(env["MUJOCO_GL"])
        if env["MUJOCO_GL"] == "egl":
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, -11, stdout=b"rendered\n")

    monkeypatch.setattr(subprocess, "run", run)
    gl_works.cache_clear()
    try:
        assert [gl_works("egl"), gl_works("osmesa"), gl_works("egl")] == [False, True, False]
    finally:
        gl_works.cache_clear()
    assert tried == ["egl", "osmesa"]


def test_a_renderer_that_does_not_exist_does_not_work() -> None:
    assert gl_works("no-such-renderer") is False


@pytest.mark.parametrize(
    ("working", "chosen"),
    [({"egl", "glfw"}, "egl"), ({"osmesa", "glfw"}, "osmesa"), ({"glfw"}, "glfw")],
)
def test_without_a_window_a_display_comes_last(
    bare: pytest.MonkeyPatch, working: set[str], chosen: str
) -> None:
    bare.setenv("DISPLAY", ":0")
    bare.setattr(gl, "gl_works", lambda backend: backend in working)
    assert choose_gl(window=False) == chosen


def test_a_display_without_opengl_is_named(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("DISPLAY", ":0")
    bare.setattr(gl, "gl_works", lambda backend: False)
    with pytest.raises(MissingDependencyError, match=r"the display offers no OpenGL.*libegl1"):
        choose_gl(window=False)


def test_where_there_is_only_one_way_to_draw_nothing_is_tried(bare: pytest.MonkeyPatch) -> None:
    bare.setattr("sys.platform", "darwin")
    bare.setattr(gl, "gl_works", lambda backend: pytest.fail("a renderer was tried"))
    assert choose_gl(window=False) is None
