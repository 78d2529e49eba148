"""A small store with a history, for the tests of what is written about one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.feedback.formats.snapshot import Snapshot, read_snapshot
from rlhf_gym.feedback.store import PreferenceStore


def example(folder: Path) -> Snapshot:
    """Two queries on three clips; the answer to one was changed and then taken back."""
    clips = [
        Clip(
            np.full((3, 2), i, np.float32),
            np.full((2, 1), i, np.float32),
            "Env-v0",
            np.full(2, i, np.float32),
        )
        for i in range(3)
    ]
    pairs = [Query((clips[0], clips[i]), seed=7, round=0, index=i) for i in (1, 2)]
    with PreferenceStore(folder / "example") as store:
        store.post(pairs)
        store.answer([Preference(pairs[0], Choice.FIRST, "human", labeller="ada")])
        store.answer([Preference(pairs[0], Choice.TIE, "human", labeller="ada")])
        store.answer([Preference(pairs[1], Choice.SECOND, "human", labeller="ada")])
        store.retract(store.answer_records()[1].uuid)
        return read_snapshot(store)
