"""JSON lines and Parquet: what goes out comes back equal, into an empty store or a used one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import ConfigError, DataError
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
from tests.feedback.store_example import example

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
