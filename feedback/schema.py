"""The SQLite side of a preference store: opening it safely, and its numbered migrations.

A store says what it is in two numbers of SQLite's own header: `application_id` (ours, or it is not
a store) and `user_version` (the schema). A newer schema is refused with not a byte changed; an
older one is migrated after a backup copy `preferences.db.vN.bak`.

Never open the database file with `open()`: closing any descriptor of a file drops all POSIX locks
that the process holds on it, those of another connection in the middle of a transaction included.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rlhf_gym.errors import CorruptDataError, DataError, RunLockedError, SchemaError
from rlhf_gym.feedback.integrity import find_fault
from rlhf_gym.feedback.shards import describe_shard
from rlhf_gym.files import sync
from rlhf_gym.links import refuse_links

__all__ = [
    "ANSWERS_OF_Q",
    "APPEND_ONLY",
    "APPLICATION_ID",
    "CURRENT_ANSWERS",
    "MIGRATIONS",
    "SCHEMA_VERSION",
    "open_database",
    "storage_errors",
    "transaction",
]

APPLICATION_ID = int.from_bytes(b"rlhf", "big")
"""What marks a SQLite file as a preference store."""

_BUSY_SECONDS = 30.0
_LONGEST_VALUE = 256 << 20  # bytes; SQLite itself would build one of a billion from nine letters

_V1 = (
    "CREATE TABLE shards (shard INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " layout TEXT NOT NULL)",
    "CREATE TABLE clips (clip INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
    " context TEXT NOT NULL, shard INTEGER NOT NULL REFERENCES shards,"
    " row INTEGER NOT NULL, length INTEGER NOT NULL, has_states INTEGER NOT NULL)",
    # `seed` is text: a SeedSequence's entropy may have 128 bits, SQLite's integers have 64.
    "CREATE TABLE queries (query INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
    " seed TEXT NOT NULL, round INTEGER NOT NULL, position INTEGER NOT NULL,"
    " n_clips INTEGER NOT NULL)",
    "CREATE INDEX queries_in_order ON queries (round, position)",
    "CREATE TABLE query_clips (query INTEGER NOT NULL REFERENCES queries,"
    " place INTEGER NOT NULL, clip INTEGER NOT NULL REFERENCES clips,"
    " PRIMARY KEY (query, place)) WITHOUT ROWID",
    "CREATE TABLE answers (sequence INTEGER PRIMARY KEY AUTOINCREMENT,"
    " uuid TEXT NOT NULL UNIQUE, query INTEGER NOT NULL REFERENCES queries,"
    " kind TEXT NOT NULL, payload TEXT NOT NULL, teacher TEXT NOT NULL,"
    " shown_at REAL NOT NULL, answered_at REAL NOT NULL,"
    " supersedes INTEGER REFERENCES answers)",
    "CREATE INDEX answers_superseded ON answers (supersedes) WHERE supersedes IS NOT NULL",
)

APPEND_ONLY = tuple(
    (
        name,
        f"CREATE TRIGGER {name} BEFORE {event} ON answers"
        " BEGIN SELECT RAISE(ABORT, 'answers are append-only'); END",
    )
    for name, event in (("answers_are_kept", "DELETE"), ("answers_stand", "UPDATE"))
)
"""Name and statement of the triggers that keep answers from being deleted or changed."""

_V2 = (
    "ALTER TABLE answers ADD COLUMN labeller TEXT NOT NULL DEFAULT ''",
    "CREATE INDEX answers_by_labeller ON answers (query, labeller)",
    "CREATE TABLE shard_files (shard INTEGER NOT NULL REFERENCES shards, name TEXT NOT NULL,"
    " n_bytes INTEGER NOT NULL, crc32 INTEGER NOT NULL, PRIMARY KEY (shard, name)) WITHOUT ROWID",
    *(statement for _, statement in APPEND_ONLY),
)

_V3 = (
    "ALTER TABLE queries ADD COLUMN n_wanted INTEGER NOT NULL DEFAULT 1",
    # Who is looking at what until when (seconds since the epoch), so that nobody else gets it.
    "CREATE TABLE leases (query INTEGER NOT NULL REFERENCES queries, labeller TEXT NOT NULL,"
    " sitting TEXT NOT NULL, expires_at REAL NOT NULL, PRIMARY KEY (query, labeller))"
    " WITHOUT ROWID",
    "CREATE TABLE gold (query INTEGER PRIMARY KEY REFERENCES queries, choice TEXT NOT NULL,"
    " source TEXT NOT NULL)",
)


CURRENT_ANSWERS = """
    SELECT q.id, q.seed, q.round, q.position, a.payload, a.teacher, a.labeller, a.shown_at,
           a.answered_at, one.clip, two.clip
    FROM answers AS a JOIN queries AS q USING (query)
    JOIN query_clips AS one ON one.query = a.query AND one.place = 0
    JOIN query_clips AS two ON two.query = a.query AND two.place = 1
    WHERE a.kind = 'pairwise' AND a.sequence <= :last AND q.round < :rounds
      AND NOT EXISTS (SELECT 1 FROM answers AS b
                      WHERE b.supersedes = a.sequence AND b.sequence <= :last)
    ORDER BY q.round, q.position, a.sequence
"""
"""The pairwise answers that stood after answer number :last, of rounds before :rounds: the columns
that `AnswerTable.from_rows` takes, then the row numbers of the two clips."""


ANSWERS_OF_Q = (
    "(SELECT count(*) FROM answers AS a WHERE a.query = q.query AND a.kind = 'pairwise'"
    " AND NOT EXISTS (SELECT 1 FROM answers AS b WHERE b.supersedes = a.sequence))"
)
"""How many answers of a query `q` stand, as part of a statement."""


def _create(connection: sqlite3.Connection, folder: Path) -> None:
    """Version 0 to 1: the tables."""
    for statement in _V1:
        connection.execute(statement)


def _add_labellers_and_checksums(connection: sqlite3.Connection, folder: Path) -> None:
    """Version 1 to 2: who answered, a checksum for every shard file, and append-only answers."""
    for statement in _V2:
        connection.execute(statement)
    for shard, name in connection.execute("SELECT shard, name FROM shards").fetchall():
        for file in describe_shard(folder / "clips" / name):
            connection.execute(
                "INSERT INTO shard_files VALUES (?, ?, ?, ?)",
                (shard, file.name, file.n_bytes, file.crc32),
            )


def _add_leases_and_gold(connection: sqlite3.Connection, folder: Path) -> None:
    """Version 2 to 3: several labellers on one store, and pairs whose answer is known."""
    for statement in _V3:
        connection.execute(statement)


MIGRATIONS: tuple[Callable[[sqlite3.Connection, Path], None], ...] = (
    _create,
    _add_labellers_and_checksums,
    _add_leases_and_gold,
)
"""`MIGRATIONS[v]` takes a store in a given folder from version v to v + 1."""

SCHEMA_VERSION = len(MIGRATIONS)
"""The schema that this code reads and writes."""


def _explain(error: sqlite3.Error, path: Path) -> Exception:
    """The error to raise in place of SQLite's: it names the file and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _corrupt(path, str(error))
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return OSError(
            errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO,
            f"the preference store could not be written ({error}); what it held before is "
            "intact: free disk space and try again",
            str(path),
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return RunLockedError(
            f"another process has been writing to `{path}` for more than {_BUSY_SECONDS:.0f} "
            "seconds; nothing was changed: wait for it, or stop it, and try again."
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return PermissionError(
            errno.EACCES,
            f"the preference store cannot be opened for writing ({error}); check the rights of "
            "the file and its folder",
            str(path),
        )
    return error


def _corrupt(path: Path, what: str) -> CorruptDataError:
    return CorruptDataError(
        f"`{path}` is damaged or not a preference store ({what}); nothing was changed: restore "
        "it from a backup, or move it away together with its clips/ folder to start a new store."
    )


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ones that name the file and say what to do.

    Raises:
        CorruptDataError: the file is damaged or no database.
        OSError: the disk is full or failing, or the file may not be written.
        RunLockedError: another process held the write lock for 30 seconds.
    """
    try:
        yield
    except sqlite3.Error as error:
        explained = _explain(error, path)
        if explained is error:
            raise
        raise explained from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One write transaction: the lock is taken at once, and everything or nothing is kept."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have made SQLite roll back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _refuse_foreign(version: int, application_id: int, path: Path) -> None:
    if application_id != APPLICATION_ID:
        raise _corrupt(path, f"its application id is {application_id}, not {APPLICATION_ID}")
    if version > SCHEMA_VERSION:
        raise SchemaError(
            f"`{path}` has schema version {version}; this rlhf_gym reads up to {SCHEMA_VERSION}. "
            "Nothing was changed: upgrade rlhf_gym to open it."
        )


def _look(path: Path) -> None:
    """Refuse a foreign or newer file before anything could change a byte of it."""
    # `immutable` takes no lock, and neither rolls back a journal nor creates one.
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            numbers = _number(connection, "user_version"), _number(connection, "application_id")
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
            # It may only look so: another process is committing, or was killed while it did.
            # The real opening recovers that, and checks the whole file.
            return
        raise
    _refuse_foreign(*numbers, path)


def _statements(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """Type and name -> SQL of all tables, indices, triggers and views but SQLite's own."""
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {
        (kind, name): "".join(sql.replace('"', "").split())
        for kind, name, sql in rows
        if not name.startswith("sqlite_")
    }


def _refuse_other_statements(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a database that holds SQL which no store has: it would run when we read or write.

    A view in the place of a table may never end, and a trigger may undo what was answered.
    """
    version = _number(connection, "user_version")
    if version == 0:
        return
    with closing(sqlite3.connect(":memory:")) as reference:
        for migration in MIGRATIONS[:version]:
            migration(reference, path.parent)  # of an empty store they touch no file
        expected = _statements(reference)
    # Another program may add an index; ours that keep answers may be gone for a moment.
    for (kind, name), sql in _statements(connection).items():
        if kind != "index" and expected.get((kind, name)) != sql:
            raise _corrupt(path, f"it holds the {kind} {name!r}, which no store of ours has")
    missing = [
        name for kind, name in expected.keys() - _statements(connection).keys() if kind == "table"
    ]
    if missing:
        raise _corrupt(path, f"its table {min(missing)!r} is missing")


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _corrupt(path, str(verdict).replace("\n", " "))


def _back_up(path: Path, version: int) -> None:
    backup = path.with_name(f"{path.name}.v{version}.bak")
    unfinished = backup.with_name(backup.name + ".tmp")
    unfinished.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(unfinished)) as target:
        source.backup(target)
    # SQLite has synced the copy; the rename must last too.
    os.replace(unfinished, backup)
    sync(path.parent)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Take the store to the current schema in one transaction; a new one starts at version 0."""
    if _number(connection, "user_version") == SCHEMA_VERSION:
        return
    with transaction(connection):
        # Only under the lock is the version certain: another process may have migrated just now.
        version = _number(connection, "user_version")
        if version > 0:
            _refuse_foreign(version, _number(connection, "application_id"), path)
        elif connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            raise _corrupt(path, "a database of another program")
        if 0 < version < SCHEMA_VERSION:
            _back_up(path, version)
        for migration in MIGRATIONS[version:]:
            migration(connection, path.parent)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def open_database(path: Path, *, create: bool) -> sqlite3.Connection:
    """Open, check and if need be migrate the database of a store.

    Args:
        path: `preferences.db`; its folder exists and holds clips/.
        create: Whether a missing file is made anew.

    Returns:
        A connection in autocommit mode: wrap writes in `transaction`. Not to be shared between
        threads.

    Raises:
        DataError: there is no store, and `create` is False.
        CorruptDataError: the file is damaged, no store, or lost while its clips are still there; or
            it, a file beside it, or something in clips/ is a link.
        SchemaError: a newer rlhf_gym wrote it.
        OSError: the file cannot be written, or the disk is full.
    """
    refuse_links(path.parent, ["preferences.db*", "clips"])
    exists = path.exists() and path.stat().st_size > 0
    if not exists and any((path.parent / "clips").glob("round-*/")):
        raise _corrupt(path, "it is missing or empty, though clips/ holds the clips of a store")
    if not exists and not create:
        raise DataError(
            f"there is no preference store at `{path}`; name the folder of a run or of a store."
        )
    with storage_errors(path):
        if exists:
            _look(path)
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
            connection.execute("PRAGMA trusted_schema = OFF")
            _refuse_other_statements(connection, path)
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")  # what is forgotten leaves no trace
            connection.execute("PRAGMA cache_size = -32768")  # 32 MiB: a round fits
            if exists:
                _check_pages(connection, path)
            _migrate(connection, path)
            fault = find_fault(connection) if exists else None
            if fault is not None:
                raise _corrupt(path, fault)
        except BaseException:
            connection.close()
            raise
    return connection
