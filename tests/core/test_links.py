from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_gym.errors import CorruptDataError
from rlhf_gym.files import write_text
from rlhf_gym.links import create_file, open_in_place, refuse_links

SPECIAL: dict[str, Callable[[Path, Path], None]] = {
    "a link": lambda path, outside: path.symlink_to(outside),
    "a link to nothing": lambda path, outside: path.symlink_to(outside / "nothing"),
    "a link to a folder": lambda path, outside: path.symlink_to(outside.parent),
    "a pipe": lambda path, outside: os.mkfifo(path),
    "a socket": lambda path, outside: _socket(path),
}


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    file = tmp_path / "outside" / "secret"
    file.parent.mkdir()
    file.write_text("mine")
    return file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run" / "clips" / "round-0000").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)  # a socket's path has 108 bytes at most
    return Path("run")


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("place", ["clips/round-0000/obs.npy", "preferences.db-journal"])
def test_what_is_neither_file_nor_folder_is_refused_by_name_wherever_it_stands(
    folder: Path, outside: Path, kind: str, place: str
) -> None:
    SPECIAL[kind](folder / place, outside)
    with pytest.raises(CorruptDataError, match=f"`{folder / place}` is a .*real thing"):
        refuse_links(folder, ["clips", "preferences.db*"])


def test_a_tree_of_files_and_a_folder_that_is_a_link_itself_pass(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "clips" / "round-0000" / "obs.npy").write_text("x")
    (tmp_path / "elsewhere").symlink_to(folder.absolute())
    for place in (folder, tmp_path / "elsewhere", tmp_path / "nothing"):
        refuse_links(place, ["clips"])


def test_what_is_none_of_ours_may_be_anything(folder: Path, outside: Path) -> None:
    (folder / "notes").symlink_to(outside)
    refuse_links(folder, ["clips"])


def test_a_new_file_takes_the_place_of_a_link_and_not_of_its_target(
    tmp_path: Path, outside: Path
) -> None:
    (tmp_path / "new").symlink_to(outside)
    with create_file(tmp_path / "new") as file:
        file.write(b"ours")
    assert (tmp_path / "new").read_text() == "ours" and not (tmp_path / "new").is_symlink()
    assert outside.read_text() == "mine"


def test_a_link_under_the_temporary_name_is_not_written_through(
    tmp_path: Path, outside: Path
) -> None:
    (tmp_path / f".x.{os.getpid()}.tmp").symlink_to(outside)
    write_text(tmp_path / "x", "ours")
    assert (tmp_path / "x").read_text() == "ours"
    assert outside.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "x"]


@pytest.mark.parametrize("kind", [k for k in SPECIAL if "folder" not in k])
def test_what_is_written_in_place_is_a_file_and_no_pipe_is_waited_for(
    folder: Path, outside: Path, kind: str
) -> None:
    SPECIAL[kind](folder / "metrics.jsonl", outside)
    with pytest.raises(CorruptDataError, match=r"metrics\.jsonl` is a "):
        open_in_place(folder / "metrics.jsonl")
    assert outside.read_text() == "mine"
    assert sorted(path.name for path in outside.parent.iterdir()) == ["secret"]
