"""What the runs of against_imitation.py say: all seeds, the comparisons, the targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from against_imitation_settings import Job, Robot

from rlhf_gym.benchmark.statistics import fraction_interval
from rlhf_gym.errors import DataError

__all__ = ["summarise"]

Record = dict[str, Any]
_MIN_FRACTION, _MAX_TIME_RATIO = 0.80, 1.5


def _row(records: Sequence[Record]) -> Record:
    """All seeds of one setting, and the worst by name."""
    row: Record = {"seeds": [r["seed"] for r in records]}
    for key in ("seconds", "env_steps", "agent_steps", "n_labels"):
        if key in records[0]:
            row[key] = [r[key] for r in records]
    row["seconds_mean"] = float(np.mean(row["seconds"]))
    if "true_return_mean" in records[0]:
        returns = [r["true_return_mean"] for r in records]
        worst = int(np.argmin(returns))
        row |= {"returns": returns, "mean": float(np.mean(returns)), "worst": returns[worst]}
        row["worst_seed"] = row["seeds"][worst]
    return row


def _rows(records: Iterable[Record]) -> dict[str, Record]:
    """The rows of one robot; a run of imitation's gives one per agent that it ends with."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        job = Job(**{field.name: record[field.name] for field in fields(Job)})
        if job.kind != "imitation":
            groups.setdefault(job.setting, []).append(record)
            continue
        for who in ("agent", "learner"):
            if who in record:
                shared = {"seed": job.seed, "n_labels": record.get("n_labels", 0)}
                groups.setdefault(f"{job.setting}-{who}", []).append({**record[who], **shared})
    return {setting: _row(group) for setting, group in groups.items()}


def _comparisons(robot: Robot, rows: Mapping[str, Record]) -> list[Record]:
    """Ours, with all and with half the labels, beside each agent that imitation ends with."""
    found = []
    for setting, peer in rows.items():
        if not setting.startswith("imitation-") or setting.startswith("imitation-true"):
            continue
        for basis in ("agent_steps", "env_steps"):
            fitting = [steps for steps in robot.budgets if steps <= min(peer[basis])]
            if not fitting:
                continue
            full, half = (
                rows[f"learned-{n}-{fitting[-1]}"] for n in (robot.labels, robot.labels // 2)
            )
            found.append({
                "imitation": setting, "basis": basis, "imitation_steps": min(peer[basis]),
                "our_steps": max(half["env_steps"]), "imitation_mean": peer["mean"],
                "mean_all_labels": full["mean"], "mean_half_labels": half["mean"],
                "imitation_seconds": peer["seconds_mean"],
                "seconds_half_labels": half["seconds_mean"],
                "met": half["mean"] >= peer["mean"],
            })  # fmt: skip
    return found


def _yardsticks(robot: Robot, rows: Mapping[str, Record], random: float) -> Record:
    """The fraction of the true reward's gain, and the wall time in units of plain PPO's."""
    steps = robot.yardstick_steps
    learned = rows[f"learned-{robot.labels}-{steps}"]
    ratio = learned["seconds_mean"] / rows[f"plain-{steps}"]["seconds_mean"]
    found: Record = {"random_return_mean": random, "time_ratio": ratio}
    try:
        point, low, high = fraction_interval(
            learned["returns"], rows[f"true-{steps}"]["returns"], random
        )
    except DataError as error:  # too short to learn: the rest is worth keeping
        return {**found, "fraction": None, "why_not": str(error)}
    return {**found, "fraction": point, "interval_95": [low, high]}


def summarise(robots: Mapping[str, Robot], records: Sequence[Record]) -> Record:
    """Every setting's seeds per robot, and each target with whether it was met.

    Args:
        robots: What was measured.
        records: Of all runs; those of imitation may be missing.
    """
    summary: Record = {"robots": {}, "targets": []}
    for name, robot in robots.items():
        own = [record for record in records if record["robot"] == name]
        rows = _rows(own)
        random = float(np.mean([r["random_return_mean"] for r in own if "random_return_mean" in r]))
        figures = {
            "labels": robot.labels,
            "settings": rows,
            "comparisons": _comparisons(robot, rows),
            "yardsticks": _yardsticks(robot, rows, random),
        }
        summary["robots"][name] = figures
        summary["targets"] += _targets(name, figures)
    return summary


def _targets(name: str, figures: Record) -> list[Record]:
    targets = [
        {
            "target": f"{name}: half the labels reach {c['imitation']}, at its {c['basis']}",
            "found": [c["mean_half_labels"], c["imitation_mean"]],
            "met": c["met"],
        }
        for c in figures["comparisons"]
    ]
    if name == "halfcheetah":
        fraction, ratio = (figures["yardsticks"][key] for key in ("fraction", "time_ratio"))
        reached = fraction is not None and fraction >= _MIN_FRACTION
        target = f"{name}: at least {_MIN_FRACTION} of the true reward's gain"
        targets.append({"target": target, "found": fraction, "met": reached})
        target = f"{name}: at most {_MAX_TIME_RATIO} times plain PPO's wall time"
        targets.append({"target": target, "found": ratio, "met": ratio <= _MAX_TIME_RATIO})
    return targets
