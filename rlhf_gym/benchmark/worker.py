"""One run of a benchmark in a process of its own: `python -m rlhf_gym.benchmark.worker`.

The first line of its standard input is the job, as JSON. When that input ends before the run does,
whoever started it is gone, and so is the worker: runs survive being killed at any moment.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_gym.benchmark.records import RECORD_FORMAT, Job, Record, resolved, sha256_of
from rlhf_gym.config import from_mapping, from_yaml
from rlhf_gym.documents import parse_json, read_json
from rlhf_gym.errors import (
    ConfigError,
    CorruptDataError,
    NumericalError,
    RlhfGymError,
    SchemaError,
)
from rlhf_gym.files import write_json
from rlhf_gym.printing import say
from rlhf_gym.provenance import provenance
from rlhf_gym.runs import Run
from rlhf_gym.train_config import TrainConfig

__all__ = ["job_message", "main", "make_record", "trained"]

_CURVE_KEYS = (
    "n_labels",
    "true_return_mean",
    "true_return_std",
    "learned_return_mean",
    "reward_accuracy_heldout",
    "reward_correlation",
)


def job_message(job: Job, out: Path, command: list[str], keep_run: bool) -> str:
    """What a worker reads: one line of JSON."""
    message = {
        "task": job.task,
        "setting": job.setting,
        "seed": job.seed,
        "runner": job.runner,
        "config": resolved(job.config),
        "out": str(out),
        "command": command,
        "keep_run": keep_run,
        # Modules beside the caller's script are found there, and are to be found here.
        "path": sys.path,
    }
    return json.dumps(message) + "\n"


def main() -> None:
    """Read a job, make its run, write its record."""
    message = parse_json(sys.stdin.buffer.readline(), "the job")
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    sys.path += [folder for folder in message["path"] if folder not in sys.path]
    config = from_mapping(TrainConfig, message["config"], "config")
    job = Job(message["task"], message["setting"], message["seed"], message["runner"], config)
    try:
        make_record(job, Path(message["out"]), message["command"], keep_run=message["keep_run"])
    except RlhfGymError as error:
        say(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _die_with_the_parent() -> None:
    # Not through sys.stdin, whose lock would be held by this thread when the interpreter ends.
    while os.read(0, 1):
        pass
    os._exit(1)


def make_record(job: Job, out: Path, command: list[str], *, keep_run: bool = False) -> Path:
    """Make one run here, or continue it where a killed one left off; returns its record's file.

    Args:
        job: The run.
        out: The benchmark's folder.
        command: The command line to be written into the record.
        keep_run: Whether the run folder stays.

    Raises:
        NumericalError: the run ended with returns that are no numbers.
    """
    folder = job.work(out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    figures = _run_stock(job.config) if job.runner == "stock" else _run_train(job, folder)
    value = figures["true_return_mean"]
    if value is None or not math.isfinite(value):
        raise NumericalError(f"{job.label}: the final return is not finite; nothing was recorded.")
    content = {
        "format": RECORD_FORMAT,
        **provenance(command),
        **_made_with(folder),
        # What else ran on the machine slowed this run: a reader must be able to see it.
        "load_average_1min": os.getloadavg()[0],
        "config": resolved(job.config),
        "figures": {
            "task": job.task,
            "setting": job.setting,
            "runner": job.runner,
            "seed": job.seed,
            "steps": job.config.steps,
            "config_sha256": sha256_of(job),
            **figures,
        },
    }
    path = job.path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    if not keep_run:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def _made_with(folder: Path) -> dict[str, Any]:
    """What a run folder says it was made with: one that was kept may be older than this process."""
    path = folder / "provenance.json"
    if not path.exists():  # stock runs have no folder
        return {}
    found = read_json(path)
    made_with = {key: found[key] for key in ("versions", "git", "machine")}
    return {**made_with, "source_sha256": found.get("source_sha256")}  # not known of older runs


def _run_train(job: Job, folder: Path) -> Record:
    run = trained(job.config, folder)
    summary = read_json(run.summary_path)
    wanted = ("true_return_mean", "true_return_std", "evaluation_returns", "n_labels")
    return {
        **{key: summary[key] for key in wanted},
        "env_steps": _steps(summary),
        "random_return_mean": summary["reference"]["random_return_mean"],
        "learned_return_mean": summary["learned_return_mean"],
        "reward_accuracy_heldout": summary.get("reward_accuracy_heldout"),
        "reward_correlation": summary.get("reward_correlation"),
        "early_ends": sum(row.get("early_ends", 0) for row in run.metrics()),
        "seconds": summary["seconds_total"],
        "seconds_by_part": summary["seconds"],
        "curve": [_point(row) for row in run.metrics()],
    }


def _point(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"env_steps": _steps(row), **{key: row[key] for key in _CURVE_KEYS if key in row}}


def _steps(figures: Mapping[str, Any]) -> int:
    """Env steps; of a text run its completions, each of which is one step of the env."""
    return int(figures["env_steps"] if "env_steps" in figures else figures["completions"])


def trained(config: TrainConfig, folder: Path) -> Run:
    """The finished run in a folder: as it stands, continued, or made from the start.

    A folder with a run of other options, an unfinished one of other code or other libraries, or one
    whose files are damaged, is replaced.

    Args:
        config: Complete, as `prepare` resolves it.
        folder: The run folder; need not be there.

    Raises:
        RlhfGymError: what ended the run; its folder stays, and goes on from its last round.
    """
    from rlhf_gym.training import resume, train

    if folder.exists():
        why = _why_of_no_use(config, folder)
        if not why:
            try:
                run = Run.open(folder)
                # Its options are those of the specification, whose modules were asked for.
                return run if run.summary_path.exists() else resume(folder, quiet=True, trust=True)
            except (CorruptDataError, SchemaError) as error:
                why = f"cannot be continued ({error})"
        say(f"{folder} {why}; starting again", file=sys.stderr)
        shutil.rmtree(folder)
    return train(config, folder, quiet=True)


def _why_of_no_use(config: TrainConfig, folder: Path) -> str:
    """Why a run folder is not one of these options, or cannot be continued; "" where it can."""
    try:
        run = Run.open(folder)
        then = from_yaml(TrainConfig, run.config_path)
        made_with = _made_with(folder)
    except (ConfigError, ValueError, KeyError) as error:
        return f"cannot be continued ({error})"
    if resolved(then) != resolved(config):
        return "was made with other options"
    here = provenance()
    if not run.summary_path.exists() and any(
        made_with.get(key) != here[key] for key in ("source_sha256", "versions")
    ):
        return "was begun by another version of the code, or of a library"
    return ""


def _run_stock(config: TrainConfig) -> Record:
    import numpy as np
    import torch

    from rlhf_gym.agents.stock import train_stock
    from rlhf_gym.training import prepare

    torch.set_num_threads(config.threads)
    prepared = prepare(config)
    assert prepared.config.steps is not None
    result = train_stock(
        config.env,
        settings=prepared.settings,
        n_steps=prepared.config.steps,
        n_points=prepared.plan.n_rounds,
        seed=config.seed,
        eval_episodes=config.eval_episodes,
        final_episodes=config.final_episodes,
        env_kwargs=config.make_env_kwargs(),
        device=config.device,
    )
    return {
        "true_return_mean": float(np.mean(result.returns)),
        "true_return_std": float(np.std(result.returns)),
        "env_steps": result.env_steps,
        "evaluation_returns": result.returns,
        "n_labels": 0,
        "random_return_mean": None,
        "learned_return_mean": None,
        "reward_accuracy_heldout": None,
        "reward_correlation": None,
        "seconds": sum(result.seconds.values()),
        "seconds_by_part": result.seconds,
        "curve": result.curve,
    }


if __name__ == "__main__":
    main()
