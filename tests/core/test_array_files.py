from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rlhf_gym.array_files import map_npy, read_npz, read_tensors
from rlhf_gym.errors import CorruptDataError


def promise(shape: tuple[int, ...]) -> bytes:
    """A .npy of 16 bytes whose header says that it has another shape."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + b"\0" * 16


def test_sound_arrays_come_back_bit_for_bit(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.int16).reshape(2, 3),
        "b": np.float64(2.5),
        "c": np.zeros(0),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.asarray(array).dtype
    np.save(tmp_path / "a.npy", arrays["a"])
    np.testing.assert_array_equal(map_npy(tmp_path / "a.npy"), arrays["a"])
    save_file({"t": torch.arange(3)}, tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors")["t"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("shape", [(2**40, 3), (5,), (2**62, 2**62), (-1,), (0, -3)])
def test_a_header_that_promises_more_than_there_is_is_refused(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    (tmp_path / "a.npy").write_bytes(promise(shape))
    with pytest.raises(CorruptDataError, match=r"a\.npy"):
        map_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", promise(shape))
    with pytest.raises(CorruptDataError, match=r"a\.npz"):
        read_npz(tmp_path / "a.npz")


def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1 << 20))
    with pytest.raises(CorruptDataError, match="more than its own size"):
        read_npz(tmp_path / "a.npz")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(CorruptDataError, match="Python objects"):
        map_npy(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", a=np.array([{}], object))
    with pytest.raises(CorruptDataError, match="Python objects"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b"\xff" * 7 + b"\x3f{}"])
def test_what_is_none_of_these_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    for read in (map_npy, read_npz, read_tensors):
        with pytest.raises(CorruptDataError):
            read(path)
