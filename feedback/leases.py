"""Who looks at which query at the moment, so that nobody else is asked the same.

A lease is a promise with an end: a labeller who closes the window, or whose machine stops, keeps
nobody from the pair for longer than that. Functions on an open transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

from rlhf_gym.feedback.schema import ANSWERS_OF_Q

__all__ = [
    "LEASE_SECONDS",
    "claim_queries",
    "free_queries",
    "release_leases",
    "renew_leases",
    "wants_answer",
]

LEASE_SECONDS = 120.0
"""How long a pair is kept for who looks at it, unless renewed."""

# An end further away than any lease lasts was written under another clock: it is void.
_HOLDS = "l.expires_at > :now AND l.expires_at <= :now + 2 * :seconds"


def _others(labeller: str) -> str:
    return (
        "(SELECT count(*) FROM leases AS l WHERE l.query = q.query"
        f" AND l.labeller <> {labeller} AND {_HOLDS})"
    )


def _answered(kinds: str) -> str:
    return (
        "EXISTS (SELECT 1 FROM answers AS m WHERE m.query = q.query AND m.labeller = :labeller"
        f" AND m.kind IN ({kinds}) AND NOT EXISTS"
        " (SELECT 1 FROM answers AS r WHERE r.supersedes = m.sequence))"
    )


_FREE = (
    "SELECT q.query, q.id FROM queries AS q WHERE q.n_clips = 2"
    f" AND {ANSWERS_OF_Q} < q.n_wanted AND {ANSWERS_OF_Q} + {_others(':labeller')} < q.n_wanted"
    f" AND NOT {_answered("'pairwise', 'surplus'")}"
    " AND NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.query = q.query"
    f"   AND l.labeller = :labeller AND l.sitting <> :sitting AND {_HOLDS})"
    " AND (:only IS NULL OR q.id = :only)"
    " ORDER BY q.round, q.position, q.query LIMIT :most"
)


def free_queries(
    connection: sqlite3.Connection,
    labeller: str,
    sitting: str,
    n: int,
    now: float,
    *,
    seconds: float = LEASE_SECONDS,
    but_not: Collection[str] = (),
    only: str | None = None,
) -> list[tuple[int, str]]:
    """Up to n open queries that `claim_queries` would lease: row number and id of each.

    A query is free while its answers and the leases of others are fewer than the answers it wants,
    and the labeller has neither answered it nor looks at it in another sitting.
    """
    values: dict[str, Any] = {"labeller": labeller, "sitting": sitting, "now": now}
    values |= {"seconds": seconds, "only": only, "most": n + len(but_not)}
    # Always read to the end: an open cursor would keep other processes from committing.
    rows = connection.execute(_FREE, values).fetchall()
    return [(query, key) for query, key in rows if key not in but_not][: max(n, 0)]


def claim_queries(
    connection: sqlite3.Connection,
    labeller: str,
    sitting: str,
    n: int,
    now: float,
    *,
    seconds: float = LEASE_SECONDS,
    but_not: Collection[str] = (),
    only: str | None = None,
) -> list[str]:
    """Lease up to n free queries to a labeller, see `free_queries`.

    Leases of the same labeller in another sitting are taken over only when they have expired.

    Args:
        connection: In a transaction.
        labeller: Who is going to look.
        sitting: Which window of theirs.
        n: At most so many.
        now: Seconds since the epoch, UTC.
        seconds: How long a lease lasts.
        but_not: Ids of queries not to take.
        only: The id of the one query to take, if it is free.

    Returns:
        Query ids by round and index.
    """
    chosen = free_queries(
        connection, labeller, sitting, n, now, seconds=seconds, but_not=but_not, only=only
    )
    connection.executemany(
        "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)",
        [(query, labeller, sitting, now + seconds) for query, _ in chosen],
    )
    return [key for _, key in chosen]


def wants_answer(connection: sqlite3.Connection, query_id: str, labeller: str) -> bool:
    """Whether an answer of this labeller would be one of those that a query wants.

    It is where fewer than wanted stand, or where it would replace one that stands.
    """
    row = connection.execute(
        f"SELECT {ANSWERS_OF_Q} < q.n_wanted OR {_answered("'pairwise'")}"
        " FROM queries AS q WHERE q.id = :id",
        {"id": query_id, "labeller": labeller},
    ).fetchone()
    return bool(row and row[0])


def renew_leases(
    connection: sqlite3.Connection, sitting: str, now: float, seconds: float = LEASE_SECONDS
) -> list[str]:
    """Put off the end of a sitting's leases.

    A lease that ran out comes back to life only where the query is still free: after a machine
    slept for an hour, others may have taken what it held.

    Returns:
        The ids of the queries that are leased to the sitting now.
    """
    values = {"sitting": sitting, "now": now, "seconds": seconds}
    connection.execute(
        "UPDATE leases SET expires_at = :now + :seconds WHERE sitting = :sitting AND"
        " (expires_at > :now AND expires_at <= :now + 2 * :seconds OR EXISTS"
        "  (SELECT 1 FROM queries AS q WHERE q.query = leases.query"
        f"  AND {ANSWERS_OF_Q} + {_others('leases.labeller')} < q.n_wanted))",
        values,
    )
    rows = connection.execute(
        "SELECT q.id FROM leases AS l JOIN queries AS q USING (query)"
        f" WHERE l.sitting = :sitting AND {_HOLDS}",
        values,
    )
    return [row[0] for row in rows.fetchall()]


def release_leases(
    connection: sqlite3.Connection, sitting: str, query_ids: Sequence[str] | None = None
) -> None:
    """End leases of a sitting: of some queries, or all."""
    if query_ids is None:
        connection.execute("DELETE FROM leases WHERE sitting = ?", (sitting,))
        return
    connection.executemany(
        "DELETE FROM leases WHERE sitting = ? AND query = (SELECT query FROM queries WHERE id = ?)",
        [(sitting, key) for key in query_ids],
    )
