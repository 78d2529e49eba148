"""Folders that may come from somebody else: no link in them is followed, and no pipe is opened.

The folder itself may be a link, or lie behind one: where it is, is its owner's choice. What stands
in it came with it. A hard link cannot be told from a file, and is none that an archive could bring
from outside; see docs/trust.md for what is promised.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from rlhf_gym.errors import CorruptDataError

__all__ = ["create_file", "kind_of", "open_in_place", "refuse_links"]

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC


def kind_of(mode: int) -> str:
    """What is no regular file and no folder, in words, by its `st_mode`."""
    return _KINDS.get(stat.S_IFMT(mode), "no file")


def refuse_links(folder: Path, patterns: Iterable[str]) -> None:
    """Look through what a folder holds, whole trees of it, before anything there is used.

    Args:
        folder: May be a link itself, or be missing.
        patterns: Names of entries, `*` allowed; others are not looked at.

    Raises:
        CorruptDataError: one of them, or something below it, is neither a file nor a folder, such
            as a link.
    """
    wanted = tuple(patterns)
    waiting = [e for e in _entries(folder) if any(fnmatchcase(e.name, p) for p in wanted)]
    while waiting:
        entry = waiting.pop()
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
        except FileNotFoundError:  # a trainer removes its old checkpoints at any moment
            continue
        if stat.S_ISDIR(mode):
            waiting += _entries(entry.path)
        elif not stat.S_ISREG(mode):
            raise _refused(Path(entry.path), mode)


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _refused(path: Path, mode: int) -> CorruptDataError:
    return CorruptDataError(
        f"`{path}` is {kind_of(mode)}, and only files and folders are used here: a link would be "
        "read or written wherever it points. Nothing was changed. Put the real thing in its place, "
        "or remove it; the folder as a whole may lie behind a link."
    )


def create_file(path: Path, mode: int = 0o666) -> BinaryIO:
    """Open a new file for writing; what had its name goes, of a link the link and not its target.

    Raises:
        OSError: it cannot be made.
    """
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, mode), "wb")


def open_in_place(path: Path) -> BinaryIO:
    """Open a file for reading and writing, made if missing, at its beginning.

    Raises:
        CorruptDataError: it is a link, a pipe or a device.
        OSError: it cannot be opened.
    """
    try:
        # A pipe would make us wait for its other end.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | _NO_LINK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _refused(path, os.lstat(path).st_mode) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _refused(path, mode)
    return os.fdopen(descriptor, "r+b")
