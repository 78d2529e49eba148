"""Preferences by columns: what a reward model is fitted to, without an object per answer.

A `PreferenceSet` is a sequence of `Preference` like any list, built lazily, and next to that a
handful of arrays to train from. It never carries true rewards: a reward model must not see them.
"""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from rlhf_gym.data import Array, Choice, Clip, Preference, Query
from rlhf_gym.documents import parse_json
from rlhf_gym.errors import CorruptDataError, DataError
from rlhf_gym.feedback.record_rules import MAX_DETAILS, check_details

__all__ = ["AnswerTable", "ClipTable", "PreferenceSet", "decode_answer", "encode_answer"]

_PROBS = {
    choice: np.float32(np.nan if choice.preference_prob is None else choice.preference_prob)
    for choice in Choice
}


def encode_answer(choice: Choice, details: Mapping[str, Any], query_id: str) -> str:
    """Choice and details as JSON: the payload of a stored answer.

    Args:
        choice: The answer.
        details: What belongs to it.
        query_id: What it is about, for the message.

    Raises:
        DataError: the details are not JSON, or break the rules of `check_details`.
    """
    try:
        check_details(details)
        payload = json.dumps({"choice": choice.value, "details": dict(details)}, allow_nan=False)
    except (TypeError, ValueError) as error:  # a DataError is a ValueError
        raise DataError(
            f"the `details` of an answer to query {query_id} are not JSON as they should be "
            f"({error}); use strings, finite numbers, booleans, None, lists and dicts with string "
            "keys."
        ) from error
    if len(payload) > MAX_DETAILS:
        raise DataError(
            f"the `details` of an answer to query {query_id} have {len(payload):,} characters as "
            f"JSON, at most {MAX_DETAILS:,} are kept; shorten them."
        )
    return payload


def decode_answer(payload: str, path: Path) -> tuple[Choice, dict[str, Any]]:
    """Undo `encode_answer`.

    Args:
        payload: What was stored.
        path: The file it came from, for the message.

    Raises:
        CorruptDataError: the payload is not what `encode_answer` writes.
    """
    try:
        content = parse_json(payload, "it")
        choice, details = Choice(content["choice"]), dict(content["details"])
        check_details(details)
        return choice, details
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(
            f"`{path}` holds an answer that cannot be read ({payload[:80]!r}: {error}); "
            "restore it from a backup."
        ) from error


@dataclass(frozen=True, eq=False)
class ClipTable:
    """M distinct clips, zero-padded to the longest of them (T steps)."""

    ids: list[str]
    """The id of each clip."""
    context_ids: list[str]
    """What each clip may be compared with: the env id; for text, the prompt's hash."""
    obs: Array
    """(M, T + 1, ...) float32, or the integer dtype of the clips."""
    actions: Array
    """(M, T, ...) likewise."""
    lengths: Array
    """(M,) int64, the true number of steps of each clip."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def empty(cls) -> ClipTable:
        """No clips at all."""
        nothing = np.zeros((0, 0), np.float32)
        return cls([], [], np.zeros((0, 1), np.float32), nothing, np.zeros(0, np.int64))

    @classmethod
    def from_clips(cls, clips: Sequence[Clip]) -> ClipTable:
        """Copy distinct clips into one table.

        Raises:
            DataError: the clips differ in dtype or per-step shape.
        """
        if not clips:
            return cls.empty()
        for name in ("obs", "actions"):
            kinds = {(c.dtype.str, c.shape[1:]) for c in (getattr(clip, name) for clip in clips)}
            if len(kinds) > 1:
                raise DataError(
                    f"`Clip.{name}` differs between the clips: (dtype, shape per step) is each of "
                    f"{sorted(kinds)}; keep preferences on different spaces apart."
                )
        lengths = np.array([len(clip) for clip in clips], np.int64)
        n_steps = int(lengths.max())
        first, n = clips[0], len(clips)
        obs = np.zeros((n, n_steps + 1, *first.obs.shape[1:]), first.obs.dtype)
        actions = np.zeros((n, n_steps, *first.actions.shape[1:]), first.actions.dtype)
        for row, clip in enumerate(clips):
            obs[row, : len(clip) + 1] = clip.obs
            actions[row, : len(clip)] = clip.actions
        ids, contexts = [clip.id for clip in clips], [clip.context_id for clip in clips]
        return cls(ids, contexts, obs, actions, lengths)

    def clip(self, row: int) -> Clip:
        """One clip as views of this table, without padding and without true rewards."""
        n = int(self.lengths[row])
        return Clip.from_storage(
            self.ids[row],
            obs=self.obs[row, : n + 1],
            actions=self.actions[row, :n],
            context_id=self.context_ids[row],
        )


@dataclass(frozen=True, eq=False)
class AnswerTable:
    """N answers to pairs, one column per field of `Query` and `Preference`."""

    query_ids: list[str]
    seeds: list[int]
    rounds: Array
    """(N,) int64."""
    indices: Array
    """(N,) int64, the position within the round."""
    choices: list[Choice]
    teachers: list[str]
    labellers: list[str]
    shown_at: Array
    """(N,) float64, seconds since the epoch."""
    answered_at: Array
    """(N,) float64, seconds since the epoch."""
    details: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.query_ids)

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[Any]], path: Path) -> AnswerTable:
        """Turn rows of the store, at least one, into columns.

        Args:
            rows: Of query id, seed, round, position, payload, teacher, labeller, shown_at and
                answered_at.
            path: The file they came from, for the message.

        Raises:
            CorruptDataError: a payload cannot be read.
        """
        ids, seeds, rounds, indices, payloads, teachers, labellers, shown, answered = zip(
            *rows, strict=True
        )
        # Nearly all answers have one of four payloads: read each different one once.
        contents = {payload: decode_answer(payload, path) for payload in set(payloads)}
        return cls(
            query_ids=list(ids),
            seeds=[int(seed) for seed in seeds],
            rounds=np.array(rounds, np.int64),
            indices=np.array(indices, np.int64),
            choices=[contents[payload][0] for payload in payloads],
            teachers=[sys.intern(teacher) for teacher in teachers],
            labellers=[sys.intern(labeller) for labeller in labellers],
            shown_at=np.array(shown, np.float64),
            answered_at=np.array(answered, np.float64),
            details=[contents[payload][1] for payload in payloads],
        )

    def take(self, rows: npt.NDArray[np.int64]) -> AnswerTable:
        """The given rows, in the given order."""
        return AnswerTable(
            query_ids=[self.query_ids[row] for row in rows],
            seeds=[self.seeds[row] for row in rows],
            rounds=self.rounds[rows],
            indices=self.indices[rows],
            choices=[self.choices[row] for row in rows],
            teachers=[self.teachers[row] for row in rows],
            labellers=[self.labellers[row] for row in rows],
            shown_at=self.shown_at[rows],
            answered_at=self.answered_at[rows],
            details=[self.details[row] for row in rows],
        )


@dataclass(frozen=True, eq=False)
class PreferenceSet(Sequence[Preference]):
    """Answers to pairs, sorted by round, index and the order in which they were given.

    SKIP answers are included, with a NaN probability; `trained` leaves them out. A slice is a
    `PreferenceSet` over the same clips, an item is a `Preference` made on the spot.
    """

    clips: ClipTable
    """The distinct clips that were asked about."""
    pairs: Array
    """(N, 2) int64, rows of `clips`: first and second."""
    answers: AnswerTable
    """Everything else about each answer."""
    soft: Array | None = None
    """(N,) float32 P(first preferred) in place of what each answer says, NaN to leave it out."""

    @cached_property
    def probs(self) -> Array:
        """(N,) float32 P(first preferred): 1, 0, 0.5 for a tie, NaN for SKIP; `soft` if given."""
        if self.soft is not None:
            return self.soft
        return np.array([_PROBS[choice] for choice in self.answers.choices], np.float32)

    @property
    def query_ids(self) -> list[str]:
        """The id of each answer's query, N of them; one query may have several labellers."""
        return self.answers.query_ids

    def __len__(self) -> int:
        return len(self.answers)

    @overload
    def __getitem__(self, index: int) -> Preference: ...
    @overload
    def __getitem__(self, index: slice) -> PreferenceSet: ...
    def __getitem__(self, index: int | slice) -> Preference | PreferenceSet:
        if isinstance(index, slice):
            return self._take(np.arange(len(self), dtype=np.int64)[index])
        row = range(len(self))[operator.index(index)]
        answers = self.answers
        first, second = (self.clips.clip(int(clip)) for clip in self.pairs[row])
        query = Query.from_storage(
            answers.query_ids[row],
            clips=(first, second),
            seed=answers.seeds[row],
            round=int(answers.rounds[row]),
            index=int(answers.indices[row]),
        )
        return Preference(
            query=query,
            choice=answers.choices[row],
            teacher=answers.teachers[row],
            labeller=answers.labellers[row],
            shown_at=float(answers.shown_at[row]),
            answered_at=float(answers.answered_at[row]),
            details=dict(answers.details[row]),
            soft=None if self.soft is None else float(self.soft[row]),
        )

    @classmethod
    def from_preferences(cls, preferences: Sequence[Preference]) -> PreferenceSet:
        """Sort preferences by round and index, and gather each clip once.

        Args:
            preferences: In the order in which they were given; a `PreferenceSet` is returned
                unchanged.

        Raises:
            DataError: a query of more than two clips, or clips that differ in dtype or shape.
        """
        if isinstance(preferences, cls):
            return preferences
        ordered = sorted(preferences, key=lambda p: (p.query.round, p.query.index))
        rows: dict[str, int] = {}
        clips: list[Clip] = []
        for preference in ordered:
            query = preference.query
            if len(query.clips) != 2:
                raise DataError(
                    f"query {query.id[:12]} asks about {len(query.clips)} clips; a preference "
                    "set holds answers to pairs."
                )
            for clip in query.clips:
                if rows.setdefault(clip.id, len(clips)) == len(clips):
                    clips.append(clip)
        pairs = [[rows[clip.id] for clip in p.query.clips] for p in ordered]
        answers = AnswerTable(
            query_ids=[p.query.id for p in ordered],
            seeds=[p.query.seed for p in ordered],
            rounds=np.array([p.query.round for p in ordered], np.int64),
            indices=np.array([p.query.index for p in ordered], np.int64),
            choices=[p.choice for p in ordered],
            teachers=[p.teacher for p in ordered],
            labellers=[p.labeller for p in ordered],
            shown_at=np.array([p.shown_at for p in ordered], np.float64),
            answered_at=np.array([p.answered_at for p in ordered], np.float64),
            details=[p.details for p in ordered],
        )
        table = ClipTable.from_clips(clips)
        probs = [p.preference_prob for p in ordered]  # None, of a SKIP, becomes NaN
        soft = np.array(probs, np.float32) if any(p.soft is not None for p in ordered) else None
        return cls(table, np.array(pairs, np.int64).reshape(-1, 2), answers, soft)

    def trained(self) -> PreferenceSet:
        """Without the SKIP answers, over the same clips."""
        return self._take(np.flatnonzero(~np.isnan(self.probs)))

    def pooled(self, labels: Mapping[str, float]) -> PreferenceSet:
        """One row per query, with a given P(first preferred) for what its labellers said.

        Args:
            labels: By query id; a query that is missing is not trained on, like a SKIP.
        """
        first_rows = {query_id: row for row, query_id in reversed(list(enumerate(self.query_ids)))}
        rows = np.array(sorted(first_rows.values()), np.int64)
        one_each = replace(self, soft=None)._take(rows)
        soft = [labels.get(query_id, np.nan) for query_id in one_each.query_ids]
        return replace(one_each, soft=np.array(soft, np.float32))

    def _take(self, rows: npt.NDArray[np.int64]) -> PreferenceSet:
        soft = None if self.soft is None else self.soft[rows]
        return replace(self, pairs=self.pairs[rows], answers=self.answers.take(rows), soft=soft)
