"""What a person sees while a run trains.

On a terminal: one permanent row per round above a live bar. Elsewhere (a log file, a pipe, CI):
the same rows as plain lines, without control characters. Both show the TRUE return and the learned
one under their own names; confusing the two is the oldest mistake of the field.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlhf_gym.printing import Screen, printable

__all__ = [
    "LiveProgress",
    "PlainProgress",
    "Progress",
    "counts_completions",
    "finite",
    "make_progress",
    "recovered_fraction",
    "seconds_by_part",
    "show_number",
    "show_seconds",
]

_PARTS = {
    "setup": "set-up",
    "collect": "collecting clips",
    "sft": "supervised fine-tuning",
    "label": "labelling",
    "fit": "fitting the reward",
    "improve": "training the agent",
    "evaluate": "evaluating",
    "checkpoint": "checkpoints",
}
_HEADER_EVERY = 25  # rows; a log is read from the middle too
_REFRESH_HZ = 4.0
_LEGEND = (
    "TRUE return: by the task's own reward, in evaluation episodes after each round.",
    "accuracy: share of held-out answers that the learned reward predicts.",
)


class Progress(Protocol):
    """Shows a run while it goes. Use as a context manager."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was found."""

    def phase(self, name: str) -> None:
        """Say what goes on now: "warming up", "asking", "fitting", "training", "evaluating"."""

    def steps(self, n_done: int) -> None:
        """Env steps (or completions) of the whole run so far; cheap, may be called at each step."""

    def round(self, metrics: Mapping[str, Any], n_rounds: int) -> None:
        """Show the figures of a finished round: one line of metrics.jsonl."""

    def note(self, text: str) -> None:
        """Say what the person who runs this should know; it stays on the screen."""


def finite(value: object) -> float | None:
    """The value as a float, or None where it is missing, not a number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def show_number(value: object, digits: int | None = None) -> str:
    """A number as a person writes it: "4,512", "93.4", "0.871"; "-" where there is none.

    Args:
        value: any number, None or NaN.
        digits: decimals; by default as many as the size of the number deserves.
    """
    number = finite(value)
    if number is None:
        return "-"
    if digits is None:
        size = abs(number)
        whole = isinstance(value, int) or size >= 99.95
        digits = 0 if whole else 1 if size >= 9.95 else 2 if size >= 0.995 else 3
    text = f"{number:,.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text


def show_seconds(value: object) -> str:
    """Seconds as "0.4 s", "42 s", "3:05" (minutes), "1:02:05" (hours), or "-" for none."""
    seconds = finite(value)
    if seconds is None:
        return "-"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def seconds_by_part(seconds: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Where the time went: (name for people, seconds), largest first, nothings left out."""
    parts = [(_PARTS.get(key, key), finite(value) or 0.0) for key, value in seconds.items()]
    return sorted([part for part in parts if part[1] > 0.0], key=lambda part: -part[1])


def recovered_fraction(summary: Mapping[str, Any]) -> float | None:
    """(this run - random) / (true-reward agent - random), on the true return.

    1.0 means that the answers were worth as much as the true reward itself. None where the run
    has no reference, or where the reference agent is no better than random.
    """
    reference = summary.get("reference") or {}
    ours = finite(summary.get("true_return_mean"))
    random = finite(reference.get("random_return_mean"))
    best = finite(reference.get("true_reward_return_mean"))
    if ours is None or random is None or best is None or best <= random:
        return None
    return (ours - random) / (best - random)


class _Rows:
    """The row of one round, the same on a terminal and in a log; 79 characters wide."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.n_shown = 0

    def lines(self, metrics: Mapping[str, Any], n_rounds: int) -> list[str]:
        """The row, with a header above it where one is due."""
        unit = "env_steps" if "env_steps" in metrics else "completions"
        cells = (
            ("round", 7, _round_of(metrics, n_rounds)),
            (unit.replace("_", " "), 12, show_number(metrics.get(unit))),
            ("labels", 8, show_number(metrics.get("n_labels"))),
            ("TRUE return", 12, show_number(metrics.get("true_return_mean"))),
            ("(std)", 7, show_number(metrics.get("true_return_std"))),
            ("learned return", 16, show_number(metrics.get("learned_return_mean"))),
            ("accuracy", 10, show_number(metrics.get("reward_accuracy_heldout"), 3)),
            ("time", 7, show_seconds(time.monotonic() - self.started)),
        )
        row = "".join(cell.rjust(width) for _, width, cell in cells)
        header = "".join(name.rjust(width) for name, width, _ in cells)
        due = self.n_shown % _HEADER_EVERY == 0
        self.n_shown += 1
        return [header, row] if due else [row]


def _round_of(metrics: Mapping[str, Any], n_rounds: int) -> str:
    """Rounds are counted from 0 in files and from 1 for people."""
    return f"{int(metrics.get('round', -1)) + 1}/{n_rounds}"


class PlainProgress:
    """One line per round and no control characters, for logs and pipes."""

    def __init__(self, total_steps: int, total_labels: int, console: Console) -> None:
        self._console = console
        self._rows = _Rows()
        self._plan = f"{show_number(total_steps)} steps, {show_number(total_labels)} labels"

    def __enter__(self) -> Self:
        """Say what is planned and what the columns mean."""
        self._rows = _Rows()
        self._line(f"training: {self._plan}")
        for line in _LEGEND:
            self._line(line)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to restore."""

    def phase(self, name: str) -> None:
        """Not shown: a log gets one line per round."""

    def steps(self, n_done: int) -> None:
        """Not shown: a log gets one line per round."""

    def round(self, metrics: Mapping[str, Any], n_rounds: int) -> None:
        """Print the row of this round."""
        for line in self._rows.lines(metrics, n_rounds):
            self._line(line)

    def note(self, text: str) -> None:
        """Print it."""
        self._line(printable(text))

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveProgress:
    """Rows of finished rounds above a bar that moves.

    `steps` and `phase` only store what they are given; a thread of rich draws four times a second,
    so calling them at each env step costs next to nothing.
    """

    def __init__(self, total_steps: int, total_labels: int, console: Console) -> None:
        self._console = console
        self._total_steps, self._total_labels = max(total_steps, 1), total_labels
        self._rows = _Rows()
        self._phase = "starting"
        self._steps_done = 0
        self._steps_at_start: int | None = None
        self._n_rounds = 0
        self._last: Mapping[str, Any] = {}
        self._live = Live(
            console=console, refresh_per_second=_REFRESH_HZ, get_renderable=self._draw
        )

    def __enter__(self) -> Self:
        """Start to draw."""
        self._rows = _Rows()
        for line in _LEGEND:
            self._console.print(Text(line, style="dim"))
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Draw a last time and give the cursor back."""
        if kind is not None:
            self._phase = "stopped"
        elif self._steps_done >= self._total_steps:
            self._phase = "done"
        self._live.stop()

    def phase(self, name: str) -> None:
        """Show what goes on now, from the next drawing on."""
        self._phase = name

    def steps(self, n_done: int) -> None:
        """Move the bar, from the next drawing on."""
        if self._steps_at_start is None:
            self._steps_at_start = n_done  # a resumed run starts in the middle
        self._steps_done = n_done

    def round(self, metrics: Mapping[str, Any], n_rounds: int) -> None:
        """Print the row of this round above the bar."""
        self._last, self._n_rounds = metrics, n_rounds
        for line in self._rows.lines(metrics, n_rounds):
            style = "dim" if "TRUE" in line else ""
            self._live.console.print(Text(line, style=style, no_wrap=True, overflow="ellipsis"))

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self._live.console.print(Text(printable(text), style="yellow"), soft_wrap=True)

    def _seconds_left(self) -> float | None:
        """By the mean pace since the start: fits and evaluations are in it, so it is steady."""
        gained = self._steps_done - (self._steps_at_start or 0)
        if gained <= 0:
            return None
        pace = (time.monotonic() - self._rows.started) / gained
        return pace * max(self._total_steps - self._steps_done, 0)

    def _draw(self) -> Group:
        done = self._steps_done >= self._total_steps
        elapsed = show_seconds(time.monotonic() - self._rows.started)
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            Text(self._phase.ljust(10), style="bold"),
            ProgressBar(self._total_steps, self._steps_done, width=18),
            f"{min(self._steps_done / self._total_steps, 1.0):4.0%}",
            f"{self._steps_done:,} of {self._total_steps:,} steps",
            elapsed if done else f"{show_seconds(self._seconds_left())} left",
        )
        last = self._last
        parts = [f"rounds {_round_of(last, self._n_rounds)}" if self._n_rounds else "rounds -"]
        if self._total_labels:
            parts.append(f"labels {show_number(last.get('n_labels', 0))}/{self._total_labels:,}")
        parts.append(f"TRUE return {show_number(last.get('true_return_mean'))}")
        if self._total_labels:
            parts += [
                f"learned {show_number(last.get('learned_return_mean'))}",
                f"accuracy {show_number(last.get('reward_accuracy_heldout'), 3)}",
            ]
        return Group(bar, Text("  ".join(parts), style="cyan"))


def make_progress(
    total_steps: int, total_labels: int, console: Console | None = None
) -> LiveProgress | PlainProgress:
    """The display that suits where the output goes.

    Args:
        total_steps: env steps (or completions) of the whole run.
        total_labels: answers of the whole run; 0 when training on the true reward.
        console: where to print; standard output by default.

    Returns:
        A live display on a terminal, plain lines anywhere else (pipe, file, `TERM=dumb`).
    """
    console = console or Screen()
    live = console.is_terminal and not console.is_dumb_terminal
    return (LiveProgress if live else PlainProgress)(total_steps, total_labels, console)


def counts_completions(figures: Mapping[str, Any]) -> bool:
    """Whether a round's figures, or a run's summary, are those of a text run."""
    return "completions" in figures
