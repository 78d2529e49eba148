"""What one labeller in one sitting is asked next, and where the answers go.

A desk holds no picture and no window: `PreferenceStore` below it, a viewer above it. It leases
open pairs so that nobody else gets them, mixes in the questions that measure the labeller, decides
by a recorded seed which clip stands left, and keeps every answer before the next pair is shown.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import ConfigError, CorruptDataError
from rlhf_gym.feedback.answers import add_answer, retract_answer
from rlhf_gym.feedback.gold import DeskSettings, MeasuringQuestion, next_measure
from rlhf_gym.feedback.leases import (
    claim_queries,
    new_sitting,
    release_dead_sittings,
    release_leases,
    renew_leases,
    select_free,
    turn,
    wants_answer,
)
from rlhf_gym.feedback.records import AnswerKind
from rlhf_gym.feedback.store import PreferenceStore

__all__ = ["DeskProgress", "DeskSettings", "LabelDesk", "Question", "Side"]

Side = Literal["left", "right", "tie", "skip"]
"""What a labeller says: which side is better, neither, or "can't tell"."""

_TRIAL = ("practice", "qualification")


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
    sitting: str = field(default_factory=new_sitting)
    _queue: list[Question] = field(default_factory=list)
    _postponed: list[Question] = field(default_factory=list)
    _chosen: list[MeasuringQuestion] = field(default_factory=list)  # next, leased, not read yet
    _ahead: int = 1
    _given: list[_Given] = field(default_factory=list)
    _damaged: dict[str, str] = field(default_factory=dict)
    _disqualified: bool = False

    def __post_init__(self) -> None:
        if not self.labeller.strip() or not self.labeller.isprintable():
            raise ConfigError(
                f"the labeller's name is {self.labeller!r}; give a pseudonym of printable "
                "characters: `--labeller anna`."
            )
        with self._writing() as connection:
            release_dead_sittings(connection)

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
            What was returned once comes again, in the same order, until it is answered; only
            `renew` drops pairs behind the first that somebody else has taken since.
        """
        self._ahead = max(self._ahead, n)
        while len(self._queue) < n:
            self._chosen = self._chosen or self._choose(self._line(), n - len(self._queue))
            if not self._chosen:
                break
            self._load()
        if not self._queue and self._postponed:
            self._queue, self._postponed = self._postponed, []
        return self._queue[:n]

    @property
    def damaged(self) -> Mapping[str, str]:
        """Why pairs are left out of this sitting, by query id: unreadable, or set aside."""
        return dict(self._damaged)

    def _line(self) -> list[MeasuringQuestion]:
        """Everything that waits for an answer of this sitting."""
        shown = [MeasuringQuestion(q.query.id, q.kind) for q in (*self._queue, *self._postponed)]
        return [*shown, *self._chosen]

    def _choose(
        self,
        line: Sequence[MeasuringQuestion],
        n: int,
        connection: sqlite3.Connection | None = None,
    ) -> list[MeasuringQuestion]:
        """What to ask after the line, up to n: what measures the labeller, then open pairs."""
        busy = [*(c.query_id for c in line), *self._damaged]
        measure = next_measure(self.store, self.labeller, self.settings, busy, self._damaged)
        self._disqualified = measure.disqualified
        chosen = []
        later = {q.query.id for q in self._postponed}
        now = {c.kind for c in line if c.query_id not in later or c.kind not in _TRIAL}
        # One at a time: what comes after it may depend on its answer.
        if measure.question is not None and now <= {"pairwise"}:
            chosen = [measure.question]
        kinds = now.union(c.kind for c in chosen)
        if measure.on_trial:  # putting it off does not get around it
            kinds.update(q.kind for q in self._postponed)
        if self._disqualified or not kinds.isdisjoint(_TRIAL):
            return chosen
        ids = self._claim(n - len(chosen), busy, connection)
        return chosen + [MeasuringQuestion(key, "pairwise") for key in ids]

    def _claim(
        self, n: int, but_not: Sequence[str], connection: sqlite3.Connection | None
    ) -> list[str]:
        who, now, seconds = (self.labeller, self.sitting), self.clock(), self.settings.lease_seconds
        if n < 1:
            return []
        if connection is not None:
            return claim_queries(connection, *who, n, now, seconds=seconds, but_not=but_not)
        # A look is cheap: who waits for new pairs does not take the write lock to find none.
        free = self.store.rows(*select_free(*who, 1 + len(but_not), now, seconds=seconds))
        if all(key in but_not for _, key in free):
            return []
        with self._writing() as connection:
            return claim_queries(connection, *who, n, now, seconds=seconds, but_not=but_not)

    def _load(self) -> None:
        """Read the pairs that were chosen; those that cannot be read are set aside."""
        ids = [c.query_id for c in self._chosen]
        try:
            queries = {q.id: q for q in self.store.queries(ids)}
        except CorruptDataError:
            queries = {}
            for query_id in ids:
                try:
                    queries[query_id] = self.store.query(query_id)
                except CorruptDataError as error:
                    self._damaged[query_id] = str(error)
            with self._writing() as connection:
                release_leases(connection, self.sitting, [i for i in ids if i in self._damaged])
        chosen = [c for c in self._chosen if c.query_id in queries]
        self._queue += [self._question(queries[c.query_id], c) for c in chosen]
        self._chosen = []

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with turn(self.store.path.parent / "clips"), self.store.writing() as connection:
            yield connection

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
                **self._terms(question),
            },
        )
        rest = [q for q in self._queue if q is not question]
        line = [c for c in self._line() if c.query_id != question.query.id]
        with self._writing() as connection:
            kind = question.kind
            if kind == "pairwise" and not wants_answer(
                connection, question.query.id, self.labeller
            ):
                kind = "surplus"  # the lease ran out and others were faster
            uuid = add_answer(connection, preference, self.store.path, kind=kind, uuid=uuid)
            release_leases(connection, self.sitting, [question.query.id])
            # The next pairs are leased in the same commit, which is what an answer's time goes to.
            missing = self._ahead - len(rest) - len(self._chosen)
            more = self._choose(line, missing, connection) if missing > 0 else []
        self._chosen += more
        self._queue = rest
        self._postponed = [q for q in self._postponed if q is not question]
        if all(given.uuid != uuid for given in self._given):
            self._given.append(_Given(uuid, question))

    def _terms(self, question: Question) -> dict[str, Any]:
        """What a qualification asks for, kept with its answers for who judges them later."""
        if question.kind != "qualification":
            return {}
        wanted, mark = self.settings.n_qualification, self.settings.pass_mark
        return {"n_qualification": wanted, "pass_mark": mark}

    def postpone(self, question: Question) -> None:
        """Show a pair later in this sitting, after everything else that is open."""
        self._queue = [q for q in self._queue if q is not question]
        self._postponed = [q for q in self._postponed if q is not question]
        self._postponed.append(question)

    def set_aside(self, question: Question, reason: str) -> None:
        """Leave a measuring pair out that cannot be shown; another one is taken in its place.

        An ordinary pair is postponed instead: it may be possible to show it later, and no other
        one has the answer that is wanted of it.
        """
        assert question.kind != "pairwise"  # its lease would outlive it
        self._queue = [q for q in self._queue if q is not question]
        self._postponed = [q for q in self._postponed if q is not question]
        self._damaged[question.query.id] = reason

    def undo(self) -> Question | None:
        """Take back the latest answer of this sitting; its pair is the next again.

        Returns:
            That pair, or None where there is nothing left to take back: a failed qualification
            cannot be repeated until it is passed.
        """
        if not self._given or self._disqualified:
            return None
        given = self._given[-1]
        with self._writing() as connection:
            retract_answer(connection, given.uuid, self.clock(), self.store.path)
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
        """Keep the leases: to be called now and then while a pair is shown.

        After the machine slept, others may have taken what was leased here: such pairs are not
        asked any more, but for the first, which may be on the screen.
        """
        with self._writing() as connection:
            held = renew_leases(connection, self.sitting, self.clock(), self.settings.lease_seconds)
        lost = {c.query_id for c in self._line() if c.kind == "pairwise"} - set(held)
        lost -= {q.query.id for q in self._queue[:1]}
        self._queue = [q for q in self._queue if q.query.id not in lost]
        self._postponed = [q for q in self._postponed if q.query.id not in lost]
        self._chosen = [c for c in self._chosen if c.query_id not in lost]

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
        with self._writing() as connection:
            release_leases(connection, self.sitting)
        self._queue, self._postponed, self._chosen = [], [], []
