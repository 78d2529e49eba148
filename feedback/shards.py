"""Shards: the clips of one round as a folder of .npy files, read through memory maps.

    clips/round-0007/obs.npy            (M, T + 1, ...)  float32, or the integer dtype of the clips
                     actions.npy        (M, T, ...)      likewise
                     true_rewards.npy   (M, T)           float32, NaN where unknown
                     states.npy         (M, T + 1, S)    float32, only if a clip has states

M clips, zero-padded to the longest; the true lengths are kept by the database, and so is a CRC-32
of every file, which a reader compares once. CRC-32 finds damage at 4 GB/s, five times as fast as
BLAKE2b; it is no defence against forgery, and need not be: no file is ever unpickled.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf_gym.array_files import map_npy
from rlhf_gym.data import Array, Clip, content_id
from rlhf_gym.documents import parse_json
from rlhf_gym.errors import CorruptDataError, DataError
from rlhf_gym.feedback.picture_files import PICTURE_FILES, picture_blocks, stored_pictures
from rlhf_gym.files import sync
from rlhf_gym.links import create_file
from rlhf_gym.reading import open_regular

__all__ = [
    "ShardFile",
    "ShardPart",
    "ShardReader",
    "check_layouts",
    "describe_shard",
    "layout_of",
    "publish_shard",
    "write_shard",
]

_CHUNK = 1 << 20
_NOT_BY_STEP = ("pictures.npy", "picture_seconds.npy")


@dataclass(frozen=True)
class ShardFile:
    """What is recorded about one file of a shard."""

    name: str
    """"obs.npy", "actions.npy", "true_rewards.npy", "states.npy", or one of `PICTURE_FILES`."""
    n_bytes: int
    """Its size."""
    crc32: int
    """CRC-32 of all its bytes."""
    layout: str | None = None
    """The layout of its shard, as JSON, for the reader to compare with."""


ShardPart = tuple[str, Mapping[str, ShardFile], npt.NDArray[np.int64]]
"""A shard's name, what is recorded about its files by name, and (M, 2) rows of it, ascending, and
the lengths of the clips there in steps."""


def layout_of(clip: Clip) -> dict[str, Any]:
    """Dtype and per-step shape of a clip's observations and actions, as JSON values.

    Raises:
        DataError: a dtype that the store would have to convert, which would change the clip's id.
    """
    layout: dict[str, Any] = {}
    for name, array in (("obs", clip.obs), ("actions", clip.actions)):
        if array.dtype.kind not in "iub" and array.dtype != np.float32:
            raise DataError(
                f"`Clip.{name}` has dtype {array.dtype}; the store takes float32, integers and "
                "bool. Convert it when the clip is made: a converted clip has another id."
            )
        layout[name] = [array.dtype.str, list(array.shape[1:])]
    return layout


def check_layouts(clips: Sequence[Clip], layout: dict[str, Any]) -> None:
    """Make sure that all clips can lie in one array with those of `layout`.

    Raises:
        DataError: a clip differs in dtype or per-step shape, or state sizes differ.
    """
    for clip in clips:
        found = layout_of(clip)
        if found != layout:
            raise DataError(
                f"clip {clip.id[:12]} of `{clip.context_id}` has the layout {found}, but this "
                f"store holds {layout}; keep environments with other spaces in another store."
            )
    sizes = {clip.sim_states.shape[1:] for clip in clips if clip.sim_states is not None}
    if len(sizes) > 1:
        raise DataError(
            f"`Clip.sim_states` of one round have the shapes {sorted(sizes)} per step; all must "
            "be equal."
        )


def _float32(name: str, clip: Clip, array: Array) -> Array:
    if array.dtype == np.float32:
        return array
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32)
    if array.dtype.kind == "f" and not np.array_equal(np.isfinite(converted), np.isfinite(array)):
        raise DataError(
            f"`Clip.{name}` of clip {clip.id[:12]} does not fit into float32, in which it is "
            f"stored: the largest value is {np.abs(array).max()}; scale it down."
        )
    return converted


def _padded(arrays: Sequence[Array], n_rows: int) -> Array:
    first = arrays[0]
    block = np.zeros((len(arrays), n_rows, *first.shape[1:]), first.dtype)
    for row, array in enumerate(arrays):
        block[row, : len(array)] = array
    return block


def _blocks(clips: Sequence[Clip]) -> dict[str, Array]:
    """The arrays of one shard, by file name."""
    n_steps = max(len(clip) for clip in clips)
    rewards = np.full((len(clips), n_steps), np.nan, np.float32)
    for row, clip in enumerate(clips):
        if clip.true_rewards is not None:
            rewards[row, len(clip) :] = 0.0
            rewards[row, : len(clip)] = _float32("true_rewards", clip, clip.true_rewards)
    blocks = {
        "obs.npy": _padded([clip.obs for clip in clips], n_steps + 1),
        "actions.npy": _padded([clip.actions for clip in clips], n_steps),
        "true_rewards.npy": rewards,
    }
    with_states = [clip.sim_states for clip in clips if clip.sim_states is not None]
    if with_states:
        none = np.zeros((0, *with_states[0].shape[1:]), np.float32)
        states = [
            none if clip.sim_states is None else _float32("sim_states", clip, clip.sim_states)
            for clip in clips
        ]
        blocks["states.npy"] = _padded(states, n_steps + 1)
    return blocks | picture_blocks(clips)


def _write_array(path: Path, array: Array) -> ShardFile:
    # Not np.save: a full disk makes it raise an error without errno or path.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    body = array.reshape(-1).view(np.uint8).data
    try:
        with create_file(path) as file:
            file.write(header.getvalue())
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            error.errno,
            f"the {array.nbytes} bytes of a clip file could not be written ({error.strerror}); "
            "nothing of this round was stored: free disk space and post it again",
            str(path),
        ) from error
    crc32 = zlib.crc32(body, zlib.crc32(header.getvalue()))
    return ShardFile(path.name, len(header.getvalue()) + len(body), crc32)


def write_shard(folder: Path, clips: Sequence[Clip]) -> list[ShardFile]:
    """Write all files of a shard into a new, temporary folder, and sync them.

    Args:
        folder: Where to; replaced if it is there (the rest of a process that was killed).
        clips: At least one, all of one layout (`check_layouts`).

    Returns:
        What to record about each file.

    Raises:
        DataError: a number that float32 cannot hold.
        OSError: the disk is full; the folder is removed again.
    """
    shutil.rmtree(folder, ignore_errors=True)
    blocks = _blocks(clips)
    folder.mkdir(parents=True)
    try:
        files = [_write_array(folder / name, array) for name, array in blocks.items()]
        sync(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return files


def publish_shard(temporary: Path, final: Path) -> None:
    """Give a written shard its name, replacing one that no row speaks of, and sync the name."""
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    sync(final.parent)


def _damaged(path: Path, what: str) -> CorruptDataError:
    return CorruptDataError(
        f"`{path}` {what}; restore it from a backup, or remove the run's clips/ and "
        "preferences.db together to start anew."
    )


def _expected_layout(file: ShardFile, found: list[Any]) -> list[Any]:
    """Dtype and per-step shape that a file of a shard must have."""
    if file.name in ("obs.npy", "actions.npy") and file.layout is not None:
        layout: list[Any] = parse_json(file.layout, "a layout")[file.name.removesuffix(".npy")]
        return layout
    if file.name == "true_rewards.npy":
        return ["<f4", []]
    return ["<f4", found[1]] if file.name == "states.npy" else found


def _crc32(path: Path) -> int:
    crc, buffer = 0, bytearray(_CHUNK)
    with open_regular(path) as file:
        while n_read := file.readinto(buffer):
            crc = zlib.crc32(memoryview(buffer)[:n_read], crc)
    return crc


def describe_shard(folder: Path) -> list[ShardFile]:
    """Size and checksum of the files of a shard as they are now.

    Raises:
        CorruptDataError: the folder or one of its necessary files is missing.
    """
    names = ["obs.npy", "actions.npy", "true_rewards.npy"]
    names += [name for name in ("states.npy", *PICTURE_FILES) if (folder / name).exists()]
    try:
        return [
            ShardFile(name, (folder / name).stat().st_size, _crc32(folder / name)) for name in names
        ]
    except FileNotFoundError as error:
        raise _damaged(Path(error.filename), "is missing") from error


class ShardReader:
    """Maps shard files into memory, comparing each with its checksum the first time.

    Args:
        folder: The store's clips/ folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._verified: set[Path] = set()
        self._named: set[str] = set()

    def map(self, shard: str, file: ShardFile) -> Array:
        """One file of one shard, read-only; the map lasts as long as the array.

        Raises:
            CorruptDataError: the file is missing, truncated, or does not match its checksum.
        """
        path = self._folder / shard / file.name
        if path.parent.parent != self._folder or path.parent.name in ("..", ""):
            raise _damaged(path, "lies outside the store's clips/ folder")
        try:
            n_bytes = path.stat().st_size
            if n_bytes != file.n_bytes:
                raise _damaged(path, f"has {n_bytes} bytes where {file.n_bytes} were written")
            if path not in self._verified:
                if _crc32(path) != file.crc32:
                    raise _damaged(path, "does not match its checksum: it was changed or damaged")
                self._verified.add(path)
            mapped = map_npy(path)
        except FileNotFoundError as error:
            raise _damaged(path, "is missing") from error
        if file.layout is not None and file.name not in PICTURE_FILES:
            found = [mapped.dtype.str, list(mapped.shape[2:])]
            if mapped.ndim < 2 or found != _expected_layout(file, found):
                raise _damaged(path, f"holds {found} per step, not what its clips have")
        return mapped

    def clips(
        self, shard: str, files: Mapping[str, ShardFile], members: Sequence[Sequence[Any]]
    ) -> dict[int, Clip]:
        """Copies of some clips of one shard, with all that is known of them; pictures as views.

        Args:
            shard: The folder's name.
            files: What is recorded about its files, by name.
            members: For each clip: a key, its id, context, row, length, whether it has states.

        Returns:
            The clips by their keys.

        Raises:
            CorruptDataError: a file is missing, truncated, or does not match its checksum.
        """
        maps = {name: self.map(shard, file) for name, file in files.items()}
        clips: dict[int, Clip] = {}
        for key, clip_id, context, row, n, has_states in members:
            for name, block in maps.items():
                self._require_place(shard, name, block, row, n)
            rewards = maps["true_rewards.npy"][row, :n]
            obs, actions = maps["obs.npy"][row, : n + 1], maps["actions.npy"][row, :n]
            self.check_ids([clip_id], [context], obs[None], actions[None], [n])
            clips[key] = Clip.from_storage(
                clip_id,
                obs=obs.copy(),
                actions=actions.copy(),
                context_id=sys.intern(context),
                true_rewards=None if np.isnan(rewards[0]) else rewards.copy(),
                sim_states=maps["states.npy"][row, : n + 1].copy() if has_states else None,
                pictures=stored_pictures(maps, row, n),
            )
        return clips

    def _require_place(self, shard: str, name: str, block: Array, row: int, n: int) -> None:
        """Refuse a clip of n steps, in a row of a shard's file, that the file has no place for."""
        n_entries = {"actions.npy": n, "true_rewards.npy": n}.get(name, n + 1)
        if name not in _NOT_BY_STEP and not (row < len(block) and n_entries <= block.shape[1]):
            raise _damaged(
                self._folder / shard / name,
                f"has no place for clip {row} of {n} steps: its shape is {block.shape}",
            )

    def check_ids(
        self,
        ids: Sequence[str],
        contexts: Sequence[str],
        obs: Array,
        actions: Array,
        lengths: Sequence[int] | Array,
    ) -> None:
        """Compare the ids of clips with their content, each clip once in this reader's life.

        Args:
            ids: M of them.
            contexts: M of them.
            obs: (M, T + 1, ...) padded.
            actions: (M, T, ...) padded.
            lengths: (M,) steps.

        Raises:
            CorruptDataError: a clip is not what its id says.
        """
        for row, key in enumerate(ids):
            if key in self._named:
                continue
            n = int(lengths[row])
            if content_id(contexts[row], obs[row, : n + 1], actions[row, :n]) != key:
                raise _damaged(self._folder, f"holds a clip that its id, {key[:12]}, is not of")
            self._named.add(key)

    def gather(
        self, file: str, parts: Sequence[ShardPart], n_entries: int, dtype: str, shape: list[int]
    ) -> Array:
        """Rows of many shards in one zero-padded array, mapping one shard at a time.

        Args:
            file: "obs.npy" or "actions.npy".
            parts: The shards and their rows.
            n_entries: Entries of the longest row; nothing is lost beyond it.
            dtype: Of the rows.
            shape: Of one entry.

        Returns:
            (M, n_entries, ...), the rows in the order of the parts.

        Raises:
            CorruptDataError: a file is missing, truncated, or does not match its checksum.
        """
        n_rows = sum(len(rows) for _, _, rows in parts)
        table = np.zeros((n_rows, n_entries, *shape), np.dtype(dtype))
        start = 0
        for shard, files, rows in parts:
            source = self.map(shard, files[file])
            rows, lengths = rows[:, 0], rows[:, 1]
            self._require_place(shard, file, source, int(rows.max()), int(lengths.max()))
            n = min(n_entries, source.shape[1])
            # A slice copies without a temporary; most often a whole shard is wanted.
            in_line = len(rows) == rows[-1] - rows[0] + 1
            picked = slice(int(rows[0]), int(rows[-1]) + 1) if in_line else rows
            table[start : start + len(rows), :n] = source[picked, :n]
            start += len(rows)
        return table
