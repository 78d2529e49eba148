"""The files of a shard that hold the pictures of its M clips.

There are three of them where any clip has pictures, and none otherwise::

    pictures.npy          (N,) uint8: JPEG files one behind the other, equal ones once
    picture_spans.npy     (M, T + 1, 2) int64: where each begins and ends; (0, 0) for none
    picture_seconds.npy   (M,) float64: seconds per step; NaN where a clip has no pictures

Clips of one round overlap: their common pictures lie there once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rlhf_gym.data import Array, Clip
from rlhf_gym.pictures import Pictures, pack_pictures, unpack_pictures

__all__ = ["PICTURE_FILES", "picture_blocks", "stored_pictures"]

PICTURE_FILES = ("pictures.npy", "picture_spans.npy", "picture_seconds.npy")
"""All three, or none of them, lie in a shard."""


def picture_blocks(clips: Sequence[Clip]) -> dict[str, Array]:
    """The files of these clips' pictures by name, as arrays; none where no clip has any."""
    if all(clip.pictures is None for clip in clips):
        return {}
    n_states = max(len(clip) for clip in clips) + 1
    seconds = np.full(len(clips), np.nan)
    spans = np.zeros((len(clips), n_states, 2), np.int64)
    shown = [(row, clip.pictures) for row, clip in enumerate(clips) if clip.pictures is not None]
    content, found = pack_pictures(p for _, pictures in shown for p in pictures.encoded)
    start = 0
    for row, pictures in shown:
        spans[row, : len(pictures)] = found[start : start + len(pictures)]
        seconds[row] = pictures.step_seconds
        start += len(pictures)
    return dict(zip(PICTURE_FILES, (content, spans, seconds), strict=True))


def stored_pictures(maps: Mapping[str, Array], row: int, n_steps: int) -> Pictures | None:
    """The pictures of one clip, as views of the mapped files; None where it has none.

    Args:
        maps: A shard's files by name, whether it holds pictures or not.
        row: The clip's.
        n_steps: T of the clip.

    Raises:
        CorruptDataError: its pictures lie outside of the file.
    """
    if PICTURE_FILES[0] not in maps:
        return None
    content, spans, seconds = (maps[name] for name in PICTURE_FILES)
    if math.isnan(seconds[row]):
        return None
    encoded = unpack_pictures(content, spans[row, : n_steps + 1])
    return Pictures(tuple(b"" if p is None else p for p in encoded), float(seconds[row]))
