"""One labeller's figures: how much, how fast, how even-handed, how right, how steady.

Working answers are those that look like ordinary pairs to the labeller: "pairwise", "surplus",
"gold" and "repeat". Practice and qualification are reported apart. Nothing here drops an answer:
figures and flags are for the owner to decide on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from rlhf_gym.config import is_whole
from rlhf_gym.data import Choice
from rlhf_gym.feedback.quality.agreement import standing_answers, standing_records, untold
from rlhf_gym.feedback.quality.patterns import AnswerWarning
from rlhf_gym.feedback.records import KINDS, AnswerRecord

__all__ = [
    "FAST_SECONDS",
    "QUALIFICATION_PASS",
    "QUALIFICATION_SIZE",
    "GapShare",
    "LabellerQuality",
    "Share",
    "gap_bin",
    "measure_labeller",
    "true_gap_accuracy",
]

FAST_SECONDS = 0.3
"""Nobody looks at two clips and decides in less."""
QUALIFICATION_SIZE = 20
"""Answers that make a qualification where they do not say so; of more, the last ones count."""
QUALIFICATION_PASS = 16
"""Right answers that pass: a random clicker does with 0.6 %, a 90 % labeller with 95.7 %."""

_WORKING = ("pairwise", "surplus", "gold", "repeat")
_IN_A_ROW = 5
_HASTY_SHARE = 0.05
_GOLD_ACCURACY = 0.8
_RETEST = 0.7
_MIN_SHARED = 20
_Z = 1.959963984540054  # of a two-sided 95 % interval


@dataclass(frozen=True)
class Share:
    """So many of so many, with Wilson's 95 % interval (1927); all None where there is none."""

    n_hits: int
    n: int
    value: float | None = field(init=False)
    """n_hits / n, in [0, 1]."""
    low: float | None = field(init=False)
    """The interval's lower end, in [0, 1]."""
    high: float | None = field(init=False)
    """The interval's upper end, in [0, 1]."""

    def __post_init__(self) -> None:
        value = low = high = None
        if self.n > 0:
            value = self.n_hits / self.n
            middle = (value + _Z**2 / (2 * self.n)) / (1 + _Z**2 / self.n)
            spread = value * (1 - value) / self.n + _Z**2 / (4 * self.n**2)
            half = _Z * math.sqrt(spread) / (1 + _Z**2 / self.n)
            low, high = max(middle - half, 0.0), min(middle + half, 1.0)
        for name, number in (("value", value), ("low", low), ("high", high)):
            object.__setattr__(self, name, number)

    @classmethod
    def of(cls, hits: Iterable[bool]) -> Share:
        """Count what is true."""
        seen = list(hits)
        return cls(sum(seen), len(seen))


@dataclass(frozen=True)
class GapShare:
    """Right answers to the queries whose absolute true return gap lies within bounds."""

    low: float
    """Of |true return of the first clip - of the second|."""
    high: float
    share: Share
    """Decisive answers that chose the clip with the higher true return."""


@dataclass(frozen=True)
class LabellerQuality:
    """All that is known of one labeller's work."""

    labeller: str
    """The pseudonym, or the teacher's name where answers have none."""
    n_answers: dict[str, int]
    """By kind of answer."""
    n_sittings: int
    median_seconds: float | None
    """From shown to answered, over working answers; None where no clock was read."""
    answers_per_minute: float | None
    """Working answers over the time from a sitting's first pair shown to its last answer, pauses
    included; None where no sitting was recorded."""
    fast: Share
    """Working answers in less than `FAST_SECONDS`."""
    unwatched: Share
    """Working answers before one whole loop was shown."""
    hasty_sequences: tuple[int, ...]
    """The sequence numbers of both kinds, for looking at them or setting them aside."""
    left: Share
    """Decisive working answers for the clip on the left; sides are drawn by lot, so 0.5 is
    expected."""
    tie: Share
    """Ties among working answers."""
    cant_tell: Share
    """"Can't tell" among working answers."""
    gold: Share
    """Pairs with a known answer that were answered so, whether asked as "gold" or as "pairwise"; a
    tie or "can't tell" is wrong unless it is what is known."""
    retest: Share
    """Re-shown pairs answered as the first time, "can't tell" included."""
    practice: Share
    """Practice pairs answered as known."""
    qualification: Share
    """The last attempt's qualification pairs, answered as known."""
    qualified: bool | None
    """Whether that passes; None before all of them are answered."""
    qualification_terms: tuple[int, int]
    """Right answers that pass, and of how many."""
    true_accuracy: Share
    """Decisive answers for the clip with the higher true return, where there is one and it is
    known."""
    true_accuracy_by_gap: tuple[GapShare, ...]
    """The same by size of the gap: what looks alike is hard for everybody."""
    reliability: float | None
    """Dawid & Skene's, in [0, 1]; None where no query is shared with another labeller."""
    n_shared: int
    """Queries that another labeller answered, too, "can't tell" left out."""
    flags: tuple[str, ...] = ()
    """What the owner should look at, in words."""


def measure_labeller(
    labeller: str,
    records: Sequence[AnswerRecord],
    *,
    gap_edges: Sequence[float] = (),
    reliability: float | None = None,
    n_shared: int = 0,
    warnings: Sequence[AnswerWarning] = (),
) -> LabellerQuality:
    """The figures of one labeller.

    Args:
        labeller: The name to report under.
        records: That labeller's answers of any kind; those replaced or taken back do not count.
        gap_edges: Rising bounds of |return gap|, n + 1 for n bins; empty for no such table.
        reliability: Dawid & Skene's, where it was fitted.
        n_shared: Queries that another labeller answered, too.
        warnings: What `find_patterns` found about this labeller: the first of the flags.
    """
    records = standing_records(records)
    working = [record for record in records if record.kind in _WORKING]
    standing = {record.query_id: record for record in standing_answers(records)}
    seconds = [s for record in working if (s := record.seconds) is not None]
    repeats = [r for r in records if r.kind == "repeat" and r.query_id in standing]
    size, needed = _terms(records)
    qualification = _known(records, "qualification")[-size:]
    n_by_kind = Counter(record.kind for record in records)
    quality = LabellerQuality(
        labeller=labeller,
        n_answers={kind: n_by_kind[kind] for kind in KINDS},
        n_sittings=len({r.details["sitting"] for r in records if "sitting" in r.details}),
        median_seconds=float(np.median(seconds)) if seconds else None,
        answers_per_minute=_pace(working),
        fast=Share.of(s < FAST_SECONDS for s in seconds),
        unwatched=Share.of(_unwatched(r) for r in working if "watched_fraction" in r.details),
        hasty_sequences=tuple(r.sequence for r in working if _fast(r) or _unwatched(r)),
        left=Share.of(left for r in working if (left := r.chose_left) is not None),
        tie=Share.of(r.choice is Choice.TIE for r in working),
        cant_tell=Share.of(r.choice is Choice.SKIP for r in working),
        gold=Share.of(_known(untold(records), "gold", "pairwise")),
        retest=Share.of(r.choice is standing[r.query_id].choice for r in repeats),
        practice=Share.of(_known(records, "practice")),
        qualification=Share.of(qualification),
        qualified=sum(qualification) >= needed if len(qualification) == size else None,
        qualification_terms=(needed, size),
        true_accuracy=Share.of(
            right for r in standing.values() if (right := _right(r)) is not None
        ),
        true_accuracy_by_gap=true_gap_accuracy(list(standing.values()), gap_edges),
        reliability=reliability if n_shared else None,
        n_shared=n_shared,
    )
    return replace(quality, flags=_flags(quality, working, warnings))


def gap_bin(gap: float, edges: Sequence[float]) -> int:
    """The bin of |gap|: bin i of n holds what lies above edge i and up to edge i + 1."""
    return int(np.searchsorted(edges[1:-1], abs(gap), side="left"))


def true_gap_accuracy(
    records: Sequence[AnswerRecord], edges: Sequence[float]
) -> tuple[GapShare, ...]:
    """Share of decisive answers for the clip with the higher true return, by size of the gap.

    Args:
        records: Standing answers; those without a known gap, ties and "can't tell" do not count.
        edges: Rising bounds of |gap|, n + 1 for n bins; empty for none.
    """
    bins: list[list[bool]] = [[] for _ in edges[1:]]
    for record in records if bins else ():
        right = _right(record)
        if right is not None and record.return_gap is not None:
            bins[gap_bin(record.return_gap, edges)].append(right)
    bounds = zip(edges[:-1], edges[1:], bins, strict=True)
    return tuple(GapShare(low, high, Share.of(hits)) for low, high, hits in bounds)


def _right(record: AnswerRecord) -> bool | None:
    """Whether a decisive answer chose the higher true return; None where that cannot be said."""
    if not record.return_gap or record.choice not in (Choice.FIRST, Choice.SECOND):
        return None
    return (record.choice is Choice.FIRST) == (record.return_gap > 0)


def _terms(records: Sequence[AnswerRecord]) -> tuple[int, int]:
    """Size of the last qualification, and right answers that pass, as its answers say."""
    details = next((r.details for r in reversed(records) if r.kind == "qualification"), {})
    size, mark = details.get("n_qualification"), details.get("pass_mark")
    is_number = isinstance(mark, int | float) and not isinstance(mark, bool)
    if size is None or mark is None or not is_whole(size) or not (is_number and 0 <= mark <= 1):
        return QUALIFICATION_SIZE, QUALIFICATION_PASS  # an earlier version's, or somebody else's
    return int(size), math.ceil(mark * int(size) - 1e-9)


def _known(records: Iterable[AnswerRecord], *kinds: str) -> list[bool]:
    """Which answers of some kinds, to pairs with a known answer, were the known one."""
    asked = [r for r in records if r.kind in kinds and r.expected is not None]
    return [record.choice is record.expected for record in asked]


def _fast(record: AnswerRecord) -> bool:
    return record.seconds is not None and record.seconds < FAST_SECONDS


def _unwatched(record: AnswerRecord) -> bool:
    return bool(record.details.get("watched_fraction", 1.0) < 1.0)


def _pace(working: Sequence[AnswerRecord]) -> float | None:
    """Answers per minute of sitting, by the monotonic clock where the viewer gave it."""
    sittings: dict[str, list[AnswerRecord]] = {}
    for record in working:
        if "sitting" in record.details:
            sittings.setdefault(str(record.details["sitting"]), []).append(record)
    n_answers, seconds = 0, 0.0
    for records in sittings.values():
        if all({"shown_monotonic", "answered_monotonic"} <= set(r.details) for r in records):
            start = min(float(r.details["shown_monotonic"]) for r in records)
            stop = max(float(r.details["answered_monotonic"]) for r in records)
        else:
            start = min(r.shown_at for r in records)
            stop = max(r.answered_at for r in records)
        if stop > start:
            n_answers, seconds = n_answers + len(records), seconds + stop - start
    return 60.0 * n_answers / seconds if seconds else None


def _longest_run(working: Sequence[AnswerRecord], test: Callable[[AnswerRecord], bool]) -> int:
    runs = groupby(map(test, working))
    return max((sum(1 for _ in run) for hit, run in runs if hit), default=0)


def _percent(share: Share) -> str:
    return f"{share.n_hits} of {share.n} ({100 * (share.value or 0.0):.0f} %)"


def _flags(
    quality: LabellerQuality, working: Sequence[AnswerRecord], warnings: Sequence[AnswerWarning]
) -> tuple[str, ...]:
    """What stands out, in words; a small sample alone raises no flag."""
    flags = [warning.text for warning in warnings]
    said = {warning.kind for warning in warnings}  # once is enough
    hasty = (
        (quality.fast, _fast, f"answered in under {FAST_SECONDS} s"),
        (quality.unwatched, _unwatched, "answered before one whole loop"),
    )
    for share, test, words in hasty:
        run = _longest_run(working, test)
        if run >= _IN_A_ROW or (share.n >= _MIN_SHARED and (share.value or 0.0) > _HASTY_SHARE):
            flags.append(f"{words}: {_percent(share)}, up to {run} in a row")
    left, gold, retest = quality.left, quality.gold, quality.retest
    is_even = left.low is None or left.high is None or left.low <= 0.5 <= left.high
    if not is_even and "one side" not in said:
        assert left.low is not None and left.high is not None, "so it is not even"
        interval = f"95 % interval {100 * left.low:.0f} to {100 * left.high:.0f} %"
        flags.append(f"chose the left side {_percent(left)}, {interval}: half was expected")
    if gold.high is not None and gold.high < 0.5:
        flags.append(f"pairs with a known answer right: {_percent(gold)}: are the keys mixed up?")
    elif gold.high is not None and gold.high < _GOLD_ACCURACY:
        flags.append(f"pairs with a known answer right: {_percent(gold)}, 80 % or more expected")
    if retest.high is not None and retest.high < _RETEST and "contradictions" not in said:
        flags.append(f"answered re-shown pairs as before: {_percent(retest)}")
    if quality.qualified is False:
        needed, size = quality.qualification_terms
        n_right = quality.qualification.n_hits
        flags.append(
            f"did not pass the qualification: {n_right} right, {needed} of {size} are needed"
        )
    reliability = quality.reliability
    if reliability is not None and reliability < 0.5 and quality.n_shared >= _MIN_SHARED:
        flags.append(f"mostly contradicts the other labellers: reliability {reliability:.2f}")
    return tuple(flags)
