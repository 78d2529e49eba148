from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from rlhf_gym.files import write_bytes, write_json, write_text


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_writing_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "a longer text, with ü\n")
    write_bytes(tmp_path / "x", b"new")
    assert contents(tmp_path) == {"x": b"new"}


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "x", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "x", "new")
    assert contents(tmp_path) == {"x": b"old"}


def test_content_reaches_the_disk_before_the_name_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"
        events.append(f"fsync {kind}")
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        events.append("replace")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_text(tmp_path / "x", "new")
    assert events == ["fsync file", "replace", "fsync folder"]


def test_json_has_plain_numbers_and_null_for_what_json_lacks(tmp_path: Path) -> None:
    values = {
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "n": np.int64(3),
        "rows": np.array([[1.0, np.nan]]),
        "pair": (True, None),
        2: "two",
    }
    write_json(tmp_path / "x.json", values)
    expected = {"nan": None, "inf": None, "n": 3, "rows": [[1.0, None]], "pair": [True, None]}
    assert json.loads((tmp_path / "x.json").read_text()) == {**expected, "2": "two"}
