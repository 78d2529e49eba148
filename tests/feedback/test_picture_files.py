"""Pictures of clips in a store, beside clips that have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlhf_gym.data import Clip, Query
from rlhf_gym.errors import CorruptDataError, DataError
from rlhf_gym.feedback.formats.snapshot import add_to_store, read_snapshot
from rlhf_gym.feedback.picture_files import PICTURE_FILES
from rlhf_gym.feedback.shards import describe_shard
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.pictures import Pictures


def a_clip(start: int, length: int = 3, *, shown: bool = True) -> Clip:
    """Steps from `start` on of one endless episode; picture t holds the number t, 100 times."""
    obs = np.arange(start, start + length + 1, dtype=np.float32).reshape(-1, 1)
    encoded = tuple(bytes([t]) * 100 for t in range(start, start + length + 1))
    return Clip(
        obs=obs,
        actions=np.zeros((length, 1), np.float32),
        context_id="Tape-v0",
        pictures=Pictures(encoded, 0.25) if shown else None,
    )


def seen(clip: Clip) -> list[int]:
    assert clip.pictures is not None
    assert all(len(set(bytes(p))) == 1 and len(p) == 100 for p in clip.pictures.encoded)
    return [bytes(p)[0] for p in clip.pictures.encoded]


@pytest.fixture
def store(tmp_path: Path):
    with PreferenceStore(tmp_path / "a") as store:
        yield store


def test_pictures_travel_with_their_clips(store: PreferenceStore) -> None:
    long, short, blind = a_clip(10, 5), a_clip(12, 2), a_clip(40, 3, shown=False)
    store.post([Query((long, short), 0, 0, 0), Query((long, blind), 0, 0, 1)])
    first, second = store.open_queries()
    assert seen(first.first) == [10, 11, 12, 13, 14, 15]
    assert seen(first.second) == [12, 13, 14]
    assert first.first.pictures is not None and first.first.pictures.step_seconds == 0.25
    assert seen(second.first) == seen(first.first) and second.second.pictures is None
    assert seen(store.clip(short.id)) == [12, 13, 14]


def test_clips_that_overlap_share_their_pictures_on_disk(store: PreferenceStore) -> None:
    store.post([Query((a_clip(10, 5), a_clip(12, 5)), 0, 0, 0)])
    content = np.load(store.path.parent / "clips" / "round-0000" / "pictures.npy")
    assert len(content) == 8 * 100  # steps 10 to 17


def test_a_store_without_pictures_has_no_files_of_them(store: PreferenceStore) -> None:
    store.post([Query((a_clip(0, shown=False), a_clip(9, shown=False)), 0, 0, 0)])
    names = {path.name for path in (store.path.parent / "clips" / "round-0000").iterdir()}
    assert names == {"obs.npy", "actions.npy", "true_rewards.npy"}
    assert store.open_queries()[0].first.pictures is None


def test_a_damaged_picture_file_is_noticed(store: PreferenceStore) -> None:
    store.post([Query((a_clip(0), a_clip(9)), 0, 0, 0)])
    folder = store.path.parent / "clips" / "round-0000"
    assert {file.name for file in describe_shard(folder)} > set(PICTURE_FILES)
    content = bytearray((folder / "pictures.npy").read_bytes())
    content[-1] ^= 1
    (folder / "pictures.npy").write_bytes(content)
    with (
        PreferenceStore(store.path.parent) as again,
        pytest.raises(CorruptDataError, match="check"),
    ):
        again.open_queries()


def test_a_copy_of_a_store_has_the_pictures(store: PreferenceStore, tmp_path: Path) -> None:
    store.post([Query((a_clip(0), a_clip(2)), 0, 0, 0)])
    with PreferenceStore(tmp_path / "b") as other:
        add_to_store(other, read_snapshot(store))
        assert seen(other.open_queries()[0].second) == [2, 3, 4, 5]


def test_pictures_do_not_change_what_a_clip_is_and_stay_when_the_rewards_go() -> None:
    assert a_clip(3).id == a_clip(3, shown=False).id
    assert seen(a_clip(3).without_true_rewards()) == [3, 4, 5, 6]


def test_a_clip_has_one_picture_more_than_steps() -> None:
    pictures = a_clip(0, 4).pictures
    with pytest.raises(DataError, match=r"`Clip.pictures` has 5 entries, expected 4"):
        Clip(np.zeros((4, 1)), np.zeros((3, 1)), "Tape-v0", pictures=pictures)
