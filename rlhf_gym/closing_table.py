"""The table at the end of a run: how good the agent is, beside what, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_gym.printing import Screen, printable
from rlhf_gym.progress import (
    counts_completions,
    finite,
    recovered_fraction,
    seconds_by_part,
    show_number,
    show_seconds,
)

__all__ = ["print_summary"]


def print_summary(
    summary: Mapping[str, Any], console: Console | None = None, folder: Path | None = None
) -> None:
    """Print the closing table: how good the agent is, beside what, and what it cost.

    Args:
        summary: what summary.json holds.
        console: where to print; standard output by default.
        folder: the run folder, to say where things lie.
    """
    console = console or Screen()
    learned = summary.get("reward", "learned") == "learned"
    title = (
        f"{summary.get('env_id', '?')}, {summary.get('algo', '?')}, "
        f"seed {summary.get('seed', '?')}, {'learned' if learned else 'true'} reward"
    )
    table = Table(title=Text(title, style="bold"), title_justify="left", show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for name, text in _summary_rows(summary, learned):
        table.add_row(Text(name), Text(text))
    if folder is not None:
        table.add_row("run folder", Text(str(folder), overflow="fold"))
        report = folder / "report.html"
        if report.exists():
            table.add_row("report", Text(str(report), overflow="fold"))
    console.print(table)


def _of(summary: Mapping[str, Any], done: str, planned: str) -> str:
    """What was done, beside what was asked for where that is more."""
    n_done, n_planned = finite(summary.get(done)), finite(summary.get(planned))
    text = show_number(summary.get(done))
    if n_done is None or n_planned is None or n_planned <= n_done:
        return text
    return f"{text} of {show_number(summary[planned])}"


def _spent(summary: Mapping[str, Any]) -> tuple[str, str]:
    unit = "completions" if counts_completions(summary) else "env_steps"
    steps = _of(summary, unit, "n_steps_planned")
    if " of " in steps:
        steps += " (a round is whole rollouts)"
    if unit == "completions":
        return unit, steps
    return "env steps", f"{steps} training, {show_number(summary.get('eval_steps'))} evaluation"


def _left_over(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was asked for and did not happen, a line each; nothing where all did."""
    words = {
        "n_questions_unasked": (
            "questions not asked",
            "the clips held too few different pairs; more come with `--warm-up` or `--rounds`",
        ),
        "n_answers_missing": ("answers missing", "nobody gave them; the run ended without them"),
        "n_answers_late": (
            "answers unused",
            "they came after the last fit; `--preferences` gives them to a new run",
        ),
    }
    rows = [
        (name, f"{show_number(summary[key])}: {why}")
        for key, (name, why) in words.items()
        if finite(summary.get(key))
    ]
    if " of " in (rounds := _of(summary, "n_rounds", "n_rounds_planned")):
        limit = "the task's `max_rounds` or the" if counts_completions(summary) else "the"
        rows.insert(0, ("rounds", f"{rounds}: {limit} steps allow no more"))
    return rows


def _summary_rows(summary: Mapping[str, Any], learned: bool) -> list[tuple[str, str]]:
    returns = summary.get("evaluation_returns") or []
    episodes = f" over {len(returns)} episodes" if returns else ""
    rows = [
        (
            "TRUE return, this run",
            f"{show_number(summary.get('true_return_mean'))} mean, "
            f"{show_number(summary.get('true_return_std'))} std{episodes}",
        )
    ]
    reference = summary.get("reference")
    if reference:
        best = reference.get("true_reward_return_mean")
        if finite(best) is not None:
            source = f"  ({reference['source']})" if reference.get("source") else ""
            rows.append(("  agent on the true reward", show_number(best) + source))
        name = "  after SFT" if counts_completions(summary) else "  random actions"
        rows.append((name, show_number(reference.get("random_return_mean"))))
        fraction = recovered_fraction(summary)
        if fraction is not None:
            rows.append(("  (run - random) / (true - random)", f"{fraction:.2f}"))
    if learned:
        n, accuracy = summary.get("reward_n_heldout"), summary.get("reward_accuracy_heldout")
        of_n = f"  of {n:,} answers" if n else ""
        rows += [
            ("learned return", show_number(summary.get("learned_return_mean"))),
            ("labels used", _of(summary, "n_labels", "n_labels_planned")),
            ("held-out accuracy", show_number(accuracy, 3) + of_n),
        ]
    if finite(summary.get("win_rate")) is not None:
        low, high = (show_number(summary.get(f"win_rate_{end}"), 2) for end in ("low", "high"))
        text = f"{show_number(summary['win_rate'], 2)} ({low} to {high}), by the true reward"
        rows.append(("win rate against SFT", text))
        kl = summary.get("kl_evaluated", summary.get("kl_to_ref"))
        rows.append(("KL from it", f"{show_number(kl)} nats per completion"))
    rows += [_spent(summary), *_left_over(summary)]
    rows.append(("wall time", show_seconds(summary.get("seconds_total"))))
    parts = seconds_by_part(summary.get("seconds") or {})
    whole = finite(summary.get("seconds_total")) or sum(seconds for _, seconds in parts)
    rows += [
        (f"  {name}", f"{show_seconds(seconds):>7}  {seconds / whole:5.1%}")
        for name, seconds in parts
    ]
    rows += [("warning", printable(text)) for text in summary.get("warnings") or []]
    return rows
