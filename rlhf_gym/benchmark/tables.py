"""The results of a benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_gym.benchmark.records import Job
from rlhf_gym.benchmark.spec import BenchmarkSpec
from rlhf_gym.benchmark.summary import versions_differ

__all__ = ["table_text"]

_NOTES = (
    "A return is the mean true return of a run's final, deterministic evaluation episodes. "
    "A fraction is (mean - random) / (mean of the reference - random); `random` is the mean over "
    "all runs that measured it; the reference is the better, by mean, of {reference}. In "
    "brackets: 95 % percentile bootstrap over seeds, those of the reference resampled too. IQM: "
    "the interquartile mean of all seeds' fractions (Agarwal et al. 2021), its bootstrap "
    "stratified by task. A task counts when its reference exceeds random by at least 5 standard "
    "deviations over the reference's seeds."
)


def table_text(
    spec: BenchmarkSpec, summary: Mapping[str, Any], missing: Sequence[tuple[Job, str]]
) -> str:
    """All tables: what is missing first, then the aggregates, then each task.

    Args:
        spec: What was to be measured.
        summary: As `summarise` returns it.
        missing: The runs that the results lack, and why.
    """
    parts = [f"# {spec.name}", *_partial(spec, missing)]
    parts += [_aggregate_table(aggregate) for aggregate in summary["aggregates"]]
    for task in spec.tasks:
        figures = summary["tasks"].get(task)
        parts.append(f"## {task}\n\nNo run yet." if figures is None else _task(task, figures))
    parts += _made_with(summary)
    if spec.reference:
        parts.append(_NOTES.format(reference=" and ".join(spec.reference)))
    return "\n\n".join(parts) + "\n"


def _made_with(summary: Mapping[str, Any]) -> list[str]:
    made_with = summary["made_with"]
    if not made_with["machines"]:
        return []
    versions = [f"{name} {' and '.join(found)}" for name, found in made_with["versions"].items()]
    machines = [f"{name} ({n} run{'s' * (n > 1)})" for name, n in made_with["machines"].items()]
    warning = "**The runs are of different versions.** " * versions_differ(summary)
    return [f"{warning}Made with {', '.join(versions)}; on {', '.join(machines)}."]


def _partial(spec: BenchmarkSpec, missing: Sequence[tuple[Job, str]]) -> list[str]:
    if not missing:
        return []
    n_runs = len(spec.tasks) * len(spec.settings) * len(spec.seeds)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for job, why in missing:
        groups.setdefault((job.task, job.setting, why), []).append(job.seed)
    lines = [
        f"- {task}, {setting}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}: {why}"
        for (task, setting, why), seeds in groups.items()
    ]
    title = f"**Partial: {len(missing)} of {n_runs} runs are missing.**"
    return ["\n".join([title, "", *lines])]


def _aggregate_table(aggregate: Mapping[str, Any]) -> str:
    over = ", ".join(aggregate["over"]) or "none"
    rows = [
        "| setting | mean fraction | IQM | lowest task | lowest seed |",
        "|---|---|---|---|---|",
    ]
    for setting, figures in aggregate["settings"].items():
        if figures["mean"] is None:
            rows.append(f"| {setting} | missing: {figures['why_not']} | | | |")
            continue
        cells = (
            _with_interval(figures["mean"], figures["mean_interval_95"]),
            _with_interval(figures["iqm"], figures["iqm_interval_95"]),
            f"{figures['lowest_task_fraction']:.2f} ({figures['lowest_task']})",
            f"{figures['lowest_seed_fraction']:.2f}",
        )
        rows.append(f"| {setting} | {' | '.join(cells)} |")
    notes = [
        f"\n{setting} lacks seeds on {', '.join(figures['partial_tasks'])}."
        for setting, figures in aggregate["settings"].items()
        if figures.get("partial_tasks")
    ]
    return "\n".join([f"## Over {aggregate['title']}", "", f"Tasks: {over}.", "", *rows, *notes])


def _task(task: str, figures: Mapping[str, Any]) -> str:
    lines = [f"## {task}", ""]
    if figures["reference"] is not None:
        lines.append(f"Reference: {figures['reference']}. {_verdict(figures)}")
    random = figures["random_return_mean"]
    if early := figures["ended_early"]:
        lines.append(
            f"**Episodes ended before their horizon in {len(early)} runs ({'; '.join(early)}):** "
            "their length tells the agent about the task past the reward model."
        )
    lines.append("Random actions: " + ("not measured." if random is None else f"{random:,.4g}."))
    columns = ["setting", "answers", "env steps", "true return of each seed", "mean", "worst"]
    columns += ["fraction", "worst seed"]
    lines += ["", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    notes: dict[str, list[str]] = {}
    for setting, own in figures["settings"].items():
        lines.append(_task_row(setting, own, is_reference=setting == figures["reference"]))
        if "why_not" in own:
            notes.setdefault(own["why_not"], []).append(setting)
    lines += [f"\nNo fraction for {', '.join(settings)}: {why}" for why, settings in notes.items()]
    seeds = sorted({seed for own in figures["settings"].values() for seed in own["seeds"]})
    lines += ["", f"Seeds, in this order: {', '.join(map(str, seeds))}{_gaps(figures, seeds)}."]
    return "\n".join(lines)


def _task_row(setting: str, own: Mapping[str, Any], *, is_reference: bool) -> str:
    cells = [
        setting,
        _span(own["n_labels"]),
        _span(own["env_steps"]),
        " · ".join(_number(value) for value in own["returns"]),
        _number(own["mean"]),
        _number(own["worst"]),
    ]
    if own.get("fraction") is not None:
        cells.append(_with_interval(own["fraction"], own["fraction_interval_95"]))
        cells.append(f"{own['worst_seed_fraction']:.2f}")
    else:
        cells += ["reference" if is_reference else "missing" if "why_not" in own else "", ""]
    return f"| {' | '.join(cells)} |"


def _verdict(figures: Mapping[str, Any]) -> str:
    if figures["counts"] is None:
        return f"**Not known whether this task counts:** {figures['counts_because']}."
    if figures["counts"]:
        return f"This task counts: {figures['counts_because']}."
    return f"**This task does not count:** {figures['counts_because']}."


def _gaps(figures: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """Settings that lack seeds which others have."""
    partial = [
        f"{setting} has {', '.join(map(str, own['seeds']))} only"
        for setting, own in figures["settings"].items()
        if own["seeds"] != list(seeds)
    ]
    return f"; {'; '.join(partial)}" if partial else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _with_interval(point: float, interval: Sequence[float]) -> str:
    return f"{point:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"
