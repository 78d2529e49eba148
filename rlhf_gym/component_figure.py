"""What the reward is made of, over the run: the parts that are paid beside those only watched.

A task that pays a proxy and watches what is wanted shows over-optimisation here (Gao et al. 2022):
the one goes on rising, the other falls, and the KL says how far the policy had to move for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_gym.progress import finite, show_number
from rlhf_gym.report_panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Metrics,
    Panel,
    line,
    series,
    step_axis,
)
from rlhf_gym.scored import COMPONENT
from rlhf_gym.text_figures import kl_key

__all__ = ["component_panel"]

_COLOURS = (ORANGE, BLUE, GREEN, PURPLE)
_CLEAR = 0.2
"""The share of its best that a watched part must lose before a word is said about it; the means of
two rounds of 64 completions differ by less as a rule."""


def component_panel(metrics: Metrics, summary: Mapping[str, Any]) -> Panel | None:
    """Every part of the reward and the KL; None where there are not two parts to compare."""
    names = _names(metrics)
    if len(names) < 2:
        return None
    weights = summary.get("component_weights") or {}
    watched = [name for name in names if weights.get(name) == 0]
    paid = [name for name in names if name not in watched]
    groups = [("paid" if weights else "parts of the reward", paid), ("only watched", watched)]
    groups = [group for group in groups if group[1]]
    kl = kl_key(metrics[0])
    has_kl = bool(series(metrics, kl)[0])
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    axes = figure.subplots(1, len(groups) + has_kl, squeeze=False)[0]
    start = summary.get("reference") or {}
    for ax, (title, members) in zip(axes, groups, strict=False):
        for index, name in enumerate(members):
            colour = _COLOURS[(index + names.index(members[0])) % len(_COLOURS)]
            _draw(ax, metrics, start, name, colour, _label(name, weights))
        ax.set_title(f"{', '.join(members)}: {title}" if len(members) == 1 else title.capitalize())
        _finish(ax, metrics)
        if len(members) > 1 or weights.get(members[0], 1) not in (0, 1):
            ax.legend(loc="best")
    if has_kl:
        line(axes[-1], metrics, kl, GREY, "", "o")
        axes[-1].set_title("KL from SFT, nats")
        _finish(axes[-1], metrics)
    caption = (
        "The parts of the task's own reward, means per completion after each round; squares: after "
        "SFT. What is only watched counts nothing in the reward, and is taken for something "
        "wanted. Where what is paid rises and what is wanted falls, the reward is over-optimised; "
        "a price on KL (kl_coef) holds the policy back."
    )
    finding = _finding(metrics, summary, watched)
    title = "What is paid, what is only watched, and how far the policy moved"
    return Panel("components", "returns", title, caption, figure, finding, wide=True)


def _names(metrics: Metrics) -> list[str]:
    keys = dict.fromkeys(key for row in metrics for key in row if key.startswith(COMPONENT))
    return [key.removeprefix(COMPONENT) for key in keys if series(metrics, key)[0]]


def _label(name: str, weights: Mapping[str, Any]) -> str:
    weight = finite(weights.get(name))
    return name if weight is None or weight in (0, 1) else f"{name}, times {weight:g}"


def _draw(
    ax: Axes, metrics: Metrics, start: Mapping[str, Any], name: str, colour: str, label: str
) -> None:
    x, y = series(metrics, COMPONENT + name)
    before = finite(start.get(COMPONENT + name))
    if before is not None:
        ax.plot([0.0, x[0]], [before, y[0]], color=colour)
        ax.plot([0.0], [before], "s", color=GREY, clip_on=False, zorder=3)
    ax.plot(x, y, color=colour, marker="o", label=label)


def _finish(ax: Axes, metrics: Metrics) -> None:
    low, high = ax.get_ylim()
    if low > 0:
        ax.set_ylim(bottom=0)
    elif low > -0.1 * high:  # a line along zero would hide in the axis
        ax.set_ylim(bottom=-0.04 * high)
    step_axis(ax, metrics)


def _finding(metrics: Metrics, summary: Mapping[str, Any], watched: Sequence[str]) -> str:
    """What became of each watched part while the reward rose; "" where nothing is clear."""
    return " ".join(
        sentence for name in watched if (sentence := _about(metrics, summary, name)) is not None
    )


def _about(metrics: Metrics, summary: Mapping[str, Any], name: str) -> str | None:
    path = _path(metrics, summary, name)
    if len(path) < 2:
        return None
    (first_reward, first), (last_reward, last) = path[0][1:], path[-1][1:]
    where, best_reward, best = max(path, key=lambda point: point[2])
    if best - last > _CLEAR * abs(best) and last_reward > best_reward:
        return (
            f"Over-optimised: {where}, '{name}', which is not paid, fell from {show_number(best)} "
            f"to {show_number(last)}, while the reward that is paid rose from "
            f"{show_number(best_reward)} to {show_number(last_reward)}."
        )
    if last - first > _CLEAR * abs(first) and last_reward > first_reward:
        return (
            f"No over-optimisation seen: '{name}', which is not paid, rose with the reward, from "
            f"{show_number(first)} to {show_number(last)} (reward: {show_number(first_reward)} to "
            f"{show_number(last_reward)})."
        )
    return None


def _path(
    metrics: Metrics, summary: Mapping[str, Any], name: str
) -> list[tuple[str, float, float]]:
    """(since when, paid reward, watched part) after SFT, after each round, and at the end."""
    start = summary.get("reference") or {}
    key = COMPONENT + name
    rows = [("after SFT", start.get("random_return_mean"), start.get(key))]
    rows += [
        (
            f"after {show_number(row.get('completions'))} completions",
            row.get("true_return_mean"),
            row.get(key),
        )
        for row in metrics
    ]
    # The closing evaluation is of the last round's policy, on more completions.
    rows.append(("at the end", summary.get("true_return_mean"), summary.get(key)))
    return [
        (where, reward, part)
        for where, one, other in rows
        if (reward := finite(one)) is not None and (part := finite(other)) is not None
    ]
