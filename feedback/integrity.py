"""Whether the rows of a store's database can be: checked when it is opened, in SQL.

What a payload or a shard file holds is checked when it is read. The statements read every row.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from rlhf_gym.data import Choice
from rlhf_gym.documents import parse_json
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.record_rules import MAX_NAME, MAX_TIME, MAX_WANTED, check_name
from rlhf_gym.feedback.records import KINDS

__all__ = ["find_fault"]

_MAX_LENGTH = (1 << 31) - 1
_SHARD_NAME = re.compile(r"round-\d{4,10}(-\d{1,10})?")
_SHARD_FILES = ("obs.npy", "actions.npy", "true_rewards.npy")


def _texts(words: tuple[str, ...]) -> str:
    return ", ".join(f"'{word}'" for word in words)


def _whole(column: str, low: int, high: int = (1 << 63) - 1) -> tuple[str, str]:
    wrong = f"typeof({column}) <> 'integer' OR {column} NOT BETWEEN {low} AND {high}"
    return wrong, f"`{column}` is no whole number from {low} to {high:,}"


def _time(column: str) -> tuple[str, str]:
    kind = f"typeof({column}) NOT IN ('real', 'integer')"
    return f"{kind} OR {column} NOT BETWEEN 0 AND {MAX_TIME}", f"`{column}` is no time"


_CHOICES = tuple(choice.value for choice in Choice)
_HEX_ID = "typeof(id) <> 'text' OR length(id) <> 64"
_NAME = f"typeof({{0}}) <> 'text' OR length({{0}}) > {MAX_NAME}"

_RULES: dict[str, tuple[tuple[str, str], ...]] = {
    "answers": (
        (_NAME.format("uuid") + " OR uuid = ''", "`uuid` is no text of 1 to 256 characters"),
        (f"kind NOT IN ({_texts(KINDS)})", "`kind` is unknown"),
        _time("shown_at"),
        _time("answered_at"),
        ("answered_at < shown_at", "it was answered before it was shown"),
        ("kind = 'retraction' AND supersedes IS NULL", "it takes back an answer, but names none"),
        (
            "supersedes IS NOT NULL AND (kind NOT IN ('pairwise', 'retraction') OR NOT EXISTS"
            " (SELECT 1 FROM answers AS b WHERE b.sequence = t.supersedes"
            " AND b.sequence < t.sequence AND b.query = t.query AND b.labeller = t.labeller))",
            "it supersedes what is no earlier answer of its labeller to its query",
        ),
        (
            "coalesce((SELECT n_clips FROM queries AS q WHERE q.query = t.query), 0) <> 2",
            "it answers no query of two clips",
        ),
    ),
    "queries": (
        (_HEX_ID, "`id` is no sha256"),
        (
            "typeof(seed) <> 'text' OR seed = '' OR seed GLOB '*[^0-9]*' OR length(seed) > 309",
            "`seed` is no text of digits",
        ),
        _whole("round", 0, _MAX_LENGTH),
        _whole("position", 0),
        _whole("n_wanted", 1, MAX_WANTED),
        _whole("n_clips", 2, _MAX_LENGTH),
    ),
    "clips": (
        (_HEX_ID, "`id` is no sha256"),
        ("typeof(context) <> 'text'", "`context` is no text"),
        _whole("row", 0, _MAX_LENGTH),
        _whole("length", 1, _MAX_LENGTH),
        _whole("has_states", 0, 1),
    ),
    "shard_files": (
        ("typeof(name) <> 'text' OR name GLOB '*[^a-z_.]*'", "`name` is no file of a shard"),
        _whole("n_bytes", 0),
        _whole("crc32", 0, (1 << 32) - 1),
    ),
    "gold": ((f"choice NOT IN ({_texts(_CHOICES)})", "`choice` is unknown"),),
    "leases": (
        (_NAME.format("labeller"), "`labeller` is no text of up to 256 characters"),
        ("typeof(sitting) <> 'text'", "`sitting` is no text"),
        ("typeof(expires_at) NOT IN ('real', 'integer')", "`expires_at` is no time"),
    ),
}
_ROW = {"answers": "sequence", "queries": "query", "clips": "clip"}

_QUERY_CLIPS = """
    SELECT q.query FROM queries AS q LEFT JOIN query_clips AS c ON c.query = q.query
    GROUP BY q.query
    HAVING count(c.clip) <> q.n_clips OR min(c.place) <> 0 OR max(c.place) <> q.n_clips - 1
        OR min(c.clip) = max(c.clip)
    LIMIT 1
"""
_MISSING_FILES = f"""
    SELECT s.name FROM shards AS s
    WHERE (SELECT count(*) FROM shard_files AS f WHERE f.shard = s.shard
           AND f.name IN ({_texts(_SHARD_FILES)})) <> {len(_SHARD_FILES)}
       OR (s.shard IN (SELECT shard FROM clips WHERE has_states)
           AND NOT EXISTS (SELECT 1 FROM shard_files AS f
                           WHERE f.shard = s.shard AND f.name = 'states.npy'))
    LIMIT 1
"""


def find_fault(connection: sqlite3.Connection) -> str | None:
    """What is impossible in a store of the current schema, in words; None where nothing is.

    Args:
        connection: On the database; only read from.
    """
    checks: tuple[Callable[[sqlite3.Connection], Iterator[str]], ...] = (
        _dangling,
        _broken_rules,
        _bad_names,
        _bad_shards,
        _bad_pairs,
    )
    return next((fault for check in checks for fault in check(connection)), None)


def _first(connection: sqlite3.Connection, sql: str) -> tuple[Any, ...] | None:
    # Read to the end: a cursor left open would keep other processes from committing.
    rows = connection.execute(sql).fetchall()
    return rows[0] if rows else None


def _dangling(connection: sqlite3.Connection) -> Iterator[str]:
    row = _first(connection, "SELECT * FROM pragma_foreign_key_check LIMIT 1")
    if row is not None:
        yield f"row {row[1]} of {row[0]} speaks of a row of {row[2]} that is not there"


def _broken_rules(connection: sqlite3.Connection) -> Iterator[str]:
    for table, rules in _RULES.items():
        cases = " ".join(f"WHEN {wrong} THEN {i}" for i, (wrong, _) in enumerate(rules))
        row = _ROW.get(table, "0")
        found = _first(
            connection,
            f"SELECT {row}, fault FROM (SELECT {row}, CASE {cases} END AS fault FROM {table} AS t)"
            " WHERE fault IS NOT NULL LIMIT 1",
        )
        if found is not None:
            where = f"number {found[0]} of its {table}" if table in _ROW else f"a row of {table}"
            yield f"{where} is impossible: {rules[found[1]][1]}"


def _bad_names(connection: sqlite3.Connection) -> Iterator[str]:
    for what in ("labeller", "teacher"):
        for (name,) in connection.execute(f"SELECT DISTINCT {what} FROM answers").fetchall():
            try:
                check_name(what, name)
            except DataError as error:
                yield f"the {error}"


def _bad_shards(connection: sqlite3.Connection) -> Iterator[str]:
    rows = connection.execute("SELECT name, layout FROM shards").fetchall()
    for name, layout in rows:
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
            yield f"a shard has the name {name!r:.80}"
        elif layout != rows[0][1] or not _is_layout(layout):
            yield f"shard {name} has the layout {layout!r:.200}"
    missing = _first(connection, _MISSING_FILES)
    if missing is not None:
        yield f"shard {missing[0]} lacks files of its clips"


def _is_layout(text: Any) -> bool:
    try:
        layout = parse_json(text, "a layout")
        return set(layout) == {"obs", "actions"} and all(
            re.fullmatch(r"[<>|=][fiub]\d{1,2}", dtype) is not None
            and all(type(n) is int and 0 <= n <= _MAX_LENGTH for n in shape)
            for dtype, shape in layout.values()
        )
    except (TypeError, ValueError, AttributeError):
        return False


def _bad_pairs(connection: sqlite3.Connection) -> Iterator[str]:
    row = _first(connection, _QUERY_CLIPS)
    if row is not None:
        yield f"number {row[0]} of its queries lacks a clip, or compares one with itself"
