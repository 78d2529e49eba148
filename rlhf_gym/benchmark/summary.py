"""From the records of a benchmark to its figures: per task, per setting, and over the tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_gym.benchmark.records import Record
from rlhf_gym.benchmark.spec import BenchmarkSpec
from rlhf_gym.benchmark.statistics import (
    TaskReturns,
    aggregate_intervals,
    counts,
    fraction_interval,
    mean_interval,
)
from rlhf_gym.errors import DataError

__all__ = ["random_return", "reference_of", "summarise", "versions_differ"]

_LISTED = ("n_labels", "env_steps", "seconds", "reward_accuracy_heldout", "reward_correlation")

Rows = Mapping[str, Sequence[Record]]
"""The records of one task by setting; settings without any are absent."""


def summarise(spec: BenchmarkSpec, records: Sequence[Record]) -> dict[str, Any]:
    """Every figure of the tables, from whatever runs there are.

    Args:
        spec: What was to be measured.
        records: In any order.

    Returns:
        `made_with` (the runs' commits, machines and versions), `tasks` (by id: the reference,
        whether the task counts, and each setting's returns and fraction) and `aggregates` (over
        the headline tasks). A figure that cannot be had is None and `why_not` stands beside it.
    """
    ordered = sorted(records, key=lambda record: int(record["seed"]))
    rows = {task: _by_setting(spec, task, ordered) for task in spec.tasks}
    tasks = {task: _task_figures(spec, rows[task]) for task in spec.tasks if rows[task]}
    compared = [s for s in spec.settings if s not in spec.reference]
    aggregates = []
    for title, over in _scopes(spec, tasks):
        figures = {s: _aggregate(s, over, rows, tasks, len(spec.seeds)) for s in compared}
        aggregates.append({"title": title, "over": over, "settings": figures})
    return {
        "made_with": _made_with(ordered),
        "tasks": tasks,
        "aggregates": aggregates if spec.reference else [],
    }


def _made_with(records: Sequence[Record]) -> dict[str, Any]:
    """What the runs were made with: each commit, how many runs of each machine, each version."""
    versions: dict[str, set[str]] = {}
    for record in records:
        for package, version in record["versions"].items():
            versions.setdefault(package, set()).add(version)
    return {
        "commits": sorted({str(record["commit"]) for record in records}),
        "machines": dict(Counter(sorted(record["machine"] for record in records))),
        "versions": {package: sorted(found) for package, found in versions.items()},
    }


def versions_differ(summary: Mapping[str, Any]) -> bool:
    """Whether a package of one run has another version in another."""
    return any(len(found) > 1 for found in summary["made_with"]["versions"].values())


def reference_of(spec: BenchmarkSpec, rows: Rows) -> str | None:
    """The reference setting with the best mean; None where no reference has been run."""
    there = [name for name in spec.reference if name in rows]
    return max(there, key=lambda name: np.mean(_returns(rows[name])), default=None)


def random_return(rows: Rows, reference: str | None = None) -> float | None:
    """Mean return of random actions over the runs of a task that measured it.

    On texts it is the return before any feedback, which each setting may fine-tune differently:
    there the reference's own runs say where its gain begins.
    """
    groups = list(rows.values())
    if (
        reference is not None
        and "n_sft_examples" in rows[reference][0]["config"]["hyperparameters"]
    ):
        groups = [rows[reference]]
    values = [row["random_return_mean"] for group in groups for row in group]
    measured = [value for value in values if value is not None]
    return float(np.mean(sorted(measured))) if measured else None


def _warns(config: Mapping[str, Any]) -> bool:
    """Whether an episode's length could give away what is to be learned, and nobody knows it."""
    return config["reward"] == "learned" and not config["allow_variable_horizon"]


def _by_setting(spec: BenchmarkSpec, task: str, records: Sequence[Record]) -> Rows:
    rows = {
        setting: [r for r in records if (r["task"], r["setting"]) == (task, setting)]
        for setting in spec.settings
    }
    return {setting: group for setting, group in rows.items() if group}


def _returns(rows: Sequence[Record]) -> list[float]:
    return [float(row["true_return_mean"]) for row in rows]


def _task_figures(spec: BenchmarkSpec, rows: Rows) -> dict[str, Any]:
    reference = reference_of(spec, rows)
    random = random_return(rows, reference)
    why_not = _no_fraction(spec, random, reference)
    figures: dict[str, Any] = {"random_return_mean": random, "reference": reference}
    figures["ended_early"] = [
        f"{setting}, seed {row['seed']}"
        for setting, group in rows.items()
        for row in group
        if row.get("early_ends") and _warns(row["config"])
    ]
    if why_not:
        figures.update(counts=None, counts_because=why_not)
    else:
        assert random is not None and reference is not None
        does, because = counts(_returns(rows[reference]), random)
        figures.update(counts=does, counts_because=because)
    figures["settings"] = {}
    for setting, group in rows.items():
        returns = _returns(group)
        interval = mean_interval(returns)
        own: dict[str, Any] = {
            "seeds": [row["seed"] for row in group],
            "returns": returns,
            "mean": interval.point,
            "mean_interval_95": [interval.low, interval.high],
            "worst": min(returns),
            "worst_seed": group[int(np.argmin(returns))]["seed"],
            **{key: [row[key] for row in group] for key in _LISTED},
        }
        if spec.reference and setting != reference:
            best = _returns(rows[reference]) if reference else []
            own.update(_fraction_figures(returns, best, random, why_not))
        figures["settings"][setting] = own
    return figures


def _no_fraction(spec: BenchmarkSpec, random: float | None, reference: str | None) -> str:
    """Why a task can have no fractions at all; "" where it can."""
    if not spec.reference:
        return "the specification names no `reference`"
    if reference is None:
        return f"no run of the reference ({', '.join(spec.reference)}) is there"
    if random is None:
        return "no run has measured random actions"
    return ""


def _fraction_figures(
    returns: list[float], reference: list[float], random: float | None, why_not: str
) -> dict[str, Any]:
    if not why_not:
        assert random is not None
        try:
            interval = fraction_interval(returns, reference, random)
        except DataError as error:  # runs that did not learn: the returns are worth keeping
            why_not = str(error)
    if why_not:
        return {"fraction": None, "why_not": why_not}
    gain = float(np.mean(reference)) - (random or 0.0)
    fractions = [(value - (random or 0.0)) / gain for value in returns]
    return {
        "fraction": interval.point,
        "fraction_interval_95": [interval.low, interval.high],
        "seed_fractions": fractions,
        "worst_seed_fraction": min(fractions),
    }


def _scopes(
    spec: BenchmarkSpec, tasks: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, list[str]]]:
    """What the aggregate is taken over; both where headline tasks turn out not to count."""
    counting = [task for task in spec.tasks if task in tasks and tasks[task]["counts"]]
    if not spec.headline:
        return [("tasks that count", counting)]
    headline = [task for task in spec.tasks if task in spec.headline]
    kept = [task for task in headline if task in counting]
    scopes = [("headline tasks", headline)]
    return scopes if kept == headline else [*scopes, ("headline tasks that count", kept)]


def _aggregate(
    setting: str,
    over: Sequence[str],
    rows: Mapping[str, Rows],
    tasks: Mapping[str, Mapping[str, Any]],
    n_seeds: int,
) -> dict[str, Any]:
    """One setting over several tasks."""
    if not over:
        return {"mean": None, "iqm": None, "why_not": "no task counts yet"}
    found = {task: tasks.get(task, {}).get("settings", {}).get(setting, {}) for task in over}
    lacking = [task for task, figures in found.items() if figures.get("fraction") is None]
    if lacking:
        return {"mean": None, "iqm": None, "why_not": f"no fraction on {', '.join(lacking)}"}
    returns = {
        task: TaskReturns(
            found[task]["returns"],
            _returns(rows[task][tasks[task]["reference"]]),
            tasks[task]["random_return_mean"],
        )
        for task in over
    }
    intervals = aggregate_intervals(returns)
    lowest = min(over, key=lambda task: found[task]["fraction"])
    return {
        "mean": intervals["mean"].point,
        "mean_interval_95": [intervals["mean"].low, intervals["mean"].high],
        "iqm": intervals["iqm"].point,
        "iqm_interval_95": [intervals["iqm"].low, intervals["iqm"].high],
        "lowest_task": lowest,
        "lowest_task_fraction": found[lowest]["fraction"],
        "lowest_seed_fraction": min(found[task]["worst_seed_fraction"] for task in over),
        "partial_tasks": [task for task in over if len(found[task]["seeds"]) < n_seeds],
    }
