"""The results as tidy Parquet: one row per run, and one row per point of a learning curve."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_gym.benchmark.records import Record
from rlhf_gym.files import write_bytes

__all__ = ["CURVE_COLUMNS", "RUN_COLUMNS", "write_curves", "write_runs"]

_KEYS = {"task": pa.string(), "setting": pa.string(), "seed": pa.int64()}

RUN_COLUMNS: dict[str, Any] = {
    **_KEYS,
    "runner": pa.string(),
    "algo": pa.string(),
    "reward": pa.string(),
    "teacher": pa.string(),
    "labels": pa.int64(),  # asked for; n_labels: given
    "steps": pa.int64(),  # asked for; env_steps: taken
    "env_steps": pa.int64(),
    "n_labels": pa.int64(),
    "true_return_mean": pa.float64(),
    "true_return_std": pa.float64(),
    "true_return_min": pa.float64(),
    "true_return_max": pa.float64(),
    "learned_return_mean": pa.float64(),
    "random_return_mean": pa.float64(),
    "fraction": pa.float64(),
    "reward_accuracy_heldout": pa.float64(),
    "reward_correlation": pa.float64(),
    "seconds": pa.float64(),
    "seconds_setup": pa.float64(),
    "seconds_sft": pa.float64(),
    "seconds_collect": pa.float64(),
    "seconds_label": pa.float64(),
    "seconds_fit": pa.float64(),
    "seconds_improve": pa.float64(),
    "seconds_evaluate": pa.float64(),
    "config_sha256": pa.string(),
    "commit": pa.string(),
}
"""Columns of runs.parquet and their types; what a run does not have is null."""

CURVE_COLUMNS: dict[str, Any] = {
    **_KEYS,
    "env_steps": pa.int64(),
    "n_labels": pa.int64(),
    "true_return_mean": pa.float64(),
    "true_return_std": pa.float64(),
    "learned_return_mean": pa.float64(),
    "reward_accuracy_heldout": pa.float64(),
    "reward_correlation": pa.float64(),
}
"""Columns of curves.parquet."""


def write_runs(records: Sequence[Record], summary: Mapping[str, Any], path: Path) -> None:
    """One row per run: all its scalar figures, and its fraction of the task's reference."""
    _write([_run_row(record, summary) for record in records], RUN_COLUMNS, path)


def write_curves(records: Sequence[Record], path: Path) -> None:
    """One row per run and evaluation on the way."""
    rows = [
        {**{key: record[key] for key in _KEYS}, **point}
        for record in records
        for point in record["curve"]
    ]
    _write(rows, CURVE_COLUMNS, path)


def _run_row(record: Record, summary: Mapping[str, Any]) -> dict[str, Any]:
    setting = summary["tasks"][record["task"]]["settings"][record["setting"]]
    fractions = setting.get("seed_fractions")
    parts = record["seconds_by_part"].items()
    return {
        **{key: value for key, value in record.items() if key in RUN_COLUMNS},
        **{key: record["config"][key] for key in ("algo", "reward", "teacher", "labels")},
        **{f"seconds_{part}": value for part, value in parts},
        "true_return_min": min(record["evaluation_returns"]),
        "true_return_max": max(record["evaluation_returns"]),
        "fraction": fractions[setting["seeds"].index(record["seed"])] if fractions else None,
    }


def _write(rows: list[dict[str, Any]], columns: Mapping[str, Any], path: Path) -> None:
    """A whole file or none: written in memory, then put in place."""
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items())))
    pq.write_table(table, buffer)
    write_bytes(path, buffer.getvalue())
