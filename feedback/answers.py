"""Rows of answers in a store's database: adding, taking back, reading, and forgetting them.

Functions on an open connection; `PreferenceStore` wraps them in transactions and names the file in
their errors. Answers are append-only: a changed mind is a new row that supersedes the old one, and
only `forget_labeller` ever deletes, because a person may ask for it.
"""

from __future__ import annotations

import sqlite3
import uuid as uuids
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from rlhf_gym.data import Choice, Preference
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.dataset import decode_answer, encode_answer
from rlhf_gym.feedback.record_rules import check_answer
from rlhf_gym.feedback.records import KINDS, AnswerKind, AnswerRecord
from rlhf_gym.feedback.schema import APPEND_ONLY

__all__ = ["add_answer", "forget_labeller", "read_answers", "restore_answer", "retract_answer"]

_INSERT = (
    "INSERT INTO answers (uuid, query, kind, payload, teacher, labeller, shown_at, answered_at,"
    " supersedes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_LATEST = (
    "SELECT sequence, kind, teacher, payload, uuid FROM answers AS a"
    " WHERE query = ? AND labeller = ?"
    " AND kind IN ('pairwise', 'retraction')"
    " AND NOT EXISTS (SELECT 1 FROM answers AS b WHERE b.supersedes = a.sequence)"
    # The retraction of a repeat must not hide the pairwise answer that stands beside it.
    " ORDER BY kind = 'pairwise' DESC, sequence DESC LIMIT 1"
)
_READ = """
    SELECT a.sequence, a.uuid, q.id, q.round, a.kind, a.payload, a.teacher, a.labeller,
           a.shown_at, a.answered_at, a.supersedes, g.choice
    FROM answers AS a JOIN queries AS q USING (query) LEFT JOIN gold AS g USING (query)
"""
_STANDING = """
    WHERE a.kind <> 'retraction'
      AND NOT EXISTS (SELECT 1 FROM answers AS b WHERE b.supersedes = a.sequence)
"""


def add_answer(
    connection: sqlite3.Connection,
    preference: Preference,
    path: Path,
    *,
    kind: AnswerKind = "pairwise",
    uuid: str | None = None,
) -> str:
    """Add one answer to the open transaction.

    The same answer by the same teacher and labeller is ignored, so a replay adds nothing, and so
    is a known `uuid`; a different pairwise one of the same labeller supersedes the earlier.

    Args:
        connection: In a transaction.
        preference: The answer; its query must be posted.
        path: The database, for messages.
        kind: What the answer is for.
        uuid: Chosen by who retries; default: a fresh one.

    Returns:
        The uuid of the answer that stands now: an earlier one's where this one says the same.

    Raises:
        DataError: an unknown query or kind, more than two clips, details that are not JSON, or a
            name or time out of range.
    """
    if kind not in KINDS or kind == "retraction":
        raise DataError(f"`kind` is {kind!r}; an answer is one of {', '.join(KINDS[:-1])}.")
    query = _pair(connection, preference.query.id, path)
    payload = encode_answer(preference.choice, preference.details, preference.query.id)
    if uuid and _row_of(connection, uuid) is not None:
        return uuid
    teacher, labeller, supersedes = preference.teacher, preference.labeller, None
    if kind == "pairwise":
        earlier = connection.execute(_LATEST, (query, labeller)).fetchone()
        supersedes = earlier[0] if earlier else None
        if earlier and earlier[1:3] == ("pairwise", teacher):
            if decode_answer(earlier[3], path)[0] == preference.choice:
                return str(earlier[4])
    uuid = uuid or uuids.uuid4().hex
    times = (preference.shown_at, preference.answered_at)
    check_answer(uuid, teacher, labeller, *times)
    row = (uuid, query, kind, payload, teacher, labeller, *times, supersedes)
    connection.execute(_INSERT, row)
    return uuid


def _pair(connection: sqlite3.Connection, query_id: str, path: Path) -> int:
    """The row number of a posted query of two clips."""
    found = connection.execute(
        "SELECT query, n_clips FROM queries WHERE id = ?", (query_id,)
    ).fetchone()
    if found is None:
        raise DataError(
            f"query {query_id} is not in `{path}`; post a query before its answer. "
            "Nothing of this batch was kept."
        )
    if found[1] != 2:
        raise DataError(
            f"query {query_id} asks about {found[1]} clips; a choice between first and second "
            "answers a pair. Nothing of this batch was kept."
        )
    return int(found[0])


def retract_answer(
    connection: sqlite3.Connection, uuid: str, answered_at: float, path: Path
) -> bool:
    """Take an answer back: a new row supersedes it, and its query is open again.

    Args:
        connection: In a transaction.
        uuid: The answer's.
        answered_at: Seconds since the epoch, UTC.
        path: The database, for messages.

    Returns:
        Whether the answer stood; a second retraction changes nothing.

    Raises:
        DataError: a time out of range.
    """
    check_answer(uuid, "", "", answered_at, answered_at)
    row = connection.execute(
        f"SELECT a.sequence, a.query, a.payload, a.teacher, a.labeller FROM answers AS a"
        f" {_STANDING} AND a.uuid = ?",
        (uuid,),
    ).fetchone()
    if row is None:
        return False
    sequence, query, payload, teacher, labeller = row
    content = encode_answer(decode_answer(payload, path)[0], {}, "")
    values = (uuids.uuid4().hex, query, "retraction", content, teacher, labeller)
    connection.execute(_INSERT, (*values, answered_at, answered_at, sequence))
    return True


def restore_answer(
    connection: sqlite3.Connection, record: AnswerRecord, uuids: Mapping[int, str], path: Path
) -> None:
    """Add a recorded row as it was, unless its uuid is here already.

    Args:
        connection: In a transaction.
        record: The row.
        uuids: By the sequence numbers that `record.supersedes` speaks of.
        path: The database, for messages.

    Raises:
        DataError: an unknown query, a row to supersede that is nowhere to be found, or a name or
            time out of range.
    """
    query = _pair(connection, record.query_id, path)
    if _row_of(connection, record.uuid) is not None:
        return
    times = (record.shown_at, record.answered_at)
    check_answer(record.uuid, record.teacher, record.labeller, *times)
    supersedes = None
    if record.supersedes is not None:
        supersedes = _row_of(connection, uuids.get(record.supersedes, ""))
        if supersedes is None:
            raise DataError(
                f"answer {record.uuid} supersedes number {record.supersedes}, which is neither "
                f"among the records before it nor in `{path}`; give the complete history. Nothing "
                "of it was kept."
            )
    payload = encode_answer(record.choice, record.details, record.query_id)
    values = (record.uuid, query, record.kind, payload, record.teacher, record.labeller)
    connection.execute(_INSERT, (*values, *times, supersedes))


def _row_of(connection: sqlite3.Connection, uuid: str) -> int | None:
    row = connection.execute("SELECT sequence FROM answers WHERE uuid = ?", (uuid,)).fetchone()
    return None if row is None else int(row[0])


def read_answers(
    rows: Iterable[tuple[Any, ...]], path: Path, gaps: dict[str, float]
) -> Iterator[AnswerRecord]:
    """Answer rows, as `select_answers` chooses them, as records.

    Args:
        rows: Of the database.
        path: The database, for messages.
        gaps: True return gap by query id.
    """
    for sequence, uuid, query_id, round_, kind, payload, *who, supersedes, expected in rows:
        choice, details = decode_answer(payload, path)
        teacher, labeller, shown_at, answered_at = who
        yield AnswerRecord(
            sequence=sequence,
            uuid=uuid,
            query_id=query_id,
            round=round_,
            kind=cast(AnswerKind, kind),
            choice=choice,
            teacher=teacher,
            labeller=labeller,
            shown_at=shown_at,
            answered_at=answered_at,
            details=details,
            supersedes=supersedes,
            expected=None if expected is None else Choice(expected),
            return_gap=gaps.get(query_id),
        )


def select_answers(*, superseded: bool) -> str:
    """The statement whose rows `read_answers` takes, in the order of their sequence numbers."""
    return f"{_READ} {'' if superseded else _STANDING} ORDER BY a.sequence"


def forget_labeller(connection: sqlite3.Connection, labeller: str) -> int:
    """Delete everything one labeller answered, retractions and leases included.

    Args:
        connection: In a transaction, with `secure_delete` on: freed pages are overwritten.
        labeller: The pseudonym.

    Returns:
        How many rows were deleted.

    Raises:
        DataError: an empty name: what synthetic teachers answered belongs to nobody.
    """
    if not labeller:
        raise DataError("`labeller` is empty, which is no person's name; name a labeller.")
    for name, _ in APPEND_ONLY:
        connection.execute(f"DROP TRIGGER {name}")
    # A row may be superseded by a later one only: from the end, no reference is ever left over.
    rows = connection.execute(
        "SELECT sequence FROM answers WHERE labeller = ? ORDER BY sequence DESC", (labeller,)
    ).fetchall()
    connection.executemany("DELETE FROM answers WHERE sequence = ?", rows)
    connection.execute("DELETE FROM leases WHERE labeller = ?", (labeller,))
    for _, statement in APPEND_ONLY:
        connection.execute(statement)
    return len(rows)
