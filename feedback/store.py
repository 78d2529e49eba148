"""The meeting place: queries are posted here, teachers answer them, reward models read them.

A store is `preferences.db` (SQLite) beside `clips/` (shards). Any number of processes may write;
an answer that `answer` returned from is kept, whatever is killed next. Answers are append-only: a
changed mind is a new row that supersedes the old one.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rlhf_gym.data import Clip, Preference, Query
from rlhf_gym.errors import DataError, UnknownNameError
from rlhf_gym.feedback.dataset import (
    AnswerTable,
    ClipTable,
    PreferenceSet,
    decode_answer,
    encode_answer,
)
from rlhf_gym.feedback.schema import (
    CURRENT_ANSWERS,
    open_database,
    storage_errors,
    transaction,
)
from rlhf_gym.feedback.shards import (
    ShardFile,
    ShardReader,
    check_layouts,
    layout_of,
    publish_shard,
    write_shard,
)

__all__ = ["PreferenceStore"]

_CLIP_ROWS = "SELECT shard, clip, id, context, row, length, has_states FROM clips"
_EVERYTHING = (1 << 63) - 1


class PreferenceStore:
    """The queries, answers and clips of one run, on disk.

    One store object belongs to one thread; give each thread and each process its own.

    Args:
        folder: Holds `preferences.db` and `clips/`; made if missing.
        create: False refuses a folder that holds no store.

    Raises:
        DataError: no store there, and `create` is False.
        CorruptDataError: the database is damaged or not a store.
        SchemaError: it was written by a newer rlhf_gym; nothing is changed.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, create: bool = True) -> None:
        self.path = Path(folder) / "preferences.db"
        self._clips = self.path.parent / "clips"
        if create:
            self._clips.mkdir(parents=True, exist_ok=True)
        self._connection = open_database(self.path, create=create)
        self._reader = ShardReader(self._clips)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; arrays that were handed out stay valid."""
        self._connection.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with storage_errors(self.path), transaction(self._connection):
            yield

    def _rows(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[Any]:
        # Always read to the end: a cursor left open would keep other processes from committing.
        with storage_errors(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def _number(self, sql: str, *parameters: Any) -> int:
        return int(self._rows(sql, parameters)[0][0])

    # --- asking -----------------------------------------------------------------------------

    def post(self, queries: Sequence[Query]) -> int:
        """Put queries, with their clips, before the teachers.

        A query or clip that is stored already (same id) is left as it is, so a replayed round
        posts nothing twice. The new clips of all given queries become one shard, which is on disk
        before the first row speaks of it.

        Args:
            queries: Of one round, as a rule; the shard takes the first one's name.

        Returns:
            How many of the queries are new.

        Raises:
            DataError: a clip whose dtype or shape does not fit into this store.
            OSError: the disk is full; nothing of these queries is stored.
        """
        with self._writing():
            known = self._known("queries", (query.id for query in queries))
            new = {query.id: query for query in queries if query.id not in known}
            if new:
                self._post_new(list(new.values()))
        return len(new)

    def _known(self, table: str, ids: Iterable[str]) -> dict[str, int]:
        """Row numbers of those ids that are stored."""
        column = {"queries": "query", "clips": "clip"}[table]
        sql = f"SELECT {column} FROM {table} WHERE id = ?"
        found = {key: self._connection.execute(sql, (key,)).fetchone() for key in ids}
        return {key: row[0] for key, row in found.items() if row is not None}

    def _post_new(self, queries: list[Query]) -> None:
        clips = {clip.id: clip for query in queries for clip in query.clips}
        rows = self._known("clips", clips)
        fresh = [clip for key, clip in clips.items() if key not in rows]
        temporary = self._clips / "unfinished"
        name = self._free_name(queries[0].round)
        if fresh:
            rows |= self._insert_shard(name, temporary, fresh)
        for query in queries:
            cursor = self._connection.execute(
                "INSERT INTO queries (id, seed, round, position, n_clips) VALUES (?, ?, ?, ?, ?)",
                (query.id, str(query.seed), query.round, query.index, len(query.clips)),
            )
            self._connection.executemany(
                "INSERT INTO query_clips VALUES (?, ?, ?)",
                [(cursor.lastrowid, place, rows[c.id]) for place, c in enumerate(query.clips)],
            )
        if fresh:
            publish_shard(temporary, self._clips / name)

    def _free_name(self, round_: int) -> str:
        base = f"round-{round_:04d}"
        taken = {row[0] for row in self._connection.execute("SELECT name FROM shards")}
        n = 0
        while (name := f"{base}-{n}" if n else base) in taken:
            n += 1
        return name

    def _insert_shard(self, name: str, temporary: Path, clips: list[Clip]) -> dict[str, int]:
        """Write the clips to the temporary folder and their rows into the open transaction."""
        earlier = self._connection.execute("SELECT layout FROM shards LIMIT 1").fetchone()
        layout = layout_of(clips[0]) if earlier is None else json.loads(earlier[0])
        check_layouts(clips, layout)
        files = write_shard(temporary, clips)
        shard = self._connection.execute(
            "INSERT INTO shards (name, layout) VALUES (?, ?)", (name, json.dumps(layout))
        ).lastrowid
        self._connection.executemany(
            "INSERT INTO shard_files VALUES (?, ?, ?, ?)",
            [(shard, file.name, file.n_bytes, file.crc32) for file in files],
        )
        # Rows ascend with the place in the shard: `preferences` reads shards front to back.
        start = self._number("SELECT coalesce(max(clip), 0) + 1 FROM clips")
        self._connection.executemany(
            "INSERT INTO clips VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (start + i, c.id, c.context_id, shard, i, len(c), int(c.sim_states is not None))
                for i, c in enumerate(clips)
            ],
        )
        return {clip.id: start + i for i, clip in enumerate(clips)}

    def open_queries(self, limit: int | None = None) -> list[Query]:
        """Queries that nobody has answered, by round and index.

        Args:
            limit: At most so many; None for all of them.

        Returns:
            Complete queries: their clips carry true rewards and simulator states, if known.
        """
        return self._queries(
            "SELECT query FROM queries AS q WHERE NOT EXISTS"
            " (SELECT 1 FROM answers WHERE answers.query = q.query)"
            " ORDER BY round, position, query LIMIT ?",
            -1 if limit is None else limit,
        )

    def query(self, query_id: str) -> Query:
        """One query by its id, complete.

        Raises:
            UnknownNameError: no such query.
        """
        found = self._queries("SELECT query FROM queries WHERE id = ?", query_id)
        if not found:
            raise UnknownNameError(f"no query {query_id!r} in `{self.path}`.")
        return found[0]

    def clip(self, clip_id: str) -> Clip:
        """One clip by its id, complete.

        Raises:
            UnknownNameError: no such clip.
        """
        found = self._build_clips(self._rows(f"{_CLIP_ROWS} WHERE id = ?", (clip_id,)))
        if not found:
            raise UnknownNameError(f"no clip {clip_id!r} in `{self.path}`.")
        return next(iter(found.values()))

    def _queries(self, selection: str, parameter: Any) -> list[Query]:
        with storage_errors(self.path):
            # One snapshot: between two statements another process may answer, or post.
            self._connection.execute("BEGIN")
            try:
                rows = self._rows(
                    "SELECT q.query, q.id, q.seed, q.round, q.position, c.clip"
                    f" FROM ({selection}) AS chosen JOIN queries AS q USING (query)"
                    " JOIN query_clips AS c USING (query)"
                    " ORDER BY q.round, q.position, q.query, c.place",
                    (parameter,),
                )
                clip_rows = self._rows(
                    f"{_CLIP_ROWS} WHERE clip IN"
                    f" (SELECT clip FROM query_clips WHERE query IN ({selection})) ORDER BY clip",
                    (parameter,),
                )
            finally:
                self._connection.execute("COMMIT")
        clips = self._build_clips(clip_rows)
        parts: dict[tuple[Any, ...], list[Clip]] = defaultdict(list)
        for *head, clip in rows:
            parts[tuple(head)].append(clips[clip])
        return [
            Query.from_storage(
                key, clips=tuple(members), seed=int(seed), round=round_, index=position
            )
            for (_, key, seed, round_, position), members in parts.items()
        ]

    def _build_clips(self, rows: list[Any]) -> dict[int, Clip]:
        """The clips of `_CLIP_ROWS`, by row number."""
        by_shard: dict[int, list[Any]] = defaultdict(list)
        for shard, *rest in rows:
            by_shard[shard].append(rest)
        clips: dict[int, Clip] = {}
        for shard, members in by_shard.items():
            name, files = self._files(shard)
            clips |= self._reader.clips(name, files, members)
        return clips

    def _files(self, shard: int) -> tuple[str, dict[str, ShardFile]]:
        rows = self._rows(
            "SELECT s.name, f.name, f.n_bytes, f.crc32 FROM shards AS s"
            " JOIN shard_files AS f USING (shard) WHERE shard = ?",
            (shard,),
        )
        return rows[0][0], {row[1]: ShardFile(*row[1:]) for row in rows}

    # --- answering --------------------------------------------------------------------------

    def answer(self, preferences: Sequence[Preference]) -> None:
        """Keep answers: all of them in one transaction, durable when this returns.

        The same answer by the same teacher and labeller is ignored, so a replay adds nothing; a
        different one of the same labeller supersedes the earlier, which stays on record.

        Raises:
            DataError: a query that was never posted, one of more than two clips, or details that
                are not JSON; nothing of the batch is kept.
            OSError: the disk is full; earlier answers are intact.
        """
        with self._writing():
            for preference in preferences:
                self._answer_one(preference)

    def _answer_one(self, preference: Preference) -> None:
        execute, query_id = self._connection.execute, preference.query.id
        found = execute("SELECT query, n_clips FROM queries WHERE id = ?", (query_id,)).fetchone()
        if found is None:
            raise DataError(
                f"query {query_id} is not in `{self.path}`; post a query before its answer. "
                "Nothing of this batch was kept."
            )
        query, n_clips = found
        if n_clips != 2:
            raise DataError(
                f"query {query_id} asks about {n_clips} clips; a choice between first and second "
                "answers a pair. Nothing of this batch was kept."
            )
        payload = encode_answer(preference)
        teacher, labeller = preference.teacher, preference.labeller
        earlier = execute(
            "SELECT sequence, teacher, payload FROM answers WHERE query = ? AND labeller = ?"
            " ORDER BY sequence DESC LIMIT 1",
            (query, labeller),
        ).fetchone()
        if earlier and (earlier[1], decode_answer(earlier[2], self.path)[0]) == (
            teacher,
            preference.choice,
        ):
            return
        execute(
            "INSERT INTO answers (uuid, query, kind, payload, teacher, labeller, shown_at,"
            " answered_at, supersedes) VALUES (?, ?, 'pairwise', ?, ?, ?, ?, ?, ?)",
            (
                uuid.uuid4().hex,
                query,
                payload,
                teacher,
                labeller,
                preference.shown_at,
                preference.answered_at,
                earlier[0] if earlier else None,
            ),
        )

    # --- reading ----------------------------------------------------------------------------

    def preferences(
        self, *, up_to: int | None = None, first_rounds: int | None = None
    ) -> PreferenceSet:
        """The answers that stand (not superseded), with the clips they are about.

        Args:
            up_to: As the store was after the answer of this sequence number.
            first_rounds: Only queries of rounds 0 to `first_rounds - 1`.

        Raises:
            CorruptDataError: a shard is missing, truncated or does not match its checksum.
        """
        last = _EVERYTHING if up_to is None else up_to
        rounds = _EVERYTHING if first_rounds is None else first_rounds
        rows = self._rows(CURRENT_ANSWERS, {"last": last, "rounds": rounds})
        if not rows:
            return PreferenceSet.from_preferences([])
        # The last two columns are the pair, the others belong to the answer.
        answers = AnswerTable.from_rows([row[:-2] for row in rows], self.path)
        pairs = np.array([row[-2:] for row in rows], np.int64)
        del rows
        clips, inverse = np.unique(pairs, return_inverse=True)
        return PreferenceSet(self._clip_table(clips), inverse.reshape(-1, 2), answers)

    def _clip_table(self, wanted: npt.NDArray[np.int64]) -> ClipTable:
        """The clips of the given row numbers (ascending), copied shard by shard."""
        start, stop = int(wanted[0]), int(wanted[-1])
        chosen = np.zeros(stop - start + 1, bool)
        chosen[wanted - start] = True
        span = "WHERE clip BETWEEN ? AND ? ORDER BY clip"
        rows = self._rows(f"SELECT clip, id, context FROM clips {span}", (start, stop))
        ids = [key for clip, key, _ in rows if chosen[clip - start]]
        contexts = [sys.intern(context) for clip, _, context in rows if chosen[clip - start]]
        rows = self._rows(f"SELECT clip, shard, row, length FROM clips {span}", (start, stop))
        places = np.array([place for clip, *place in rows if chosen[clip - start]], np.int64)
        del rows
        layout = json.loads(self._rows("SELECT layout FROM shards LIMIT 1")[0][0])
        parts = [
            (*self._files(int(shard)), places[places[:, 0] == shard, 1])
            for shard in np.unique(places[:, 0])
        ]
        n_steps = int(places[:, 2].max())
        obs = self._reader.gather("obs.npy", parts, n_steps + 1, *layout["obs"])
        actions = self._reader.gather("actions.npy", parts, n_steps, *layout["actions"])
        return ClipTable(ids, contexts, obs, actions, places[:, 2].copy())

    @property
    def last_sequence(self) -> int:
        """The sequence number of the latest answer, 0 before the first: `up_to` for later."""
        return self._number("SELECT coalesce(max(sequence), 0) FROM answers")

    def counts(self) -> dict[str, int]:
        """Figures: n_queries, n_open, n_answers (that stand), n_clips, n_superseded."""
        names = ("n_queries", "n_open", "n_answers", "n_clips", "n_superseded")
        row = self._rows(
            "SELECT n_queries, n_queries - n_asked, n_rows - n_superseded, n_clips, n_superseded"
            " FROM (SELECT count(*) AS n_queries FROM queries),"
            " (SELECT count(*) AS n_rows, count(DISTINCT query) AS n_asked,"
            " count(supersedes) AS n_superseded FROM answers),"
            " (SELECT count(*) AS n_clips FROM clips)"
        )[0]
        return dict(zip(names, row, strict=True))
