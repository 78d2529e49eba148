"""The figures of a run, drawn from its metrics and summary.

Each function returns a matplotlib figure, or None where the run has nothing to show. Only the
object-oriented interface is used: no display is needed and no global state is left behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from rlhf_gym.component_figure import component_panel
from rlhf_gym.progress import finite, seconds_by_part, show_number, show_seconds
from rlhf_gym.report_panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Metrics,
    Panel,
    is_text,
    line,
    series,
    step_axis,
    steps_of,
)
from rlhf_gym.text_figures import text_panels

__all__ = ["Panel", "draw_panels", "house_style", "is_learned", "run_seconds", "wilson"]

_STYLE: Any = {  # matplotlib types its keys one by one
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a8a8a",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}
# Not the backend: only the object-oriented interface is used, which asks none.
_NEUTRAL: Any = {k: v for k, v in rcParamsDefault.items() if not k.startswith("backend")}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save figures in it: no `matplotlibrc`, which may lie where one stands, counts."""
    with rc_context(_NEUTRAL | _STYLE):
        yield


def draw_panels(metrics: Metrics, summary: Mapping[str, Any]) -> list[Panel]:
    """All figures that this run has data for.

    Args:
        metrics: the lines of metrics.jsonl, oldest first; may be empty.
        summary: what summary.json holds; empty for a run that still goes.

    Returns:
        Panels in reading order. A run on the true reward has none of the reward model's.
    """
    with house_style():
        panels = [_returns(metrics, summary), component_panel(metrics, summary)]
        if is_learned(metrics, summary):
            panels += [
                _accuracy(metrics),
                _calibration(summary),
                _correlation(metrics),
                _labels(metrics),
            ]
        if is_text(metrics):
            panels += text_panels(metrics, summary)
        panels.append(_time(metrics, summary))
    return [panel for panel in panels if panel is not None]


def is_learned(metrics: Metrics, summary: Mapping[str, Any]) -> bool:
    """Whether the agent trains on a learned reward, also for a run without a summary yet."""
    if "reward" in summary:
        return bool(summary["reward"] == "learned")
    return any(finite(row.get("learned_return_mean")) is not None for row in metrics)


def run_seconds(metrics: Metrics, summary: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by part: the summary's, or the sum over rounds while the run still goes."""
    if summary.get("seconds"):
        return {key: finite(value) or 0.0 for key, value in summary["seconds"].items()}
    totals: dict[str, float] = {}
    for row in metrics:
        for key, value in row.items():
            if key.startswith("seconds_"):
                part = key.removeprefix("seconds_")
                totals[part] = totals.get(part, 0.0) + (finite(value) or 0.0)
    return totals


def _returns(metrics: Metrics, summary: Mapping[str, Any]) -> Panel | None:
    if not series(metrics, "true_return_mean")[0]:
        return None
    learned = is_learned(metrics, summary)
    unit = "completion" if is_text(metrics) else "episode"
    figure = Figure(figsize=(7.6, 5.4 if learned else 3.6), layout="constrained")
    if learned:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
        line(bottom, metrics, "learned_return_mean", ORANGE, "", "s")
        bottom.set_title("Learned return: what the agent maximises")
        bottom.set_ylabel(f"per {unit}")
    else:
        top = bottom = figure.subplots()
    _true_return(top, metrics, summary)
    step_axis(bottom, metrics)
    caption = (
        f"{_per_round(metrics, 'eval_episodes', f'evaluation {unit}')} after each round, by the "
        "task's own reward, which the agent "
        f"{'never sees' if learned else 'is trained on'}. Band: one standard deviation over the "
        f"{unit}s. Thin lines: worst and best {unit}."
    )
    if learned:
        caption += (
            " The learned return has its own scale, fixed anew by each fit: compare the shapes. "
            "Where the learned return rises and the true one falls, the reward model is exploited."
        )
    return Panel("returns", "returns", "Return over training", caption, figure, wide=True)


def _per_round(metrics: Metrics, key: str, what: str) -> str:
    """How many of something each point of a curve rests on: "2 evaluation episodes".

    Runs of earlier versions do not say, and then nor does this.
    """
    counts = [int(n) for row in metrics if (n := finite(row.get(key))) is not None]
    if not counts:
        return f"{what[:1].upper()}{what[1:]}s"
    low, high = min(counts), max(counts)
    number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{number} {what}{'s' * (high != 1)}"


def _true_return(ax: Axes, metrics: Metrics, summary: Mapping[str, Any]) -> None:
    line(ax, metrics, "true_return_mean", BLUE, "this run", "o")
    spread = [
        (x, mean - std, mean + std)
        for row in metrics
        if (x := steps_of(row)) is not None
        and (mean := finite(row.get("true_return_mean"))) is not None
        and (std := finite(row.get("true_return_std"))) is not None
    ]
    steps, low, high = ([point[i] for point in spread] for i in range(3))
    ax.fill_between(steps, low, high, color=BLUE, alpha=0.18, linewidth=0)
    for key in ("true_return_min", "true_return_max"):
        ax.plot(*series(metrics, key), color=BLUE, linewidth=0.7, alpha=0.7)
    reference = summary.get("reference") or {}
    lines = (
        ("true_reward_return_mean", GREEN, "--", "agent on the true reward, same budget"),
        ("random_return_mean", GREY, ":", "after SFT" if is_text(metrics) else "random actions"),
    )
    for key, colour, style, label in lines:
        value = finite(reference.get(key))
        if value is not None:
            label = f"{label}: {show_number(value)}"
            ax.axhline(value, color=colour, linestyle=style, linewidth=1.5, label=label)
    ax.set_title("True return: the task's own reward")
    ax.set_ylabel("per completion" if is_text(metrics) else "per episode")
    ax.legend(loc="best")


def _accuracy(metrics: Metrics) -> Panel | None:
    figure = Figure(figsize=(5.6, 3.7), layout="constrained")
    ax = figure.subplots()
    train = line(ax, metrics, "reward_accuracy_train", GREY, "answers fitted to", "s")
    held_out = line(ax, metrics, "reward_accuracy_heldout", BLUE, "held-out answers", "o")
    for row in metrics:
        n, share = finite(row.get("reward_n_heldout")), finite(row.get("reward_accuracy_heldout"))
        x = steps_of(row)
        if n and share is not None and x is not None:
            ax.plot([x, x], wilson(share, n), color=BLUE, linewidth=1.0, alpha=0.4)
    if not (train or held_out):
        return None
    ax.axhline(0.5, color="black", linestyle=":", linewidth=1.2)
    ax.annotate("guessing", (0.01, 0.5), (0, 3), ("axes fraction", "data"), "offset points")
    ax.set_ylim(max(min(0.5, *train, *held_out) - 0.05, 0.0), 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_ylabel("answers predicted")
    step_axis(ax, metrics)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.12))  # clear of the line at 50 %
    caption = (
        "How many answers the reward model predicts; ties do not count. A wide gap between the "
        "lines means that it fits the answers rather than what they say."
    )
    if series(metrics, "reward_n_heldout")[0]:
        of_rounds = _per_round(metrics, "reward_n_heldout", "answer")
        caption += f" Held out: {of_rounds}; bars are 95 % intervals."
    return Panel("accuracy", "reward", "Accuracy", caption, figure)


def wilson(share: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share observed n times (Wilson 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def _calibration(summary: Mapping[str, Any]) -> Panel | None:
    bins = [
        (p, q, n)
        for entry in (summary.get("calibration") or {}).get("bins") or []
        if (p := finite(entry.get("predicted"))) is not None
        and (q := finite(entry.get("observed"))) is not None
        and (n := finite(entry.get("n"))) is not None
        and n > 0
    ]
    if not bins:
        return None
    figure = Figure(figsize=(5.6, 3.7), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1.2)
    for p, q, n in bins:
        low, high = wilson(q, n)
        ax.plot([p, p], [low, high], color=BLUE, linewidth=1.4, alpha=0.6)
        ax.annotate(f"{n:.0f}", (p, -0.11), fontsize=8, color=GREY, ha="center")
    x, y = [p for p, _, _ in bins], [q for _, q, _ in bins]
    ax.plot(x, y, "o", color=BLUE)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.14, 1.02), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("predicted: first preferred")
    ax.set_ylabel("observed in held-out answers")
    caption = (
        "When the reward model says 80 %, is it so in 80 % of the held-out answers? On the dotted "
        "line it is. Bars: 95 % intervals. Small numbers: answers in each bin."
    )
    return Panel("calibration", "reward", "Calibration", caption, figure)


def _correlation(metrics: Metrics) -> Panel | None:
    figure = Figure(figsize=(5.6, 3.7), layout="constrained")
    ax = figure.subplots()
    values = line(ax, metrics, "reward_correlation", PURPLE, "", "o")
    if not values:
        return None
    ax.set_ylim(max(min(0.0, *values) * 1.1, -1.02), 1.02)
    ax.axhline(0.0, color="black", linestyle=":", linewidth=1.2)
    ax.set_ylabel("correlation, clip returns")
    step_axis(ax, metrics)
    clips = _per_round(metrics, "reward_correlation_clips", "random recent clip").lower()
    caption = (
        f"Correlation between learned and true return of {clips} a round, some of which were asked "
        "about. Known only because this task has a true reward."
    )
    return Panel("correlation", "reward", "Agreement with the true reward", caption, figure)


def _labels(metrics: Metrics) -> Panel | None:
    x, y = series(metrics, "n_labels")
    if not x or max(y) <= 0:
        return None
    figure = Figure(figsize=(5.6, 3.7), layout="constrained")
    ax = figure.subplots()
    ax.step([0, *x], [0, *y], where="post", color=GREEN)
    ax.plot(x, y, "o", color=GREEN)
    ax.annotate(f"{y[-1]:,.0f}", (x[-1], y[-1]), (0, 6), textcoords="offset points", ha="center")
    ax.set_ylim(0, max(y) * 1.12)
    ax.set_ylabel("answers, cumulative")
    step_axis(ax, metrics)
    caption = "Answers used for fitting by the end of each round."
    return Panel("labels", "reward", "Labels", caption, figure)


def _time(metrics: Metrics, summary: Mapping[str, Any]) -> Panel | None:
    parts = seconds_by_part(run_seconds(metrics, summary))[::-1]
    if not parts:
        return None
    total = sum(seconds for _, seconds in parts)
    figure = Figure(figsize=(7.6, 3.0), layout="constrained")
    ax = figure.subplots()
    bars = ax.barh([name for name, _ in parts], [s for _, s in parts], color=BLUE, height=0.65)
    texts = [f"{show_seconds(s)} ({s / total:.0%})" for _, s in parts]
    ax.bar_label(bars, texts, padding=4, fontsize=9)
    ax.set_xlim(0, max(s for _, s in parts) * 1.32)
    ax.set_xlabel("seconds")
    ax.grid(visible=False, axis="y")
    caption = "Wall time of the run by what it was spent on."
    return Panel("time", "cost", "Where the time went", caption, figure)
