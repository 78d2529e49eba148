"""Who answers a round's questions, and when the round may train: at once, people, or a recording.

The loop posts queries and calls `collect`; what it trains on afterwards is what the store holds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.feedback.given import count_outstanding
from rlhf_gym.feedback.records import AnswerRecord
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.links import refuse_links
from rlhf_gym.protocols import Teacher
from rlhf_gym.runs import Run

__all__ = ["AnswerSource", "AtOnce", "Due", "People", "Replay"]


@dataclass(frozen=True)
class Due:
    """How far the label schedule is."""

    round: int
    """The round that is about to train, from 0."""
    n_answers: int
    """Answers that were asked for up to and with this round."""
    n_new: int = 1
    """Questions that this round asks."""


class AnswerSource(Protocol):
    """Sees to it that posted queries are answered."""

    def collect(self, store: PreferenceStore, due: Due) -> None:
        """Return when the round may train on what the store holds.

        Args:
            store: With this round's queries posted.
            due: What the schedule asks for.
        """


@dataclass(frozen=True)
class AtOnce:
    """A teacher in this process: everything open is answered before the round trains."""

    teacher: Teacher

    def collect(self, store: PreferenceStore, due: Due) -> None:
        """Answer all open queries in one transaction."""
        if queries := store.open_queries():
            store.answer(self.teacher.answer(queries))


@dataclass
class People:
    """People answer in other processes, and their pace is the clock of the training.

    A round trains once enough of its scheduled answers are in; the others count for a later round.

    Args:
        slack: Share of the scheduled answers that need not be in, in [0, 1).
        wait: False lets every round but the first train on what there is.
        notify: Is told what is being waited for.
        poll_seconds: How often the store is looked at.
        sleep: Waits so many seconds.
    """

    slack: float = 0.2
    wait: bool = True
    notify: Callable[[str], None] = lambda text: None
    poll_seconds: float = 0.5
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not 0 <= self.slack < 1:
            raise ConfigError(
                f"`label_slack` is {self.slack}, expected at least 0 and below 1 (the share of "
                "the scheduled answers that a round does not wait for); 0.2 is usual."
            )

    def n_needed(self, due: Due) -> int:
        """Answers without which a round does not train, at least 1; those given do not count.

        >>> People(slack=0.2).n_needed(Due(round=3, n_answers=350))
        280
        """
        if not self.wait and due.round > 0:
            return 1
        return max(math.ceil(due.n_answers * (1 - self.slack) - 1e-9), 1)

    def collect(self, store: PreferenceStore, due: Due) -> None:
        """Wait for people, if this round asks them anything."""
        if not due.n_new:
            return
        needed, seen = self.n_needed(due), -1
        while True:
            # The cheap look first: one number, while the count reads every query.
            if (sequence := store.last_sequence) != seen:
                seen = sequence
                # By what is missing: a store may hold answers that this run never asked for.
                n_answers = max(due.n_answers - count_outstanding(store, due.round), 0)
                if n_answers >= needed and (due.round > 0 or _can_begin(store)):
                    return
                self.notify(f"waiting for answers: {n_answers:,} of {max(needed, n_answers + 1):,}")
            self.sleep(self.poll_seconds)


def _can_begin(store: PreferenceStore) -> bool:
    """Whether there is something to learn from, or nobody is left to wait for."""
    return len(store.preferences().trained()) > 0 or not store.open_queries(limit=1)


@dataclass
class Replay:
    """Answers of another run, fed round by round as they came in there.

    A run of the same configuration then asks the same questions and ends with the same weights.

    Args:
        folder: A run, or a bare store. Of a run, `metrics.jsonl` says up to which answer each round
            was trained; a bare store answers each question in the round that asks it.

    Raises:
        DataError: there is no store.
    """

    folder: Path
    _marks: dict[int, int] = field(init=False)
    _records: list[AnswerRecord] = field(init=False)

    def __post_init__(self) -> None:
        with PreferenceStore(self.folder, create=False) as store:
            self._records = store.answer_records(superseded=True)
        refuse_links(self.folder, ["metrics.jsonl"])
        rounds = Run(self.folder).metrics()
        self._marks = {m["round"]: m["last_sequence"] for m in rounds if "last_sequence" in m}

    def collect(self, store: PreferenceStore, due: Due) -> None:
        """Copy the rows that were there when the recorded run trained this round.

        Raises:
            DataError: the recorded answers are about other questions than this run asks.
        """
        last = self._marks.get(due.round)
        rows = [
            r
            for r in self._records
            if r.round <= due.round and (last is None or r.sequence <= last)
        ]
        asked = {query.id: query.round for query in store.queries([r.query_id for r in rows])}
        known = [r for r in rows if r.query_id in asked]
        # A bare store, and rounds that were not finished, are looked up question by question: this
        # round's must be among them.
        is_unanswered = due.n_new > 0 and due.round not in asked.values()
        is_foreign = is_unanswered if last is None else len(known) < len(rows)
        if is_foreign:
            raise DataError(
                f"the answers recorded in {self.folder} are not about what this run asks in round "
                f"{due.round}; replay with the configuration, versions and machine of that run: "
                f"`--config {self.folder / 'config.yaml'}`."
            )
        store.restore_answers(known)
