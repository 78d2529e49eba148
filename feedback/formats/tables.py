"""A snapshot as rows of plain values, and back: what JSON lines and Parquet share.

Reading trusts nothing: every clip and query is hashed again and compared with its id, and every
error names the place it was found at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from rlhf_gym.data import Array, Choice, Clip, Query
from rlhf_gym.errors import CorruptDataError, DataError
from rlhf_gym.feedback.dataset import encode_answer
from rlhf_gym.feedback.formats.snapshot import Snapshot, StoredQuery
from rlhf_gym.feedback.records import KINDS, AnswerRecord
from rlhf_gym.files import whole_number

__all__ = ["FORMAT", "VERSION", "SnapshotBuilder", "answer_rows", "check_version", "query_rows"]

FORMAT = "rlhf_gym.preferences"
"""What the lossless formats call themselves in their header."""

VERSION = 1
"""The version of the rows below; a reader refuses newer ones."""

_T = TypeVar("_T")


def query_rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The queries; the seed is text, for it may have 128 bits."""
    return [
        {
            "id": stored.query.id,
            "seed": str(stored.query.seed),
            "round": stored.query.round,
            "index": stored.query.index,
            "clip_ids": [clip.id for clip in stored.query.clips],
            "n_wanted": stored.n_wanted,
            "expected": None if stored.expected is None else stored.expected.value,
            "expected_source": stored.expected_source,
        }
        for stored in snapshot.queries
    ]


def answer_rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The history of answers: a replaced one is named by uuid, and `stands` says what counts."""
    uuids = {answer.sequence: answer.uuid for answer in snapshot.answers}
    standing = snapshot.standing()
    return [
        {
            "uuid": answer.uuid,
            "query_id": answer.query_id,
            "kind": answer.kind,
            "choice": answer.choice.value,
            "teacher": answer.teacher,
            "labeller": answer.labeller,
            "shown_at": answer.shown_at,
            "answered_at": answer.answered_at,
            "details": dict(answer.details),
            "supersedes": None if answer.supersedes is None else uuids[answer.supersedes],
            "stands": answer.uuid in standing,
        }
        for answer in snapshot.answers
    ]


def check_version(header: Mapping[str, Any], path: Path) -> None:
    """Refuse what is not ours, or newer than this code.

    Raises:
        CorruptDataError: another format, or another version.
    """
    if header.get("format") != FORMAT:
        raise CorruptDataError(
            f"`{path}` says that its format is {header.get('format')!r}, not {FORMAT!r}; name an "
            "export of `rlhf-gym export`, or the format with `--format`."
        )
    if header.get("version") != VERSION:
        raise CorruptDataError(
            f"`{path}` has version {header.get('version')!r} of the format; this rlhf_gym reads "
            f"{VERSION}: export it again with the same version of rlhf_gym that imports it."
        )


class SnapshotBuilder:
    """Puts a snapshot together from rows: clips first, then queries, then answers.

    Args:
        path: Where the rows come from, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clips: dict[str, Clip] = {}
        self._queries: dict[str, StoredQuery] = {}
        self._answers: dict[str, AnswerRecord] = {}

    def counts(self) -> dict[str, int]:
        """How many of each there are so far."""
        return {
            "n_clips": len(self._clips),
            "n_queries": len(self._queries),
            "n_answers": len(self._answers),
        }

    def snapshot(self) -> Snapshot:
        """What the rows amount to."""
        return Snapshot(tuple(self._queries.values()), tuple(self._answers.values()))

    def add_clip(
        self, row: Mapping[str, Any], arrays: Mapping[str, Array | None], where: str
    ) -> None:
        """Add a clip.

        Args:
            row: With `id` and `context_id`.
            arrays: obs, actions, true_rewards and sim_states; the last two may be None.
            where: The place of the row, for messages.

        Raises:
            CorruptDataError: the arrays break a clip's rules, or do not make the clip of this id.
        """
        obs, actions = arrays["obs"], arrays["actions"]
        if obs is None or actions is None:
            raise self._error(where, "the clip has no observations or no actions")
        try:
            clip = Clip(
                obs=obs,
                actions=actions,
                context_id=self._take(row, "context_id", str, where),
                true_rewards=arrays["true_rewards"],
                sim_states=arrays["sim_states"],
            )
        except CorruptDataError:
            raise
        except (DataError, TypeError) as error:
            raise self._error(where, str(error)) from error
        self._check_id("clip", row, clip.id, where)
        self._clips[clip.id] = clip

    def add_query(self, row: Mapping[str, Any], where: str) -> None:
        """Add a query on clips that were added before.

        Raises:
            CorruptDataError: an unknown clip, a value of the wrong type, or another id.
        """
        clip_ids = self._take(row, "clip_ids", list, where)
        missing = [key for key in clip_ids if key not in self._clips]
        if missing:
            raise self._error(where, f"clip {missing[0]!r} of the query is not in the file")
        seed = self._take(row, "seed", str, where)
        if whole_number(seed, most_digits=1000) is None:
            raise self._error(where, f"`seed` is {seed!r}, a text of digits is expected")
        expected = self._optional(row, "expected", where)
        n_wanted = self._take(row, "n_wanted", int, where)
        if n_wanted < 1:
            raise self._error(where, f"`n_wanted` is {n_wanted}, at least 1 is expected")
        try:
            query = Query(
                tuple(self._clips[key] for key in clip_ids),
                seed=int(seed),
                round=self._take(row, "round", int, where),
                index=self._take(row, "index", int, where),
            )
        except CorruptDataError:
            raise
        except DataError as error:
            raise self._error(where, str(error)) from error
        self._check_id("query", row, query.id, where)
        self._queries[query.id] = StoredQuery(
            query,
            n_wanted,
            None if expected is None else self._choice(expected, where),
            self._optional(row, "expected_source", where),
        )

    def add_answer(self, row: Mapping[str, Any], where: str) -> None:
        """Add an answer to a query that was added before; the order of calls is the order given.

        Raises:
            CorruptDataError: an unknown query, kind, choice or superseded answer, a uuid that was
                there before, or a value of the wrong type.
        """
        uuid = self._take(row, "uuid", str, where)
        query_id = self._take(row, "query_id", str, where)
        kind = self._take(row, "kind", str, where)
        supersedes = self._optional(row, "supersedes", where)
        if uuid in self._answers:
            raise self._error(where, f"an answer of uuid {uuid!r} was there before")
        if query_id not in self._queries:
            raise self._error(where, f"query {query_id!r} of the answer is not in the file")
        if kind not in KINDS:
            raise self._error(where, f"`kind` is {kind!r}; accepted are {', '.join(KINDS)}")
        if supersedes is not None and supersedes not in self._answers:
            raise self._error(where, f"it supersedes {supersedes!r}, which is not before it")
        choice = self._choice(self._take(row, "choice", str, where), where)
        details = self._take(row, "details", dict, where)
        try:
            encode_answer(choice, details, query_id)  # a JSON text may hold NaN, a payload not
        except DataError as error:
            raise self._error(where, str(error)) from error
        self._answers[uuid] = AnswerRecord(
            sequence=len(self._answers) + 1,
            uuid=uuid,
            query_id=query_id,
            round=self._queries[query_id].query.round,
            kind=kind,
            choice=choice,
            teacher=self._take(row, "teacher", str, where),
            labeller=self._take(row, "labeller", str, where),
            shown_at=self._time(row, "shown_at", where),
            answered_at=self._time(row, "answered_at", where),
            details=details,
            supersedes=None if supersedes is None else self._answers[supersedes].sequence,
            expected=self._queries[query_id].expected,
        )

    def _error(self, where: str, what: str) -> CorruptDataError:
        return CorruptDataError(f"`{self._path}`, {where}: {what}. Nothing was imported.")

    def _take(self, row: Mapping[str, Any], name: str, kind: type[_T], where: str) -> _T:
        value = row.get(name)
        # bool is an int to Python, not to anybody who reads the file.
        if not isinstance(value, kind) or isinstance(value, bool):
            found = f"is {value!r}" if name in row else "is missing"
            raise self._error(where, f"`{name}` {found}, {kind.__name__} is expected")
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise self._error(where, f"`{name}` is {value!r}, which is not Unicode")
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise self._error(where, f"`{name}` is {value}, more than 64 bits hold")
        return value

    def _optional(self, row: Mapping[str, Any], name: str, where: str) -> str | None:
        return None if row.get(name) is None else self._take(row, name, str, where)

    def _time(self, row: Mapping[str, Any], name: str, where: str) -> float:
        value = row.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise self._error(where, f"`{name}` is {value!r}, a finite number is expected")
        return float(value)

    def _choice(self, value: str, where: str) -> Choice:
        try:
            return Choice(value)
        except ValueError:
            accepted = ", ".join(choice.value for choice in Choice)
            raise self._error(where, f"a choice is {value!r}; accepted are {accepted}") from None

    def _check_id(self, what: str, row: Mapping[str, Any], found: str, where: str) -> None:
        if row.get("id") != found:
            raise self._error(
                where,
                f"the {what}'s id is {row.get('id')!r}, but its content has {found!r}: it was "
                "changed or damaged",
            )
