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
from rlhf_gym.feedback.given import count_outstanding, count_said
from rlhf_gym.feedback.records import AnswerRecord
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.links import refuse_links
from rlhf_gym.protocols import Teacher, ask_teacher
from rlhf_gym.runs import Run

__all__ = ["AnswerSource", "AtOnce", "Due", "People", "Replay"]

_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Due:
    """How far the label schedule is."""

    round: int
    """The round that is about to train, from 0."""
    n_answers: int
    """Answers that were asked for up to and with this round."""
    n_new: int
    """Questions that were posted just now."""
    n_in_vain: int = 0
    """Questions that this round posted before, all of them answered by "can't tell"."""
    n_left: int = 0
    """Questions that the run may still ask after these."""
    is_last: bool = False
    """Whether no later fit can use what comes after this round."""

    @property
    def n_in_round(self) -> int:
        """Questions of this round so far."""
        return self.n_in_vain + self.n_new


class AnswerSource(Protocol):
    """Sees to it that posted queries are answered."""

    def collect(self, store: PreferenceStore, due: Due) -> bool:
        """Return when the round may train on what the store holds, or needs further questions.

        Args:
            store: With this round's queries posted.
            due: What the schedule asks for.

        Returns:
            Whether to ask more: so far nobody said anything that can be trained on.
        """


def _is_silent(store: PreferenceStore, due: Due) -> bool:
    # Only what was asked so far counts: a resumed round must ask again what it asked before.
    return count_said(store, due.round, due.n_in_round) == 0


@dataclass(frozen=True)
class AtOnce:
    """A teacher in this process: everything open is answered before the round trains."""

    teacher: Teacher

    def collect(self, store: PreferenceStore, due: Due) -> bool:
        """Answer all open queries in one transaction.

        Raises:
            DataError: the teacher's answers are not one for each query, or it said "can't tell" to
                all that the run may ask; nothing of this batch was kept.
        """
        if queries := store.open_queries():
            store.answer(ask_teacher(self.teacher, queries))
        silent = _is_silent(store, due)
        if silent and due.n_new and not due.n_left:
            name = getattr(self.teacher, "name", type(self.teacher).__name__)
            raise DataError(
                f'the teacher {name!r} said "can\'t tell" to all {due.n_answers} '
                "queries that this run may ask, and a reward cannot be learned from that; nothing "
                "was trained. Lower its `eps_skip`, take another teacher, or longer clips "
                "(`--clip-length`)."
            )
        return silent


@dataclass
class People:
    """People answer in other processes, and their pace is the clock of the training.

    A round trains once enough of its scheduled answers are in; the others count for a later round.
    After the last round there is none, so that one waits for all of them.

    Args:
        slack: Share of the scheduled answers that need not be in, in [0, 1).
        wait: False lets every round but the first train on what there is, the last one too.
        notify: Is told what is being waited for, again and again.
        say: Is told once what the person who runs this should know.
        go_on: The command that goes on without the answers that are missing.
        poll_seconds: How often the store is looked at.
        sleep: Waits so many seconds.
    """

    slack: float = 0.2
    wait: bool = True
    notify: Callable[[str], None] = lambda text: None
    say: Callable[[str], None] = lambda text: None
    go_on: str = "rlhf-gym train --resume FOLDER --no-wait"
    poll_seconds: float = 0.5
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not 0 <= self.slack < 1:
            raise ConfigError(
                f"`label_slack` is {self.slack}, expected at least 0 and below 1 (the share of "
                "the scheduled answers that a round does not wait for); 0.2 is usual."
            )

    def n_needed(self, due: Due) -> int:
        """Answers without which a round does not train; those given do not count.

        >>> People(slack=0.2).n_needed(Due(round=3, n_answers=350, n_new=50))
        280
        >>> People(slack=0.2).n_needed(Due(3, 350, 50, is_last=True))
        350
        """
        if due.is_last and self.wait:
            return due.n_answers
        if not self.wait and due.round > 0:
            return 1
        return max(math.ceil(due.n_answers * (1 - self.slack) - 1e-9), 1)

    def collect(self, store: PreferenceStore, due: Due) -> bool:
        """Wait for people, if this round asks them anything or is the last."""
        if due.n_new or (due.is_last and self.wait):
            self._wait_for_answers(store, due)
        return _is_silent(store, due)

    def _wait_for_answers(self, store: PreferenceStore, due: Due) -> None:
        needed, seen, waited, is_said = self.n_needed(due), -1, 0.0, False
        while True:
            # The cheap look first: one number, while the count reads every query.
            if (sequence := store.last_sequence) != seen:
                seen = sequence
                # By what is missing: a store may hold answers that this run never asked for.
                n_missing = count_outstanding(store, due.round, due.n_in_round)
                n_answers = max(due.n_answers - n_missing, 0)
                # "Can't tell" alone is no beginning while there is somebody to wait for.
                if n_answers >= needed and (n_missing == 0 or not _is_silent(store, due)):
                    return
                aim = max(needed, n_answers + 1)
                self.notify(f"waiting for answers: {n_answers:,} of {aim:,}")
            if not is_said and (due.is_last or waited >= _PATIENCE_SECONDS):
                self.say(self._what_is_missing(due, n_answers, aim))
                is_said = True
            self.sleep(self.poll_seconds)
            waited += self.poll_seconds

    def _what_is_missing(self, due: Due, n_answers: int, aim: int) -> str:
        first = " --label-slack 0.9" if due.round == 0 else ""  # it waits for a share in any case
        which = "the last round waits for all answers" if due.is_last else "waiting for answers"
        n = aim - n_answers
        return (
            f"{which}: {n_answers:,} of {aim:,} are there, {n:,} {'is' if n == 1 else 'are'} "
            f"missing. Without them: stop here (Ctrl-C), then\n  {self.go_on}{first}"
        )


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

    def collect(self, store: PreferenceStore, due: Due) -> bool:
        """Copy the rows that were there when the recorded run trained this round.

        Returns:
            Whether the recorded run asked more in this round.

        Raises:
            DataError: the recorded answers are about other questions than this run asks.
        """
        last = self._marks.get(due.round)
        rows = [
            r
            for r in self._records
            if r.round <= due.round and (last is None or r.sequence <= last)
        ]
        asked = {query.id: query for query in store.queries([r.query_id for r in rows])}
        known = [r for r in rows if r.query_id in asked]
        newest = range(due.n_in_vain, due.n_in_round)
        # Of the questions just posted at least one was answered, or it is another run's recording.
        # A bare store, and rounds that were not finished, are looked up question by question.
        is_unanswered = not any(q.round == due.round and q.index in newest for q in asked.values())
        is_lacking = due.n_new > 0 if last is None else len(known) < len(rows)
        if is_lacking and is_unanswered:
            raise DataError(
                f"the answers recorded in {self.folder} are not about what this run asks in round "
                f"{due.round}; replay with the configuration, versions and machine of that run: "
                f"`--config {self.folder / 'config.yaml'}`."
            )
        store.restore_answers(known)
        return _is_silent(store, due) if last is None else is_lacking
