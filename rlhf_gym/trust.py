"""Whose code a run may bring: modules that its configuration names, and where they are looked for.

A run folder may come from anybody, and its config.yaml may name modules: to import them is to run
them. That is done without asking for runs that `train` made here, and for others once somebody says
so. Which runs were made here stands outside of them, in the user's own state folder.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_gym.documents import parse_json
from rlhf_gym.errors import UntrustedError
from rlhf_gym.files import write_bytes
from rlhf_gym.reading import read_bytes
from rlhf_gym.runs import Run, is_run

__all__ = [
    "is_made_here",
    "module_file",
    "remember_made_here",
    "require_trust",
    "search_current_folder",
    "state_folder",
    "untrusted",
]

_MOST_BYTES = 65_536  # of what is remembered of one run
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def require_trust(run: Run, named: Mapping[str, str]) -> None:
    """Refuse a run that names modules and was not made here. Nothing is imported to find out.

    Args:
        run: The run.
        named: Option -> import string, as `TrainConfig.named_modules` gives them.

    Raises:
        UntrustedError: naming each module, the file it would be loaded from, and what to do.
    """
    if named and not is_made_here(run):
        raise untrusted(f"{run.folder}, which was not made here by `rlhf-gym train`,", named)


def untrusted(who: str, named: Mapping[str, str]) -> UntrustedError:
    """The error to raise where somebody else's folder names modules."""
    parts = ", ".join(
        f"`{option}`: {text!r} ({_would_load(text)})" for option, text in named.items()
    )
    return UntrustedError(
        f"{who} asks for code that is not part of rlhf_gym: {parts}. It would run with your "
        "rights, and none of it was loaded. Read it; if you would start it as a program of your "
        "own, repeat the command with `--trust`, in Python with `trust=True`. Figures, answers and "
        "clips can be looked at without it: `rlhf-gym report`, `labels`, `export`."
    )


def _would_load(import_string: str) -> str:
    module = import_string.rpartition(":")[0]
    found = module_file(module)
    return f"{found}" if found else f"there is no module {module!r} here"


def module_file(name: str) -> str | None:
    """The file that importing a module would run; of a package within others, the innermost.

    Neither it nor the packages around it are imported. The current folder is looked through last.
    """
    found: str | None = None
    places: Sequence[str] | None = None
    parts = name.split(".")
    if not all(map(str.isidentifier, parts)):
        return None
    for n in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:n]), places)
        if spec is None:
            break
        places = spec.submodule_search_locations
        found = spec.origin or (places[0] if places else None)
        if places is None:
            break
        places = list(places)
    return found


def _spec(name: str, places: Sequence[str] | None) -> Any:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is not None and (spec := find(name, places)) is not None:
            return spec
    if places is None:
        return importlib.machinery.PathFinder.find_spec(name, [os.getcwd()])
    return None


def search_current_folder(named: Mapping[str, str]) -> None:
    """Let own modules be found where one stands, after everything that is installed.

    Where nothing is named the folder is not looked through: it may hold a stranger's `yaml.py`. A
    run folder never is: what lies there came with the run.
    """
    here = Path.cwd()
    if named and str(here) not in sys.path and not any(map(is_run, (here, *here.parents))):
        sys.path.append(str(here))


def state_folder() -> Path:
    """Where we remember what no folder that is passed on may say about itself.

    Raises:
        OSError: nobody knows where the home folder is.
    """
    root = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not root.is_absolute():  # such a value is void, says the XDG specification
        try:
            root = Path.home() / ".local" / "state"
        except RuntimeError as error:
            raise OSError(str(error)) from error
    return root / "rlhf_gym"


def remember_made_here(run: Run) -> None:
    """Remember that `train` made this run, at this place, with this config.yaml.

    Raises:
        OSError: the state folder cannot be written.
    """
    path = _memory_of(run)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_bytes(path, json.dumps(_identity(run)).encode() + b"\n", mode=0o600)


def is_made_here(run: Run) -> bool:
    """Whether `train` made this run at this place, and its config.yaml is still the same."""
    try:
        path = _memory_of(run)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_BY_OTHERS:
                return False
            remembered = parse_json(file.read(_MOST_BYTES), f"`{path}`")
        return bool(remembered == _identity(run))
    except (OSError, ValueError, RecursionError):
        return False


def _memory_of(run: Run) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(run.folder))).hexdigest()
    return state_folder() / "runs" / f"{name}.json"


def _identity(run: Run) -> dict[str, str]:
    return {
        "folder": os.path.realpath(run.folder),
        "config_sha256": hashlib.sha256(read_bytes(run.config_path)).hexdigest(),
    }
