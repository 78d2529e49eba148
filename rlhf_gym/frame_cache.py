"""The pictures of clips that were drawn before, on disk.

One file per clip and size. Each frame is compressed by itself, without loss, with pyarrow's LZ4:
of PNG, JPEG, zlib, zstd and LZ4 it reads and writes fastest. 35 MB of pictures become 2 to 4, where
zstd leaves 1 to 3.5 (benchmarks/results/rendering.json).

    file = magic, header length (4 bytes, little endian), header (JSON), frame, frame, ...

The header holds shape, seconds_per_frame, each frame's length and the CRC-32 of all of them: a file
that is damaged is a miss, and is removed.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_gym.clip_frames import ClipFrames
from rlhf_gym.documents import parse_json
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError
from rlhf_gym.files import write_bytes
from rlhf_gym.reading import read_bytes

__all__ = ["FrameCache"]

# Part of the name: pictures of an earlier way of drawing are not found, and age away.
_MAGIC = b"rlhf_gym frames 1\n"
_SUFFIX = ".frames1"
_NAME = re.compile(r"[0-9A-Za-z_-]{1,200}")
_UNFINISHED_SECONDS = 3600  # older than this, its writer was killed
_MOST_BYTES = 2**32  # of one clip's pictures, decoded: a damaged header must not exhaust memory


class FrameCache:
    """Pictures of clips in a folder, the least recently used ones removed when it is full.

    Any number of processes may share a folder: files appear as a whole, and one that another
    process has removed is a miss.

    Args:
        folder: Where the files lie; made when something is put.
        max_bytes: What the files may take together, at least 1.

    Raises:
        ConfigError: `max_bytes` is below 1.
    """

    def __init__(self, folder: Path, max_bytes: int = 2_000_000_000) -> None:
        if max_bytes < 1:
            raise ConfigError(f"`max_bytes` is {max_bytes}, expected at least 1 byte.")
        self.folder = Path(folder)
        self.max_bytes = max_bytes

    def path(self, clip_id: str, size: tuple[int, int]) -> Path:
        """Where a clip's pictures of a size (height, width) lie, or would.

        Raises:
            DataError: an id that is no file name.
        """
        if not _NAME.fullmatch(clip_id):
            raise DataError(f"{clip_id!r} is no clip id; `Clip.id` is a hex sha256.")
        return self.folder / f"{clip_id}-{size[0]}x{size[1]}{_SUFFIX}"

    def __contains__(self, key: tuple[str, tuple[int, int]]) -> bool:
        return self.path(*key).is_file()

    def get(self, clip_id: str, size: tuple[int, int]) -> ClipFrames | None:
        """The pictures of a clip, exactly as they were put; None where they are not there.

        A damaged file is removed, and None returned.
        """
        path = self.path(clip_id, size)
        try:
            content = read_bytes(path, _MOST_BYTES)
        except OSError:
            return None
        try:
            found = _decode(content)
        except CorruptDataError:
            _remove(path)
            return None
        try:
            os.utime(path)  # used now
        except OSError:  # a read-only folder serves as well; its files only age
            pass
        return found

    def put(self, clip_id: str, size: tuple[int, int], clip_frames: ClipFrames) -> None:
        """Keep the pictures of a clip, and remove the least recently used ones if need be.

        Raises:
            OSError: the folder cannot be written; nothing half-written is left.
        """
        path = self.path(clip_id, size)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _encode(clip_frames))
        self._evict(keep=path)

    def _evict(self, keep: Path) -> None:
        for path in self.folder.glob(f".*{_SUFFIX}.*.tmp"):
            try:
                if time.time() - path.stat().st_mtime > _UNFINISHED_SECONDS:
                    _remove(path)
            except OSError:  # finished meanwhile
                continue
        files = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            try:
                status = path.stat()
            except OSError:  # another process was faster
                continue
            files.append((path != keep, -status.st_mtime_ns, path, status.st_size))
        total = 0
        # The one just put, then the most recently used ones, as long as there is room.
        for index, (_, _, path, n_bytes) in enumerate(sorted(files)):
            total += n_bytes
            if total > self.max_bytes and index > 0:
                _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a read-only folder: the file is not used all the same
        pass


def _codec() -> Any:
    import pyarrow  # takes 0.1 s, and only pictures need it

    return pyarrow.Codec("lz4")


def _encode(clip_frames: ClipFrames) -> bytes:
    codec = _codec()
    frames = np.ascontiguousarray(clip_frames.frames)
    parts = [codec.compress(frame.reshape(-1), asbytes=True) for frame in frames]
    body = b"".join(parts)
    header = {
        "shape": list(frames.shape),
        "seconds_per_frame": clip_frames.seconds_per_frame,
        "lengths": [len(part) for part in parts],
    }
    head = json.dumps({**header, "crc32": _crc32(header, body)}).encode()
    return _MAGIC + len(head).to_bytes(4, "little") + head + body


def _crc32(header: dict[str, Any], body: bytes | memoryview) -> int:
    """Of the header too: pictures of another height would be made of the same bytes."""
    return zlib.crc32(body, zlib.crc32(json.dumps(header).encode()))


def _decode(content: bytes) -> ClipFrames:
    """The pictures of a file.

    Raises:
        CorruptDataError: anything about it that is not as `_encode` made it.
    """
    start = len(_MAGIC) + 4
    n_head = int.from_bytes(content[len(_MAGIC) : start], "little")
    body = memoryview(content)[start + n_head :]
    try:
        header = parse_json(content[start : start + n_head], "their header")
        shape = tuple(int(n) for n in header["shape"])
        lengths = [int(n) for n in header["lengths"]]
        intact = content.startswith(_MAGIC) and header.pop("crc32") == _crc32(header, body)
        if not intact or sum(lengths) != len(body) or len(lengths) != shape[0]:
            raise CorruptDataError("checksum or lengths do not match.")
        if len(shape) != 4 or min(shape) < 1 or math.prod(shape) > _MOST_BYTES:
            raise CorruptDataError(f"shape {shape} is none of pictures.")
        codec = _codec()
        frames = np.empty(shape, np.uint8)  # (N, H, W, 3)
        offset = 0
        for frame, length in zip(frames, lengths, strict=True):
            part = codec.decompress(body[offset : offset + length], frame.nbytes)
            frame.reshape(-1)[:] = np.frombuffer(part, np.uint8)
            offset += length
        return ClipFrames(frames, float(header["seconds_per_frame"]))
    except (ValueError, KeyError, TypeError, OSError, IndexError) as error:
        raise CorruptDataError(f"the pictures cannot be read: {error}") from error
