from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_gym.data import Clip
from rlhf_gym.errors import CorruptDataError, DataError
from rlhf_gym.feedback.shards import (
    ShardFile,
    ShardReader,
    check_layouts,
    describe_shard,
    layout_of,
    publish_shard,
    write_shard,
)


def make_clip(i: int, n_steps: int = 4, rewards: bool = True, states: bool = False) -> Clip:
    rng = np.random.default_rng(i)
    return Clip(
        obs=rng.standard_normal((n_steps + 1, 3), np.float32),
        actions=rng.integers(0, 9, (n_steps, 2)).astype(np.int16),
        context_id="Env-v0",
        true_rewards=rng.standard_normal(n_steps) if rewards else None,
        sim_states=rng.standard_normal((n_steps + 1, 2)) if states else None,
    )


def members(clips: list[Clip]) -> list[tuple[int, str, str, int, int, bool]]:
    return [
        (10 + row, c.id, c.context_id, row, len(c), c.sim_states is not None)
        for row, c in enumerate(clips)
    ]


@pytest.fixture
def shard(tmp_path: Path) -> tuple[Path, dict[str, ShardFile]]:
    files = write_shard(tmp_path / "round-0000", [make_clip(i) for i in range(5)])
    return tmp_path, {file.name: file for file in files}


def test_clips_come_back_bit_for_bit_whatever_they_lack(tmp_path: Path) -> None:
    given = [
        make_clip(0),
        make_clip(1, n_steps=6, states=True),
        make_clip(2, n_steps=1, rewards=False),
    ]
    files = {file.name: file for file in write_shard(tmp_path / "round-0000", given)}
    assert sorted(files) == ["actions.npy", "obs.npy", "states.npy", "true_rewards.npy"]
    found = ShardReader(tmp_path).clips("round-0000", files, members(given))
    assert list(found) == [10, 11, 12]
    for clip, original in zip(found.values(), given, strict=True):
        # Made anew, so that the id is hashed from the arrays that were read.
        assert Clip(clip.obs, clip.actions, clip.context_id).id == original.id == clip.id
        for name in ("true_rewards", "sim_states"):
            stored, exact = getattr(clip, name), getattr(original, name)
            if exact is None:
                assert stored is None
            else:
                assert stored.dtype == np.float32
                np.testing.assert_array_equal(stored, exact.astype(np.float32))


def test_without_states_there_is_no_file_for_them(
    shard: tuple[Path, dict[str, ShardFile]],
) -> None:
    folder, files = shard
    assert sorted(files) == ["actions.npy", "obs.npy", "true_rewards.npy"]
    assert sorted(path.name for path in (folder / "round-0000").iterdir()) == sorted(files)


def test_the_record_of_a_file_is_what_lies_on_disk(
    shard: tuple[Path, dict[str, ShardFile]],
) -> None:
    folder, files = shard
    assert {file.name: file for file in describe_shard(folder / "round-0000")} == files


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, 4), min_size=1, unique=True).map(sorted), extra=st.booleans())
def test_gathered_rows_are_those_asked_for(
    rows: list[int], extra: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    clips = [make_clip(i, n_steps=3 + i % 2) for i in range(5)]
    other = [make_clip(9, n_steps=8)]
    first = {file.name: file for file in write_shard(folder / "round-0000", clips)}
    second = {file.name: file for file in write_shard(folder / "round-0001", other)}
    places = np.array([(row, len(clips[row])) for row in rows])
    parts = [("round-0000", first, places)]
    if extra:
        parts.append(("round-0001", second, np.array([[0, 8]])))
    wanted = [clips[row] for row in rows] + (other if extra else [])
    n_steps = max(len(clip) for clip in wanted)
    obs = ShardReader(folder).gather("obs.npy", parts, n_steps + 1, "<f4", [3])
    assert obs.shape == (len(wanted), n_steps + 1, 3)
    for row, clip in zip(obs, wanted, strict=True):
        np.testing.assert_array_equal(row[: len(clip) + 1], clip.obs)
        assert not row[len(clip) + 1 :].any()


@pytest.mark.parametrize("name", ["obs.npy", "actions.npy", "true_rewards.npy"])
@pytest.mark.parametrize("damage", ["header", "body", "truncated", "longer", "missing"])
def test_any_damaged_file_is_named(
    name: str, damage: str, shard: tuple[Path, dict[str, ShardFile]]
) -> None:
    folder, files = shard
    path = folder / "round-0000" / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "longer":
        path.write_bytes(content + b"\0")
    else:
        content[20 if damage == "header" else -3] ^= 1
        path.write_bytes(content)
    with pytest.raises(CorruptDataError, match=str(path)):
        ShardReader(folder).map("round-0000", files[name])


class Canary:
    """Unpickling one makes the folder of the given name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_file_of_objects_is_never_unpickled(shard: tuple[Path, dict[str, ShardFile]]) -> None:
    folder, _ = shard
    canary = folder / "canary"
    path = folder / "round-0000" / "obs.npy"
    np.save(path, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    files = {file.name: file for file in describe_shard(folder / "round-0000")}
    with pytest.raises(CorruptDataError, match=r"obs\.npy"):
        ShardReader(folder).map("round-0000", files["obs.npy"])
    assert not canary.exists()
    np.load(path, allow_pickle=True)  # The file was dangerous indeed.
    assert canary.exists()


def test_a_name_that_leads_out_of_the_folder_is_refused(
    shard: tuple[Path, dict[str, ShardFile]],
) -> None:
    folder, files = shard
    reader = ShardReader(folder / "round-0000")
    with pytest.raises(CorruptDataError, match="lies outside"):
        reader.map("..", files["obs.npy"])
    with pytest.raises(CorruptDataError, match="lies outside"):
        reader.map("../round-0000", files["obs.npy"])
    with pytest.raises(CorruptDataError, match="lies outside"):
        reader.map("round-0000", replace(files["obs.npy"], name="../../obs.npy"))


def test_a_half_written_shard_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "states.npy").write_bytes(b"half")
    (tmp_path / "round-0000").mkdir()
    (tmp_path / "round-0000" / "obs.npy").write_bytes(b"nobody knows")
    write_shard(tmp_path / "unfinished", [make_clip(0)])
    publish_shard(tmp_path / "unfinished", tmp_path / "round-0000")
    assert not (tmp_path / "unfinished").exists()
    names = sorted(path.name for path in (tmp_path / "round-0000").iterdir())
    assert names == ["actions.npy", "obs.npy", "true_rewards.npy"]


def test_a_dtype_whose_conversion_would_change_the_id_is_refused() -> None:
    clip = Clip(np.zeros((2, 1)), np.zeros((1, 1), np.float32), "Env-v0")
    with pytest.raises(DataError, match=r"`Clip.obs` has dtype float64; the store takes float32"):
        layout_of(clip)


def test_clips_of_another_shape_are_refused() -> None:
    wide = Clip(np.zeros((2, 4), np.float32), np.zeros((1, 2), np.int16), "Env-v0")
    with pytest.raises(DataError, match="keep environments with other spaces"):
        check_layouts([make_clip(0), wide], layout_of(make_clip(0)))


def test_states_of_several_sizes_are_refused() -> None:
    clip = make_clip(0, states=True)
    other = Clip(clip.obs, clip.actions, "Env-v0", sim_states=np.zeros((5, 7)))
    with pytest.raises(DataError, match="sim_states"):
        check_layouts([clip, other], layout_of(clip))


def test_a_reward_beyond_float32_is_refused_not_made_infinite(tmp_path: Path) -> None:
    clip = make_clip(0)
    huge = Clip(clip.obs, clip.actions, "Env-v0", true_rewards=np.array([1e300, 0, 0, 0]))
    with pytest.raises(DataError, match="does not fit into float32"):
        write_shard(tmp_path / "round-0000", [huge])
    assert not (tmp_path / "round-0000").exists()


def test_a_file_cut_after_it_was_verified_is_noticed_at_the_next_map(
    shard: tuple[Path, dict[str, ShardFile]],
) -> None:
    # Reading a map beyond the end of its file would kill the process (SIGBUS).
    folder, files = shard
    reader = ShardReader(folder)
    reader.map("round-0000", files["obs.npy"])
    path = folder / "round-0000" / "obs.npy"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(CorruptDataError, match="has 150 bytes where"):
        reader.map("round-0000", files["obs.npy"])


def test_two_threads_never_read_a_header_at_once(
    shard: tuple[Path, dict[str, ShardFile]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files = shard
    load, inside, most = np.load, [], []

    def watched(*args: Any, **kwargs: Any) -> Any:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", watched)
    readers = [ShardReader(folder) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda r: r.map("round-0000", files["obs.npy"]), readers):
            assert len(found)
    assert len(most) == 4 and max(most) == 1
