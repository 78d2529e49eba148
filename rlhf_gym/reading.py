"""The one door for files: only regular ones are opened, and none is read beyond a stated limit.

A file may come from anybody. A named pipe would make a reader wait for ever, `/dev/zero` and a
"gzip bomb" would fill the memory, so nothing else in rlhf_gym opens a file for reading (a test
looks). Limits are far above what honest files need; `RLHF_GYM_READ_LIMIT=10` multiplies all of
them by ten.
"""

from __future__ import annotations

import errno
import gzip
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from rlhf_gym.errors import ConfigError, CorruptDataError
from rlhf_gym.links import kind_of

__all__ = [
    "MIB",
    "last_read",
    "limited",
    "open_regular",
    "read_bytes",
    "read_lines",
    "read_text",
    "require_regular",
]

MIB = 1 << 20
_LIMIT_VARIABLE = "RLHF_GYM_READ_LIMIT"
_FILE_BYTES = 256 * MIB
_LINE_BYTES = 64 * MIB
_EMPTY_LINES = 1_000_000
_BOMB_BYTES, _BOMB_RATIO = 4 * MIB, 200  # texts shrink to a tenth or so, gzip's utmost is 1,030
_GZIP_MAGIC = b"\x1f\x8b"
_opened: list[Path] = []


def last_read() -> Path | None:
    """The file that was opened last, for an error that says no more than what went wrong."""
    return _opened[-1] if _opened else None


def limited(found: int, most: int, what: str, unit: str = "") -> None:
    """Refuse what is beyond a limit.

    Args:
        found: How much there is, or how much was seen before it was given up.
        most: How much is accepted, before `RLHF_GYM_READ_LIMIT` multiplies it.
        what: The beginning of the message, such as "`x.yaml` holds".
        unit: What is counted; bytes are shown in MiB.

    Raises:
        CorruptDataError: there is more.
        ConfigError: `RLHF_GYM_READ_LIMIT` is not a number of at least 1.
    """
    accepted = most * _factor()
    if found <= accepted:
        return
    if unit:
        shown, limit = f"{found:,} {unit}", f"{accepted:,.0f}"
    else:
        shown, limit = f"{found / MIB:,.1f} MiB", f"{accepted / MIB:,.4g} MiB"
    raise CorruptDataError(
        f"{what} {shown}; at most {limit} are read, so that no file fills the memory. If it is "
        f"meant to be so large, set {_LIMIT_VARIABLE}=10 in the environment: it multiplies every "
        "limit by ten."
    )


def _factor() -> float:
    text = os.environ.get(_LIMIT_VARIABLE, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1 <= factor <= 1e6:
        raise ConfigError(
            f"the environment variable {_LIMIT_VARIABLE} is {text!r}; accepted is a number from "
            "1 to 1,000,000, by which every limit on the size of files is multiplied."
        )
    return factor


def require_regular(path: Path) -> None:
    """Refuse a pipe, a socket or a device before anything opens it.

    Raises:
        CorruptDataError: it is one.
        IsADirectoryError: it is a folder.
        OSError: there is no such file.
    """
    _check_mode(path, os.stat(path).st_mode)


def _check_mode(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, a file is needed", str(path))
    if not stat.S_ISREG(mode):
        raise CorruptDataError(
            f"`{path}` is {kind_of(mode)}; a regular file is needed: save the content to a file "
            "first."
        )


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; never waits for somebody to write into a pipe.

    Raises:
        CorruptDataError: it is a pipe, a socket or a device.
        IsADirectoryError: it is a folder.
        OSError: it cannot be opened.
    """
    require_regular(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _check_mode(path, os.fstat(descriptor).st_mode)  # what was opened, not what was there
        _opened[:] = [path]
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, most: int = _FILE_BYTES) -> bytes:
    """All bytes of a file.

    Args:
        path: The file.
        most: How many bytes are accepted.

    Raises:
        CorruptDataError: it is no regular file, or too large.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        limited(os.fstat(file.fileno()).st_size, most, f"`{path}` holds")
        content = file.read(int(most * _factor()) + 1)  # a file of /proc says that it has 0 bytes
    limited(len(content), most, f"`{path}` holds at least")
    return content


def read_text(path: Path, most: int = 4 * MIB) -> str:
    """A whole text file in UTF-8; a byte order mark is no part of it.

    Raises:
        CorruptDataError: it is no regular file, too large, or not UTF-8.
        OSError: it cannot be read.
    """
    content = read_bytes(path, most)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CorruptDataError(
            f"`{path}`, line {line}: byte {content[error.start]:#04x} is not UTF-8; save the file "
            "in UTF-8."
        ) from error


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers, from 1, one after the other; empty ones left out.

    A file that is compressed by gzip, which its first bytes say, is unpacked on the way. Files of
    any size stream; a line, the number of empty ones in a row and the compression are limited.

    Raises:
        CorruptDataError: it is no regular file, a line is too long, or it is a gzip bomb.
        EOFError, zlib.error, gzip.BadGzipFile: the compressed data end early or are damaged.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        packed = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        lines = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
        number = n_bytes = n_empty = 0
        factor = _factor()
        longest = int(_LINE_BYTES * factor)
        while line := lines.readline(longest + 1):
            number += 1
            n_bytes += len(line)
            if len(line) > longest:
                limited(len(line), _LINE_BYTES, f"line {number} of `{path}` holds at least")
            if packed and n_bytes > _BOMB_BYTES * factor:
                ratio = n_bytes // file.tell()  # of what was unpacked so far
                what = f"`{path}` unpacks to more than {n_bytes // MIB:,} MiB, by a factor of"
                limited(ratio, _BOMB_RATIO, what, "or more")
            if line.strip():
                n_empty = 0
                yield number, line
            else:
                n_empty += 1
                if n_empty > _EMPTY_LINES:
                    limited(n_empty, _EMPTY_LINES, f"`{path}` holds", "empty lines in a row")
