"""Arrays from files of any origin: .npy, .npz and safetensors, checked before memory is taken.

The header of a .npy may promise a trillion rows, and an archive may unpack to a thousand times its
size: what is promised is compared with the bytes that are there.
"""

from __future__ import annotations

import math
import os
import threading
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from rlhf_gym.data import Array
from rlhf_gym.errors import CorruptDataError
from rlhf_gym.reading import open_regular, require_regular

__all__ = ["map_npy", "read_npz", "read_tensors"]

# numpy parses a .npy header with `ast`, whose depth count Python 3.11 shares between threads: two
# at once now and then end in "SystemError: AST constructor recursion depth mismatch".
_HEADERS = threading.Lock()
_READERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def map_npy(path: Path) -> Array:
    """A .npy file as a read-only memory map.

    Raises:
        CorruptDataError: it is no regular file, no .npy, or promises more than it holds.
        OSError: it cannot be read.
    """
    with _HEADERS:
        with open_regular(path) as file:
            _check_header(file, os.fstat(file.fileno()).st_size, f"`{path}`")
        try:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise CorruptDataError(f"`{path}` is not a .npy file ({error}).") from error


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of an uncompressed .npz file, as `numpy.savez` writes it.

    Raises:
        CorruptDataError: it is no regular file, damaged, or promises more than it holds.
        OSError: it cannot be read.
    """
    try:
        # Our own handle: numpy leaves its own open when the archive turns out to be damaged.
        with open_regular(path) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive, _HEADERS:
                members = archive.infolist()
                if sum(member.file_size for member in members) > n_bytes:
                    raise CorruptDataError(f"`{path}` would unpack to more than its own size.")
                for member in members:
                    with archive.open(member) as stream:
                        _check_header(stream, member.file_size, f"`{path}`: {member.filename}")
            file.seek(0)
            with _HEADERS, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
    except (CorruptDataError, OSError):
        raise
    except Exception as error:  # zipfile and numpy raise a dozen kinds
        raise CorruptDataError(
            f"`{path}` is damaged ({error}); restore it from a backup."
        ) from error


def _check_header(stream: IO[bytes], n_bytes: int, where: str) -> None:
    """Compare what the header of a .npy promises with the bytes behind it."""
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _READERS:
            raise ValueError(f"version {version} of the format")
        shape, _, dtype = _READERS[version](stream)
        promised = stream.tell() + math.prod(int(n) for n in shape) * dtype.itemsize
    except Exception as error:  # a header is parsed as Python literals, which raise a dozen kinds
        raise CorruptDataError(f"{where} is not a .npy file ({error}).") from error
    if dtype.hasobject:
        raise CorruptDataError(f"{where} holds Python objects, which are never unpickled.")
    if promised > n_bytes or min(shape, default=0) < 0:
        raise CorruptDataError(
            f"{where} promises the shape {shape} of {dtype}, {promised:,} bytes, and has "
            f"{n_bytes:,}: it is truncated or forged."
        )


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Any]:
    """All tensors of a safetensors file by name, which holds numbers and no code.

    Raises:
        CorruptDataError: it is no regular file, or no sound safetensors file.
        OSError: it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_regular(path)
    try:
        return dict(load_file(path, device=device))
    except SafetensorError as error:
        raise CorruptDataError(f"`{path}` is not a safetensors file ({error}).") from error
