r"""A whole store as one file of JSON lines, clips included: json, base64 and numpy read it.

The first line is the header; then every clip, every query and every answer has a line of its own::

    {"type": "header", "format": "rlhf_gym.preferences", "version": 1, "n_clips": 2, ...}
    {"type": "clip", "id": "9b1c...", "context_id": "Hopper-v5", "obs": ARRAY, "actions": ARRAY,
     "true_rewards": ARRAY or null, "sim_states": ARRAY or null}
    {"type": "query", "id": ..., "clip_ids": [...], "seed": "0", "round": 0, "index": 0, ...}
    {"type": "answer", "uuid": ..., "query_id": ..., "choice": "first", "stands": true, ...}

An ARRAY is {"dtype": "<f4", "shape": [51, 11], "base64": "..."}: the bytes of a numpy array. They
lie in the file itself, for a third more bytes than a sidecar, because a file cannot lose itself.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_gym.data import Array
from rlhf_gym.errors import CorruptDataError
from rlhf_gym.feedback.formats.rows import BadRow, read_rows
from rlhf_gym.feedback.formats.snapshot import Snapshot
from rlhf_gym.feedback.formats.tables import (
    FORMAT,
    VERSION,
    SnapshotBuilder,
    answer_rows,
    check_version,
    query_rows,
)
from rlhf_gym.feedback.formats.targets import new_file

__all__ = ["read_jsonl", "write_jsonl"]

_ARRAYS = ("obs", "actions", "true_rewards", "sim_states")


def write_jsonl(snapshot: Snapshot, path: Path) -> None:
    """Write a snapshot.

    Args:
        snapshot: What to write.
        path: A new file; one that ends in .gz is compressed.

    Raises:
        ConfigError: the file exists.
        OSError: the disk is full; nothing is left behind.
    """
    clips = snapshot.clips()
    counts = {
        "n_clips": len(clips),
        "n_queries": len(snapshot.queries),
        "n_answers": len(snapshot.answers),
    }
    with new_file(path) as file:

        def put(kind: str, row: Mapping[str, Any]) -> None:
            line = json.dumps({"type": kind, **row}, allow_nan=False)
            file.write(line.encode() + b"\n")

        put("header", {"format": FORMAT, "version": VERSION, **counts})
        for clip in clips:
            arrays = {name: _pack(getattr(clip, name)) for name in _ARRAYS}
            put("clip", {"id": clip.id, "context_id": clip.context_id, **arrays})
        for row in query_rows(snapshot):
            put("query", row)
        for row in answer_rows(snapshot):
            put("answer", row)


def read_jsonl(path: Path) -> Snapshot:
    """Read what `write_jsonl` wrote, and check all of it.

    Raises:
        CorruptDataError: another format or version, a damaged line, or lines that are missing.
        OSError: the file cannot be read.
    """
    builder = SnapshotBuilder(path)
    header: dict[str, Any] | None = None
    for row in read_rows(path):
        where = f"line {row.number}"
        if isinstance(row, BadRow):
            raise CorruptDataError(f"`{path}`, {where}: {row.reason}. Nothing was imported.")
        kind, content = row.content.get("type"), row.content
        if header is None:
            check_version(content, path)
            header = content
        elif kind == "clip":
            arrays = {name: _unpack(content.get(name), path, where, name) for name in _ARRAYS}
            builder.add_clip(content, arrays, where)
        elif kind == "query":
            builder.add_query(content, where)
        elif kind == "answer":
            builder.add_answer(content, where)
        else:
            raise CorruptDataError(
                f"`{path}`, {where}: `type` is {kind!r}; accepted are clip, query and answer. "
                "Nothing was imported."
            )
    if header is None:
        raise CorruptDataError(f"`{path}` is empty; name an export of `rlhf-gym export`.")
    for name, found in builder.counts().items():
        if header.get(name) != found or isinstance(header.get(name), bool):
            raise CorruptDataError(
                f"`{path}` announces {name} = {header.get(name)} in its first line, but holds "
                f"{found}: lines are missing or doubled. Nothing was imported: copy it again."
            )
    return builder.snapshot()


def _pack(array: Array | None) -> dict[str, Any] | None:
    if array is None:
        return None
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "base64": content}


def _unpack(packed: Any, path: Path, where: str, name: str) -> Array | None:
    if packed is None:
        return None
    try:
        if not isinstance(packed["dtype"], str):
            raise TypeError(f"dtype is {packed['dtype']!r}, text is expected")
        dtype = np.dtype(packed["dtype"])
        if dtype.kind not in "iubf":
            raise ValueError(f"dtype {dtype} is neither float, integer nor bool")
        content = base64.b64decode(packed["base64"], validate=True)
        shape = packed["shape"]
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"shape {shape!r} is no list of whole numbers")
        return np.frombuffer(content, dtype).reshape(shape).copy()
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise CorruptDataError(
            f"`{path}`, {where}: `{name}` is not an array as they are packed here "
            f"({type(error).__name__}: {error}). Nothing was imported."
        ) from error
