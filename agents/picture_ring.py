"""The pictures of the recorder's steps, within a bound of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_gym.data import Array
from rlhf_gym.envs.info_keys import PICTURE, STEP_SECONDS
from rlhf_gym.pictures import Pictures, pack_pictures, unpack_pictures

__all__ = ["PictureRing"]

_Row = tuple[list[bytes], list[bytes]]
"""The pictures of all envs before and after one step."""


class PictureRing:
    """What the envs of a recorder showed, step by step: in the rows that the recorder fills.

    Beyond the bound the oldest steps lose their pictures; the recorder draws no clips of them.

    Args:
        infos: Those of a reset of all envs, by `rlhf_gym.envs.picture_info.PictureInfo`.
        capacity: Rows, as many as the recorder's.
        max_bytes: Bound on the compressed pictures.
    """

    def __init__(
        self, infos: Sequence[dict[str, Any]], capacity: int, max_bytes: int = 2**30
    ) -> None:
        self._step_seconds = float(infos[0][STEP_SECONDS])
        self._max_bytes = max_bytes
        self._rows: list[_Row | None] = [None] * capacity
        self._in_use: deque[int] = deque()  # rows with pictures, the oldest first
        self._n_bytes = 0
        self.begin(infos)

    def begin(self, infos: Sequence[dict[str, Any]]) -> None:
        """All envs were reset."""
        self._now: list[bytes] = [info[PICTURE] for info in infos]

    def record(self, row: int, infos: Sequence[dict[str, Any]]) -> None:
        """All envs took a step, which the recorder keeps in `row`."""
        after: list[bytes] = [info[PICTURE] for info in infos]
        self._put(row, (self._now, after))
        self._now = list(after)

    def begin_one(self, env: int, info: dict[str, Any]) -> None:
        """One env was reset after the step that was recorded last."""
        self._now[env] = info[PICTURE]

    def _put(self, row: int, pictures: _Row) -> None:
        if self._rows[row] is not None:
            self._in_use.remove(row)  # the oldest of all: found at once
            self._drop(row)
        self._rows[row] = pictures
        self._in_use.append(row)
        self._n_bytes += _size(pictures)
        while self._n_bytes > self._max_bytes and len(self._in_use) > 1:
            self._drop(self._in_use.popleft())

    def _drop(self, row: int) -> None:
        pictures = self._rows[row]
        assert pictures is not None
        self._n_bytes -= _size(pictures)
        self._rows[row] = None

    def has(self, rows: Array) -> Array:
        """Whether there are pictures of these rows' steps, bool like `rows`."""
        return np.array([self._rows[row] is not None for row in rows], dtype=bool)

    def cut(self, rows: Array, env: int) -> Pictures | None:
        """The pictures of consecutive steps of one env, one more than steps; None without all."""
        steps = [pictures for row in rows if (pictures := self._rows[row]) is not None]
        if len(steps) < len(rows):
            return None
        encoded = [before[env] for before, _ in steps] + [steps[-1][1][env]]
        return Pictures(tuple(encoded), self._step_seconds)

    def state(self, rows: Array) -> dict[str, Array]:
        """The pictures of these rows, in their order, as arrays for a checkpoint."""
        nothing = [None] * len(self._now)
        steps = [self._rows[row] or (nothing, nothing) for row in rows]
        content, spans = pack_pictures(p for step in steps for side in step for p in side)
        return {
            "pictures": content,
            "picture_spans": spans.reshape(len(rows), 2, len(self._now), 2),
            "step_seconds": np.asarray(self._step_seconds),
        }

    @classmethod
    def from_state(cls, state: dict[str, Array], capacity: int) -> PictureRing:
        """What `state` returned, from row 0 on; the next step follows a reset."""
        spans = state["picture_spans"]
        n_steps, _, n_envs, _ = spans.shape
        info = {PICTURE: b"", STEP_SECONDS: float(state["step_seconds"])}
        ring = cls([info] * n_envs, capacity)
        distinct, inverse = np.unique(spans.reshape(-1, 2), axis=0, return_inverse=True)
        # As copies: views would pin all of the checkpoint until the last of them is gone.
        found = [p and bytes(p) for p in unpack_pictures(state["pictures"], distinct)]
        for row, (before, after) in enumerate(inverse.reshape(n_steps, 2, n_envs).tolist()):
            steps = [[p for i in side if (p := found[i])] for side in (before, after)]
            if steps[0]:
                ring._put(row, (steps[0], steps[1]))
        return ring


def _size(pictures: _Row) -> int:
    return sum(map(len, pictures[1]))
