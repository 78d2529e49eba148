"""A snapshot as rows of plain values, and back: what JSON lines and Parquet share.

Reading trusts nothing: every clip and query is hashed again and compared with its id, and every
error names the place it was found at.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from rlhf_gym.data import Array, Choice, Clip, Query
from rlhf_gym.errors import CorruptDataError, DataError
from rlhf_gym.feedback.dataset import encode_answer
from rlhf_gym.feedback.formats.snapshot import Snapshot, StoredQuery
from rlhf_gym.feedback.record_rules import check_answer, check_name, check_query
from rlhf_gym.feedback.records import KINDS, AnswerRecord
from rlhf_gym.feedback.shards import layout_of
from rlhf_gym.files import whole_number
from rlhf_gym.text_clips import clip_text, is_text_clip, is_text_context, text_context

__all__ = ["FORMAT", "VERSION", "SnapshotBuilder", "answer_rows", "check_version", "query_rows"]

FORMAT = "rlhf_gym.preferences"
"""What the lossless formats call themselves in their header."""

VERSION = 1
"""The version of the rows below; a reader refuses newer ones."""

_T = TypeVar("_T")
_MAX_SEED_DIGITS = 300
_MAX_CONTEXT = 1024


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
    if header.get("version") != VERSION or isinstance(header.get("version"), bool):
        raise CorruptDataError(
            f"`{path}` has version {header.get('version')!r} of the format; this rlhf_gym reads "
            f"{VERSION}: export it again with the same version of rlhf_gym that imports it."
        )


def _check_clip(clip: Clip) -> None:
    """Refuse a clip that a store would not take, or that is no text though it says so.

    Raises:
        DataError: a dtype, a shape, or a context of another text.
    """
    layout_of(clip)
    if len(clip.context_id) > _MAX_CONTEXT or not clip.context_id.isprintable():
        raise DataError(f"`context_id` is no printable text of up to {_MAX_CONTEXT} characters")
    if clip.sim_states is not None and clip.sim_states.ndim != 2:
        raise DataError(f"`sim_states` has shape {clip.sim_states.shape}, (T + 1, S) is expected")
    for name in ("true_rewards", "sim_states"):
        array = getattr(clip, name)
        if array is not None and array.dtype.kind != "f":
            raise DataError(f"`{name}` has dtype {array.dtype}, a float type is expected")
    if is_text_context(clip.context_id) and is_text_clip(clip):
        prompt, _ = clip_text(clip)
        if clip.context_id != text_context(prompt):
            raise DataError("`context_id` is not that of the clip's prompt")


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
        self._stands: dict[str, tuple[bool, str]] = {}

    def counts(self) -> dict[str, int]:
        """How many of each there are so far."""
        return {
            "n_clips": len(self._clips),
            "n_queries": len(self._queries),
            "n_answers": len(self._answers),
        }

    def snapshot(self) -> Snapshot:
        """What the rows amount to.

        Raises:
            CorruptDataError: the history is not what `stands` says of it.
        """
        snapshot = Snapshot(tuple(self._queries.values()), tuple(self._answers.values()))
        self._check_standing(snapshot)
        return snapshot

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
            _check_clip(clip)
            clip_id = clip.id
        except CorruptDataError:
            raise
        except (DataError, TypeError, ValueError) as error:
            raise self._error(where, str(error)) from error
        self._check_id("clip", row, clip_id, where)
        if clip.id in self._clips:
            raise self._error(where, f"a clip of id {clip.id!r} was there before")
        self._clips[clip.id] = clip

    def add_query(self, row: Mapping[str, Any], where: str) -> None:
        """Add a query on clips that were added before.

        Raises:
            CorruptDataError: an unknown clip, a value of the wrong type, or another id.
        """
        clip_ids = self._take(row, "clip_ids", list, where)
        missing = [k for k in clip_ids if not isinstance(k, str) or k not in self._clips]
        if missing:
            raise self._error(where, f"clip {missing[0]!r} of the query is not in the file")
        seed = self._take(row, "seed", str, where)
        if whole_number(seed, most_digits=_MAX_SEED_DIGITS) is None:
            raise self._error(where, f"`seed` is {seed!r}, a text of digits is expected")
        expected = self._optional(row, "expected", where)
        source = self._optional(row, "expected_source", where)
        n_wanted = self._take(row, "n_wanted", int, where)
        try:
            query = Query(
                tuple(self._clips[key] for key in clip_ids),
                seed=int(seed),
                round=self._take(row, "round", int, where),
                index=self._take(row, "index", int, where),
            )
            check_query(query.seed, query.round, query.index, n_wanted)
            check_name("expected_source", source or "")
        except CorruptDataError:
            raise
        except DataError as error:
            raise self._error(where, str(error)) from error
        self._check_id("query", row, query.id, where)
        if query.id in self._queries:
            raise self._error(where, f"a query of id {query.id!r} was there before")
        if (source is not None and expected is None) or (expected and len(clip_ids) != 2):
            raise self._error(where, "a known answer is a choice between two clips, with a source")
        self._queries[query.id] = StoredQuery(
            query,
            n_wanted,
            None if expected is None else self._choice(expected, where),
            source,
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
        if len(self._queries[query_id].query.clips) != 2:
            raise self._error(where, "it answers a query of more than two clips with a choice")
        earlier = None if supersedes is None else self._answers.get(supersedes)
        if supersedes is not None and earlier is None:
            raise self._error(where, f"it supersedes {supersedes!r}, which is not before it")
        choice = self._choice(self._take(row, "choice", str, where), where)
        details = self._take(row, "details", dict, where)
        try:
            encode_answer(choice, details, query_id)  # a JSON text may hold NaN, a payload not
        except DataError as error:
            raise self._error(where, str(error)) from error
        record = AnswerRecord(
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
            supersedes=None if earlier is None else earlier.sequence,
            expected=self._queries[query_id].expected,
        )
        try:
            check_answer(uuid, record.teacher, record.labeller, record.shown_at, record.answered_at)
        except DataError as error:
            raise self._error(where, str(error)) from error
        self._check_history(record, earlier, where)
        self._answers[uuid] = record
        self._stands[uuid] = self._flag(row, "stands", where), where

    def _check_history(
        self, record: AnswerRecord, earlier: AnswerRecord | None, where: str
    ) -> None:
        """Whether an answer may replace, or take back, the one that it says it does."""
        if earlier is None:
            if record.kind == "retraction":
                raise self._error(where, "it takes an answer back, but `supersedes` names none")
            return
        if record.kind not in ("pairwise", "retraction"):
            raise self._error(where, f"it supersedes an answer, which no {record.kind!r} one does")
        if (earlier.query_id, earlier.labeller) != (record.query_id, record.labeller):
            raise self._error(
                where,
                f"it supersedes {earlier.uuid!r}, which is another labeller's or another query's",
            )

    def _check_standing(self, snapshot: Snapshot) -> None:
        """Whether `stands` says of each answer what the history says, and nobody stands twice."""
        standing, last = snapshot.standing(), dict[tuple[str, str], str]()
        for answer in snapshot.answers:
            stands, where = self._stands[answer.uuid]
            if stands != (answer.uuid in standing):
                raise self._error(where, f"`stands` is {stands}, but the answers after it differ")
            if stands and answer.kind == "pairwise":
                who = (answer.query_id, answer.labeller)
                if who in last:
                    raise self._error(
                        where,
                        f"labeller {answer.labeller!r} has two answers to query "
                        f"{answer.query_id[:12]}, {last[who]!r} and {answer.uuid!r}, and neither "
                        "replaces the other",
                    )
                last[who] = answer.uuid

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
        if isinstance(value, int | float) and not isinstance(value, bool):
            if abs(value) <= sys.float_info.max:  # False of NaN; a whole number has no end
                return float(value)
        raise self._error(where, f"`{name}` is {value!r:.200}, a finite number is expected")

    def _flag(self, row: Mapping[str, Any], name: str, where: str) -> bool:
        value = row.get(name)
        if not isinstance(value, bool):
            raise self._error(where, f"`{name}` is {value!r}, true or false is expected")
        return value

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
