"""What a result was made with: versions, commit, source, machine, command."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["commit_of", "provenance"]

_PACKAGES = ("rlhf_gym", "torch", "numpy", "gymnasium", "stable_baselines3", "mujoco")


def provenance(command: list[str] | None = None) -> dict[str, Any]:
    """What a result was made with; names no host, no user and no absolute path.

    Args:
        command: The command line, program first; None takes this process's own.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    program, *arguments = sys.argv if command is None else command
    name = "python -m rlhf_gym" if Path(program).name == "__main__.py" else Path(program).name
    return {
        "versions": versions,
        "git": _git_state(),
        "source_sha256": _source_sha256(),
        "machine": _machine(),
        "command": " ".join([name, *map(_without_absolute_path, arguments)]),
        "time_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def commit_of(git: Mapping[str, Any] | None) -> str | None:
    """What stands under `git`, in one word: "-dirty" behind it where there were changes.

    >>> commit_of({"commit": "4faa3d6", "dirty": True})
    '4faa3d6-dirty'
    """
    return f"{git['commit']}{'-dirty' * git['dirty']}" if git else None


def _without_absolute_path(argument: str) -> str:
    """Shorten an absolute path in an argument: they name users and machines."""
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return argument
    inside = path.is_relative_to(Path.cwd())
    return f"{option}{equals}{path.relative_to(Path.cwd()) if inside else path.name}"


def _git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout this package is part of; None outside of one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Installed below some other project's checkout, that project's commit is not ours.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        # What measurements wrote is not the code that they are made with.
        changed = git("status", "--porcelain", "--", ":/", ":(top,exclude)benchmarks/results")
        dirty = bool(changed) or not _is_one_checkout(Path(git("rev-parse", "--show-toplevel")))
        return {"commit": git("rev-parse", "HEAD"), "dirty": dirty}
    except (OSError, subprocess.SubprocessError):
        return None


def _is_one_checkout(root: Path) -> bool:
    """Whether all rooms lie in it: with PYTHONPATH set to another clone, some may be installed."""
    return all(home is not None and root.resolve() in home.parents for home in _room_files())


def _room_files() -> list[Path | None]:
    specs = [
        importlib.util.find_spec(f"rlhf_gym.{room}") for room in ("agents", "envs", "feedback")
    ]
    return [Path(spec.origin).resolve() if spec and spec.origin else None for spec in specs]


def _source_sha256() -> str:
    """sha256 of our code as it lies on disk, the tables of settings included.

    A commit says too little where there are changes, and too much where only a document changed.
    """
    package = Path(__file__).parent
    rooms = {file.parent: f"{file.parent.name}/" for file in _room_files() if file is not None}
    # An installed package holds the rooms: by their names they count once.
    files = {
        prefix + path.relative_to(folder).as_posix(): path
        for folder, prefix in {package: "", **rooms}.items()
        for path in folder.rglob("*")
        if path.suffix in (".py", ".yml") and path.is_file()  # an editor's lock is a dead link
    }
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes() + b"\0")
    return digest.hexdigest()


def _machine() -> dict[str, Any]:
    cpu = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    ram_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu or platform.machine(),  # ARM names no model
        "n_cores": len(os.sched_getaffinity(0)),
        "ram_gib": round(ram_bytes / 2**30, 1),
        "platform": f"{platform.system()} {platform.machine()}",
    }
