from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.clip_frames import ClipFrames
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.frame_cache import FrameCache

SIZE = (480, 480)
MAGIC = b"rlhf_gym frames 1\n"


def some_frames(seed: int = 0, n: int = 3, side: int = 8) -> ClipFrames:
    rng = np.random.default_rng(seed)
    return ClipFrames(rng.integers(0, 256, (n, side, side + 1, 3), np.uint8), 1 / 30)


def test_what_was_put_is_found_exactly(tmp_path: Path) -> None:
    cache, drawn = FrameCache(tmp_path / "new" / "folder"), some_frames()
    assert cache.get("abc", SIZE) is None
    cache.put("abc", SIZE, drawn)
    assert ("abc", SIZE) in cache
    found = FrameCache(cache.folder).get("abc", SIZE)
    assert found is not None
    np.testing.assert_array_equal(found.frames, drawn.frames)
    assert found.frames.dtype == np.uint8
    assert found.seconds_per_frame == drawn.seconds_per_frame
    assert cache.get("abc", (480, 481)) is None
    assert cache.get("abd", SIZE) is None


def test_frames_in_any_memory_order_are_kept(tmp_path: Path) -> None:
    flipped = ClipFrames(some_frames().frames[:, ::-1], 0.04)
    cache = FrameCache(tmp_path)
    cache.put("abc", SIZE, flipped)
    found = cache.get("abc", SIZE)
    assert found is not None
    np.testing.assert_array_equal(found.frames, flipped.frames)


def test_plain_pictures_take_a_fraction_of_their_size(tmp_path: Path) -> None:
    frames = np.zeros((5, 100, 100, 3), np.uint8)
    frames[:, 40:60, 40:60] = 200
    cache = FrameCache(tmp_path)
    cache.put("abc", SIZE, ClipFrames(frames, 0.04))
    assert cache.path("abc", SIZE).stat().st_size < frames.nbytes / 20


@given(st.data())
def test_a_damaged_file_is_a_miss_and_is_removed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    cache = FrameCache(tmp_path_factory.mktemp("cache"))
    cache.put("abc", SIZE, some_frames(n=2, side=3))
    path = cache.path("abc", SIZE)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    found = cache.get("abc", SIZE)
    if found is None:
        assert not path.exists()
    else:  # a flipped bit in the header's seconds or spaces: the pictures are still the same
        np.testing.assert_array_equal(found.frames, some_frames(n=2, side=3).frames)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[]",
        b"{}",
        json.dumps({"shape": [2**20, 2**20, 2**20, 3], "lengths": [0], "crc32": 0}).encode(),
        json.dumps(
            {"shape": [1, 1, 1, 3], "lengths": [0], "crc32": 0, "seconds_per_frame": 1}
        ).encode(),
        json.dumps(
            {"shape": [0, 1, 1, 3], "lengths": [], "crc32": 0, "seconds_per_frame": 1}
        ).encode(),
    ],
)
def test_a_file_of_something_else_is_a_miss(tmp_path: Path, header: bytes) -> None:
    cache = FrameCache(tmp_path)
    cache.path("abc", SIZE).write_bytes(MAGIC + len(header).to_bytes(4, "little") + header)
    assert cache.get("abc", SIZE) is None
    assert list(tmp_path.iterdir()) == []


def test_the_least_recently_used_clips_make_room(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path)
    for seed, name in enumerate("abc"):
        cache.put(name, SIZE, some_frames(seed))
        os.utime(cache.path(name, SIZE), (1000 + seed, 1000 + seed))
    one = cache.path("a", SIZE).stat().st_size
    assert cache.get("a", SIZE) is not None  # used now, so that "b" is the oldest
    small = FrameCache(tmp_path, max_bytes=3 * one + one // 2)
    small.put("d", SIZE, some_frames(3))
    assert [name for name in "abcd" if (name, SIZE) in small] == ["a", "c", "d"]


def test_a_clip_larger_than_the_cache_is_kept_alone(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path, max_bytes=1)
    cache.put("a", SIZE, some_frames(0))
    cache.put("b", SIZE, some_frames(1))
    assert [path.name[0] for path in tmp_path.iterdir()] == ["b"]


def test_nothing_but_its_own_files_is_removed(tmp_path: Path) -> None:
    (tmp_path / "precious.db").write_bytes(b"x" * 10_000)
    abandoned = tmp_path / ".a-480x480.frames1.77.tmp"
    fresh = tmp_path / ".b-480x480.frames1.78.tmp"
    for path in (abandoned, fresh):
        path.write_bytes(b"half")
    os.utime(abandoned, (1000, 1000))
    FrameCache(tmp_path, max_bytes=1).put("c", SIZE, some_frames())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        fresh.name, "c-480x480.frames1", "precious.db",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a b", "x" * 201])
def test_an_id_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no clip id"):
        FrameCache(tmp_path).put(name, SIZE, some_frames())
    assert list(tmp_path.iterdir()) == []


def test_a_cache_of_no_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_bytes"):
        FrameCache(tmp_path, 0)


def test_a_folder_that_cannot_be_written_says_so_and_is_left_clean(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        FrameCache(blocked / "cache").put("abc", SIZE, some_frames())
    assert FrameCache(blocked / "cache").get("abc", SIZE) is None
