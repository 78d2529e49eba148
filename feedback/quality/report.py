"""What `rlhf-gym labels` shows: tables for people, with every figure explained, and JSON.

Made for 80 columns, which is also what a pipe gets. Names of labellers are anything people type,
so they are shown as plain text, never read as markup.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rlhf_gym.feedback.quality.agreement import Agreement
from rlhf_gym.feedback.quality.agreement_figures import Figure
from rlhf_gym.feedback.quality.labeller import LabellerQuality, Share
from rlhf_gym.feedback.quality.measure import StoreQuality
from rlhf_gym.files import plain
from rlhf_gym.printing import printable

__all__ = ["quality_json", "quality_report"]

_DASH = "-"
_MAX_PAIRS = 15
_PACE_LEGEND = """\
s/pair: median seconds from shown to answered. per min: answers per minute of
sitting. left: share of choices for the clip on the left, with its 95 %
interval; sides are drawn by lot. tie, can't tell: share of answers."""
_RIGHT_LEGEND = """\
known: right answers to hidden pairs with a known answer. again: same answer on
a pair shown twice. true: choices for the clip with the higher true return.
reliability: how often the answer is what all labellers and the known answers
together make most likely (Dawid-Skene): 1 always, 0.5 a coin, 0 always the
opposite. It takes three labellers on common pairs."""
_AGREEMENT_LEGEND = """\
agree: share of two labellers' answers to one pair that are alike. Beyond
chance: 1 is full agreement, 0 what guessing with the same shares of answers
would give, below 0 is contradiction. Fleiss' kappa, Krippendorff's alpha and,
for two, Cohen's kappa differ in what they call chance; alpha also corrects for
small samples. Where clips look alike nobody agrees: 0.67 is good, 0.4 poor.
In brackets: 95 % interval, by drawing the pairs anew {n_resamples:,} times."""


def quality_json(quality: StoreQuality, n_posted: int | None = None) -> str:
    """All figures as one JSON object: the fields of `StoreQuality`, and `n_posted`.

    Args:
        quality: What was measured.
        n_posted: How many queries the store asks in all, where known.
    """
    content = {"n_posted": n_posted, **asdict(quality)}
    return json.dumps(plain(content), indent=2, allow_nan=False, ensure_ascii=False)


def quality_report(quality: StoreQuality, n_posted: int | None = None) -> Group:
    """Tables and flags, for a console of 80 columns or more.

    Args:
        quality: What was measured.
        n_posted: How many queries the store asks in all, where known: shown as progress.
    """
    parts: list[RenderableType] = [_overview(quality, n_posted)]
    if quality.labellers:
        parts += [_pace(quality.labellers), _legend(_PACE_LEGEND)]
        parts += [_rightness(quality.labellers), _legend(_RIGHT_LEGEND)]
        entrance = [q for q in quality.labellers if q.practice.n or q.qualification.n]
        if entrance:
            parts.append(_entrance(entrance))
        parts += _agreement_part(quality)
    if quality.true_accuracy_by_gap:
        parts.append(_gaps(quality))
    parts.append(_flags(quality))
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    """First column left, the others right, as figures stand."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.pad_edge, table.padding = False, (0, 0, 0, 1)
    table.add_column(columns[0], min_width=12, max_width=46, overflow="fold")
    for column in columns[1:]:
        # A name may fold; a figure that loses its last digit is worse than a wide table.
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _legend(text: str) -> Padding:
    return Padding(Text(text, style="dim"), (0, 0, 1, 0))


def _name(name: str) -> Text:
    """A labeller's name without control characters, which could repaint the terminal."""
    return Text(printable(name, newline="\\n") or "(no name)")


def _percent(share: Share) -> str:
    return _DASH if share.value is None else f"{100 * share.value:.0f} %"


def _with_range(share: Share) -> str:
    if share.value is None or share.low is None or share.high is None:
        return _DASH
    return f"{100 * share.value:.0f} % ({100 * share.low:.0f}-{100 * share.high:.0f})"


def _of(share: Share) -> str:
    return f"{share.n_hits}/{share.n}" if share.n else _DASH


def _number(value: float | None, digits: int) -> str:
    return _DASH if value is None else f"{value:.{digits}f}"


def _gap(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= value < 1e6 else f"{value:.3g}"


def _figure(figure: Figure) -> str:
    if figure.value is None:
        return _DASH
    if figure.low is None or figure.high is None:
        return f"{figure.value:.2f}"
    return f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"


def _agree(figure: Figure) -> str:
    if figure.value is None:
        return _DASH
    value = f"{100 * figure.value:.0f} %"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({100 * figure.low:.0f}-{100 * figure.high:.0f})"


def _overview(quality: StoreQuality, n_posted: int | None) -> RenderableType:
    n = quality.n_answers
    table = _table("Answers", "", "")
    table.show_header, table.columns[1].justify = False, "left"
    progress = f"{quality.n_queries:,}"
    if n_posted:
        progress += f" of {n_posted:,} ({100 * quality.n_queries / n_posted:.0f} %)"
    table.add_row("pairs answered", progress)
    table.add_row("by two labellers or more", f"{quality.n_shared_queries:,}")
    choices = quality.choices
    spread = f"first {choices['first']:,}, second {choices['second']:,}, tie {choices['tie']:,}"
    table.add_row("answers to train on", f"{n['pairwise']:,}: {spread}")
    undone = f"changed or taken back {quality.n_superseded:,}"
    table.add_row("not trained on", f"can't tell {choices['skip']:,}, {undone}")
    checks = f"known answer {n['gold']:,}, shown twice {n['repeat']:,}"
    entrance = f"practice {n['practice']:,}, qualification {n['qualification']:,}"
    table.add_row("checks on labellers", f"{checks}\n{entrance}")
    return Group(table, Text())


def _pace(labellers: tuple[LabellerQuality, ...]) -> Table:
    columns = ("labeller", "answers", "s/pair", "per min", "left", "tie", "can't tell")
    table = _table("Labellers: how much, how fast, how even-handed", *columns)
    for q in labellers:
        table.add_row(
            _name(q.labeller),
            f"{q.n_answers['pairwise']:,}",
            _number(q.median_seconds, 1),
            _number(q.answers_per_minute, 1),
            _with_range(q.left),
            _percent(q.tie),
            _percent(q.cant_tell),
        )
    return table


def _rightness(labellers: tuple[LabellerQuality, ...]) -> Table:
    has_truth = any(q.true_accuracy.n for q in labellers)
    columns = ("labeller", "known", "again", *["true"] * has_truth, "reliability")
    table = _table("Labellers: how right", *columns)
    for q in labellers:
        truth = [_percent(q.true_accuracy)] * has_truth
        checks = _of(q.gold), _of(q.retest), *truth
        table.add_row(_name(q.labeller), *checks, _number(q.reliability, 2))
    return table


def _entrance(labellers: list[LabellerQuality]) -> RenderableType:
    table = _table("Before the first real pair", "labeller", "practice", "qualification", "passed")
    words = {None: "not finished", True: "yes", False: "no"}
    for q in labellers:
        table.add_row(_name(q.labeller), _of(q.practice), _of(q.qualification), words[q.qualified])
    return Group(table, Text())


def _agreement_part(quality: StoreQuality) -> list[RenderableType]:
    found = quality.agreement
    if found.percent.value is None and quality.agreement_with_cant_tell.percent.value is None:
        return [Text("Agreement: unknown, no pair was answered by two labellers.\n")]
    table = _table("Agreement", "on", "pairs", "agree", "Fleiss' kappa", "alpha")
    rows: list[tuple[str, Agreement]] = [
        ("all, can't tell left out", found),
        ("all, can't tell as an answer", quality.agreement_with_cant_tell),
    ]
    rows += [
        (f"true gap {_gap(row.low)} to {_gap(row.high)}", row.agreement)
        for row in quality.agreement_by_gap
    ]
    for name, row in rows:
        figures = (_agree(row.percent), _figure(row.fleiss), _figure(row.alpha))
        # The intervals stand below their figures: side by side they take more than 80 columns.
        below = (figure.replace(" (", "\n(") for figure in figures)
        table.add_row(name, f"{row.n_queries:,}", *below)
    parts: list[RenderableType] = [table]
    reasons = dict.fromkeys(row.alpha.reason for _, row in rows if row.alpha.reason)
    parts += [Text(f"{_DASH}, or no interval: {reason}.") for reason in reasons]
    if found.pairs:
        parts.append(_two_by_two(found))
    legend = _AGREEMENT_LEGEND.format(n_resamples=found.n_resamples)
    return [*parts, _legend(legend)]


def _two_by_two(found: Agreement) -> Table:
    """Every two labellers; of many, those who agree least."""
    pairs = found.pairs
    title = "Two by two"
    if len(pairs) > _MAX_PAIRS:
        title += f" (the {_MAX_PAIRS} of {len(pairs)} who agree least)"
        by_kappa = sorted(pairs, key=lambda p: 2.0 if p.kappa.value is None else p.kappa.value)
        pairs = tuple(by_kappa[:_MAX_PAIRS])
    table = _table(title, "labellers", "pairs", "agree", "Cohen's kappa")
    for pair in pairs:
        names = Text(" and ").join(map(_name, pair.labellers))
        table.add_row(names, f"{pair.n_queries:,}", _agree(pair.percent), _figure(pair.kappa))
    return table


def _gaps(quality: StoreQuality) -> RenderableType:
    table = _table("Right by the true reward", "true gap of the two clips", "answers", "right")
    for row in quality.true_accuracy_by_gap:
        bounds = f"{_gap(row.low)} to {_gap(row.high)}"
        table.add_row(bounds, f"{row.share.n:,}", _with_range(row.share))
    return Group(table, Text())


def _flags(quality: StoreQuality) -> RenderableType:
    lines = [Text(flag) for flag in quality.flags]
    for q in quality.labellers:
        lines += [_name(q.labeller) + Text(f" {flag}") for flag in q.flags]
    if not lines:
        return Text("Nothing stands out.")
    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row("-", line)
    return Group(Text("Worth a look", style="bold"), grid)
