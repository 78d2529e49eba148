"""The meeting place: queries are posted here, teachers answer them, reward models read them.

A store is `preferences.db` (SQLite) beside `clips/` (shards). Any number of processes may write;
an answer that `answer` returned from is kept, whatever is killed next. Answers are append-only: a
changed mind is a new row that supersedes the old one.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.documents import parse_json
from rlhf_gym.errors import UnknownNameError
from rlhf_gym.feedback.answers import (
    add_answer,
    forget_labeller,
    read_answers,
    restore_answer,
    retract_answer,
    select_answers,
)
from rlhf_gym.feedback.dataset import AnswerTable, ClipTable, PreferenceSet
from rlhf_gym.feedback.posting import post_queries
from rlhf_gym.feedback.records import AnswerRecord
from rlhf_gym.feedback.schema import (
    ANSWERS_OF_Q,
    CURRENT_ANSWERS,
    open_database,
    storage_errors,
    transaction,
)
from rlhf_gym.feedback.shards import ShardFile, ShardReader

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
        CorruptDataError: the database is damaged or not a store, or a link lies in it.
        SchemaError: it was written by a newer rlhf_gym; nothing is changed.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, create: bool = True) -> None:
        self.path = Path(folder) / "preferences.db"
        self._clips = self.path.parent / "clips"
        if create and not self._clips.is_symlink():  # which `open_database` refuses by name
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
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One write transaction on the database, for the other modules of this room."""
        with storage_errors(self.path), transaction(self._connection):
            yield self._connection

    def rows(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[Any]:
        """What a statement reads from the database, for the other modules of this room."""
        # Always read to the end: a cursor left open would keep other processes from committing.
        with storage_errors(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def _number(self, sql: str, *parameters: Any) -> int:
        return int(self.rows(sql, parameters)[0][0])

    # --- asking -----------------------------------------------------------------------------

    def post(self, queries: Sequence[Query], *, n_wanted: int = 1) -> int:
        """Put queries, with their clips, before the teachers.

        A query or clip that is stored already (same id) is left as it is, so a replayed round
        posts nothing twice. The new clips of all given queries become one shard, which is on disk
        before the first row speaks of it.

        Args:
            queries: Of one round, as a rule; the shard takes the first one's name.
            n_wanted: How many labellers are to answer each of them.

        Returns:
            How many of the queries are new.

        Raises:
            DataError: a clip whose dtype or shape does not fit into this store.
            OSError: the disk is full; nothing of these queries is stored.
        """
        with self.writing() as connection:
            return post_queries(connection, self._clips, queries, n_wanted)

    def open_queries(self, limit: int | None = None) -> list[Query]:
        """Queries that want an answer (more), by round and index.

        Args:
            limit: At most so many; None for all of them.

        Returns:
            Complete queries: their clips carry true rewards and simulator states, if known.
        """
        return self._queries(
            f"SELECT query FROM queries AS q WHERE {ANSWERS_OF_Q} < q.n_wanted"
            " ORDER BY round, position, query LIMIT ?",
            -1 if limit is None else limit,
        )

    def queries(self, query_ids: Sequence[str]) -> list[Query]:
        """Queries by their ids, complete, by round and index; unknown ids are left out."""
        return self._queries(
            "SELECT query FROM queries WHERE id IN (SELECT value FROM json_each(?))",
            json.dumps(list(query_ids)),
        )

    def query(self, query_id: str) -> Query:
        """One query by its id, complete; UnknownNameError where there is none."""
        for query in self.queries([query_id]):
            return query
        raise UnknownNameError(f"no query {query_id!r} in `{self.path}`.")

    def clip(self, clip_id: str) -> Clip:
        """One clip by its id, complete; UnknownNameError where there is none."""
        found = self._build_clips(self.rows(f"{_CLIP_ROWS} WHERE id = ?", (clip_id,)))
        if not found:
            raise UnknownNameError(f"no clip {clip_id!r} in `{self.path}`.")
        return next(iter(found.values()))

    def _queries(self, selection: str, parameter: Any) -> list[Query]:
        with storage_errors(self.path):
            # One snapshot: between two statements another process may answer, or post.
            self._connection.execute("BEGIN")
            try:
                rows = self.rows(
                    "SELECT q.query, q.id, q.seed, q.round, q.position, c.clip"
                    f" FROM ({selection}) AS chosen JOIN queries AS q USING (query)"
                    " JOIN query_clips AS c USING (query)"
                    " ORDER BY q.round, q.position, q.query, c.place",
                    (parameter,),
                )
                clip_rows = self.rows(
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
        rows = self.rows(
            "SELECT s.name, f.name, f.n_bytes, f.crc32, s.layout FROM shards AS s"
            " JOIN shard_files AS f USING (shard) WHERE shard = ?",
            (shard,),
        )
        return rows[0][0], {row[1]: ShardFile(*row[1:]) for row in rows}

    # --- answering --------------------------------------------------------------------------

    def answer(self, preferences: Sequence[Preference]) -> None:
        """Keep answers: all of them in one transaction, durable when this returns.

        The same answer by the same teacher and labeller is ignored, so a replay adds nothing; a
        different one of the same labeller supersedes the earlier, which stays on record.
        `LabelDesk` gives answers of other kinds than "pairwise".

        Raises:
            DataError: a query that was never posted, one of more than two clips, or details that
                are not JSON; nothing of the batch is kept.
            OSError: the disk is full; earlier answers are intact.
        """
        with self.writing() as connection:
            for preference in preferences:
                add_answer(connection, preference, self.path)

    def retract(self, uuid: str, answered_at: float = 0.0) -> bool:
        """Take an answer back; its query is open again, and both rows stay on record.

        Args:
            uuid: The answer's.
            answered_at: Seconds since the epoch, UTC.

        Returns:
            Whether it stood.
        """
        with self.writing() as connection:
            return retract_answer(connection, uuid, answered_at, self.path)

    def restore_answers(self, records: Sequence[AnswerRecord]) -> int:
        """Add recorded rows of another store as they were; those that are here are left alone.

        Args:
            records: As `answer_records(superseded=True)` gives them; their queries are posted.

        Returns:
            How many rows are new.

        Raises:
            DataError: an unknown query, or a superseded row that is nowhere to be found; nothing
                is kept.
        """
        before, uuids = self._number("SELECT count(*) FROM answers"), {}
        with self.writing() as connection:
            for record in records:
                uuids[record.sequence] = record.uuid
                restore_answer(connection, record, uuids, self.path)
        return self._number("SELECT count(*) FROM answers") - before

    def forget_labeller(self, labeller: str) -> int:
        """Delete all of one labeller's answers, for good: the one exception to append-only.

        Returns:
            How many rows were deleted.
        """
        with self.writing() as connection:
            return forget_labeller(connection, labeller)

    def mark_gold(self, expected: Mapping[str, Choice], source: str) -> None:
        """Say what the right answer to some queries is; their labellers are measured by it.

        Args:
            expected: By query id. A query that is marked already is marked anew.
            source: Who says so: "true return", "owner", ...

        Raises:
            UnknownNameError: no such query.
        """
        with self.writing() as connection:
            for query_id, choice in expected.items():
                cursor = connection.execute(
                    "INSERT OR REPLACE INTO gold SELECT query, ?, ? FROM queries WHERE id = ?",
                    (choice.value, source, query_id),
                )
                if cursor.rowcount < 1:
                    raise UnknownNameError(f"no query {query_id!r} in `{self.path}`.")

    def gold(self) -> dict[str, Choice]:
        """The right answers that are known, by query id, in the order of the queries."""
        rows = self.rows(
            "SELECT q.id, g.choice FROM gold AS g JOIN queries AS q USING (query)"
            " ORDER BY q.round, q.position, q.query"
        )
        return {query_id: Choice(choice) for query_id, choice in rows}

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
        rows = self.rows(CURRENT_ANSWERS, {"last": last, "rounds": rounds})
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
        rows = self.rows(f"SELECT clip, id, context FROM clips {span}", (start, stop))
        ids = [key for clip, key, _ in rows if chosen[clip - start]]
        contexts = [sys.intern(context) for clip, _, context in rows if chosen[clip - start]]
        rows = self.rows(f"SELECT clip, shard, row, length FROM clips {span}", (start, stop))
        places = np.array([place for clip, *place in rows if chosen[clip - start]], np.int64)
        del rows
        layout = parse_json(self.rows("SELECT layout FROM shards LIMIT 1")[0][0], "a layout")
        parts = [
            (*self._files(int(shard)), places[places[:, 0] == shard, 1:])
            for shard in np.unique(places[:, 0])
        ]
        n_steps = int(places[:, 2].max())
        obs = self._reader.gather("obs.npy", parts, n_steps + 1, *layout["obs"])
        actions = self._reader.gather("actions.npy", parts, n_steps, *layout["actions"])
        self._reader.check_ids(ids, contexts, obs, actions, places[:, 2])
        return ClipTable(ids, contexts, obs, actions, places[:, 2].copy())

    @property
    def last_sequence(self) -> int:
        """The sequence number of the latest answer, 0 before the first: `up_to` for later."""
        return self._number("SELECT coalesce(max(sequence), 0) FROM answers")

    def counts(self) -> dict[str, int]:
        """Figures of what is trained on.

        Returns:
            n_queries, n_open (that want an answer), n_answers (that stand), n_clips, n_superseded
            (replaced or taken back).
        """
        names = ("n_queries", "n_open", "n_answers", "n_clips", "n_superseded")
        row = self.rows(
            f"SELECT count(*), coalesce(sum({ANSWERS_OF_Q} < n_wanted), 0),"
            f" coalesce(sum({ANSWERS_OF_Q}), 0), (SELECT count(*) FROM clips),"
            " (SELECT count(supersedes) FROM answers) FROM queries AS q"
        )[0]
        return dict(zip(names, row, strict=True))

    def answer_records(self, *, superseded: bool = False) -> list[AnswerRecord]:
        """Answers of every kind with all that is known about them, as they were given.

        Args:
            superseded: With those that were replaced or taken back, and the retractions.

        Returns:
            By sequence number.

        Raises:
            CorruptDataError: an answer, or a shard with true rewards, cannot be read.
        """
        rows = self.rows(select_answers(superseded=superseded))
        return list(read_answers(rows, self.path, self.return_gaps()))

    def return_gaps(self) -> dict[str, float]:
        """True return of the first clip less the second's, by query id, where both are known."""
        returns: dict[int, float] = {}
        for (shard,) in self.rows("SELECT shard FROM shards"):
            name, files = self._files(shard)
            rewards = self._reader.map(name, files["true_rewards.npy"])
            sums = rewards.sum(axis=1, dtype=np.float64).tolist()
            rows = self.rows("SELECT clip, row FROM clips WHERE shard = ?", (shard,))
            returns |= {clip: sums[row] for clip, row in rows}
        rows = self.rows(
            "SELECT q.id, one.clip, two.clip FROM queries AS q"
            " JOIN query_clips AS one ON one.query = q.query AND one.place = 0"
            " JOIN query_clips AS two ON two.query = q.query AND two.place = 1"
        )
        gaps = {query_id: returns[first] - returns[second] for query_id, first, second in rows}
        return {query_id: gap for query_id, gap in gaps.items() if np.isfinite(gap)}
