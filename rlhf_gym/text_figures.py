"""The figures of a text run's report: what the reward cost in KL, and what became of the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from rlhf_gym.progress import finite, show_number
from rlhf_gym.report_panels import BLUE, GREEN, GREY, ORANGE, Metrics, Panel, line, step_axis

__all__ = ["kl_key", "sample_rows", "text_panels"]


def kl_key(figures: Mapping[str, Any]) -> str:
    """The KL of what was evaluated; of runs without it, that of the rollouts before."""
    return "kl_evaluated" if "kl_evaluated" in figures else "kl_to_ref"


def text_panels(metrics: Metrics, summary: Mapping[str, Any]) -> list[Panel | None]:
    """Frontier and style of a text run."""
    return [_frontier(metrics, summary), _style(metrics)]


def _frontier(metrics: Metrics, summary: Mapping[str, Any]) -> Panel | None:
    points = [
        (kl, value)
        for row in metrics
        if (kl := finite(row.get(kl_key(row)))) is not None
        and (value := finite(row.get("true_return_mean"))) is not None
    ]
    if not points:
        return None
    figure = Figure(figsize=(5.6, 3.7), layout="constrained")
    ax = figure.subplots()
    start = finite((summary.get("reference") or {}).get("random_return_mean"))
    path = [*([(0.0, start)] if start is not None else []), *points]
    x, y = [kl for kl, _ in path], [value for _, value in path]
    ax.plot(x, y, color=BLUE, marker="o", linewidth=1.0)
    ax.plot(x[-1:], y[-1:], "o", color=BLUE, markersize=9)
    if start is not None:
        ax.plot([0.0], [start], "s", color=GREY, markersize=6)
        ax.annotate("after SFT", (0.0, start), (8, -2), textcoords="offset points", color=GREY)
    ax.margins(x=0.08, y=0.12)
    ax.set_xlabel("KL from the model after SFT, nats per completion")
    ax.set_ylabel("true reward")
    caption = (
        "From the square, after SFT, to the large dot, the last round: what each round had gained "
        "and what it had paid. KL is how far the policy has moved. A path that goes on to the "
        "right without rising pays for nothing."
    )
    return Panel("frontier", "text", "True reward against KL", caption, figure)


def _style(metrics: Metrics) -> Panel | None:
    figure = Figure(figsize=(5.6, 3.7), layout="constrained")
    ax = figure.subplots()
    if not line(ax, metrics, "length", GREEN, "tokens per completion", "o"):
        return None
    ax.set_ylabel("tokens")
    ax.set_ylim(bottom=0)
    twin = ax.twinx()
    line(twin, metrics, "distinct_2", ORANGE, "distinct pairs of tokens", "s")
    twin.set_ylabel("share of all pairs")
    twin.set_ylim(bottom=0)
    twin.grid(visible=False)
    step_axis(ax, metrics)
    handles = [*ax.get_lines(), *twin.get_lines()]
    ax.legend(handles, [str(h.get_label()) for h in handles], loc="lower left")
    caption = (
        "How long the completions are and how varied: a policy that has found one good sentence "
        "is short of distinct pairs. The share also falls where more completions are counted."
    )
    return Panel("style", "text", "Length and variety", caption, figure)


def sample_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Prompt, completion after SFT and its true reward, completion now and its true reward."""
    samples: Sequence[Mapping[str, Any]] = summary.get("samples") or []
    return [
        (
            str(sample.get("prompt", "")),
            str(sample.get("before", "")),
            show_number(sample.get("true_before"), 2),
            str(sample.get("after", "")),
            show_number(sample.get("true_after"), 2),
        )
        for sample in samples
    ]
