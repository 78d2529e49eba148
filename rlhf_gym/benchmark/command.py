"""Run a benchmark and write its results: everything `rlhf-gym benchmark` does, as a function."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rlhf_gym.benchmark.records import Job, Record, check_parts, plan_jobs, read_record
from rlhf_gym.benchmark.results import publish_yardsticks, read_yardsticks, write_results
from rlhf_gym.benchmark.scheduler import Failure, lock, run_jobs
from rlhf_gym.benchmark.spec import BenchmarkSpec
from rlhf_gym.benchmark.summary import versions_differ
from rlhf_gym.envs.horizon import early_end_warning
from rlhf_gym.errors import ConfigError
from rlhf_gym.printing import Screen

__all__ = ["BenchmarkResult", "Missing", "default_out", "run_benchmark"]


@dataclass(frozen=True)
class Missing:
    """A run that the results lack, and why."""

    job: Job
    why: str


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark ended with; the files lie in `out`."""

    out: Path
    summary: dict[str, Any]
    """As in summary.json."""
    records: list[Record]
    """The figures of each run."""
    failures: list[Failure]
    """Runs that ended with an error this time."""
    missing: list[Missing]
    """Runs that the results lack, the failed ones included."""


def default_out(spec: BenchmarkSpec) -> Path:
    """Where results go unless told: `benchmarks/results/<name>` below the current folder."""
    return Path("benchmarks") / "results" / spec.name


def run_benchmark(
    spec: BenchmarkSpec,
    out: Path | None = None,
    *,
    workers: int | None = None,
    only: Sequence[str] = (),
    tasks: Sequence[str] = (),
    seeds: Sequence[int] = (),
    report_only: bool = False,
    keep_runs: bool = False,
    yardsticks: Path | None = None,
    command: Sequence[str] | None = None,
    quiet: bool = False,
) -> BenchmarkResult:
    """Make the runs that are not there yet, then write tables, figures and Parquet files.

    A run is made when it has no record, when its record is damaged, or when its record was made
    with other options. Runs of a killed benchmark go on from their last round.

    Args:
        spec: What to measure.
        out: The folder of the results; default: see `default_out`.
        workers: Runs at once; default: the specification's.
        only: Settings to run now; the results show the others as far as they are there.
        tasks: Tasks to run now.
        seeds: Seeds to run now.
        report_only: Make no run.
        keep_runs: Keep the run folders, below `out`/work.
        yardsticks: A file to put each task's reference into, see `publish_yardsticks`.
        command: The command line to be written into the records; None takes this process's own.
        quiet: Print nothing.

    Raises:
        ConfigError, UnknownNameError: something that cannot work; no run was made.
        RunLockedError: another benchmark makes the runs of this folder.
        KeyboardInterrupt: as it came, after the runs were stopped; call again to go on.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"`workers` is {workers}; at least 1 is needed.")
    if yardsticks is not None:
        read_yardsticks(yardsticks)  # not to find out after hours that it is something else
    _check_choice("only", only, list(spec.settings))
    _check_choice("tasks", tasks, list(spec.tasks))
    _check_choice("seeds", seeds, spec.seeds)
    out = default_out(spec) if out is None else out
    console = Screen(quiet=quiet, soft_wrap=True)
    arguments = list(sys.argv if command is None else command)
    jobs = plan_jobs(spec)
    failures: list[Failure] = []
    if not report_only:
        chosen = [
            job
            for job in jobs
            if (not only or job.setting in only)
            and (not tasks or job.task in tasks)
            and (not seeds or job.seed in seeds)
        ]
        failures = _make(chosen, out, workers or spec.workers, arguments, keep_runs, console)
    records, missing = _collect(jobs, out)
    summary = write_results(spec, records, [(m.job, m.why) for m in missing], out, arguments)
    console.print(f"{len(records)} of {len(jobs)} runs are on file; results: {out}")
    if versions_differ(summary):
        console.print("warning: the runs were made with different versions; table.md names them")
    for task, figures in summary["tasks"].items():
        if figures["ended_early"]:
            console.print(f"warning: {early_end_warning(task)}", markup=False)
    if yardsticks is not None:
        source = Path(os.path.relpath(out / "summary.json"))
        written = publish_yardsticks(summary, records, yardsticks, source)
        console.print(f"yardsticks of {', '.join(written) or 'no task'} written to {yardsticks}")
    return BenchmarkResult(out, summary, records, failures, missing)


def _make(
    chosen: Sequence[Job],
    out: Path,
    workers: int,
    command: list[str],
    keep_runs: bool,
    console: Console,
) -> list[Failure]:
    """Make what is not there among the chosen runs."""

    def to_make() -> list[Job]:
        return [job for job in chosen if read_record(job, out)[0] is None]

    check_parts(to_make())  # before the folder is there
    with lock(out):
        jobs = to_make()
        console.print(
            f"{len(jobs)} runs to make, {workers} at once; {len(chosen) - len(jobs)} are there"
        )
        n_ended = 0

        def report(job: Job, seconds: float, failure: Failure | None) -> None:
            nonlocal n_ended
            n_ended += 1
            record, why = read_record(job, out)
            result = f"{record['true_return_mean']:,.4g}" if record else why
            result = f"FAILED, see {failure.log}" if failure else result
            console.print(f"[{n_ended}/{len(jobs)}] {job.label}: {result} ({seconds:.0f} s)",
                          markup=False)  # fmt: skip

        try:
            return run_jobs(
                jobs,
                out,
                workers=workers,
                command=command,
                keep_runs=keep_runs,
                on_end=report,
            )
        except KeyboardInterrupt:
            console.print(
                f"Stopped after {n_ended} of {len(jobs)} runs. Records are kept, and runs that "
                "were going on continue from their last round: run the same command again."
            )
            raise


def _collect(jobs: Sequence[Job], out: Path) -> tuple[list[Record], list[Missing]]:
    records: list[Record] = []
    missing: list[Missing] = []
    for job in jobs:
        record, why = read_record(job, out)
        if record is None:
            missing.append(Missing(job, why))
        else:
            records.append(record)
    return records, missing


def _check_choice(option: str, chosen: Sequence[Any], accepted: Collection[Any]) -> None:
    for value in chosen:
        if value not in accepted:
            raise ConfigError(
                f"`--{option}` names {value!r}; the specification has {json.dumps(list(accepted))}."
            )
