"""Questions that measure a labeller: pairs whose right answer is known, and pairs shown again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_gym.data import Choice
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.feedback.dataset import decode_answer
from rlhf_gym.feedback.leases import LEASE_SECONDS
from rlhf_gym.feedback.records import AnswerKind
from rlhf_gym.feedback.schema import ANSWERS_OF_Q
from rlhf_gym.feedback.store import PreferenceStore

__all__ = [
    "DeskSettings",
    "Measure",
    "MeasuringQuestion",
    "gold_from_true_returns",
    "next_measure",
]

_REST = 10  # an answered pair is not shown again before as many others

_ANSWERS = """
    SELECT q.id, a.kind, a.payload, g.choice
    FROM answers AS a JOIN queries AS q USING (query) LEFT JOIN gold AS g USING (query)
    WHERE a.labeller = ? AND a.kind NOT IN ('retraction', 'surplus')
      AND NOT EXISTS (SELECT 1 FROM answers AS b WHERE b.supersedes = a.sequence)
    ORDER BY a.sequence
"""
_GOLD = f"""
    SELECT q.id, g.choice, {ANSWERS_OF_Q} >= q.n_wanted
    FROM gold AS g JOIN queries AS q USING (query) ORDER BY q.query
"""


@dataclass(frozen=True, kw_only=True)
class DeskSettings:
    """What a labeller is given beside the open pairs."""

    teacher: str = "human"
    """What stands in `Preference.teacher`."""
    gold_share: float = 0.05
    """Share of a labeller's questions whose right answer is known, in [0, 0.5]."""
    repeat_share: float = 0.05
    """Share that shows an answered pair again with the sides swapped, in [0, 0.5]."""
    n_practice: int = 0
    """Practice pairs with feedback before a labeller's first real one."""
    n_qualification: int = 0
    """Known pairs to pass after that; `pass_mark` of them right."""
    pass_mark: float = 0.8
    """Share of the qualification to get right, in [0, 1]: 16 of 20. A random clicker passes 20
    items with a probability of 0.6 %, a labeller who is right nine times in ten fails 4.3 %."""
    lease_seconds: float = LEASE_SECONDS
    """How long a pair is kept for a labeller who shows no sign of life."""
    seed: int = 0
    """Seed of the sides and of which pairs are shown again."""

    def __post_init__(self) -> None:
        for name in ("gold_share", "repeat_share"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise ConfigError(f"`{name}` is {getattr(self, name)}, expected 0 to 0.5.")
        if self.n_practice < 0 or self.n_qualification < 0 or not 0 <= self.pass_mark <= 1:
            raise ConfigError(
                f"`n_practice` ({self.n_practice}) and `n_qualification` ({self.n_qualification}) "
                f"must be at least 0 and `pass_mark` ({self.pass_mark}) in [0, 1]."
            )
        if not self.lease_seconds > 0:
            raise ConfigError(f"`lease_seconds` is {self.lease_seconds}, expected above 0.")


@dataclass(frozen=True)
class MeasuringQuestion:
    """Which pair to ask, and why."""

    query_id: str
    kind: AnswerKind
    expected: Choice | None = None
    """The known answer, for practice."""
    left_before: str | None = None
    """Of a repeat: which clip stood on the left the first time."""


@dataclass(frozen=True)
class Measure:
    """What is to be asked next for measurement."""

    question: MeasuringQuestion | None
    """None: an ordinary pair is next."""
    disqualified: bool = False
    """The labeller failed the qualification."""
    on_trial: bool = False
    """Practice or qualification is not complete, unless for want of known pairs."""


def gold_from_true_returns(store: PreferenceStore, share: float = 0.1) -> int:
    """Mark the pairs with the clearest difference in true return as gold.

    Only where the true reward is what the labellers are told to judge by: who trains a new
    behaviour by eye has no such pairs, and marks some by hand.

    Args:
        store: With clips whose true rewards are known.
        share: Of the pairs, those with the greatest |difference|, in (0, 1].

    Returns:
        How many pairs are marked now.

    Raises:
        ConfigError: a share out of range.
        DataError: no pair has known true rewards.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"`share` is {share}, expected above 0 and at most 1.")
    gaps = {key: gap for key, gap in store.return_gaps().items() if gap}
    if not gaps:
        raise DataError(
            f"no pair in `{store.path}` has known true rewards that differ; mark gold pairs by "
            "hand: `PreferenceStore.mark_gold`."
        )
    clear = float(np.quantile(np.abs(list(gaps.values())), 1.0 - share))
    expected = {
        key: Choice.FIRST if gap > 0 else Choice.SECOND
        for key, gap in gaps.items()
        if abs(gap) >= clear
    }
    store.mark_gold(expected, "true return")
    return len(expected)


def next_measure(
    store: PreferenceStore,
    labeller: str,
    settings: DeskSettings,
    busy: Collection[str] = (),
    damaged: Collection[str] = (),
) -> Measure:
    """What measures a labeller next: practice, qualification, then now and then gold or a repeat.

    A gold pair that a labeller answers as an ordinary one measures them as well, so known pairs
    are added only where those fall short of `gold_share`, from pairs that want no more answers.

    Args:
        store: The store.
        labeller: Who is measured.
        settings: How often.
        busy: Ids of queries not to ask now: they lie before the labeller, or are damaged.
        damaged: Those of them that cannot be shown: who fails what can be shown has failed.
    """
    given = store.rows(_ANSWERS, (labeller,))
    gold = store.rows(_GOLD)
    count = {kind: sum(row[1] == kind for row in given) for kind in ("practice", "qualification")}
    seen = {row[0] for row in given} | set(busy)
    fresh = [row for row in _shuffled(gold, labeller, settings) if row[0] not in seen]
    for kind, wanted in (
        ("practice", settings.n_practice), ("qualification", settings.n_qualification)
    ):  # fmt: skip
        if count[kind] < wanted and fresh:
            query_id, choice, _ = fresh[0]
            return Measure(_gold_question(query_id, kind, choice), on_trial=True)
    tested = [row for row in given if row[1] == "qualification"]
    path = store.path
    right = sum(decode_answer(row[2], path)[0].value == row[3] for row in tested)
    on_trial = count["practice"] < settings.n_practice or len(tested) < settings.n_qualification
    if tested and right < math.ceil(settings.pass_mark * len(tested) - 1e-9):
        answered = {row[0] for row in given}
        more_to_come = len(tested) < settings.n_qualification and any(
            row[0] not in answered and row[0] not in damaged for row in gold
        )
        return Measure(None, disqualified=not more_to_come, on_trial=on_trial)
    return Measure(_now_and_then(given, fresh, busy, labeller, settings, path), on_trial=on_trial)


def _now_and_then(
    given: list[Any],
    fresh: list[Any],
    busy: Collection[str],
    labeller: str,
    settings: DeskSettings,
    path: Path,
) -> MeasuringQuestion | None:
    real = [row for row in given if row[1] in ("pairwise", "gold", "repeat")]
    told = {row[0] for row in given if row[1] == "practice"}
    n_gold = sum(row[3] is not None and row[1] != "repeat" and row[0] not in told for row in real)
    closed = [row for row in fresh if row[2]]
    if closed and n_gold + 1 <= settings.gold_share * (len(real) + 1):
        return _gold_question(closed[0][0], "gold", closed[0][1])
    repeated = {row[0] for row in real if row[1] == "repeat"}
    if len(repeated) + 1 > settings.repeat_share * (len(real) + 1):
        return None
    own = [row for row in real if row[1] == "pairwise"][:-_REST]
    not_again = repeated.union(busy)
    for query_id, _, payload, _ in _shuffled(own, labeller, settings):
        choice, details = decode_answer(payload, path)
        left = details.get("left")
        decisive = choice in (Choice.FIRST, Choice.SECOND)
        if query_id not in not_again and decisive and left:
            return MeasuringQuestion(query_id, "repeat", left_before=left)
    return None


def _gold_question(query_id: str, kind: Any, choice: str) -> MeasuringQuestion:
    expected = Choice(choice) if kind == "practice" else None
    return MeasuringQuestion(query_id, kind, expected)


def _shuffled(rows: list[Any], labeller: str, settings: DeskSettings) -> list[Any]:
    """In an order of the labeller's own that stays the same between sittings."""

    def key(row: Any) -> bytes:
        return hashlib.sha256(f"{settings.seed}|{labeller}|{row[0]}".encode()).digest()

    return sorted(rows, key=key)
