"""Files that one process holds, as the kernel knows it.

Who holds one is asked of the kernel, never of the number that stands in the file: the lock of a
process that died is free at once, its number may be another's by now, and a file may hold anything.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rlhf_gym.errors import RunLockedError
from rlhf_gym.files import whole_number
from rlhf_gym.links import open_in_place

__all__ = ["is_locked", "lock_file"]

# Who only looks (`is_locked`) holds a lock for microseconds, and must keep nobody from taking it.
_PATIENCE_SECONDS = 0.5
_POLL_SECONDS = 0.01


@contextmanager
def lock_file(path: Path, taken: Callable[[str], str]) -> Iterator[None]:
    """Hold a lock file for the block; our process id stands in it meanwhile, and after.

    Args:
        path: The file; made if missing.
        taken: Says, given the holder's process id, what to raise where somebody holds it.

    Raises:
        RunLockedError: another process holds it.
        CorruptDataError: it is a link, a pipe or a device.
    """
    with open_in_place(path) as file:
        if not _acquired(file):
            raise RunLockedError(taken(_holder(file)))
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())
        file.flush()
        yield


def is_locked(path: Path) -> bool:
    """Whether a living process holds a lock file. What is no file is held by nobody."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags)
    except OSError:
        return False
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # ends with the descriptor
        return False
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks: nobody trains there either
        return False
    finally:
        os.close(descriptor)


def _acquired(file: BinaryIO) -> bool:
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_SECONDS)


def _holder(file: BinaryIO) -> str:
    number = whole_number(file.read(64).decode("ascii", "replace").strip())
    return "unknown" if number is None else str(number)
