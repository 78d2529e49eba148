from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.errors import ConfigError
from rlhf_gym.seeding import generator, stream, torch_seed

NAMES = st.lists(st.text() | st.integers(), max_size=4)


def words(root: int, *names: str | int) -> list[int]:
    return stream(root, *names).generate_state(4).tolist()


def test_a_stream_is_the_sha256_of_root_and_names() -> None:
    digest = hashlib.sha256(b'[7, "round", 3]').digest()
    expected = np.random.SeedSequence(sum(byte << (8 * i) for i, byte in enumerate(digest)))
    assert words(7, "round", 3) == expected.generate_state(4).tolist()


@given(st.integers(0, 2**70), NAMES, st.integers(0, 2**70), NAMES)
def test_streams_are_equal_only_for_equal_paths(
    root: int, names: list[str | int], other_root: int, others: list[str | int]
) -> None:
    same = json.dumps([root, *names]) == json.dumps([other_root, *others])
    assert (words(root, *names) == words(other_root, *others)) is same


def test_a_number_and_its_digits_name_different_streams() -> None:
    assert words(0, 1) != words(0, "1")


def test_where_one_name_ends_matters() -> None:
    assert words(0, "ab", "c") != words(0, "a", "bc")
    assert words(1, 2) != words(12)


def test_streams_are_the_same_in_every_process() -> None:
    program = (
        "from rlhf_gym.seeding import stream; print(stream(5, 'fit', 2).generate_state(4).tolist())"
    )
    for hash_seed in ("0", "1"):
        output = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert json.loads(output) == words(5, "fit", 2)


def test_neighbouring_streams_are_uncorrelated() -> None:
    draws = np.stack([generator(0, "round", k).standard_normal(10_000) for k in range(5)])
    correlation = np.corrcoef(draws) - np.eye(5)
    # Standard error 1 / sqrt(10,000) = 0.01; five of them for ten pairs.
    assert np.abs(correlation).max() < 0.05


def test_numpy_integers_are_welcome() -> None:
    assert words(int(np.int64(3)), "a") == stream(np.int64(3), "a").generate_state(4).tolist()  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("root", [-1, 1.0, "0", None, True])
def test_a_root_that_is_no_whole_number_is_refused(root: object) -> None:
    with pytest.raises(ConfigError, match=r"`seed` is .*whole number"):
        stream(root)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("name", [0.5, None, False])
def test_a_name_that_is_neither_text_nor_number_is_refused(name: object) -> None:
    with pytest.raises(ConfigError, match="`name` is"):
        stream(0, name)  # type: ignore[arg-type]  # that is the point


def test_torch_seeds_have_31_bits_and_use_them() -> None:
    seeds = [torch_seed(stream(0, k)) for k in range(200)]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert len(set(seeds)) == 200
    assert max(seeds) >= 2**30
    assert torch_seed(stream(0, 1)) == stream(0, 1).generate_state(1)[0] % 2**31


def test_nothing_global_is_seeded() -> None:
    before = random.getstate(), np.random.get_state(legacy=False)
    generator(0, "a").random(3)
    after = random.getstate(), np.random.get_state(legacy=False)
    assert before[0] == after[0]
    np.testing.assert_equal(before[1], after[1])
