from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlhf_gym import errors, runs
from rlhf_gym.runs import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs" / "a", {"config.yaml": "seed: 0\n"})


def fill(folder: Path) -> None:
    (folder / "agent").mkdir()
    (folder / "agent" / "weights.bin").write_bytes(bytes(range(100)))
    (folder / "normaliser.json").write_text("[1.5]")


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_a_new_folder_holds_its_files_and_opens_again(run: Run) -> None:
    assert contents(run.folder) == {"config.yaml": b"seed: 0\n"}
    assert [p.name for p in run.folder.parent.iterdir()] == ["a"]
    again = Run.open(str(run.folder))
    assert again.folder == again.store_folder == run.folder
    paths = [again.config_path, again.metrics_path, again.summary_path, again.report_path]
    paths += [again.checkpoints_folder, again.tb_folder]
    names = "config.yaml metrics.jsonl summary.json report.html checkpoints tb".split()
    assert paths == [run.folder / name for name in names]


def test_an_existing_folder_is_refused_and_not_touched(run: Run) -> None:
    before = contents(run.folder)
    with pytest.raises(errors.RunExistsError, match=r"--resume .*--out") as caught:
        Run.create(run.folder, {"config.yaml": "seed: 1\n"})
    assert str(run.folder) in str(caught.value)
    assert contents(run.folder) == before
    assert [p.name for p in run.folder.parent.iterdir()] == ["a"]


def test_a_file_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(errors.RunExistsError):
        Run.create(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_of_two_creators_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run.create(tmp_path / "x", {"config.yaml": "first"})
    # The second one looked before the first was there.
    monkeypatch.setattr(Path, "exists", lambda self, **_: False)
    with pytest.raises(errors.RunExistsError):
        Run.create(tmp_path / "x", {"config.yaml": "second"})
    assert contents(tmp_path) == {"x/config.yaml": b"first"}


@pytest.mark.parametrize(("make", "found"), [(True, "no config.yaml"), (False, "not a folder")])
def test_what_is_no_run_folder_is_refused(tmp_path: Path, make: bool, found: str) -> None:
    if make:
        (tmp_path / "x").mkdir()
    with pytest.raises(errors.ConfigError, match=found):
        Run.open(tmp_path / "x")


# -- the lock -------------------------------------------------------------------------------------


HOLDER = """
import signal, sys
from rlhf_gym.runs import Run
with Run.open(sys.argv[1]).lock():
    print("held", flush=True)
    signal.pause()
"""


def test_a_second_trainer_is_refused_until_the_first_is_dead(run: Run) -> None:
    command = [sys.executable, "-c", HOLDER, str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None and first.stdout.readline() == "held\n"
            with pytest.raises(errors.RunLockedError, match=f"process {first.pid} is"), run.lock():
                pass
        finally:
            first.kill()
    with run.lock():
        assert (run.folder / "run.lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_holds_within_one_process_and_ends_with_its_block(run: Run) -> None:
    with run.lock(), pytest.raises(errors.RunLockedError, match=str(os.getpid())), run.lock():
        pass
    with pytest.raises(KeyError), run.lock():
        raise KeyError
    with run.lock():
        pass


# -- metrics --------------------------------------------------------------------------------------


def test_metrics_come_back_in_order(run: Run) -> None:
    assert run.metrics() == []
    run.append_metrics({"round": 0, "true_return_mean": np.float32(0.5), "seconds": math.nan})
    run.append_metrics({"round": 1, "true_return_mean": -1.25, "seconds": 2})
    assert run.metrics() == [
        {"round": 0, "true_return_mean": 0.5, "seconds": None},
        {"round": 1, "true_return_mean": -1.25, "seconds": 2},
    ]
    assert run.metrics_path.read_text().count("\n") == 2


def test_a_half_written_last_line_is_ignored_and_then_replaced(run: Run) -> None:
    run.append_metrics({"round": 0})
    complete = run.metrics_path.read_bytes()
    for piece in (b'{"rou', b'{"round": 1}', b"\xff\x00"):
        run.metrics_path.write_bytes(complete + piece)
        assert run.metrics() == [{"round": 0}]
    run.append_metrics({"round": 1})
    assert run.metrics_path.read_bytes() == complete + b'{"round": 1}\n'


@pytest.mark.parametrize("damage", [b"{]\n", b"3\n", b"\xff\n"])
def test_a_damaged_line_is_named(run: Run, damage: bytes) -> None:
    run.append_metrics({"round": 0})
    run.metrics_path.write_bytes(run.metrics_path.read_bytes() + damage + b'{"round": 2}\n')
    with pytest.raises(errors.CorruptDataError, match=r"line 2 of .*metrics\.jsonl"):
        run.metrics()


def test_trimming_keeps_the_rounds_before(run: Run) -> None:
    run.trim_metrics(3)
    assert not run.metrics_path.exists()
    for number in range(5):
        run.append_metrics({"round": number, "x": 0.1 * number})
    lines = run.metrics_path.read_text().splitlines(keepends=True)
    run.trim_metrics(3)
    assert run.metrics_path.read_text() == "".join(lines[:3])
    run.trim_metrics(0)
    assert run.metrics() == []


# -- checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_bit_for_bit(run: Run) -> None:
    assert run.latest_checkpoint() is None
    state = {"n_labels": 7, "third": 1 / 3, "big": 2**100, "nan": math.nan, "by": {2: 1, 10: 0}}
    folder = run.save_checkpoint(7, fill, state)
    assert folder == run.checkpoints_folder / "round-0007"
    found = run.latest_checkpoint()
    assert found is not None
    assert (found.folder, found.round) == (folder, 7)
    assert math.isnan(found.state.pop("nan"))
    assert found.state == {"n_labels": 7, "third": 1 / 3, "big": 2**100, "by": {"2": 1, "10": 0}}
    assert (folder / "agent" / "weights.bin").read_bytes() == bytes(range(100))
    assert set(contents(folder)) == {"agent/weights.bin", "normaliser.json", "state.json"}


def test_the_newest_two_are_kept(run: Run) -> None:
    for number in (8, 9, 10, 9_999, 10_000):
        run.save_checkpoint(number, fill, {})
    names = sorted(path.name for path in run.checkpoints_folder.iterdir())
    assert names == ["round-10000", "round-9999"]
    assert run.latest_checkpoint().round == 10_000  # type: ignore[union-attr]  # None fails as well
    run.save_checkpoint(10_001, fill, {}, keep=1)
    assert [path.name for path in run.checkpoints_folder.iterdir()] == ["round-10001"]


def test_saving_a_round_again_replaces_it(run: Run) -> None:
    run.save_checkpoint(3, fill, {"x": 1})
    run.save_checkpoint(3, fill, {"x": 2})
    found = run.latest_checkpoint()
    assert found is not None and found.state == {"x": 2}
    assert [path.name for path in run.checkpoints_folder.iterdir()] == ["round-0003"]


@pytest.mark.parametrize("name", ["agent/weights.bin", "normaliser.json", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "emptied"])
def test_damage_to_any_file_is_named_with_the_remedy(run: Run, name: str, damage: str) -> None:
    run.save_checkpoint(0, fill, {"counter": 5})
    folder = run.save_checkpoint(1, fill, {"counter": 5})
    path = folder / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    else:
        path.write_bytes(data[:-1] if damage == "truncated" else b"")
    with pytest.raises(errors.CorruptDataError) as caught:
        run.latest_checkpoint()
    assert str(path) in str(caught.value)
    assert f"delete {folder} to resume from round-0000" in str(caught.value)


def test_a_changed_counter_is_found(run: Run) -> None:
    path = run.save_checkpoint(1, fill, {"counter": 5}) / "state.json"
    path.write_text(path.read_text().replace('"counter": 5', '"counter": 6'))
    with pytest.raises(errors.CorruptDataError, match=r"was changed.*only checkpoint.*--out"):
        run.latest_checkpoint()


def test_following_the_remedy_resumes_from_the_one_before(run: Run) -> None:
    run.save_checkpoint(0, fill, {})
    folder = run.save_checkpoint(1, fill, {})
    shutil.rmtree(folder)
    found = run.latest_checkpoint()
    assert found is not None and found.round == 0


def test_a_newer_format_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as future:
        future.setattr(runs, "_CHECKPOINT_FORMAT", 2)
        run.save_checkpoint(0, fill, {})
    before = contents(run.folder)
    with pytest.raises(errors.SchemaError, match=r"format 2.*reads up to 1; update"):
        run.latest_checkpoint()
    assert contents(run.folder) == before


def test_a_full_disk_touches_no_earlier_checkpoint(run: Run) -> None:
    run.save_checkpoint(0, fill, {"x": 1})
    before = contents(run.folder)

    def write(folder: Path) -> None:
        fill(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left.*--resume.*round-0001") as caught:
        run.save_checkpoint(1, write, {})
    assert caught.value.errno == errno.ENOSPC
    assert contents(run.folder) == before
    assert [path.name for path in run.checkpoints_folder.iterdir()] == ["round-0000"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_writer_leaves_nothing(run: Run, error: type[BaseException]) -> None:
    def write(folder: Path) -> None:
        fill(folder)
        raise error

    with pytest.raises(error):
        run.save_checkpoint(1, write, {})
    assert list(run.checkpoints_folder.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from rlhf_gym.runs import Run
def write(folder):
    (folder / "half").write_bytes(b"x")
    os.kill(os.getpid(), signal.SIGKILL)
Run.open(sys.argv[1]).save_checkpoint(1, write, {})
"""


def test_a_killed_writer_leaves_a_temporary_folder_that_the_next_trainer_removes(run: Run) -> None:
    run.save_checkpoint(0, fill, {})
    result = subprocess.run([sys.executable, "-c", KILLED, str(run.folder)], check=False)
    assert result.returncode == -signal.SIGKILL
    leftover = run.checkpoints_folder / "round-0001.tmp"
    assert leftover.is_dir()
    found = Run.open(run.folder).latest_checkpoint()
    assert found is not None and found.round == 0
    assert leftover.is_dir()  # a reader must not pull it from under a living writer
    with run.lock():
        assert not leftover.exists()


# -- what somebody else may have put into a run ---------------------------------------------------

EVERYTHING = [
    "config.yaml", "provenance.json", "metrics.jsonl", "summary.json", "report.html", "run.lock",
    "preferences.db", "preferences.db-journal", "preferences.db-wal", "preferences.db.v2.bak",
    "clips", "clips/round-0000", "clips/round-0000/obs.npy", "checkpoints",
    "checkpoints/round-0000", "checkpoints/round-0000/agent/weights.bin", "figures", "tb", "cache",
    "cache/frames",
]  # fmt: skip


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_link_anywhere_in_a_run_is_refused_by_name_and_not_followed(
    run: Run, tmp_path: Path, name: str
) -> None:
    run.save_checkpoint(0, fill, {})
    outside = tmp_path / "outside"
    shutil.copytree(run.folder, outside)
    path = run.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    (outside / name).parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside / name)
    before = contents(outside)
    with pytest.raises(errors.CorruptDataError, match=f"`{path}` is a link"):
        Run.open(run.folder)
    assert contents(outside) == before


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/round-0000/agent/weights.bin"])
def test_a_link_that_came_after_opening_is_neither_read_nor_written(
    run: Run, tmp_path: Path, name: str
) -> None:
    run.save_checkpoint(0, fill, {})
    (run.folder / name).rename(tmp_path / "outside")
    (run.folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(errors.CorruptDataError, match="is a link"):
        run.latest_checkpoint()
    with pytest.raises(errors.CorruptDataError, match="is a link"):
        run.save_checkpoint(1, fill, {})
    if name == "checkpoints":
        assert [path.name for path in (tmp_path / "outside").iterdir()] == ["round-0000"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.lock"])
def test_what_is_written_in_place_is_not_written_through_a_link(
    run: Run, tmp_path: Path, name: str
) -> None:
    (tmp_path / "outside").write_text("mine")
    (run.folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(errors.CorruptDataError, match=f"{name}` is a link"):
        if name == "run.lock":
            with run.lock():
                pass
        else:
            run.append_metrics({"round": 0})
    assert (tmp_path / "outside").read_text() == "mine"
    assert not run.is_training


def test_a_run_behind_a_link_is_a_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run.folder)
    linked = Run.open(tmp_path / "link")
    with linked.lock():
        linked.append_metrics({"round": 0})
        linked.save_checkpoint(0, fill, {})
    assert run.metrics() == [{"round": 0}] and run.latest_checkpoint() is not None


@pytest.mark.parametrize(
    "name", ["round-²", "round-٣", "round-1_0", "round--1", "round-" + "9" * 100]
)
def test_a_folder_whose_number_is_none_is_no_checkpoint(run: Run, name: str) -> None:
    run.save_checkpoint(0, fill, {})
    (run.checkpoints_folder / name).mkdir()
    found = run.latest_checkpoint()
    assert found is not None and found.round == 0
    run.save_checkpoint(1, fill, {})


@pytest.mark.parametrize("name", ["../../outside", "/etc/hostname"])
def test_a_checkpoint_that_names_files_outside_of_it_is_refused(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as forged:
        forged.setattr(runs, "_file_sha256", lambda path: "0")
        forged.setattr(runs, "sync", lambda path: None)
        path = run.save_checkpoint(0, fill, {}) / "state.json"
    content = json.loads(path.read_text())
    content.pop("sha256")
    content["files"] = {name: "0"}
    path.write_text(json.dumps({**content, "sha256": runs._content_sha256(content)}))
    with pytest.raises(errors.CorruptDataError, match="outside of the checkpoint"):
        run.latest_checkpoint()
