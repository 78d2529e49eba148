"""JSON lines and Parquet: what goes out comes back equal, and damage never gets in."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError
from rlhf_gym.feedback import posting
from rlhf_gym.feedback.answers import add_answer
from rlhf_gym.feedback.formats.jsonl import read_jsonl, write_jsonl
from rlhf_gym.feedback.formats.parquet import read_parquet, write_parquet
from rlhf_gym.feedback.formats.snapshot import (
    Snapshot,
    StoredQuery,
    add_to_store,
    read_snapshot,
)
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.text_clips import text_clip

FORMATS: dict[str, tuple[Callable[[Snapshot, Path], None], Callable[[Path], Snapshot]]] = {
    "export.jsonl": (write_jsonl, read_jsonl),
    "export.jsonl.gz": (write_jsonl, read_jsonl),
    "export": (write_parquet, read_parquet),
}
SPECIAL = np.array([-0.0, 1e-45, 3.4e38, 0.1], np.float32)


# --- random stores --------------------------------------------------------------------------


def draw_clip(rng: np.random.Generator, layout: str) -> Clip:
    n = int(rng.integers(1, 4))
    if layout == "text":
        return text_clip("préface", "".join(rng.choice(list("aé🙂\n"), 5)))
    shapes = {
        "control": ((2,), (1,)),
        "image": ((2, 2, 1), ()),
        "ids": ((), ()),
        "bits": ((3,), ()),
    }
    kinds = {"control": "<f4", "image": "|u1", "ids": ">i4", "bits": "|b1"}
    obs_shape, action_shape = shapes[layout]
    obs = (9 * rng.standard_normal((n + 1, *obs_shape))).astype(kinds[layout])
    actions = (9 * rng.standard_normal((n, *action_shape))).astype(
        "<f4" if layout == "control" else "<i8"
    )
    if layout == "control":
        obs[0] = rng.choice(SPECIAL, 2)
    states = rng.standard_normal((n + 1, 4)).astype(np.float32)
    states[0, 0] = np.nan  # nothing forbids it, so it must come back
    return Clip(
        obs,
        actions,
        "Env-v0",
        true_rewards=rng.choice(SPECIAL[[0, 1, 3]], n) if rng.random() < 0.7 else None,
        sim_states=states if rng.random() < 0.5 else None,
    )


def fill(store: PreferenceStore, seed: int, layout: str, n_rounds: int, n_answers: int) -> None:
    """Queries of two clips and some of three, answers of every kind, undone ones, and gold."""
    rng = np.random.default_rng(seed)
    pool = list({clip.id: clip for clip in (draw_clip(rng, layout) for _ in range(8))}.values())
    if len(pool) < 3:
        return
    pairs = []
    for round_ in range(n_rounds):
        for n_wanted in (1, 3):
            queries = []
            for index in range(2):
                n_clips = 3 if rng.random() < 0.2 else 2
                places = rng.choice(len(pool), n_clips, replace=False)
                clips = tuple(pool[place] for place in places)
                queries.append(Query(clips, 1 << 100, round_, 2 * n_wanted + index))
            store.post(queries, n_wanted=n_wanted)
            pairs += [query for query in queries if len(query.clips) == 2]
    for i in range(n_answers if pairs else 0):
        preference = Preference(
            pairs[rng.integers(len(pairs))],
            rng.choice(list(Choice)),
            teacher="human",
            labeller=str(rng.choice(["", "ada", "Žofie 🙂"])),
            shown_at=1.7e9 + float(rng.random()),
            answered_at=1.7e9 + 2 + i / 3,
            details={"left": "first", "comment": "half \ud800", "watched_fraction": rng.random()},
        )
        if rng.random() < 0.3:
            with store.writing() as connection:
                add_answer(connection, preference, store.path, kind="repeat")
        else:
            store.answer([preference])
        if rng.random() < 0.3:
            records = store.answer_records()
            if records:
                store.retract(records[rng.integers(len(records))].uuid, 1.8e9)
    if pairs:
        store.mark_gold({pairs[0].id: Choice.SECOND}, "owner")


def assert_equal(found: Snapshot, expected: Snapshot) -> None:
    """Equal in everything, arrays bit for bit."""
    assert [q.query.id for q in found.queries] == [q.query.id for q in expected.queries]
    for one, two in zip(found.queries, expected.queries, strict=True):
        for name in ("n_wanted", "expected", "expected_source"):
            assert getattr(one, name) == getattr(two, name)
        for name in ("seed", "round", "index"):
            assert getattr(one.query, name) == getattr(two.query, name)
        for clip, other in zip(one.query.clips, two.query.clips, strict=True):
            assert (clip.id, clip.context_id) == (other.id, other.context_id)
            for name in ("obs", "actions", "true_rewards", "sim_states"):
                array, original = getattr(clip, name), getattr(other, name)
                assert (array is None) == (original is None)
                if array is not None:
                    assert (array.dtype, array.shape) == (original.dtype, original.shape)
                    assert array.tobytes() == original.tobytes()
    assert found.answers == expected.answers


# A random seed has no simpler form: to look for one would take minutes.
@settings(max_examples=6, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["control", "text", "image", "ids", "bits"]),
    st.integers(0, 3),
    st.integers(0, 8),
)
def test_export_then_import_gives_an_equal_store(
    tmp_path_factory: pytest.TempPathFactory, seed: int, layout: str, n_rounds: int, n_answers: int
) -> None:
    folder = tmp_path_factory.mktemp("stores")
    with PreferenceStore(folder / "original") as store:
        fill(store, seed, layout, n_rounds, n_answers)
        original, counts, preferences = read_snapshot(store), store.counts(), store.preferences()
    for name in ("export.jsonl", "export"):
        write, read = FORMATS[name]
        write(original, folder / name)
        with PreferenceStore(folder / f"from {name}") as copy:
            added = add_to_store(copy, read(folder / name))
            assert added.n_queries == len(original.queries)
            assert added.n_answers == len(original.answers)
            assert_equal(read_snapshot(copy), original)
            assert copy.counts() == counts
            again = copy.preferences()
            np.testing.assert_array_equal(again.probs, preferences.probs)
            assert again.query_ids == preferences.query_ids
            assert add_to_store(copy, original) == type(added)(0, 0)
            assert_equal(read_snapshot(copy), original)
    shutil.rmtree(folder)


def example(folder: Path) -> Snapshot:
    """Two queries on three clips; the answer to one was changed and then taken back."""
    clips = [
        Clip(
            np.full((3, 2), i, np.float32),
            np.full((2, 1), i, np.float32),
            "Env-v0",
            np.full(2, i, np.float32),
        )
        for i in range(3)
    ]
    pairs = [Query((clips[0], clips[i]), seed=7, round=0, index=i) for i in (1, 2)]
    with PreferenceStore(folder / "example") as store:
        store.post(pairs)
        store.answer([Preference(pairs[0], Choice.FIRST, "human", labeller="ada")])
        store.answer([Preference(pairs[0], Choice.TIE, "human", labeller="ada")])
        store.answer([Preference(pairs[1], Choice.SECOND, "human", labeller="ada")])
        store.retract(store.answer_records()[1].uuid)
        return read_snapshot(store)


# --- what a stranger sees -------------------------------------------------------------------


def test_json_base64_and_numpy_read_the_lines(tmp_path: Path) -> None:
    snapshot = example(tmp_path)
    write_jsonl(snapshot, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["type"] for line in lines] == [
        "header",
        *["clip"] * 3,
        *["query"] * 2,
        *["answer"] * 4,
    ]
    assert lines[0] == {
        "type": "header",
        "format": "rlhf_gym.preferences",
        "version": 1,
        "n_clips": 3,
        "n_queries": 2,
        "n_answers": 4,
    }
    packed = lines[2]["obs"]
    obs = np.frombuffer(base64.b64decode(packed["base64"]), packed["dtype"])
    np.testing.assert_array_equal(obs.reshape(packed["shape"]), np.full((3, 2), 1, np.float32))
    answers = lines[-4:]
    assert [a["choice"] for a in answers] == ["first", "tie", "second", "second"]
    assert [a["stands"] for a in answers] == [False, True, False, False]
    assert [a["kind"] for a in answers] == ["pairwise"] * 3 + ["retraction"]
    assert [a["supersedes"] for a in answers] == [
        None,
        answers[0]["uuid"],
        None,
        answers[2]["uuid"],
    ]


def test_pyarrow_reads_the_tables_with_exact_types(tmp_path: Path) -> None:
    snapshot = example(tmp_path)
    write_parquet(snapshot, tmp_path / "out")
    clips = pq.read_table(tmp_path / "out" / "clips.parquet")
    types = {name: str(clips.schema.field(name).type) for name in clips.schema.names}
    assert types["obs"] == "list<element: float>"
    assert types["obs_shape"] == "list<element: int64>"
    row = clips.to_pylist()[2]
    np.testing.assert_array_equal(
        np.array(row["obs"], np.float32).reshape(row["obs_shape"]), np.full((3, 2), 2, np.float32)
    )
    assert row["sim_states"] is None
    answers = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()
    assert [a["choice"] for a in answers if a["stands"]] == ["tie"]
    queries = pq.read_table(tmp_path / "out" / "queries.parquet").to_pylist()
    assert queries[1]["clip_ids"] == [clip.id for clip in snapshot.queries[1].query.clips]
    assert queries[1]["seed"] == "7"


def test_the_same_store_makes_the_same_file(tmp_path: Path) -> None:
    snapshot = example(tmp_path)
    for name in ("a", "b"):
        write_jsonl(snapshot, tmp_path / f"{name}.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


# --- targets --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_overwrites_nothing_and_leaves_nothing_half_written(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, (write, read) = example(tmp_path), FORMATS[name]
    target = tmp_path / "out" / name
    broken = Snapshot(snapshot.queries, (*snapshot.answers, None))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        write(broken, target)
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write(snapshot, target)
    monkeypatch.undo()
    assert not target.parent.exists() or list(target.parent.iterdir()) == []
    write(snapshot, target)
    with pytest.raises(ConfigError, match="overwrites nothing"):
        write(snapshot, target)
    assert_equal(read(target), snapshot_without_gaps(snapshot))


def snapshot_without_gaps(snapshot: Snapshot) -> Snapshot:
    """A file says nothing of return gaps: the store computes them from the clips."""
    answers = [
        answer.__class__(**{**answer.__dict__, "return_gap": None}) for answer in snapshot.answers
    ]
    return Snapshot(snapshot.queries, tuple(answers))


# --- damage ---------------------------------------------------------------------------------


def change_line(path: Path, number: int, change: Callable[[dict[str, Any]], None]) -> None:
    lines = path.read_text().splitlines()
    row = json.loads(lines[number])
    change(row)
    lines[number] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


# Line 0 is the header, 1 to 3 are clips, 4 and 5 queries, 6 to 9 answers.
@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, {"format": "other"}, "its format is 'other'"),
        (0, {"version": 2}, "reads 1"),
        (0, {"n_answers": 5}, r"n_answers = 5 .* holds 4"),
        (1, {"type": "clipp"}, "line 2: `type` is 'clipp'"),
        (1, {"obs": None}, "no observations"),
        (1, {"obs": {"dtype": "|O", "shape": [1], "base64": "AAAAAAAAAAA="}}, "neither float"),
        (1, {"obs": {"dtype": "<f4", "shape": [9, 9], "base64": "AAAA"}}, "line 2: `obs`"),
        (1, {"obs": {"dtype": "<f4", "shape": [1], "base64": "***"}}, "line 2: `obs`"),
        (1, {"obs": [1, 2]}, "line 2: `obs`"),
        (1, {"true_rewards": {"dtype": "<f4", "shape": [1], "base64": "AAAAAA=="}}, "one per act"),
        (1, {"context_id": "Other-v0"}, "line 2: the clip's id is .* changed or damaged"),
        (1, {"context_id": 3}, "`context_id` is 3, str is expected"),
        (4, {"clip_ids": ["x", "y"]}, "line 5: clip 'x' of the query is not in the file"),
        (4, {"clip_ids": []}, "at least 2 are needed"),
        (4, {"index": 9}, "line 5: the query's id"),
        (4, {"round": True}, "`round` is True"),
        (4, {"round": 1 << 70}, "64 bits"),
        (4, {"seed": "-1"}, "`seed` is '-1'"),
        (4, {"n_wanted": 0}, "`n_wanted` is 0"),
        (4, {"expected": "left"}, "a choice is 'left'"),
        (6, {"choice": "third"}, "a choice is 'third'; accepted are first, second, tie, skip"),
        (6, {"kind": "bronze"}, "`kind` is 'bronze'"),
        (6, {"query_id": "x"}, "query 'x' of the answer"),
        (6, {"supersedes": "x"}, "supersedes 'x', which is not before it"),
        (6, {"shown_at": None}, "`shown_at` is None, a finite number"),
        (6, {"labeller": "\ud800"}, "not Unicode"),
        (6, {"details": []}, r"`details` is \[\], dict is expected"),
    ],
)
def test_a_changed_line_is_refused_by_its_number(
    tmp_path: Path, number: int, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "out.jsonl"
    write_jsonl(example(tmp_path), path)
    change_line(path, number, lambda row: row.update(change))
    with pytest.raises(CorruptDataError, match=message):
        read_jsonl(path)


def test_lines_that_are_missing_or_doubled_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_jsonl(example(tmp_path), path)
    lines = path.read_text().splitlines(keepends=True)
    damaged = {
        "half-written": "".join(lines)[:-5],
        "n_answers": "".join(lines[:-1]),
        "was there before": "".join([*lines, lines[-1]]),
        "is empty": "",
        "is not JSON": lines[0] + "{\n",
    }
    for message, text in damaged.items():
        path.write_text(text)
        with pytest.raises(CorruptDataError, match=message):
            read_jsonl(path)
    path.write_bytes(gzip.compress("".join(lines).encode())[:-9])
    with pytest.raises(CorruptDataError, match="compressed data ends"):
        read_jsonl(path)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_single_damaged_byte_raises_anything_but_a_clear_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "whole.jsonl"
    if not path.exists():
        write_jsonl(example(tmp_path), path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(content)
    try:
        read_jsonl(damaged)
    except CorruptDataError as error:
        assert str(damaged) in str(error)


@pytest.mark.parametrize("name", ["answers", "queries", "clips"])
def test_a_damaged_or_missing_table_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    write_parquet(example(tmp_path), folder)
    path = folder / f"{name}.parquet"
    content = path.read_bytes()
    (folder / f"{name}.whole").write_bytes(content)
    path.write_bytes(content[:-20])
    with pytest.raises(CorruptDataError, match=f"{name}.parquet` is damaged"):
        read_parquet(folder)
    column = pq.ParquetFile(folder / f"{name}.whole").metadata.row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    flipped = bytearray(content)
    flipped[start + column.total_compressed_size - 1] ^= 0x10  # the last byte of a page
    path.write_bytes(flipped)
    with pytest.raises(CorruptDataError, match=f"{name}.parquet` is damaged"):
        read_parquet(folder)
    path.unlink()
    with pytest.raises(CorruptDataError, match=f"{name}.parquet` is missing"):
        read_parquet(folder)


def test_tables_of_two_exports_or_of_others_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_parquet(example(tmp_path), folder)
    answers = pq.read_table(folder / "answers.parquet")
    pq.write_table(answers.slice(0, 2), folder / "answers.parquet")
    with pytest.raises(CorruptDataError, match="not of one export"):
        read_parquet(folder)
    pq.write_table(answers.replace_schema_metadata(None), folder / "answers.parquet")
    with pytest.raises(CorruptDataError, match="its format is None"):
        read_parquet(folder)
    pq.write_table(answers.drop_columns(["details"]), folder / "answers.parquet")
    with pytest.raises(CorruptDataError, match=r"answers.parquet, row 1: `details`"):
        read_parquet(folder)


# --- adding to a store ----------------------------------------------------------------------


def test_what_fails_half_way_adds_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = example(tmp_path)
    later = Query(
        (
            snapshot.clips()[1],
            Clip(np.ones((2, 2), np.float32), np.ones((1, 1), np.float32), "Env-v0"),
        ),
        seed=7,
        round=1,
        index=0,
    )
    two_rounds = Snapshot((*snapshot.queries, StoredQuery(later)), snapshot.answers)
    write_shard, n_calls = posting.write_shard, []

    def full_at_the_second(folder: Path, clips: Any) -> Any:
        n_calls.append(1)
        if len(n_calls) == 2:
            raise OSError(28, "the disk is full")
        return write_shard(folder, clips)

    with PreferenceStore(tmp_path / "copy") as copy:
        monkeypatch.setattr(posting, "write_shard", full_at_the_second)
        with pytest.raises(OSError, match="full"):
            add_to_store(copy, two_rounds)
        assert read_snapshot(copy) == Snapshot((), ())
        assert list((tmp_path / "copy" / "clips").iterdir()) == []
        assert add_to_store(copy, two_rounds).n_queries == 3
        assert_equal(read_snapshot(copy), two_rounds)


def test_a_second_answer_of_a_labeller_who_has_one_here_is_refused(tmp_path: Path) -> None:
    snapshot = example(tmp_path)
    query = snapshot.queries[0].query
    with PreferenceStore(tmp_path / "copy") as copy:
        copy.post([query])
        copy.answer([Preference(query, Choice.SECOND, "human", labeller="ada")])
        before = read_snapshot(copy)
        with pytest.raises(DataError, match=r"labeller 'ada' .* another one"):
            add_to_store(copy, snapshot)
        assert_equal(read_snapshot(copy), before)


def test_stores_labelled_apart_by_two_people_are_merged(tmp_path: Path) -> None:
    snapshot = example(tmp_path)
    query = snapshot.queries[0].query
    with PreferenceStore(tmp_path / "copy") as copy:
        copy.post([query])
        copy.answer([Preference(query, Choice.SECOND, "human", labeller="bob")])
        added = add_to_store(copy, snapshot)
        assert (added.n_queries, added.n_answers) == (1, 4)
        standing = {(r.labeller, r.choice) for r in copy.answer_records()}
    assert standing == {("bob", Choice.SECOND), ("ada", Choice.TIE)}


def test_a_mark_of_gold_that_is_here_is_left_as_it_is(tmp_path: Path) -> None:
    query = example(tmp_path).queries[0].query
    with PreferenceStore(tmp_path / "copy") as copy:
        copy.post([query])
        copy.mark_gold({query.id: Choice.SECOND}, "owner")
        add_to_store(copy, Snapshot((StoredQuery(query, 1, Choice.FIRST, "true return"),), ()))
        assert copy.gold() == {query.id: Choice.SECOND}


def test_a_store_grown_since_its_export_is_brought_up_to_date(tmp_path: Path) -> None:
    snapshot = example(tmp_path)
    with PreferenceStore(tmp_path / "copy") as copy:
        add_to_store(copy, snapshot)
        with PreferenceStore(tmp_path / "example") as store:
            query = snapshot.queries[0].query
            store.answer([Preference(query, Choice.SECOND, "human", labeller="ada")])
            grown = read_snapshot(store)
        assert add_to_store(copy, grown).n_answers == 1
        assert_equal(read_snapshot(copy), grown)
