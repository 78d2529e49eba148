"""Rows of queries and clips in a store's database, and the shard that the clips go into."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from rlhf_gym.data import Clip, Query
from rlhf_gym.documents import parse_json
from rlhf_gym.feedback.record_rules import check_query
from rlhf_gym.feedback.shards import check_layouts, layout_of, publish_shard, write_shard

__all__ = ["post_queries"]


def post_queries(
    connection: sqlite3.Connection, folder: Path, queries: Sequence[Query], n_wanted: int
) -> int:
    """Add those queries that are new to the open transaction, and write their new clips.

    Args:
        connection: In a transaction.
        folder: The store's clips/ folder.
        queries: Of one round, as a rule; the shard takes the first one's name.
        n_wanted: How many labellers are to answer each.

    Returns:
        How many of the queries are new.

    Raises:
        DataError: a number of a query out of range, or clips that do not fit into this store.
    """
    for query in queries:
        check_query(query.seed, query.round, query.index, n_wanted)
    known = _known(connection, "queries", (query.id for query in queries))
    new = {query.id: query for query in queries if query.id not in known}
    if new:
        _post_new(connection, folder, list(new.values()), n_wanted)
    return len(new)


def _known(
    connection: sqlite3.Connection, table: Literal["queries", "clips"], ids: Iterable[str]
) -> dict[str, int]:
    """Row numbers of those ids that are stored."""
    column = {"queries": "query", "clips": "clip"}[table]
    sql = f"SELECT {column} FROM {table} WHERE id = ?"
    found = {key: connection.execute(sql, (key,)).fetchone() for key in ids}
    return {key: row[0] for key, row in found.items() if row is not None}


def _post_new(
    connection: sqlite3.Connection, folder: Path, queries: list[Query], n_wanted: int
) -> None:
    clips = {clip.id: clip for query in queries for clip in query.clips}
    rows = _known(connection, "clips", clips)
    fresh = [clip for key, clip in clips.items() if key not in rows]
    temporary = folder / "unfinished"
    name = _free_name(connection, queries[0].round)
    if fresh:
        rows |= _insert_shard(connection, name, temporary, fresh)
    for query in queries:
        cursor = connection.execute(
            "INSERT INTO queries (id, seed, round, position, n_clips, n_wanted)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (query.id, str(query.seed), query.round, query.index, len(query.clips), n_wanted),
        )
        connection.executemany(
            "INSERT INTO query_clips VALUES (?, ?, ?)",
            [(cursor.lastrowid, place, rows[c.id]) for place, c in enumerate(query.clips)],
        )
    if fresh:
        publish_shard(temporary, folder / name)


def _free_name(connection: sqlite3.Connection, round_: int) -> str:
    base = f"round-{round_:04d}"
    taken = {row[0] for row in connection.execute("SELECT name FROM shards")}
    n = 0
    while (name := f"{base}-{n}" if n else base) in taken:
        n += 1
    return name


def _insert_shard(
    connection: sqlite3.Connection, name: str, temporary: Path, clips: list[Clip]
) -> dict[str, int]:
    """Write the clips to the temporary folder and their rows into the open transaction."""
    earlier = connection.execute("SELECT layout FROM shards LIMIT 1").fetchone()
    layout = layout_of(clips[0]) if earlier is None else parse_json(earlier[0], "a shard's layout")
    check_layouts(clips, layout)
    files = write_shard(temporary, clips)
    shard = connection.execute(
        "INSERT INTO shards (name, layout) VALUES (?, ?)", (name, json.dumps(layout))
    ).lastrowid
    connection.executemany(
        "INSERT INTO shard_files VALUES (?, ?, ?, ?)",
        [(shard, file.name, file.n_bytes, file.crc32) for file in files],
    )
    # Rows ascend with the place in the shard: `preferences` reads shards front to back.
    start = connection.execute("SELECT coalesce(max(clip), 0) + 1 FROM clips").fetchone()[0]
    connection.executemany(
        "INSERT INTO clips VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (start + i, c.id, c.context_id, shard, i, len(c), int(c.sim_states is not None))
            for i, c in enumerate(clips)
        ],
    )
    return {clip.id: start + i for i, clip in enumerate(clips)}
