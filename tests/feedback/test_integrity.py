"""Impossible rows and files are refused when a store is opened or read, each by what is wrong."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from rlhf_gym.data import Choice, Preference
from rlhf_gym.errors import CorruptDataError, DataError
from rlhf_gym.feedback.schema import APPEND_ONLY
from rlhf_gym.feedback.shards import describe_shard
from rlhf_gym.feedback.store import PreferenceStore
from tests.feedback.store_example import example


def change(folder: Path, statement: str) -> None:
    """Change a store as somebody with an editor of databases does."""
    with closing(sqlite3.connect(folder / "preferences.db")) as connection:
        for name, _ in APPEND_ONLY:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement)
        for _, trigger in APPEND_ONLY:
            connection.execute(trigger)
        connection.commit()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    example(tmp_path)
    return tmp_path / "example"


LONG = "x" * 300
IMPOSSIBLE = {
    "UPDATE answers SET shown_at = 9, answered_at = 5": "answered before it was shown",
    "UPDATE answers SET answered_at = 1e18": "`answered_at` is no time",
    "UPDATE answers SET shown_at = -1": "`shown_at` is no time",
    "UPDATE answers SET shown_at = 'noon'": "`shown_at` is no time",
    "UPDATE answers SET kind = 'bronze' WHERE sequence = 1": "`kind` is unknown",
    "UPDATE answers SET labeller = 'a' || char(27) || '[2J'": r"`labeller` is .*printable",
    f"UPDATE answers SET labeller = '{LONG}'": "`labeller` is .*text of 256",
    "UPDATE answers SET labeller = x'00'": "`labeller` is b.*printable",
    "UPDATE answers SET teacher = char(0)": "`teacher` is .*printable",
    "UPDATE answers SET uuid = '' WHERE sequence = 1": "`uuid` is no text of 1",
    "UPDATE answers SET supersedes = sequence WHERE sequence = 2": "no earlier answer",
    "UPDATE answers SET supersedes = 4 WHERE sequence = 1": "no earlier answer",
    "UPDATE answers SET supersedes = 99 WHERE sequence = 2": "row 2 of answers .* not there",
    "UPDATE answers SET supersedes = NULL WHERE kind = 'retraction'": "but names none",
    "UPDATE answers SET labeller = 'bob' WHERE sequence = 2": "no earlier answer",
    "UPDATE answers SET query = 99 WHERE sequence = 3": "row 3 of answers .* not there",
    "UPDATE queries SET round = -1": "`round` is no whole number",
    "UPDATE queries SET round = 'one'": "`round` is no whole number",
    "UPDATE queries SET position = 1.5": "`position` is no whole number",
    "UPDATE queries SET seed = '-7'": "`seed` is no text of digits",
    "UPDATE queries SET n_wanted = 0": "`n_wanted` is no whole number",
    "UPDATE queries SET id = 'short' WHERE query = 1": "`id` is no sha256",
    "UPDATE queries SET n_clips = 3 WHERE query = 1": "no query of two clips",
    "DELETE FROM query_clips WHERE query = 2 AND place = 1": "number 2 of its queries lacks a clip",
    "UPDATE query_clips SET place = 5 WHERE query = 2 AND place = 1": "2 of its queries lacks",
    "UPDATE query_clips SET clip = 1 WHERE query = 2": "2 of its queries lacks",
    "UPDATE query_clips SET clip = 9 WHERE query = 2 AND place = 1": "of query_clips speaks of",
    "UPDATE clips SET row = -1 WHERE clip = 1": "`row` is no whole number",
    "UPDATE clips SET length = 0 WHERE clip = 1": "`length` is no whole number",
    "UPDATE clips SET has_states = 1 WHERE clip = 1": "round-0000 lacks files",
    "UPDATE clips SET shard = 9 WHERE clip = 1": "row 1 of clips speaks of a row of shards",
    "UPDATE shards SET name = '../../etc'": "a shard has the name",
    "UPDATE shards SET layout = '{}'": "has the layout",
    """UPDATE shards SET layout = '{"obs": ["|O8", []], "actions": ["<f4", []]}'""": "has the lay",
    "DELETE FROM shard_files WHERE name = 'obs.npy'": "round-0000 lacks files",
    "UPDATE shard_files SET crc32 = 'x'": "`crc32` is no whole number",
    "INSERT INTO gold VALUES (1, 'left', '')": "a row of gold is impossible: `choice`",
    "INSERT INTO leases VALUES (1, 'ada', 'me', 'soon')": "`expires_at` is no time",
}


@pytest.mark.parametrize("statement", IMPOSSIBLE)
def test_a_store_with_an_impossible_row_is_refused_when_it_is_opened(
    folder: Path, statement: str
) -> None:
    change(folder, statement)
    with pytest.raises(CorruptDataError, match=IMPOSSIBLE[statement]):
        PreferenceStore(folder)


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({"answered_monotonic": [1]}, r"`details.answered_monotonic` is \[1\], a clock's"),
        ({"shown_monotonic": 1e999}, "`details.shown_monotonic` is inf"),
        ({"watched_fraction": "all"}, "`details.watched_fraction` is 'all'"),
        ({"replays": True}, "`details.replays` is True"),
        ({"left": "up"}, "`details.left` is 'up', first or second"),
        ({"margin": -1}, "`details.margin` is -1"),
        ({"mine": [float("nan")]}, "`details.mine` is .*finite"),
    ],
)
def test_details_that_cannot_be_are_refused_at_both_doors(
    folder: Path, details: dict[str, object], message: str
) -> None:
    with PreferenceStore(folder) as store:
        (query,) = store.queries([store.answer_records()[0].query_id])
        answer = Preference(query, Choice.FIRST, "human", labeller="bob", details=details)
        with pytest.raises(DataError, match=message):
            store.answer([answer])
    payload = json.dumps({"choice": "first", "details": details})
    change(folder, f"UPDATE answers SET payload = '{payload}' WHERE sequence = 2")
    assert_unreadable(folder)


def assert_unreadable(folder: Path) -> None:
    with PreferenceStore(folder) as store:
        with pytest.raises(CorruptDataError, match="an answer that cannot be read"):
            store.answer_records()
        with pytest.raises(CorruptDataError, match="an answer that cannot be read"):
            store.preferences()


@pytest.mark.parametrize(
    "payload",
    ["{", "[]", '{"choice": "third", "details": {}}', '{"choice": "tie", "details": 3}'],
)
def test_a_payload_that_is_no_answer_is_refused_when_it_is_read(folder: Path, payload: str) -> None:
    change(folder, f"UPDATE answers SET payload = '{payload}' WHERE sequence = 2")
    assert_unreadable(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labeller": "a\nb"}, "`labeller` is 'a"),
        ({"labeller": "x" * 1_000_000}, "`labeller` is 'xxx.*printable text of 256"),
        ({"teacher": "\x1b[2J"}, "`teacher` is"),
        ({"answered_at": 1e18}, "`answered_at` is 1e"),
        ({"shown_at": -1.0}, "`shown_at` is -1"),
    ],
)
def test_what_a_store_would_refuse_later_is_refused_when_it_is_answered(
    folder: Path, changed: dict[str, object], message: str
) -> None:
    with PreferenceStore(folder) as store:
        (query,) = store.queries([store.answer_records()[0].query_id])
        fields = {"labeller": "bob", "teacher": "human", **changed}
        with pytest.raises(DataError, match=message):
            store.answer([Preference(query, Choice.FIRST, **fields)])  # type: ignore[arg-type]  # drawn
        with pytest.raises(DataError, match="`n_wanted` is 0"):
            store.post([query], n_wanted=0)
    PreferenceStore(folder).close()


def damage(folder: Path, name: str, array: np.ndarray) -> None:
    """Replace a shard's file, with the size and checksum that belong to it."""
    shard = folder / "clips" / "round-0000"
    np.save(shard / name, array)
    for file in describe_shard(shard):
        change(
            folder,
            f"UPDATE shard_files SET n_bytes = {file.n_bytes}, crc32 = {file.crc32}"
            f" WHERE name = '{file.name}'",
        )


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "message"),
    [
        ("obs.npy", (3, 3, 5), np.float32, "obs.npy` holds .* per step, not what"),
        ("obs.npy", (3, 3, 2), np.float64, "obs.npy` holds"),
        ("obs.npy", (3,), np.float32, "obs.npy` holds"),
        ("obs.npy", (3, 2, 2), np.float32, "obs.npy` has no place for clip"),
        ("obs.npy", (1, 3, 2), np.float32, "obs.npy` has no place for clip"),
        ("actions.npy", (3, 1, 1), np.float32, "actions.npy` has no place for clip"),
        ("obs.npy", (3, 3, 2), np.float32, "holds a clip that its id"),
    ],
)
def test_arrays_that_are_not_the_clips_are_refused_though_their_checksum_is_right(
    folder: Path, name: str, shape: tuple[int, ...], dtype: type, message: str
) -> None:
    damage(folder, name, np.full(shape, 7, dtype))
    with PreferenceStore(folder) as store:
        with pytest.raises(CorruptDataError, match=message):
            store.preferences()
        with pytest.raises(CorruptDataError):
            store.queries([record.query_id for record in store.answer_records()])


def test_true_rewards_of_another_length_are_refused_when_a_clip_is_read(folder: Path) -> None:
    damage(folder, "true_rewards.npy", np.zeros((3, 1), np.float32))
    with PreferenceStore(folder) as store, pytest.raises(CorruptDataError, match="no place"):
        store.open_queries()


def test_a_store_as_it_should_be_is_opened(folder: Path) -> None:
    with PreferenceStore(folder) as store:
        assert len(store.preferences()) == 1
