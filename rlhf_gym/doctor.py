"""What this machine can do, what is missing, and the command that adds it.

Every check is a function that returns a `Check` and never raises: a doctor that falls ill on a sick
machine is of no use. "missing" is kept for what training needs; whatever only the viewer, `watch`
or a video needs is at most a warning.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_gym.files import whole_number
from rlhf_gym.gl import APT_PACKAGES, gl_works, has_display
from rlhf_gym.printing import Screen

__all__ = ["Check", "Status", "checks", "exit_code", "print_checks"]

Status = Literal["ok", "warn", "missing"]

_KNOWN_TO_WORK = {"torch": "2.13.0", "mujoco": "3.3.0"}
_OLDEST_PYTHON = (3, 11)
_OLDEST_SQLITE = (3, 12, 0)  # the first with synchronous=EXTRA, which keeps every answer
_LOW_DISK_GIB = 5.0
_STYLES: dict[Status, str] = {"ok": "green", "warn": "yellow", "missing": "bold red"}


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    status: Status
    """ok; warn: works, but not all of it, or not as measured; missing: training cannot run."""
    detail: str
    """What was found."""
    remedy: str = ""
    """The command or step that mends it; empty where nothing is wrong."""


def checks() -> list[Check]:
    """Examine this machine; takes some seconds, for renderers are really tried."""
    return [
        _python(),
        *_dependencies(),
        _pygame_clash(),
        _device(),
        _threads(),
        _renderer(),
        _display(),
        _video(),
        _sqlite(),
        _disk(Path.cwd()),
    ]


def exit_code(found: Sequence[Check]) -> int:
    """1 if anything that training needs is missing, else 0."""
    return int(any(check.status == "missing" for check in found))


def print_checks(found: Sequence[Check], console: Console | None = None) -> None:
    """Print a table of the findings, then the remedies as lines that can be copied."""
    console = console or Screen()
    table = Table(title="rlhf-gym doctor", title_justify="left", title_style="bold")
    table.add_column("check", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in found:
        status = Text(check.status, style=_STYLES[check.status])
        table.add_row(Text(check.name), status, Text(check.detail))
    console.print(table)
    ailing = [check for check in found if check.remedy]
    for check in ailing:
        line = f"{check.name}: {check.remedy}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if all(check.status == "ok" for check in found):
        console.print("Everything is there.", highlight=False)
    elif not exit_code(found):
        console.print("Training works; the lines above say what else to add.", highlight=False)


def _python() -> Check:
    detail = f"{platform.python_version()} ({platform.system()} {platform.machine()})"
    if sys.version_info[:2] >= _OLDEST_PYTHON:
        return Check("python", "ok", detail)
    return Check("python", "missing", detail, "install Python 3.11 or newer")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _dependencies() -> list[Check]:
    """What the installed rlhf_gym itself declares, extras left out, and MuJoCo."""
    declared = importlib.metadata.requires("rlhf_gym") or []
    requirements = [Requirement(text) for text in declared]
    required = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not any(r.name == "mujoco" for r in required):
        required.append(Requirement("mujoco"))  # comes with gymnasium[mujoco]
    return [_dependency(requirement) for requirement in required]


def _dependency(requirement: Requirement) -> Check:
    name, version = requirement.name, _version(requirement.name)
    accepted = str(requirement.specifier) or "any version"
    known = _KNOWN_TO_WORK.get(name)
    install = f"pip install '{name}=={known}'" if known else f"pip install '{requirement}'"
    if version is None:
        return Check(name, "missing", f"not installed; needs {accepted}", install)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(name, "missing", f"{version}; needs {accepted}", install)
    if known and version.split("+")[0] != known:
        detail = f"{version}; {known} is the version that results were measured with"
        return Check(name, "warn", detail, install)
    return Check(name, "ok", version)


def _pygame_clash() -> Check:
    """Both distributions install the module `pygame`; which one wins depends on the order."""
    if _version("pygame") is None:
        return Check("pygame clash", "ok", "only pygame-ce, or neither, is installed")
    remedy = "pip uninstall -y pygame pygame-ce && pip install pygame-ce"
    if _version("pygame-ce") is None:
        return Check("pygame clash", "warn", "pygame is installed instead of pygame-ce", remedy)
    return Check("pygame clash", "warn", "pygame and pygame-ce overwrite each other", remedy)


def _device() -> Check:
    try:
        import torch

        if not torch.cuda.is_available():
            return Check("device", "ok", "CPU (no CUDA device)")
        properties = torch.cuda.get_device_properties(0)
        gib = properties.total_memory / 2**30
        n = torch.cuda.device_count()
        return Check("device", "ok", f"cuda: {n} x {properties.name}, {gib:.0f} GiB, and CPU")
    except (ImportError, OSError, RuntimeError) as error:
        remedy = f"pip install 'torch=={_KNOWN_TO_WORK['torch']}'"
        return Check("device", "missing", f"torch does not start: {_one_line(error)}", remedy)


def _n_cpus() -> int:
    """CPUs this process may use: fewer than the machine has where it is confined."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads() -> Check:
    n_cpus = _n_cpus()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    detail = f"{n_cpus} CPUs, OMP_NUM_THREADS {wanted or 'not set'}"
    if (whole_number(wanted) or 0) > n_cpus:
        detail += ": more threads than CPUs slow each other down"
        return Check("threads", "warn", detail, f"export OMP_NUM_THREADS={n_cpus}")
    return Check("threads", "ok", detail)


def _renderer() -> Check:
    works = {backend: gl_works(backend) for backend in APT_PACKAGES}
    detail = ", ".join(f"{name} {'works' if ok else 'does not'}" for name, ok in works.items())
    chosen = os.environ.get("MUJOCO_GL", "")
    if chosen:
        detail += f"; MUJOCO_GL={chosen}"
    if not any(works.values()):
        remedy = f"apt-get install {APT_PACKAGES['egl']}  (or {APT_PACKAGES['osmesa']})"
        return Check("renderer", "warn", f"{detail}; needed by `watch` and `label`", remedy)
    if chosen and not works.get(chosen, False):
        best = next(name for name, ok in works.items() if ok)
        return Check("renderer", "warn", detail, f"export MUJOCO_GL={best}")
    return Check("renderer", "ok", detail)


def _display() -> Check:
    names = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    given = ", ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))
    if has_display():
        return Check("display", "ok", given or "the system's own")
    detail = f"none{f' ({given})' if given else ''}; the windows of `label` and `watch` need one"
    remedy = "log in with `ssh -X`, or see the agent with `rlhf-gym watch DIR --video agent.mp4`"
    return Check("display", "warn", detail, remedy)


def _video() -> Check:
    try:
        import av

        av.Codec("libx264", "w")
    except (ImportError, OSError, ValueError) as error:
        remedy = "pip install 'rlhf_gym[video]'"
        detail = f"{_one_line(error)}; only .mp4 needs it, .gif does not"
        return Check("video (PyAV)", "warn", detail, remedy)
    return Check("video (PyAV)", "ok", str(av.__version__))


def _sqlite() -> Check:
    found = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info >= _OLDEST_SQLITE:
        return Check("SQLite", "ok", found)
    needs = ".".join(map(str, _OLDEST_SQLITE))
    remedy = "use a Python built with a newer SQLite"
    return Check("SQLite", "missing", f"{found}; needs {needs} or newer", remedy)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 2**30
    detail = f"{free:.1f} GiB free in the current folder"
    if free < _LOW_DISK_GIB:
        remedy = "make room, or train elsewhere with `rlhf-gym train --out DIR`"
        return Check("disk", "warn", f"{detail}; runs keep clips and checkpoints", remedy)
    return Check("disk", "ok", detail)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
