"""All that a store holds, as one value: what the lossless formats write and read back.

Only leases are left out: they say who looks at what right now.
"""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlhf_gym.data import Choice, Clip, Query
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.answers import restore_answer
from rlhf_gym.feedback.posting import post_queries
from rlhf_gym.feedback.records import AnswerRecord
from rlhf_gym.feedback.store import PreferenceStore

__all__ = ["Added", "Snapshot", "StoredQuery", "add_to_store", "read_snapshot"]

_QUERIES_PER_SHARD = 256
"""A shard is padded to its longest clip: short texts are not to be stored as long as a far one."""

_TWO_ANSWERS = """
    SELECT q.id, a.labeller FROM answers AS a JOIN queries AS q USING (query)
    WHERE a.kind = 'pairwise'
      AND NOT EXISTS (SELECT 1 FROM answers AS b WHERE b.supersedes = a.sequence)
    GROUP BY a.query, a.labeller
    HAVING min(a.sequence) <= :before AND max(a.sequence) > :before
"""


@dataclass(frozen=True)
class StoredQuery:
    """A query with what the store knows about it besides."""

    query: Query
    """Complete: its clips carry true rewards and simulator states, where known."""
    n_wanted: int = 1
    """How many labellers are to answer it."""
    expected: Choice | None = None
    """The right answer, where the query is marked as gold."""
    expected_source: str | None = None
    """Who says so: "true return", "owner", ..."""


@dataclass(frozen=True)
class Snapshot:
    """Everything in a store at one moment."""

    queries: tuple[StoredQuery, ...]
    """By round and index."""
    answers: tuple[AnswerRecord, ...]
    """The whole history, by sequence number: superseded ones and retractions too."""

    def clips(self) -> list[Clip]:
        """Each clip once, in the order of the queries."""
        return list({c.id: c for stored in self.queries for c in stored.query.clips}.values())

    def standing(self) -> set[str]:
        """The uuids of the answers that stand: not superseded, and no retractions."""
        replaced = {answer.supersedes for answer in self.answers}
        return {
            answer.uuid
            for answer in self.answers
            if answer.sequence not in replaced and answer.kind != "retraction"
        }


@dataclass(frozen=True)
class Added:
    """What `add_to_store` added."""

    n_queries: int
    """Queries that were not there yet."""
    n_answers: int
    """Rows of answers that were not there yet."""


def read_snapshot(store: PreferenceStore) -> Snapshot:
    """Read everything: answers first, so that the queries of all of them are there.

    Raises:
        CorruptDataError: an answer or a shard cannot be read.
    """
    answers = tuple(store.answer_records(superseded=True))
    rows = store.rows(
        "SELECT q.id, q.n_wanted, g.choice, g.source FROM queries AS q"
        " LEFT JOIN gold AS g USING (query) ORDER BY q.round, q.position, q.query"
    )
    queries = {query.id: query for query in store.queries([row[0] for row in rows])}
    stored = (
        StoredQuery(queries[key], n_wanted, None if gold is None else Choice(gold), source)
        for key, n_wanted, gold, source in rows
    )
    return Snapshot(tuple(stored), answers)


def add_to_store(store: PreferenceStore, snapshot: Snapshot) -> Added:
    """Add what the store does not hold yet, all of it in one transaction.

    What is there already (queries and clips of the same id, answers of the same uuid, marks of
    gold) is left as it is, so adding a snapshot twice changes nothing.

    Raises:
        DataError: clips that do not fit into this store, a broken history, or an answer of a
            labeller whose other answer to the same query stands here; nothing is added.
        OSError: the disk is full; nothing is added.
    """
    uuids: dict[int, str] = {}
    with store.writing() as connection, _removing_new_shards(connection, store.path.parent):
        before = connection.execute("SELECT coalesce(max(sequence), 0) FROM answers").fetchone()[0]
        n_answers = connection.execute("SELECT count(*) FROM answers").fetchone()[0]
        n_queries = 0
        for group in _groups(snapshot.queries):
            queries = [stored.query for stored in group]
            n_queries += post_queries(
                connection, store.path.parent / "clips", queries, group[0].n_wanted
            )
        _mark_gold(connection, snapshot.queries)
        for record in snapshot.answers:
            uuids[record.sequence] = record.uuid
            restore_answer(connection, record, uuids, store.path)
        twice = connection.execute(_TWO_ANSWERS, {"before": before}).fetchone()
        if twice is not None:
            raise DataError(
                f"labeller {twice[1]!r} has an answer to query {twice[0][:12]} in `{store.path}` "
                "and another one in what is imported, and neither replaces the other. Nothing was "
                "imported: import into a store of its own."
            )
        n_answers = connection.execute("SELECT count(*) FROM answers").fetchone()[0] - n_answers
    return Added(n_queries, n_answers)


def _groups(queries: Sequence[StoredQuery]) -> Iterator[list[StoredQuery]]:
    """Consecutive queries that can share a shard and a call of `post_queries`."""

    def alike(stored: StoredQuery) -> tuple[object, ...]:
        states = {c.sim_states.shape[1:] for c in stored.query.clips if c.sim_states is not None}
        return stored.query.round, stored.n_wanted, sorted(states)

    for _, group in itertools.groupby(queries, alike):
        members = list(group)
        for start in range(0, len(members), _QUERIES_PER_SHARD):
            yield members[start : start + _QUERIES_PER_SHARD]


def _mark_gold(connection: sqlite3.Connection, queries: Sequence[StoredQuery]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO gold SELECT query, ?, ? FROM queries WHERE id = ?",
        [
            (stored.expected.value, stored.expected_source or "", stored.query.id)
            for stored in queries
            if stored.expected is not None
        ],
    )


@contextmanager
def _removing_new_shards(connection: sqlite3.Connection, folder: Path) -> Iterator[None]:
    """Remove the shards of a transaction that fails, while its lock keeps their names ours."""
    before = {row[0] for row in connection.execute("SELECT name FROM shards")}
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            for (name,) in connection.execute("SELECT name FROM shards").fetchall():
                if name not in before:
                    shutil.rmtree(folder / "clips" / name, ignore_errors=True)
        raise
