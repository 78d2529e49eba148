from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlhf_gym.errors import CorruptDataError, RunLockedError
from rlhf_gym.locks import is_locked, lock_file

HOLDER = """
import signal, sys
from pathlib import Path
from rlhf_gym.locks import lock_file
with lock_file(Path(sys.argv[1]), str):
    print("held", flush=True)
    signal.pause()
"""


def taken(holder: str) -> str:
    return f"process {holder} has it"


@pytest.mark.parametrize(
    "content",
    [b"", b"1\n", b"4194303\n", b"\xb2\n", "²".encode(), b"-1", b"9" * 5000, b"\0\xff garbage"],
)
def test_whatever_stands_in_it_a_lock_that_nobody_holds_is_free(
    tmp_path: Path, content: bytes
) -> None:
    """A process that died, one whose number is another's by now (1 always lives), and rubbish."""
    path = tmp_path / "run.lock"
    path.write_bytes(content)
    assert not is_locked(path)
    with lock_file(path, taken):
        assert is_locked(path)
        assert path.read_text() == f"{os.getpid()}\n"
    assert not is_locked(path)


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert is_locked(path)
        holder.kill()
    assert not is_locked(path)


@pytest.mark.parametrize(("content", "name"), [(b"4711\n", "4711"), (b"\x1b[31m\n", "unknown")])
def test_the_message_names_a_number_or_nobody(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / "run.lock"
    with lock_file(path, taken):
        path.write_bytes(content)
        with pytest.raises(RunLockedError, match=f"process {name} has it"), lock_file(path, taken):
            pass


def test_who_only_looks_keeps_nobody_from_training(tmp_path: Path) -> None:
    """A look is a shared lock for a moment: the one who trains comes in as soon as it ends."""
    path = tmp_path / "run.lock"
    path.touch()
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    end = threading.Timer(0.05, os.close, [descriptor])
    end.start()
    with lock_file(path, taken):
        assert is_locked(path)
    end.join()


def test_a_link_and_a_pipe_are_no_lock(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "link", tmp_path / "pipe"):
        assert not is_locked(path)
        with pytest.raises(CorruptDataError, match=path.name), lock_file(path, taken):
            pass
    assert (tmp_path / "mine").read_text() == "mine"
