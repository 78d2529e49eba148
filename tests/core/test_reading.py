from __future__ import annotations

import gzip
import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from rlhf_gym import reading
from rlhf_gym.errors import ConfigError, CorruptDataError


def test_what_is_no_regular_file_is_refused_and_never_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind("socket")
    for name, kind in (("pipe", "a named pipe"), ("socket", "a socket"), ("/dev/zero", "a device")):
        for read in (reading.read_bytes, reading.read_text, lambda p: list(reading.read_lines(p))):
            with pytest.raises(CorruptDataError, match=f"is {kind}; a regular file is needed"):
                read(Path(name))
    with pytest.raises(IsADirectoryError, match="a file is needed"):
        reading.read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        reading.read_bytes(tmp_path / "nothing")


def test_a_file_beyond_the_limit_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse terabyte, which takes no room on the disk
    with pytest.raises(CorruptDataError, match=r"holds 1,048,576\.0 MiB; at most 256 MiB are read"):
        reading.read_bytes(path)
    path.write_bytes(b"x" * 11)
    assert reading.read_bytes(path, most=11) == b"x" * 11
    with pytest.raises(CorruptDataError, match="RLHF_GYM_READ_LIMIT=10"):
        reading.read_bytes(path, most=10)


def test_the_environment_raises_every_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * 100)
    monkeypatch.setenv("RLHF_GYM_READ_LIMIT", "10")
    assert len(reading.read_bytes(path, most=10)) == 100
    path.write_bytes(b"x" * 101)
    with pytest.raises(CorruptDataError):
        reading.read_bytes(path, most=10)
    for nonsense in ("ten", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("RLHF_GYM_READ_LIMIT", nonsense)
        with pytest.raises(ConfigError, match="a number from 1 to"):
            reading.read_bytes(path)


def test_a_file_that_says_it_is_empty_is_bounded_all_the_same() -> None:
    # Files of /proc have size 0 and content.
    assert reading.read_bytes(Path("/proc/self/status")).startswith(b"Name:")
    with pytest.raises(CorruptDataError, match="at least"):
        reading.read_bytes(Path("/proc/self/status"), most=10)


def test_text_is_utf8_without_its_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("\ufeffé".encode())
    assert reading.read_text(path) == "é"
    path.write_bytes(b"one\ntwo \xe9\n")
    with pytest.raises(CorruptDataError, match="line 2: byte 0xe9 is not UTF-8"):
        reading.read_text(path)


@pytest.mark.parametrize("packed", [False, True])
def test_lines_stream_with_their_numbers(tmp_path: Path, packed: bool) -> None:
    content = b"one\n\n  \nfour\nfive"
    path = tmp_path / "lines"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert list(reading.read_lines(path)) == [(1, b"one\n"), (4, b"four\n"), (5, b"five")]


def test_a_line_a_bomb_and_a_desert_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_LINE_BYTES", 1000)
    monkeypatch.setattr(reading, "_EMPTY_LINES", 50)
    path = tmp_path / "lines"
    path.write_bytes(b"short\n" + b"x" * 1001)
    lines = reading.read_lines(path)
    assert next(lines) == (1, b"short\n"), "what is before it was read"
    with pytest.raises(CorruptDataError, match="line 2 of"):
        next(lines)
    path.write_bytes(b"x" * 999 + b"\n")
    assert len(list(reading.read_lines(path))) == 1
    path.write_bytes(b"\n" * 51 + b"x\n")
    with pytest.raises(CorruptDataError, match="51 empty lines"):
        list(reading.read_lines(path))


def test_a_gzip_bomb_ends_early_and_an_honest_file_of_its_size_does_not(tmp_path: Path) -> None:
    path = tmp_path / "lines.gz"
    line = b"x" * 4095 + b"\n"
    with gzip.open(path, "wb", 9) as file:
        for _ in range(8192):  # 32 MiB
            file.write(line)
    seen = 0
    with pytest.raises(CorruptDataError, match="unpacks to more than"):
        for _ in reading.read_lines(path):
            seen += 1
    assert seen < 3000, "it stopped long before the end"
    noise = os.urandom(1 << 14).hex().encode() + b"\n"
    path.write_bytes(gzip.compress(noise * 600, 1))  # 19 MiB
    assert len(list(reading.read_lines(path))) == 600


def test_the_file_that_was_opened_last_is_known(tmp_path: Path) -> None:
    path = tmp_path / "this"
    path.write_bytes(b"")
    reading.read_bytes(path)
    assert reading.last_read() == path
