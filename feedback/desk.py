"""What one labeller in one sitting is asked next, and where the answers go.

A desk holds no picture and no window: `PreferenceStore` below it, a viewer above it. It leases
open pairs so that nobody else gets them, mixes in the questions that measure the labeller, decides
by a recorded seed which clip stands left, and keeps every answer before the next pair is shown.
"""

from __future__ import annotations

import hashlib
import time
import uuid as uuids
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.answers import add_answer, retract_answer
from rlhf_gym.feedback.gold import MeasuringQuestion, next_measure
from rlhf_gym.feedback.leases import (
    LEASE_SECONDS,
    claim_queries,
    release_leases,
    renew_leases,
    wants_answer,
)
from rlhf_gym.feedback.records import AnswerKind
from rlhf_gym.feedback.store import PreferenceStore

__all__ = ["DeskProgress", "DeskSettings", "LabelDesk", "Question", "Side"]

Side = Literal["left", "right", "tie", "skip"]
"""What a labeller says: which side is better, neither, or "can't tell"."""


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


@dataclass(frozen=True, eq=False)
class Question:
    """A pair as it is put before a labeller."""

    query: Query
    """Without true rewards: nobody reads them off."""
    kind: AnswerKind
    """What the answer is for; not to be shown, except that "practice" gives feedback."""
    left: Literal["first", "second"]
    """Which clip stands on the left."""
    side_seed: int
    """What decided that."""
    expected: Choice | None = None
    """Of practice pairs alone: the right answer."""

    @property
    def sides(self) -> tuple[Clip, Clip]:
        """The clips on the left and on the right."""
        first, second = self.query.clips
        return (first, second) if self.left == "first" else (second, first)

    def choice(self, side: Side) -> Choice:
        """What a labeller's word means for the query."""
        if side in ("tie", "skip"):
            return Choice.TIE if side == "tie" else Choice.SKIP
        is_first = (side == "left") == (self.left == "first")
        return Choice.FIRST if is_first else Choice.SECOND

    def side(self, choice: Choice) -> Side:
        """The other way round."""
        if choice in (Choice.TIE, Choice.SKIP):
            return "tie" if choice is Choice.TIE else "skip"
        return "left" if choice.value == self.left else "right"


@dataclass(frozen=True)
class DeskProgress:
    """How far the labelling is."""

    n_mine: int
    """Real answers of this labeller that stand, in all sittings."""
    n_sitting: int
    """Answers of any kind given in this sitting and not taken back."""
    n_answers: int
    """Real answers of everybody that stand."""
    n_open: int
    """Pairs that still want an answer of somebody."""
    n_postponed: int
    """Pairs put off to later in this sitting."""


@dataclass
class _Given:
    """An answer of this sitting, for undo."""

    uuid: str
    question: Question


@dataclass(eq=False)
class LabelDesk:
    """One labeller's desk; belongs to one thread, like its store.

    Args:
        store: Where the queries and answers are; not closed here.
        labeller: A pseudonym, not empty.
        settings: What is mixed in.
        clock: Seconds since the epoch, UTC.

    Raises:
        ConfigError: an empty name, or one with control characters.
    """

    store: PreferenceStore
    labeller: str
    settings: DeskSettings = field(default_factory=DeskSettings)
    clock: Callable[[], float] = time.time
    sitting: str = field(default_factory=lambda: uuids.uuid4().hex)
    _queue: list[Question] = field(default_factory=list)
    _postponed: list[Question] = field(default_factory=list)
    _given: list[_Given] = field(default_factory=list)
    _disqualified: bool = False

    def __post_init__(self) -> None:
        if not self.labeller.strip() or not self.labeller.isprintable():
            raise ConfigError(
                f"the labeller's name is {self.labeller!r}; give a pseudonym of printable "
                "characters: `--labeller anna`."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def disqualified(self) -> bool:
        """Whether this labeller failed the qualification: no real pair is given to them."""
        return self._disqualified

    def upcoming(self, n: int = 1) -> list[Question]:
        """The pairs to show next, the first of them now; leased until answered.

        Args:
            n: How many to know ahead, so that their pictures can be made; at least 1.

        Returns:
            Up to n, fewer where fewer are open. Empty: nothing is open for this labeller now.
            What was returned once comes again, in the same order, until it is answered.
        """
        if len(self._queue) < n:
            self._top_up(n)
        if not self._queue and self._postponed:
            self._queue, self._postponed = self._postponed, []
        return self._queue[:n]

    def _top_up(self, n: int) -> None:
        """Add what measures the labeller, then open pairs up to n."""
        while len(self._queue) < n:
            busy = [q.query.id for q in (*self._queue, *self._postponed)]
            measure = next_measure(self.store, self.labeller, self.settings, busy)
            self._disqualified = measure.disqualified
            if measure.question is None or any(q.kind != "pairwise" for q in self._queue):
                break
            self._queue += self._questions([measure.question])
        trial = any(q.kind in ("practice", "qualification") for q in self._queue)
        if self._disqualified or trial:
            return
        with self.store.writing() as connection:
            ids = claim_queries(
                connection,
                self.labeller,
                self.sitting,
                n - len(self._queue),
                self.clock(),
                seconds=self.settings.lease_seconds,
                but_not=[q.query.id for q in (*self._queue, *self._postponed)],
            )
        self._queue += self._questions([MeasuringQuestion(key, "pairwise") for key in ids])

    def _questions(self, chosen: Sequence[MeasuringQuestion]) -> list[Question]:
        queries = {q.id: q for q in self.store.queries([c.query_id for c in chosen])}
        return [self._question(queries[c.query_id], c) for c in chosen]

    def _question(self, query: Query, chosen: MeasuringQuestion) -> Question:
        # A fair coin per pair and labeller, on record, and the other side the second time.
        text = f"{self.settings.seed}|{query.id}|{self.labeller}|{chosen.kind}"
        side_seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        left: Literal["first", "second"] = "first" if side_seed % 2 else "second"
        if chosen.left_before is not None:
            left = "second" if chosen.left_before == "first" else "first"
        blind = Query.from_storage(
            query.id,
            clips=tuple(clip.without_true_rewards() for clip in query.clips),
            seed=query.seed,
            round=query.round,
            index=query.index,
        )
        return Question(blind, chosen.kind, left, side_seed, chosen.expected)

    def answer(
        self,
        question: Question,
        side: Side,
        *,
        shown_at: float,
        details: Mapping[str, Any] | None = None,
        uuid: str | None = None,
    ) -> None:
        """Keep an answer; durable when this returns.

        Args:
            question: One that `upcoming` gave.
            side: What the labeller said.
            shown_at: When the pair appeared, seconds since the epoch, UTC.
            details: JSON values of the viewer, see `AnswerRecord.details`.
            uuid: Of the answer; the same one twice is one answer.

        Raises:
            OSError: the disk is full or not writable; the question is still open.
        """
        now = max(self.clock(), shown_at)  # a clock set back does not lose the answer
        uuid = uuid or uuids.uuid4().hex
        preference = Preference(
            question.query,
            question.choice(side),
            self.settings.teacher,
            labeller=self.labeller,
            shown_at=shown_at,
            answered_at=now,
            details={
                **(details or {}),
                "left": question.left,
                "side_seed": question.side_seed,
                "sitting": self.sitting,
            },
        )
        with self.store.writing() as connection:
            kind = question.kind
            if kind == "pairwise" and not wants_answer(
                connection, question.query.id, self.labeller
            ):
                kind = "surplus"  # the lease ran out and others were faster
            add_answer(connection, preference, self.store.path, kind=kind, uuid=uuid)
            release_leases(connection, self.sitting, [question.query.id])
        self._queue = [q for q in self._queue if q is not question]
        self._postponed = [q for q in self._postponed if q is not question]
        self._given.append(_Given(uuid, question))

    def postpone(self, question: Question) -> None:
        """Show a pair later in this sitting, after everything else that is open."""
        self._queue = [q for q in self._queue if q is not question]
        self._postponed.append(question)

    def undo(self) -> Question | None:
        """Take back the latest answer of this sitting; its pair is the next again.

        Returns:
            That pair, or None where there is nothing left to take back.
        """
        if not self._given:
            return None
        given = self._given[-1]
        with self.store.writing() as connection:
            retract_answer(connection, given.uuid, self.clock())
            claim_queries(
                connection,
                self.labeller,
                self.sitting,
                1,
                self.clock(),
                seconds=self.settings.lease_seconds,
                only=given.question.query.id,
            )
        self._given.pop()
        self._queue.insert(0, given.question)
        return given.question

    def renew(self) -> None:
        """Keep the leases: to be called now and then while a pair is shown."""
        with self.store.writing() as connection:
            renew_leases(connection, self.sitting, self.clock(), self.settings.lease_seconds)

    def progress(self) -> DeskProgress:
        """How far the labelling is, for everybody and in this sitting."""
        counts = self.store.counts()
        mine = self.store.rows(
            "SELECT count(*) FROM answers AS a WHERE labeller = ? AND kind = 'pairwise' AND NOT"
            " EXISTS (SELECT 1 FROM answers AS b WHERE b.supersedes = a.sequence)",
            (self.labeller,),
        )[0][0]
        return DeskProgress(
            n_mine=mine,
            n_sitting=len(self._given),
            n_answers=counts["n_answers"],
            n_open=counts["n_open"],
            n_postponed=len(self._postponed),
        )

    def close(self) -> None:
        """Give back all leases; what was answered stays."""
        with self.store.writing() as connection:
            release_leases(connection, self.sitting)
        self._queue, self._postponed = [], []
