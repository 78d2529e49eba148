"""Make the runs of a benchmark, each in a process of its own, a few at once."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_gym.benchmark.records import Job
from rlhf_gym.benchmark.worker import job_message
from rlhf_gym.files import write_text
from rlhf_gym.links import create_file
from rlhf_gym.locks import lock_file

__all__ = ["Failure", "lock", "run_jobs"]

# -P: modules come from where this process finds them (`job_message`), not from where one stands.
_WORKER = [sys.executable, "-P", "-m", "rlhf_gym.benchmark.worker"]
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 10.0
_TAIL_CHARACTERS = 2000


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error."""

    job: Job
    error: str
    """The end of what it wrote."""
    log: Path
    """All of it."""


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    started: float
    log: Path


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold a benchmark's folder, so that no run is made twice at once.

    The kernel drops the lock of a process that dies, so a killed benchmark is no obstacle.

    Raises:
        RunLockedError: another benchmark holds it; the message names its process id.
    """
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    write_text(work / ".gitignore", "*\n")  # half-made runs are nobody's history

    def taken(holder: str) -> str:
        return (
            f"process {holder} makes the runs of {out}; wait for it or stop it, take another "
            "folder with `--out`, or look at what is there with `--report-only`."
        )

    with lock_file(work / ".lock", taken):
        yield


def run_jobs(
    jobs: Sequence[Job],
    out: Path,
    *,
    workers: int,
    command: Sequence[str],
    keep_runs: bool = False,
    on_end: Callable[[Job, float, Failure | None], None] | None = None,
) -> list[Failure]:
    """Make all runs; one that fails does not stop the others.

    Args:
        jobs: In this order.
        out: The benchmark's folder.
        workers: Processes at once.
        command: The command line to be written into the records.
        keep_runs: Whether run folders stay.
        on_end: Called when a run has ended, with its seconds and what went wrong, if anything did.

    Raises:
        KeyboardInterrupt: as it came, after all processes were stopped.
    """
    waiting, running, failures = list(jobs), list[_Running](), list[Failure]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_start(waiting.pop(0), out, list(command), keep_runs))
            ended = [run for run in running if run.process.poll() is not None]
            if not ended:
                time.sleep(_POLL_SECONDS)
            for run in ended:
                running.remove(run)
                failure = _outcome(run, out)
                failures += [failure] if failure else []
                if on_end is not None:
                    on_end(run.job, time.monotonic() - run.started, failure)
    finally:
        _stop(running)
    return failures


def _start(job: Job, out: Path, command: list[str], keep_run: bool) -> _Running:
    work = job.work(out)
    log = work.with_name(f"{work.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with create_file(log) as output:
        process = subprocess.Popen(
            _WORKER,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            # More threads than the run asks for would only disturb the other runs.
            env={**os.environ, "OMP_NUM_THREADS": str(job.config.threads)},
            # Ctrl-C reaches this process only, which then stops its workers in order.
            start_new_session=True,
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once: its log says why
        process.stdin.write(job_message(job, out, command, keep_run).encode())
        process.stdin.flush()
    return _Running(job, process, time.monotonic(), log)


def _outcome(run: _Running, out: Path) -> Failure | None:
    status = run.process.returncode
    _close(run.process)
    if status == 0 and run.job.path(out).exists():
        run.log.unlink()
        return None
    tail = run.log.read_text(errors="replace").strip()[-_TAIL_CHARACTERS:]
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return Failure(run.job, tail or f"no message, {how}", run.log)


def _stop(running: Sequence[_Running]) -> None:
    for run in running:
        run.process.terminate()
        _close(run.process)
    for run in running:
        try:
            run.process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            run.process.kill()
            run.process.wait()


def _close(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
