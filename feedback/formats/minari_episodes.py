"""Clips as the episodes of a Minari dataset, and a Parquet table of what was asked about them.

    OUT/rlhf_gym/clips-v0/...   the dataset: `MINARI_DATASETS_PATH=OUT`, then
                                `minari.load_dataset("rlhf_gym/clips-v0")`
    OUT/clip_references.parquet dataset_id, episode_id, clip_id, context_id, true_rewards_known,
                                query_id, round, place (0 is the first clip), kind, choice,
                                labeller, answer_uuid

A row of the table is one clip of one query in one answer that stands; a query without answers has
its rows too, with null in the last four columns. Minari itself knows no preferences.

Rewards are the true ones; where they are unknown they are 0, the episode's metadata and the table
say `true_rewards_known` = false, and so does the dataset's description. A clip ends in the middle
of an episode as a rule, so its last step is marked as truncated.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from gymnasium import spaces

from rlhf_gym.data import Array, Clip
from rlhf_gym.errors import DataError, MissingDependencyError
from rlhf_gym.feedback.formats.snapshot import Snapshot
from rlhf_gym.feedback.formats.targets import new_folder
from rlhf_gym.text_clips import is_text_clip

__all__ = ["DATASET_ID", "REFERENCES", "write_minari"]

DATASET_ID = "rlhf_gym/clips-v0"
"""The name under which Minari finds the episodes."""

REFERENCES = "clip_references.parquet"
"""The file of the table."""

_PATH_VARIABLE = "MINARI_DATASETS_PATH"
_SCHEMA = pa.schema(
    [
        ("dataset_id", pa.string()),
        ("episode_id", pa.int64()),
        ("clip_id", pa.string()),
        ("context_id", pa.string()),
        ("true_rewards_known", pa.bool_()),
        ("query_id", pa.string()),
        ("round", pa.int64()),
        ("place", pa.int64()),
        ("kind", pa.string()),
        ("choice", pa.string()),
        ("labeller", pa.string()),
        ("answer_uuid", pa.string()),
    ]
)


def write_minari(snapshot: Snapshot, folder: Path) -> int:
    """Write the clips of a store.

    Args:
        snapshot: What to write: at least one clip, all of one layout, none of text.
        folder: A new folder, to be Minari's root.

    Returns:
        How many clips have no true rewards, and zeros in their place.

    Raises:
        MissingDependencyError: minari is not installed.
        ConfigError: the folder exists.
        DataError: there is no clip, or it is of text.
        OSError: the disk is full; nothing is left behind.
    """
    clips = snapshot.clips()
    if not clips:
        raise DataError("the store holds no clips; a Minari dataset has at least one episode.")
    if any(is_text_clip(clip) for clip in clips):
        raise DataError(
            "the store holds clips of text, which are no episodes of a control task; export them "
            "with `--format pairs`, `jsonl` or `parquet`."
        )
    n_unknown = sum(clip.true_rewards is None for clip in clips)
    with new_folder(folder) as temporary:
        with _minari_root(temporary):
            _write_episodes(clips, n_unknown)
        rows = list(_references(snapshot, {clip.id: i for i, clip in enumerate(clips)}))
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), temporary / REFERENCES)
    return n_unknown


@contextmanager
def _minari_root(folder: Path) -> Iterator[None]:
    """Minari takes its root from the environment, and from nowhere else."""
    before = os.environ.get(_PATH_VARIABLE)
    os.environ[_PATH_VARIABLE] = str(folder.absolute())
    try:
        with warnings.catch_warnings():
            # It asks for an author and an e-mail address; labels are pseudonymous.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"minari\b.*")
            yield
    finally:
        if before is None:
            del os.environ[_PATH_VARIABLE]
        else:
            os.environ[_PATH_VARIABLE] = before


def _write_episodes(clips: Sequence[Clip], n_unknown: int) -> None:
    try:
        # h5py is what the extra adds; it is imported by name so that its absence is noticed here.
        import h5py  # noqa: F401
        from minari import create_dataset_from_buffers
        from minari.data_collector import EpisodeBuffer
    except ImportError as error:
        raise MissingDependencyError(
            f"Minari episodes need the package minari with HDF5 ({error}); install it with "
            "`pip install 'rlhf_gym[minari]'`."
        ) from error
    buffers = [
        EpisodeBuffer(
            id=i,
            observations=list(clip.obs),
            actions=list(clip.actions),
            rewards=_rewards(clip).tolist(),
            terminations=[False] * len(clip),
            truncations=[False] * (len(clip) - 1) + [True],
            infos=None if clip.sim_states is None else {"sim_state": list(clip.sim_states)},
        )
        for i, clip in enumerate(clips)
    ]
    dataset = create_dataset_from_buffers(
        DATASET_ID,
        buffers,
        observation_space=_space([clip.obs for clip in clips]),
        action_space=_space([clip.actions for clip in clips]),
        description=(
            f"{len(clips)} clips that people or programs compared. Rewards are the task's true "
            f"rewards; clips without any, with zeros in their place: {n_unknown} "
            "(true_rewards_known in the episodes' metadata)."
        ),
        data_format="hdf5",
        jpeg_encoding=False,  # pictures are kept as they were seen
    )
    dataset.storage.update_metadata({"n_clips_without_true_rewards": n_unknown})
    dataset.storage.update_episode_metadata(
        [
            {
                "clip_id": clip.id,
                "context_id": clip.context_id,
                "true_rewards_known": clip.true_rewards is not None,
            }
            for clip in clips
        ]
    )


def _rewards(clip: Clip) -> Array:
    if clip.true_rewards is None:
        return np.zeros(len(clip), np.float32)
    return clip.true_rewards


def _space(arrays: Sequence[Array]) -> spaces.Space[Any]:
    """The widest space that the rows of all arrays lie in: the clips do not know their own."""
    dtype, shape = arrays[0].dtype, arrays[0].shape[1:]
    if dtype == np.bool_:
        return spaces.MultiBinary(shape) if shape else spaces.Discrete(2)
    if dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, shape, np.float32)
    limits = np.iinfo(dtype)
    return spaces.Box(limits.min, limits.max, shape, dtype.type)


def _references(snapshot: Snapshot, episodes: dict[str, int]) -> Iterator[dict[str, Any]]:
    standing = snapshot.standing()
    answers: dict[str, list[dict[str, Any]]] = {}
    for record in snapshot.answers:
        if record.uuid in standing:
            answers.setdefault(record.query_id, []).append(
                {
                    "kind": record.kind,
                    "choice": record.choice.value,
                    "labeller": record.labeller,
                    "answer_uuid": record.uuid,
                }
            )
    for stored in snapshot.queries:
        query = stored.query
        for answer in answers.get(query.id, [{}]):
            for place, clip in enumerate(query.clips):
                yield {
                    "dataset_id": DATASET_ID,
                    "episode_id": episodes[clip.id],
                    "clip_id": clip.id,
                    "context_id": clip.context_id,
                    "true_rewards_known": clip.true_rewards is not None,
                    "query_id": query.id,
                    "round": query.round,
                    "place": place,
                    **answer,
                }
