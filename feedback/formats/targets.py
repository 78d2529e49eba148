"""Where an export goes: a file or folder that appears complete, or not at all."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from rlhf_gym.errors import ConfigError
from rlhf_gym.files import sync
from rlhf_gym.links import create_file

__all__ = ["new_file", "new_folder"]


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file under a temporary name, and name it once all of it is on disk.

    Args:
        path: Where it goes; what ends in .gz is compressed. Missing folders are made.

    Raises:
        ConfigError: something is there already.
        OSError: the file cannot be written, or the disk is full; nothing is left behind.
    """
    temporary = _temporary(path)
    try:
        with create_file(temporary) as file:
            if path.suffix == ".gz":
                # No name and no time in it: the same content makes the same file.
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                    yield cast(BinaryIO, packed)
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name, and name it once all of it is on disk.

    Args:
        path: Where it goes. Missing parents are made.

    Raises:
        ConfigError: something is there already.
        OSError: a file cannot be written, or the disk is full; nothing is left behind.
    """
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for entry in [*temporary.rglob("*"), temporary]:
            sync(entry)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


def _temporary(path: Path) -> Path:
    if path.exists():
        raise ConfigError(f"`{path}` exists; an export overwrites nothing: name another path.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
