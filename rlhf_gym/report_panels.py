"""What every figure of a report is made of: panels, colours, lines over the steps.

The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from rlhf_gym.progress import counts_completions, finite

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "Metrics",
    "Panel",
    "is_text",
    "line",
    "series",
    "step_axis",
    "steps_of",
]

Metrics = Sequence[Mapping[str, Any]]

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#5A5A5A"


@dataclass(frozen=True)
class Panel:
    """One figure of the report."""

    name: str
    """The file's name without its ending."""
    section: str
    """The report's section that shows it."""
    title: str
    caption: str
    """What is seen and how to read it, in a sentence or two."""
    figure: Figure
    finding: str = ""
    """What the numbers of this run say, in a plain sentence; empty where they say nothing."""
    wide: bool = False
    """Whether it takes a row of its own."""


def series(metrics: Metrics, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one key; rounds without a value are left out."""
    points = [(steps_of(row), finite(row.get(key))) for row in metrics]
    kept = [(x, y) for x, y in points if x is not None and y is not None]
    return [x for x, _ in kept], [y for _, y in kept]


def steps_of(row: Mapping[str, Any]) -> float | None:
    """Env steps or completions by the end of a round."""
    return finite(row.get("env_steps", row.get("completions")))


def is_text(metrics: Metrics) -> bool:
    """Whether the rounds count completions."""
    return bool(metrics) and counts_completions(metrics[0])


def step_axis(ax: Axes, metrics: Metrics) -> None:
    """To be called once everything is drawn: a limit set before would stop the axis growing."""
    ax.set_xlabel("completions" if is_text(metrics) else "env steps (evaluation not counted)")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlim(left=0)


def line(ax: Axes, metrics: Metrics, key: str, colour: str, label: str, marker: str) -> list[float]:
    """Draw one key over the steps; returns its values, none where no round has any."""
    x, y = series(metrics, key)
    ax.plot(x, y, color=colour, label=label, marker=marker)
    return y
