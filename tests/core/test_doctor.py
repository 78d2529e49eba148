from __future__ import annotations

import importlib.metadata
import io
import os
import shutil
import sqlite3
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from rlhf_gym import doctor
from rlhf_gym.doctor import Check, checks, exit_code, print_checks

Versions = Callable[..., None]


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> Versions:
    """Pretend that these distributions, and only these, are installed."""

    def pretend(**installed: str) -> None:
        def version(name: str) -> str:
            key = name.replace("-", "_")
            if key not in installed:
                raise importlib.metadata.PackageNotFoundError(name)
            return installed[key]

        monkeypatch.setattr(importlib.metadata, "version", version)

    return pretend


@pytest.fixture
def renderers(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[str]], None]:
    def pretend(working: set[str]) -> None:
        monkeypatch.setattr(doctor, "gl_works", lambda backend: backend in working)

    monkeypatch.setenv("MUJOCO_GL", "")
    return pretend


def test_every_part_is_checked_and_every_fault_has_a_remedy(
    renderers: Callable[[set[str]], None],
) -> None:
    renderers(set())
    found = checks()
    names = [check.name for check in found]
    assert len(names) == len(set(names))
    assert {
        *("python", "torch", "mujoco", "gymnasium", "pygame clash", "device", "threads"),
        *("renderer", "display", "video (PyAV)", "SQLite", "disk"),
    } <= set(names)
    for check in found:
        assert check.detail
        assert bool(check.remedy) == (check.status != "ok"), check


def test_the_dependencies_are_those_that_the_package_declares(versions: Versions) -> None:
    declared = {
        Requirement(text).name
        for text in importlib.metadata.requires("rlhf_gym") or []
        if "extra ==" not in text
    }
    versions()
    found = doctor._dependencies()
    assert {check.name for check in found} == declared | {"mujoco"}
    assert {check.status for check in found} == {"missing"}


@pytest.mark.parametrize(
    ("version", "status"),
    [("3.3.0", "ok"), ("3.3.0+local", "ok"), ("4.0.0", "warn"), ("2.0.0", "missing")],
)
def test_a_dependency_is_compared_with_what_is_needed_and_what_is_known(
    versions: Versions, version: str, status: str
) -> None:
    versions(mujoco=version)
    check = doctor._dependency(Requirement("mujoco>=3"))
    assert check.status == status
    assert check.remedy == ("" if status == "ok" else "pip install 'mujoco==3.3.0'")
    assert version in check.detail


def test_a_dependency_that_is_not_there_gets_the_command_that_adds_it(versions: Versions) -> None:
    versions()
    check = doctor._dependency(Requirement("gymnasium[mujoco]>=1.4,<2"))
    assert check.status == "missing"
    assert check.remedy == "pip install 'gymnasium[mujoco]<2,>=1.4'"


@pytest.mark.parametrize(
    ("installed", "status"),
    [
        ({}, "ok"),
        ({"pygame_ce": "2.5.8"}, "ok"),
        ({"pygame": "2.6.1"}, "warn"),
        ({"pygame": "2.6.1", "pygame_ce": "2.5.8"}, "warn"),
    ],
)
def test_two_distributions_of_pygame_are_noticed(
    versions: Versions, installed: dict[str, str], status: str
) -> None:
    versions(**installed)
    check = doctor._pygame_clash()
    assert check.status == status
    assert ("pip uninstall -y pygame" in check.remedy) == (status == "warn")


@pytest.mark.parametrize(
    ("working", "chosen", "status", "remedy"),
    [
        ({"egl", "osmesa"}, "", "ok", ""),
        ({"osmesa"}, "osmesa", "ok", ""),
        ({"osmesa"}, "egl", "warn", "export MUJOCO_GL=osmesa"),
        (set(), "", "warn", "apt-get install libegl1"),
    ],
)
def test_the_renderer_that_works_is_named(
    renderers: Callable[[set[str]], None],
    monkeypatch: pytest.MonkeyPatch,
    working: set[str],
    chosen: str,
    status: str,
    remedy: str,
) -> None:
    renderers(working)
    monkeypatch.setenv("MUJOCO_GL", chosen)
    check = doctor._renderer()
    assert check.status == status
    assert check.remedy.startswith(remedy)
    for backend in ("egl", "osmesa", "glfw"):
        assert f"{backend} {'works' if backend in working else 'does not'}" in check.detail


@pytest.mark.parametrize(("name", "status"), [("DISPLAY", "ok"), ("SDL_VIDEODRIVER", "warn")])
def test_only_a_display_server_counts_as_a_display(
    monkeypatch: pytest.MonkeyPatch, name: str, status: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for each in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "dummy")
    check = doctor._display()
    assert check.status == status
    assert f"{name}=dummy" in check.detail


@pytest.mark.parametrize(("threads", "status"), [("", "ok"), ("4", "ok"), ("5", "warn")])
def test_more_threads_than_cpus_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, threads: str, status: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    check = doctor._threads()
    assert check.status == status
    assert check.remedy == ("export OMP_NUM_THREADS=4" if status == "warn" else "")


def test_an_old_sqlite_is_missing_what_the_store_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._sqlite().status == "ok"
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 11, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.11.1")
    assert doctor._sqlite().status == "missing"


@pytest.mark.parametrize(("gib", "status"), [(4.9, "warn"), (5.1, "ok")])
def test_little_disk_space_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gib: float, status: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, int(gib * 2**30)))
    check = doctor._disk(tmp_path)
    assert check.status == status
    assert f"{gib:.1f} GiB" in check.detail


def test_without_pyav_only_mp4_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    check = doctor._video()
    assert check.status == "warn"
    assert check.remedy == "pip install 'rlhf_gym[video]'"


def test_a_torch_that_does_not_start_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    check = doctor._device()
    assert check.status == "missing"
    assert check.remedy == "pip install 'torch==2.13.0'"


OK = Check("a", "ok", "1.0")
WARN = Check("b", "warn", "[old] 0.9", "pip install 'b[x]'")
MISSING = Check("c", "missing", "not installed", "pip install c")


def test_only_what_training_needs_makes_the_exit_code_one() -> None:
    assert exit_code([OK, WARN]) == 0
    assert exit_code([OK, WARN, MISSING]) == 1


@pytest.mark.parametrize(
    ("found", "last"),
    [
        ([OK], "Everything is there."),
        ([OK, WARN], "Training works; the lines above say what else to add."),
        ([OK, WARN, MISSING], "c: pip install c"),
    ],
)
def test_remedies_are_printed_whole_below_the_table(found: list[Check], last: str) -> None:
    console = Console(file=io.StringIO(), width=60)
    print_checks(found, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.splitlines()[-1] == last
    for check in found:
        assert check.detail in text
        assert not check.remedy or f"{check.name}: {check.remedy}" in text.splitlines()
