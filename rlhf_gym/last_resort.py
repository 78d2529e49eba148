"""How a command ends that cannot go on: one sentence for people, a traceback for its author.

Exit statuses: 2, what was given cannot be used (an option, a file, a folder); 70, a fault of
rlhf_gym (`RLHF_GYM_TRACEBACK=1` shows where); 1, a fault in the caller's own env, teacher or model,
with its traceback; 130, Ctrl-C; 141, whoever read the output has closed it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import sqlite3
import struct
import sys
import sysconfig
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from rlhf_gym.errors import RlhfGymError
from rlhf_gym.printing import printable, say
from rlhf_gym.reading import last_read

__all__ = ["one_sentence"]

_TRACEBACK = "RLHF_GYM_TRACEBACK"
_LONGEST = 2000
# What libraries raise on files that are damaged or forged. The names below are of packages that are
# loaded only where they are used.
_OF_INPUT = (
    EOFError, MemoryError, OverflowError, RecursionError, UnicodeError, sqlite3.Error,
    struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_OF_INPUT_BY_NAME = {"ArrowException", "JSONDecodeError", "SafetensorError", "YAMLError"}


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Turn whatever is raised inside into an exit status and one message on standard error.

    Raises:
        SystemExit: see the module.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()  # what cannot be written is found out here, not at Python's exit
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # What is still buffered cannot be written either, and Python would say so at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            _print_traceback(error)
            raise SystemExit(_status(error)) from error
        if not isinstance(error, RlhfGymError) and (own := _own_code(error.__traceback__)):
            _print_traceback(error)
            say(f"rlhf-gym: the error arose in your own code, {own}.", file=sys.stderr)
            raise SystemExit(1) from error
        say(f"rlhf-gym: {_message(error)}", file=sys.stderr)
        raise SystemExit(_status(error)) from error


def _print_traceback(error: BaseException) -> None:
    say("".join(traceback.format_exception(error)).rstrip(), file=sys.stderr)


def _status(error: Exception) -> int:
    return 2 if isinstance(error, (RlhfGymError, OSError)) or _is_of_input(error) else 70


def _is_of_input(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, _OF_INPUT) or bool(names & _OF_INPUT_BY_NAME)


def _message(error: Exception) -> str:
    if isinstance(error, (RlhfGymError, OSError)):
        return _shortened(str(error))
    what = _shortened(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    path = last_read()
    file = f"; the last file that was read is `{path}`" if path is not None else ""
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({what}){file}. Take less at once, or a larger machine."
    if _is_of_input(error):
        return (
            f"what was given cannot be used ({what}){file}. Restore it from a copy if it is "
            f"damaged; {_TRACEBACK}=1 in the environment shows where it failed."
        )
    return (
        f"this is a bug in rlhf_gym: {what}{file}. Run it again with {_TRACEBACK}=1 in the "
        "environment to see where, and report that."
    )


def _shortened(text: str) -> str:
    # A library's message may quote all of a file.
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 20]} ... (shortened)"


def _own_code(trace: TracebackType | None) -> str:
    """Where the caller's own code stands in a traceback, "" where it does not.

    Own is what neither rlhf_gym, nor Python, nor a package that rlhf_gym depends on holds.
    """
    place = ""
    for frame in traceback.extract_tb(trace):
        path = Path(frame.filename)
        if path.is_absolute() and path.exists() and not _is_known(path.resolve()):
            place = f"{path}, line {frame.lineno}"
    return place


def _is_known(path: Path) -> bool:
    for folder in (Path(entry).resolve() for entry in sys.path if entry.endswith("-packages")):
        if path.is_relative_to(folder):
            return path.relative_to(folder).parts[0].removesuffix(".py") in _known_packages()
    homes = [Path(sysconfig.get_paths()["stdlib"]), *_roots()]
    return any(path.is_relative_to(home.resolve()) for home in homes)


def _roots() -> list[Path]:
    """Where the four rooms of rlhf_gym lie."""
    import rlhf_gym

    package = Path(rlhf_gym.__file__).parent
    rooms = (sys.modules.get(f"rlhf_gym.{room}") for room in ("agents", "envs", "feedback"))
    return [package, *(Path(room.__file__).parent for room in rooms if room and room.__file__)]


def _known_packages() -> set[str]:
    """Top-level modules of rlhf_gym and of all that it depends on, extras included."""
    seen: set[str] = set()
    waiting = ["rlhf_gym"]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for needed in importlib.metadata.requires(name) or []:
                waiting.append(re.split(r"[^A-Za-z0-9._-]", needed, maxsplit=1)[0])
    return {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if any(re.sub(r"[-_.]+", "-", owner).lower() in seen for owner in owners)
    }
