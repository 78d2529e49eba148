"""Write what a benchmark found: summary.json, table.md, Parquet files, figures, yardsticks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_gym.benchmark.figures import draw_curves, draw_fractions
from rlhf_gym.benchmark.frames import write_curves, write_runs
from rlhf_gym.benchmark.records import Job, Record
from rlhf_gym.benchmark.spec import BenchmarkSpec
from rlhf_gym.benchmark.summary import summarise
from rlhf_gym.benchmark.tables import table_text
from rlhf_gym.documents import read_json
from rlhf_gym.errors import ConfigError, CorruptDataError
from rlhf_gym.files import write_bytes, write_json, write_text
from rlhf_gym.provenance import provenance

__all__ = ["publish_yardsticks", "read_yardsticks", "write_results"]

_ALTERING = ("env_kwargs", "horizon", "obs_keys")


def write_results(
    spec: BenchmarkSpec,
    records: Sequence[Record],
    missing: Sequence[tuple[Job, str]],
    out: Path,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write every result file into a folder, each as a whole or not at all.

    Args:
        spec: What was to be measured.
        records: The runs there are.
        missing: Those there are not, and why.
        out: The folder; files of the same names are replaced.
        command: The command line to be written; None takes this process's own.

    Returns:
        What summary.json holds.
    """
    out.mkdir(parents=True, exist_ok=True)
    figures = summarise(spec, records)
    summary = {
        # Of this summary; what the runs were made with stands under `made_with`.
        **provenance(None if command is None else list(command)),
        "spec": {
            "name": spec.name,
            "tasks": spec.tasks,
            "settings": spec.settings,
            "seeds": spec.seeds,
            "reference": spec.reference,
            "headline": spec.headline,
        },
        "n_runs": len(records),
        "missing": [
            {"task": job.task, "setting": job.setting, "seed": job.seed, "why": why}
            for job, why in missing
        ],
        **figures,
    }
    write_json(out / "summary.json", summary)
    write_text(out / "table.md", table_text(spec, figures, missing))
    write_runs(records, figures, out / "runs.parquet")
    write_curves(records, out / "curves.parquet")
    drawn = {"curves": draw_curves(spec, records), "fractions": draw_fractions(spec, figures)}
    (out / "figures").mkdir(exist_ok=True)
    for name, figure in drawn.items():
        path = out / "figures" / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)  # an older one would show runs that no longer hold
        else:
            drawn_to = io.BytesIO()
            figure.savefig(drawn_to, dpi=150, format="png")
            write_bytes(path, drawn_to.getvalue())
    return summary


def read_yardsticks(path: Path) -> dict[str, Any]:
    """What a file of yardsticks holds; nothing where there is none yet.

    Raises:
        ConfigError: it cannot be read, or is no file of yardsticks.
    """
    try:
        yardsticks = read_json(path) if path.exists() else {}
    except OSError as error:
        raise ConfigError(f"cannot read the yardsticks in {path}: {error}") from error
    except CorruptDataError as error:
        raise ConfigError(f"{error} Repair or remove it.") from error
    if not isinstance(yardsticks, dict):
        raise ConfigError(f"{path} holds no mapping of env ids; give another file.")
    return yardsticks


def publish_yardsticks(
    summary: Mapping[str, Any], records: Sequence[Record], path: Path, source: Path
) -> list[str]:
    """Put each task's reference into a file of yardsticks, as `rlhf-gym train` shows them.

    A task without all its reference runs is left alone, and so is one whose env was altered by
    `env_kwargs`, `horizon` or `obs_keys`: a yardstick is looked up by env id and steps only.

    Args:
        summary: As `write_results` returned it.
        records: The runs it was made from.
        path: For instance rlhf_gym/yardsticks.json; other tasks' entries stay.
        source: The file that a reader finds the runs in.

    Returns:
        The tasks written.

    Raises:
        ConfigError: see `read_yardsticks`.
    """
    yardsticks = read_yardsticks(path)
    seeds, written = list(summary["spec"]["seeds"]), []
    for task, figures in summary["tasks"].items():
        best = figures["reference"]
        references = [figures["settings"].get(name) for name in summary["spec"]["reference"]]
        complete = all(own and sorted(own["seeds"]) == sorted(seeds) for own in references)
        rows = [r for r in records if (r["task"], r["setting"]) == (task, best)]
        altered = any(r["config"].get(key) for r in rows for key in _ALTERING)
        if best is None or not complete or altered:
            continue
        yardsticks[task] = {
            "steps": rows[0]["steps"],
            "return_mean": figures["settings"][best]["mean"],
            "seeds": figures["settings"][best]["seeds"],
            "setting": best,
            "source": source.as_posix(),
        }
        written.append(task)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(sorted(yardsticks.items())))
    return written
