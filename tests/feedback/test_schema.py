from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Query
from rlhf_gym.errors import CorruptDataError, DataError, RunLockedError, SchemaError
from rlhf_gym.feedback import schema
from rlhf_gym.feedback.schema import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    open_database,
    storage_errors,
    transaction,
)
from rlhf_gym.feedback.store import PreferenceStore

V1 = Path(__file__).parent.parent / "data" / "store-v1"


def v1_clip(i: int) -> Clip:
    """The clips of the stored version 1 fixture, which were made by the same formula."""
    n = 2 + i % 2
    obs = np.arange(2 * (n + 1), dtype=np.float32).reshape(n + 1, 2) + i
    rewards = np.full(n, i, np.float32) if i != 3 else None
    return Clip(obs, obs[:n, :1] * np.float32(0.5), "Old-v0", rewards)


def small_database(folder: Path, n_rows: int = 400) -> Path:
    """A store of a few dozen pages: enough to have something to damage."""
    path = folder / "preferences.db"
    with closing(open_database(path, create=True)) as connection, transaction(connection):
        for i in range(n_rows):
            connection.execute(
                "INSERT INTO queries VALUES (?, ?, '0', 0, ?, 2, 1)", (i + 1, f"{i:064x}", i)
            )
    return path


def test_a_new_store_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "preferences.db"
    open_database(path, create=True).close()
    header = path.read_bytes()[:100]  # SQLite's file format: offsets 60 and 68, big-endian.
    assert int.from_bytes(header[60:64], "big") == SCHEMA_VERSION >= 2
    assert int.from_bytes(header[68:72], "big") == APPLICATION_ID
    assert list(tmp_path.iterdir()) == [path]


def test_connections_are_durable_and_never_use_a_write_ahead_log(tmp_path: Path) -> None:
    with closing(open_database(tmp_path / "preferences.db", create=True)) as connection:
        pragmas = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "mmap_size")
        }
    extra = 3
    assert pragmas == {
        "journal_mode": "delete",
        "synchronous": extra,
        "foreign_keys": 1,
        "busy_timeout": 30_000,
        "mmap_size": 0,
    }


def test_a_version_1_store_is_migrated_with_everything_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(V1, folder)
    with PreferenceStore(folder) as store:
        assert store.counts() == {
            "n_queries": 3,
            "n_open": 1,
            "n_answers": 2,
            "n_clips": 4,
            "n_superseded": 1,
        }
        standing = store.preferences()
        assert [(p.query.round, p.choice, p.teacher, p.labeller) for p in standing] == [
            (0, Choice.SECOND, "human", ""),
            (1, Choice.TIE, "human", ""),
        ]
        assert [p.choice for p in store.preferences(up_to=2)] == [Choice.FIRST, Choice.TIE]
        assert [(p.shown_at, p.answered_at) for p in standing] == [(20.0, 25.0), (10.0, 15.0)]
        (open_query,) = store.open_queries()
        assert open_query.id == Query((v1_clip(3), v1_clip(0)), 11, 1, 1).id
        assert open_query.first.true_rewards is None
        assert open_query.second.true_return == 0.0
        for i in range(4):
            np.testing.assert_array_equal(store.clip(v1_clip(i).id).obs, v1_clip(i).obs)


def test_a_backup_of_the_old_store_is_kept(tmp_path: Path) -> None:
    shutil.copytree(V1, tmp_path / "store")
    PreferenceStore(tmp_path / "store").close()
    backup = tmp_path / "store" / "preferences.db.v1.bak"
    with (
        closing(sqlite3.connect(backup)) as old,
        closing(sqlite3.connect(V1 / "preferences.db")) as v1,
    ):
        assert old.execute("PRAGMA user_version").fetchone() == (1,)
        assert list(old.iterdump()) == list(v1.iterdump())
    assert not list((tmp_path / "store").glob("*.tmp"))


def test_a_migrated_store_notices_a_damaged_shard(tmp_path: Path) -> None:
    shutil.copytree(V1, tmp_path / "store")
    PreferenceStore(tmp_path / "store").close()
    obs = tmp_path / "store" / "clips" / "round-0001" / "obs.npy"
    content = bytearray(obs.read_bytes())
    content[-1] ^= 1
    obs.write_bytes(content)
    with PreferenceStore(tmp_path / "store") as store, pytest.raises(CorruptDataError) as raised:
        store.preferences()
    assert str(obs) in str(raised.value)


def test_a_migration_that_fails_leaves_the_old_store(tmp_path: Path) -> None:
    shutil.copytree(V1, tmp_path / "store")
    (tmp_path / "store" / "clips" / "round-0001" / "actions.npy").unlink()
    path = tmp_path / "store" / "preferences.db"
    before = path.read_bytes()
    with pytest.raises(CorruptDataError, match=r"round-0001/actions.npy` is missing"):
        PreferenceStore(tmp_path / "store")
    assert path.read_bytes() == before


def test_a_newer_store_is_refused_with_its_bytes_unchanged(tmp_path: Path) -> None:
    path = small_database(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before, stat = path.read_bytes(), path.stat()
    with pytest.raises(SchemaError, match=f"version {SCHEMA_VERSION + 1}.*upgrade rlhf_gym"):
        open_database(path, create=True)
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert list(tmp_path.iterdir()) == [path]


def test_the_database_of_another_program_is_refused_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "preferences.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(CorruptDataError, match="application id is 0"):
        open_database(path, create=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0", b"\0"])
def test_a_file_that_is_no_database_is_refused_unchanged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "preferences.db"
    path.write_bytes(content)
    with pytest.raises(CorruptDataError, match=rf"{path}.*restore it from a backup"):
        open_database(path, create=True)
    assert path.read_bytes() == content


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_store_is_noticed_when_it_is_opened(tmp_path: Path, part: float) -> None:
    path = small_database(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(CorruptDataError, match=str(path)):
        open_database(path, create=False)


def test_a_flipped_bit_in_any_page_header_is_noticed_when_it_is_opened(tmp_path: Path) -> None:
    path = small_database(tmp_path)
    content = path.read_bytes()
    n_pages = len(content) // 4096
    assert n_pages > 20
    for page in range(1, n_pages):
        damaged = bytearray(content)
        damaged[4096 * page + 4] ^= 0x40  # The number of cells, in a b-tree page's header.
        path.write_bytes(damaged)
        with pytest.raises(CorruptDataError, match=str(path)):
            open_database(path, create=False)


def test_a_store_that_was_lost_beside_its_clips_is_not_silently_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "clips" / "round-0000").mkdir(parents=True)
    path = tmp_path / "preferences.db"
    with pytest.raises(CorruptDataError, match="missing or empty"):
        open_database(path, create=True)
    path.touch()  # Truncated to nothing.
    with pytest.raises(CorruptDataError, match="missing or empty"):
        open_database(path, create=True)


def test_a_missing_store_is_only_made_if_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no preference store at"):
        open_database(tmp_path / "preferences.db", create=False)
    assert not list(tmp_path.iterdir())


def test_opening_a_second_time_in_one_process_keeps_the_first_ones_lock(tmp_path: Path) -> None:
    # Were the file opened and closed outside of SQLite, the POSIX lock would be gone.
    path = tmp_path / "preferences.db"
    intruder = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None);"
        "c.execute('BEGIN IMMEDIATE')"
    )
    with closing(open_database(path, create=True)) as connection, transaction(connection):
        open_database(path, create=False).close()
        done = subprocess.run(
            [sys.executable, "-c", intruder, str(path)], capture_output=True, text=True
        )
    assert "database is locked" in done.stderr


def test_waiting_in_vain_for_another_writer_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "preferences.db"
    open_database(path, create=True).close()
    monkeypatch.setattr(schema, "_BUSY_SECONDS", 0.01)
    with (
        closing(open_database(path, create=False)) as one,
        closing(open_database(path, create=False)) as two,
        transaction(one),
        pytest.raises(RunLockedError, match=f"another process has been writing to `{path}`"),
        storage_errors(path),
        transaction(two),
    ):
        pass


def test_answers_cannot_be_changed_or_deleted_even_by_hand(tmp_path: Path) -> None:
    shutil.copytree(V1, tmp_path / "store")
    PreferenceStore(tmp_path / "store").close()
    with closing(sqlite3.connect(tmp_path / "store" / "preferences.db")) as connection:
        for statement in ("DELETE FROM answers", "UPDATE answers SET payload = ''"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ("DROP TABLE leases; CREATE VIEW leases AS SELECT 1 AS query", "the view 'leases'"),
        ("CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM gold; END", "trigger 't'"),
        ("CREATE TABLE more (x DEFAULT (randomblob(1e9)))", "the table 'more'"),
        ("ALTER TABLE gold ADD COLUMN x GENERATED ALWAYS AS (zeroblob(9)) VIRTUAL", "table 'gold'"),
        ("DROP TABLE gold", "its table 'gold' is missing"),
    ],
)
def test_sql_that_no_store_has_is_refused_with_the_bytes_unchanged(
    tmp_path: Path, statements: str, message: str
) -> None:
    path = tmp_path / "preferences.db"
    open_database(path, create=True).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)
    before = path.read_bytes()
    with pytest.raises(CorruptDataError, match=message):
        open_database(path, create=False)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_index_of_another_program_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "preferences.db"
    open_database(path, create=True).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE INDEX mine ON answers (teacher)")
    open_database(path, create=False).close()


@pytest.mark.parametrize("name", ["preferences.db", "preferences.db-journal"])
def test_a_pipe_in_the_place_of_a_database_is_not_waited_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / "preferences.db"
    open_database(path, create=True).close()
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(CorruptDataError, match="is a named pipe"):
        open_database(path, create=False)
