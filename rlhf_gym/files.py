"""Files that are there as a whole or not at all."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_gym.links import create_file

__all__ = ["plain", "sync", "whole_number", "write_bytes", "write_json", "write_text"]


def write_bytes(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Replace a file atomically; once this returns, the new content survives a power cut.

    A link of that name is replaced, never what it points to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with create_file(temporary, mode) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a UTF-8 text file atomically, see `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, obj: Any) -> None:
    """Replace a JSON file atomically; numpy's values become plain, NaN and infinities null."""
    write_text(path, json.dumps(plain(obj), indent=2, allow_nan=False) + "\n")


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def whole_number(text: str, most_digits: int = 18) -> int | None:
    """The number that ASCII digits spell, as part of a name for instance; None for anything else.

    `str.isdigit` takes "²" too, which `int` refuses, and `int` takes "1_0" and " 1".

    >>> whole_number("0007"), whole_number("²"), whole_number("1_0"), whole_number("")
    (7, None, None, None)
    """
    fits = len(text) <= most_digits and re.fullmatch("[0-9]+", text)
    return int(text) if fits else None


def plain(obj: Any) -> Any:
    """JSON values from numpy's; NaN and infinities as None."""
    if isinstance(obj, Mapping):
        return {str(key): plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [plain(value) for value in obj]
    if isinstance(obj, np.ndarray | np.generic):
        return plain(obj.tolist())
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return obj
