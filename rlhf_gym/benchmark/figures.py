"""The figures of a benchmark: learning curves per task, fractions per task and setting.

Only matplotlib's object-oriented interface is used: no display is needed and no global state is
left behind. The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from rlhf_gym.benchmark.records import Record
from rlhf_gym.benchmark.spec import BenchmarkSpec

__all__ = ["draw_curves", "draw_fractions"]

_REFERENCE_COLOURS = ("#D55E00", "#000000")
_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_LINES = ("solid", "dashed", "dotted", "dashdot")


def _styles(spec: BenchmarkSpec) -> dict[str, tuple[str, str]]:
    """A colour and a kind of line for every setting; a new kind where the colours run out."""
    references = [s for s in spec.settings if s in spec.reference]
    others = [s for s in spec.settings if s not in spec.reference]
    styles = {}
    for group, colours in ((references, _REFERENCE_COLOURS), (others, _COLOURS)):
        for i, setting in enumerate(group):
            kind = _LINES[i // len(colours) % len(_LINES)]
            styles[setting] = (colours[i % len(colours)], kind)
    return styles


@rc_context({"text.parse_math": False})  # a task's name may hold a dollar sign
def draw_curves(spec: BenchmarkSpec, records: Sequence[Record]) -> Figure | None:
    """True return over env steps, one panel per task: every seed thin, their mean thick.

    Returns:
        The figure, or None where no run is there.
    """
    tasks = [task for task in spec.tasks if any(r["task"] == task for r in records)]
    if not tasks:
        return None
    n_columns = min(2, len(tasks))
    n_rows = -(-len(tasks) // n_columns)
    figure = Figure(figsize=(5.4 * n_columns, 3.6 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
    styles = _styles(spec)
    handles: dict[str, Any] = {}
    for panel, task in zip(panels, tasks, strict=False):
        for setting, (colour, kind) in styles.items():
            rows = [r for r in records if (r["task"], r["setting"]) == (task, setting)]
            if rows:
                handles[setting] = _draw_setting(panel, rows, colour, kind)
        panel.set_title(f"{task}, seeds: {_seeds_drawn(records, task)}", loc="left", fontsize=10)
        panel.set_xlabel("env steps")
        panel.set_ylabel("true return")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.set_xlim(left=0)
        panel.grid(alpha=0.25)
    for panel in panels[len(tasks) :]:
        panel.remove()
    ordered = [setting for setting in spec.settings if setting in handles]
    _add_legend(figure, [handles[setting] for setting in ordered], ordered)
    return figure


def _draw_setting(panel: Axes, rows: Sequence[Record], colour: str, kind: str) -> Any:
    """Draw one setting; returns the thick line."""
    curves = [
        (
            np.array([point["env_steps"] for point in row["curve"]], np.float64),
            np.array([point["true_return_mean"] for point in row["curve"]], np.float64),
        )
        for row in rows
    ]
    for steps, values in curves:
        panel.plot(steps, values, color=colour, linestyle=kind, linewidth=0.7, alpha=0.4)
    # The mean goes as far as all seeds do.
    common = curves[0][0]
    inside = (common >= max(s[0] for s, _ in curves)) & (common <= min(s[-1] for s, _ in curves))
    common = common[inside]
    mean = np.mean([np.interp(common, *curve) for curve in curves], axis=0)
    (line,) = panel.plot(common, mean, color=colour, linestyle=kind, linewidth=2.2)
    return line


def _seeds_drawn(records: Sequence[Record], task: str) -> str:
    """How many seeds a setting has, from the fewest to the most."""
    counts = Counter(record["setting"] for record in records if record["task"] == task).values()
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


@rc_context({"text.parse_math": False})
def draw_fractions(spec: BenchmarkSpec, summary: Mapping[str, Any]) -> Figure | None:
    """Fraction of the reference's gain per task and setting, with intervals and single seeds.

    Returns:
        The figure, or None where no fraction could be computed.
    """
    shown = [s for s in spec.settings if s not in spec.reference]
    tasks = [task for task in spec.tasks if _fractions(summary, task, shown)]
    if not tasks:
        return None
    styles = _styles(spec)
    figure = Figure(figsize=(max(5.4, 1.6 * len(tasks) + 2), 4.2), layout="constrained")
    panel = figure.subplots()
    width = 0.8 / max(len(shown), 1)
    for i, setting in enumerate(shown):
        first = True
        for j, task in enumerate(tasks):
            own = _fractions(summary, task, [setting]).get(setting)
            if own is None:
                continue
            x = j + (i - (len(shown) - 1) / 2) * width
            low, high = own["fraction_interval_95"]
            colour = styles[setting][0]
            # The percentile interval need not hold the point estimate.
            panel.vlines(x, low, high, color=colour, linewidth=2)
            label = setting if first else None
            panel.plot([x], [own["fraction"]], "o", color=colour, markersize=6, label=label)
            seeds = own["seed_fractions"]
            panel.plot([x] * len(seeds), seeds, "_", color=colour, markersize=7, alpha=0.6)
            first = False
    panel.axhline(1.0, color="#5A5A5A", linewidth=0.8)
    panel.axhline(0.0, color="#5A5A5A", linewidth=0.8, linestyle="dotted")
    panel.set_xticks(range(len(tasks)), [_tick(summary, task) for task in tasks], fontsize=8)
    panel.set_ylabel("fraction of the reference's gain over random")
    panel.set_title("mean and 95 % interval; dashes: single seeds", loc="left", fontsize=10)
    panel.grid(axis="y", alpha=0.25)
    _add_legend(figure, *panel.get_legend_handles_labels())
    return figure


def _add_legend(figure: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """Below the panels, in as few rows as the figure's width allows."""
    for n_columns in range(min(6, len(names)), 0, -1):
        legend = figure.legend(
            handles, names, loc="outside lower center", ncols=n_columns, frameon=False
        )
        if legend.get_window_extent().width <= figure.bbox.width:
            return
        if n_columns > 1:
            legend.remove()


def _fractions(
    summary: Mapping[str, Any], task: str, settings: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    figures = summary["tasks"].get(task, {}).get("settings", {})
    return {
        setting: figures[setting]
        for setting in settings
        if setting in figures and figures[setting].get("fraction") is not None
    }


def _tick(summary: Mapping[str, Any], task: str) -> str:
    name = task.rpartition("/")[2].rpartition(":")[2]
    return name if summary["tasks"][task]["counts"] else f"{name}\n(does not count)"
