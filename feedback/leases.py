"""Who looks at which query at the moment, so that nobody else is asked the same.

A lease is a promise with an end: a labeller who closes the window, or whose machine stops, keeps
nobody from the pair for longer than that. Functions on an open transaction.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_gym.feedback.schema import ANSWERS_OF_Q
from rlhf_gym.files import whole_number

__all__ = [
    "LEASE_SECONDS",
    "claim_queries",
    "new_sitting",
    "release_dead_sittings",
    "release_leases",
    "renew_leases",
    "select_free",
    "turn",
    "wants_answer",
]

LEASE_SECONDS = 120.0
"""How long a pair is kept for who looks at it, unless renewed."""

# An end further away than any lease lasts was written under another clock: it is void.
_HOLDS = "l.expires_at > :now AND l.expires_at <= :now + 2 * :seconds"


_LONGEST_TURN = 5.0  # s; beyond, SQLite's own lock decides, and says who holds it up


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait for one's turn among the labellers who write to a store, about in order of arrival.

    SQLite's own waiting looks less and less often the longer it lasts, so that of several busy
    writers one may wait a second while the others pass by. Here who waits longer looks more often.
    It is a courtesy, not a safeguard: SQLite's lock holds without it, and a file system that knows
    no such locks is no error.

    Args:
        folder: The store's clips/ folder; its entries are not touched.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        start = time.monotonic()
        while (waited := time.monotonic() - start) < _LONGEST_TURN:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(max(0.004 / (1 + waited / 0.02), 0.0002))
            except OSError:
                break
            else:
                break
        yield
    finally:
        os.close(descriptor)


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


_COUNTED = _answered("'pairwise'")
_SEEN = _answered("'pairwise', 'surplus'")
_FREE = (
    "SELECT q.query, q.id FROM queries AS q WHERE q.n_clips = 2"
    f" AND {ANSWERS_OF_Q} < q.n_wanted AND {ANSWERS_OF_Q} + {_others(':labeller')} < q.n_wanted"
    f" AND NOT {_SEEN}"
    " AND NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.query = q.query"
    f"   AND l.labeller = :labeller AND l.sitting <> :sitting AND {_HOLDS})"
    " AND (:only IS NULL OR q.id = :only)"
    " ORDER BY q.round, q.position, q.query LIMIT :most"
)


def select_free(
    labeller: str,
    sitting: str,
    most: int,
    now: float,
    *,
    seconds: float = LEASE_SECONDS,
    only: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """The statement, and its parameters, that finds queries which may be leased to a labeller.

    A query is free while its answers and the leases of others are fewer than the answers it wants,
    and the labeller has neither answered it nor looks at it in another sitting. The rows are
    (row number, id), at most `most` of them, by round and index.
    """
    values = {"labeller": labeller, "sitting": sitting, "most": most, "now": now}
    return _FREE, {**values, "seconds": seconds, "only": only}


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
    """Lease up to n free queries to a labeller, see `select_free`.

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
    most = n + len(but_not)
    free = select_free(labeller, sitting, most, now, seconds=seconds, only=only)
    rows = connection.execute(*free).fetchall()
    chosen = [(query, key) for query, key in rows if key not in but_not][: max(n, 0)]
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
        f"SELECT {ANSWERS_OF_Q} < q.n_wanted OR {_COUNTED} FROM queries AS q WHERE q.id = :id",
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


def new_sitting() -> str:
    """A name for this window: "host:process:random", so that the same host can tell its end."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"


def release_dead_sittings(connection: sqlite3.Connection) -> None:
    """End the leases of windows of this host whose process is gone: nobody looks at them."""
    rows = connection.execute("SELECT DISTINCT sitting FROM leases").fetchall()
    for (sitting,) in rows:
        host, _, rest = sitting.partition(":")
        process = whole_number(rest.partition(":")[0], most_digits=9)
        if host == socket.gethostname() and process is not None and not _is_alive(process):
            release_leases(connection, sitting)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's process
    return True
