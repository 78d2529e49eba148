"""A run's folder: metrics, checkpoints and their integrity, the trainer's lock, provenance.

Everything is written so that a kill at any moment leaves either the old file or the new one: into
a temporary neighbour, flushed to disk, then renamed over the old name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_gym import errors
from rlhf_gym.config import is_whole
from rlhf_gym.documents import parse_json, read_json
from rlhf_gym.files import plain, sync, whole_number, write_text
from rlhf_gym.links import open_in_place, refuse_links
from rlhf_gym.locks import is_locked, lock_file
from rlhf_gym.reading import limited, open_regular, read_bytes

__all__ = ["Checkpoint", "Run", "is_run"]

_CHECKPOINT_FORMAT = 1
_CHECKPOINT_BYTES = 64 << 30  # of each file: the weights of a large language model

# Everything that we read, write or lock in a run folder. What else lies there is its owner's.
_ENTRIES = (
    "config.yaml", "provenance.json", "metrics.jsonl", "summary.json", "report.html", "run.lock",
    "preferences.db*", "clips", "checkpoints", "figures", "tb", "cache",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its files, the round it ends (from 0), the state saved with them."""

    folder: Path
    round: int
    state: dict[str, Any]


class Run:
    """The folder of one run; make one with `Run.create` or `Run.open`.

    Attributes:
        folder: The run folder; the preference store lies in it (`store_folder`).
        config_path: config.yaml, the resolved configuration.
        metrics_path: metrics.jsonl, one object per round.
        summary_path: summary.json, the final figures; there once the run is finished.
        report_path: report.html, self-contained.
        checkpoints_folder: Holds round-0000, round-0001, ...: the newest few.
        tb_folder: TensorBoard event files.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = self.store_folder = Path(folder)
        self.config_path = self.folder / "config.yaml"
        self.metrics_path = self.folder / "metrics.jsonl"
        self.summary_path = self.folder / "summary.json"
        self.report_path = self.folder / "report.html"
        self.checkpoints_folder = self.folder / "checkpoints"
        self.tb_folder = self.folder / "tb"

    @classmethod
    def create(cls, folder: Path | str, files: Mapping[str, str] | None = None) -> Run:
        """Make a new run folder, parents included; it appears complete or not at all.

        Args:
            folder: Must not exist yet.
            files: Name -> text of files to be there from the first moment: with
                `{"config.yaml": ...}` even a run killed right away can be resumed.

        Raises:
            RunExistsError: the folder, or a file of that name, is already there.
        """
        run = cls(folder)
        taken = errors.RunExistsError(
            f"{folder} is already there and was not touched; continue that run with "
            f"`--resume {folder}`, or choose another folder with `--out`."
        )
        if run.folder.exists():
            raise taken
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = run.folder.with_name(f".{run.folder.name}.{os.getpid()}.tmp")
        try:
            temporary.mkdir()
            for name, text in (files or {}).items():
                write_text(temporary / name, text)
            os.rename(temporary, run.folder)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise taken from error  # somebody else was faster
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(run.folder.parent)
        return run

    @classmethod
    def open(cls, folder: Path | str) -> Run:
        """The run in an existing folder; changes nothing in it.

        Raises:
            ConfigError: it is not a folder, or holds no config.yaml.
            CorruptDataError: something of the run is a link, a pipe or a device; the message
                names it. The folder itself may be a link.
        """
        run = cls(folder)
        refuse_links(run.folder, _ENTRIES)
        if not run.config_path.is_file():
            found = "holds no config.yaml" if run.folder.is_dir() else "is not a folder"
            raise errors.ConfigError(
                f"{run.folder} {found}; give the folder of a run, as `rlhf-gym train` made it."
            )
        return run

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for one trainer; readers and labellers need no lock.

        The kernel drops the lock of a process that dies, so a killed trainer is no obstacle.

        Raises:
            RunLockedError: another trainer holds it; the message names its process id.
            CorruptDataError: `run.lock` is a link, a pipe or a device.
        """

        def taken(holder: str) -> str:
            return (
                f"process {holder} is training on {self.folder}; wait for it or stop it, "
                "or train into another folder with `--out`."
            )

        with lock_file(self.folder / "run.lock", taken):
            self._remove_leftovers()
            yield

    @property
    def is_training(self) -> bool:
        """Whether a living process holds the lock. To look keeps nobody from taking it."""
        return is_locked(self.folder / "run.lock")

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Add one round's line to metrics.jsonl, durably; NaN and infinities become null."""
        line = json.dumps(plain(metrics), allow_nan=False) + "\n"
        with open_in_place(self.metrics_path) as file:
            # A writer killed half-way left a piece of a line behind the last complete one.
            file.seek(file.truncate(file.read().rfind(b"\n") + 1))
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """All rounds recorded so far, in order; a half-written last line is ignored.

        Raises:
            CorruptDataError: a line that was completely written is not a JSON object.
        """
        data = read_bytes(self.metrics_path) if self.metrics_path.exists() else b""
        rounds: list[dict[str, Any]] = []
        for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                rounds.append(dict(parse_json(line, "it")))
                if not is_whole(rounds[-1].get("round"), 0):
                    raise ValueError("its `round` is no number from 0")
            except (ValueError, TypeError) as error:
                raise errors.CorruptDataError(
                    f"line {number} of {self.metrics_path} is not a JSON object ({error}); put "
                    "it back from a copy. Without that line the run still resumes to the same "
                    "weights, but a replay of it does not know what that round was trained on."
                ) from error
        return rounds

    def trim_metrics(self, n_rounds: int) -> None:
        """Keep the lines of rounds below `n_rounds`, atomically; resuming writes the others."""
        if self.metrics_path.exists():
            kept = [m for m in self.metrics() if m["round"] < n_rounds]
            write_text(self.metrics_path, "".join(json.dumps(m) + "\n" for m in kept))

    def save_checkpoint(
        self, round: int, write: Callable[[Path], None], state: Mapping[str, Any], keep: int = 2
    ) -> Path:
        """Write a checkpoint that appears complete or not at all, and drop the oldest.

        Args:
            round: The round just finished, from 0.
            write: Fills the folder it is given; sub-folders are fine.
            state: JSON values; floats come back bit for bit.
            keep: How many checkpoints to keep, at least 1.

        Returns:
            The checkpoint's folder.

        Raises:
            OSError: the disk is full, or the like; earlier checkpoints are untouched.
        """
        final = self.checkpoints_folder / f"round-{round:04d}"
        temporary = final.with_name(f"{final.name}.tmp")
        refuse_links(self.folder, ["checkpoints"])
        self._remove_leftovers()
        try:
            temporary.mkdir(parents=True)
            write(temporary)
            _seal(temporary, round, state)
            if final.exists():
                _remove(final)
            os.rename(temporary, final)
            sync(self.checkpoints_folder)
        except OSError as error:
            message = (
                f"the checkpoint could not be written ({error.strerror or error}); earlier ones "
                f"are untouched: make room and continue with `--resume {self.folder}`"
            )
            raise OSError(error.errno, message, str(final)) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in self._checkpoints()[: -max(keep, 1)]:
            _remove(old)
        return final

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint after checking every byte of it; None before the first.

        Raises:
            CorruptDataError: a file of it is missing, truncated, changed or a link.
            SchemaError: a newer version of rlhf_gym wrote it.
        """
        refuse_links(self.folder, ["checkpoints"])
        folders = self._checkpoints()
        if not folders:
            return None
        remedy = "it is the only checkpoint: start again with another `--out`"
        if len(folders) > 1:
            remedy = f"delete {folders[-1]} to resume from {folders[-2].name}"
        return _verified(folders[-1], remedy)

    def _checkpoints(self) -> list[Path]:
        rounds: dict[Path, int] = {}
        for path in self.checkpoints_folder.glob("round-*"):
            number = whole_number(path.name.removeprefix("round-"))
            if number is not None:
                rounds[path] = number
        return sorted(rounds, key=lambda path: rounds[path])

    def _remove_leftovers(self) -> None:
        for leftover in self.checkpoints_folder.glob("round-*.tmp"):
            shutil.rmtree(leftover)


def is_run(folder: Path) -> bool:
    """Whether a folder is one that a run left: its config.yaml beside something else of it."""
    marks = ("provenance.json", "preferences.db", "metrics.jsonl", "summary.json", "checkpoints")
    return (folder / "config.yaml").exists() and any((folder / name).exists() for name in marks)


def _seal(folder: Path, round: int, state: Mapping[str, Any]) -> None:
    """Write state.json with the sha256 of every file, and flush everything to disk."""
    entries = sorted(folder.rglob("*"))
    files = {str(p.relative_to(folder)): _file_sha256(p) for p in entries if p.is_file()}
    for path in entries:
        sync(path)
    # The state is restored, so a NaN in it stays one (Python reads it back); it is hashed as it
    # will be read, with strings for keys.
    content = {"format": _CHECKPOINT_FORMAT, "round": round, "state": state, "files": files}
    content = json.loads(json.dumps(content))
    sealed = {**content, "sha256": _content_sha256(content)}
    write_text(folder / "state.json", json.dumps(sealed, indent=1))


def _verified(folder: Path, remedy: str) -> Checkpoint:
    """Read a checkpoint's state.json and compare every file with the sha256 noted there."""

    def corrupt(name: str, what: str) -> errors.CorruptDataError:
        return errors.CorruptDataError(f"{folder / name} {what}; {remedy}.")

    try:
        content = read_json(folder / "state.json")
        found, version = content.pop("sha256"), content["format"]
        if not is_whole(version):
            raise ValueError("its format is no number")
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise corrupt("state.json", "is missing or damaged") from error
    if version > _CHECKPOINT_FORMAT:
        raise errors.SchemaError(
            f"{folder} has checkpoint format {version}, this version of rlhf_gym reads up to "
            f"{_CHECKPOINT_FORMAT}; update rlhf_gym."
        )
    if found != _content_sha256(content):
        raise corrupt("state.json", "was changed after it was written")
    files, state = content.get("files"), content.get("state")
    inside = isinstance(files, dict) and all(
        not Path(name).is_absolute() and ".." not in Path(name).parts for name in files
    )
    if isinstance(files, dict) and not inside:
        raise corrupt("state.json", "names a file outside of the checkpoint")
    if not inside or not isinstance(state, dict) or content.get("round") != int(folder.name[6:]):
        raise corrupt("state.json", "was not written by rlhf_gym: its content is of another kind")
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise corrupt(name, "is missing")
        if _file_sha256(folder / name) != expected:
            raise corrupt(name, "is truncated or damaged: its sha256 is not the one noted")
    return Checkpoint(folder, content["round"], state)


def _remove(folder: Path) -> None:
    """Delete a checkpoint so that a kill half-way leaves nothing that looks like one."""
    doomed = folder.with_name(f"{folder.name}-old.tmp")
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def _content_sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with open_regular(path) as file:
        limited(os.fstat(file.fileno()).st_size, _CHECKPOINT_BYTES, f"`{path}` holds")
        return hashlib.file_digest(file, "sha256").hexdigest()
