from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import CorruptDataError, DataError, UnknownNameError
from rlhf_gym.feedback import posting
from rlhf_gym.feedback.store import PreferenceStore


def make_clip(i: int, n_steps: int = 3, states: bool = False) -> Clip:
    return Clip(
        obs=np.full((n_steps + 1, 2), i, np.float32),
        actions=np.full((n_steps, 1), -i, np.float32),
        context_id="Env-v0",
        true_rewards=np.full(n_steps, i, np.float32),
        sim_states=np.full((n_steps + 1, 4), i, np.float64) if states else None,
    )


def make_query(round_: int, index: int, first: int, second: int, **options: bool) -> Query:
    clips = make_clip(first, **options), make_clip(second, **options)
    return Query(clips, seed=1 << 100, round=round_, index=index)


def make_round(round_: int, n: int = 3) -> list[Query]:
    """Queries on 2n clips that belong to this round alone."""
    start = 1000 * round_
    return [make_query(round_, i, start + 2 * i, start + 2 * i + 1) for i in range(n)]


def answer(query: Query, choice: Choice = Choice.FIRST, **fields: object) -> Preference:
    return Preference(query, choice, **{"teacher": "human", **fields})  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PreferenceStore]:
    with PreferenceStore(tmp_path / "run") as opened:
        yield opened


def shards(store: PreferenceStore) -> list[str]:
    return sorted(path.name for path in (store.path.parent / "clips").iterdir())


# --- posting --------------------------------------------------------------------------------


def test_posted_queries_come_back_complete_and_in_order(store: PreferenceStore) -> None:
    later, sooner = make_query(1, 0, 1, 2), make_query(0, 3, 3, 4, states=True)
    assert store.post([later]) == 1
    assert store.post([sooner]) == 1
    found = store.open_queries()
    assert [query.id for query in found] == [sooner.id, later.id]
    assert (found[0].seed, found[0].round, found[0].index) == (1 << 100, 0, 3)
    for clip, original in zip(found[0].clips, sooner.clips, strict=True):
        assert Clip(clip.obs, clip.actions, clip.context_id).id == original.id
        assert clip.true_return == original.true_return
        assert clip.sim_states is not None and clip.sim_states.dtype == np.float32
        np.testing.assert_array_equal(clip.sim_states, original.sim_states)
    assert found[1].first.sim_states is None
    assert [query.id for query in store.open_queries(limit=1)] == [sooner.id]
    assert store.open_queries(limit=0) == []


def test_a_replayed_round_posts_nothing_twice(store: PreferenceStore) -> None:
    queries = make_round(0)
    assert store.post(queries) == 3
    assert store.post(queries) == 0
    assert store.post([*queries, make_query(0, 9, 0, 5)]) == 1
    assert store.post([]) == 0
    assert store.counts()["n_queries"] == 4
    assert store.counts()["n_clips"] == 6
    assert shards(store) == ["round-0000"]


def test_new_clips_of_a_round_that_has_a_shard_get_another(store: PreferenceStore) -> None:
    store.post([make_query(7, 0, 0, 1)])
    store.post([make_query(7, 1, 1, 2)])
    store.post([make_query(7, 2, 3, 4)])
    assert shards(store) == ["round-0007", "round-0007-1", "round-0007-2"]
    assert [query.second.true_return for query in store.open_queries()] == [3.0, 6.0, 12.0]


def test_the_left_over_shard_of_a_crash_is_replaced(store: PreferenceStore) -> None:
    clips = store.path.parent / "clips"
    for name in ("round-0000", "unfinished"):
        (clips / name).mkdir()
        (clips / name / "obs.npy").write_bytes(b"half of it")
    store.post(make_round(0))
    assert shards(store) == ["round-0000"]
    assert len(store.open_queries()) == 3


def test_a_crash_before_the_rows_are_committed_stores_nothing(
    store: PreferenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = posting.publish_shard

    def publish_and_crash(temporary: Path, final: Path) -> None:
        publish(temporary, final)
        raise KeyboardInterrupt

    monkeypatch.setattr(posting, "publish_shard", publish_and_crash)
    with pytest.raises(KeyboardInterrupt):
        store.post(make_round(0))
    assert store.open_queries() == [] and shards(store) == ["round-0000"]
    monkeypatch.undo()
    store.post(make_round(0, n=2))
    assert [query.id for query in store.open_queries()] == [q.id for q in make_round(0, n=2)]


def test_a_clip_that_does_not_fit_is_refused_and_nothing_is_stored(store: PreferenceStore) -> None:
    store.post(make_round(0))
    wide = [Clip(np.full((2, 9), i, np.float32), np.zeros((1, 1), np.float32), "W") for i in (1, 2)]
    double = [Clip(np.full((2, 2), i, float), np.zeros((1, 1), np.float32), "D") for i in (1, 2)]
    for clips, message in ((wide, "other spaces in another store"), (double, "dtype float64")):
        with pytest.raises(DataError, match=message):
            store.post([make_query(1, 0, 90, 91), Query(tuple(clips), 0, 1, 1)])
    assert store.counts()["n_queries"] == 3
    assert shards(store) == ["round-0000"]


# --- answering ------------------------------------------------------------------------------


def test_an_answered_query_is_open_no_longer(store: PreferenceStore) -> None:
    queries = make_round(0)
    store.post(queries)
    given = answer(
        queries[1],
        Choice.TIE,
        labeller="ann",
        shown_at=5.0,
        answered_at=7.5,
        details={"side": "left"},
    )
    store.answer([given])
    assert [query.id for query in store.open_queries()] == [queries[0].id, queries[2].id]
    (found,) = store.preferences()
    assert found.query.id == queries[1].id and found.query.seed == 1 << 100
    assert (found.choice, found.teacher, found.labeller) == (Choice.TIE, "human", "ann")
    assert (found.shown_at, found.answered_at, found.details) == (5.0, 7.5, {"side": "left"})
    assert found.query.first.true_rewards is None and found.query.first.sim_states is None
    assert store.counts() == {
        "n_queries": 3,
        "n_open": 2,
        "n_answers": 1,
        "n_clips": 6,
        "n_superseded": 0,
    }


def test_the_same_answer_again_is_ignored_and_another_supersedes_it(store: PreferenceStore) -> None:
    (query,) = make_round(0, n=1)
    store.post([query])
    store.answer([answer(query, Choice.FIRST)] * 2)
    store.answer([answer(query, Choice.FIRST)])
    assert (store.last_sequence, store.counts()["n_answers"]) == (1, 1)
    store.answer([answer(query, Choice.SKIP), answer(query, Choice.FIRST)])
    assert (store.last_sequence, store.counts()["n_answers"]) == (3, 1)
    assert store.counts()["n_superseded"] == 2
    store.answer([answer(query, Choice.FIRST, teacher="synthetic")])
    assert [p.teacher for p in store.preferences()] == ["synthetic"]
    assert [p.choice for p in store.preferences(up_to=2)] == [Choice.SKIP]
    assert len(store.preferences(up_to=0)) == 0


def test_two_labellers_may_disagree(store: PreferenceStore) -> None:
    (query,) = make_round(0, n=1)
    store.post([query])
    store.answer([answer(query, Choice.SECOND, labeller="bob")])
    store.answer([answer(query, Choice.FIRST, labeller="ann")])
    assert [(p.labeller, p.choice) for p in store.preferences()] == [
        ("bob", Choice.SECOND),
        ("ann", Choice.FIRST),
    ]


def test_one_bad_answer_keeps_the_whole_batch_out(store: PreferenceStore) -> None:
    posted, unknown = make_round(0, n=1)[0], make_round(1, n=1)[0]
    ranking = Query((make_clip(1), make_clip(2), make_clip(3)), 0, 5, 0)
    store.post([posted, ranking])
    for bad, message in (
        (answer(unknown), f"query {unknown.id} is not in"),
        (answer(ranking), "asks about 3 clips"),
        (answer(posted, Choice.TIE, details={"array": np.zeros(1)}), "are not JSON"),
    ):
        with pytest.raises(DataError, match=message):
            store.answer([answer(posted), bad])
        assert store.counts()["n_answers"] == 0


# --- reading --------------------------------------------------------------------------------


def test_only_the_clips_of_the_first_rounds_are_loaded(store: PreferenceStore) -> None:
    for round_ in range(3):
        queries = make_round(round_)
        store.post(queries)
        store.answer([answer(query) for query in queries[1:]])
    two = store.preferences(first_rounds=2)
    assert [(p.query.round, p.query.index) for p in two] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert two.clips.obs[:, 0, 0].tolist() == [2, 3, 4, 5, 1002, 1003, 1004, 1005]
    assert two.pairs.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert len(store.preferences(first_rounds=0)) == 0


def test_clips_of_several_lengths_are_loaded_without_their_padding(store: PreferenceStore) -> None:
    short = Query((make_clip(1, n_steps=2), make_clip(2, n_steps=3)), 0, 0, 0)
    long = Query((make_clip(1, n_steps=2), make_clip(3, n_steps=9)), 0, 1, 0)
    store.post([short])
    store.post([long])
    store.answer([answer(short), answer(long)])
    loaded = store.preferences()
    assert loaded.clips.obs.shape == (3, 10, 2)
    assert loaded.clips.lengths.tolist() == [2, 3, 9]
    assert loaded.pairs.tolist() == [[0, 1], [0, 2]]
    for preference, query in zip(loaded, (short, long), strict=True):
        for clip, original in zip(preference.query.clips, query.clips, strict=True):
            assert Clip(clip.obs, clip.actions, clip.context_id).id == original.id


def test_integer_observations_keep_their_dtype(store: PreferenceStore) -> None:
    clips = [
        Clip(np.full((3, 2, 2), i, np.uint8), np.array([i, i], np.int64), "Pixels-v0")
        for i in (1, 255)
    ]
    query = Query(tuple(clips), 0, 0, 0)
    store.post([query])
    store.answer([answer(query)])
    loaded = store.preferences().clips
    assert (loaded.obs.dtype, loaded.actions.dtype) == (np.uint8, np.int64)
    assert loaded.actions.tolist() == [[1, 1], [255, 255]]
    assert store.open_queries() == []
    assert store.query(query.id).first.true_rewards is None


def test_single_queries_and_clips_are_found_by_their_id(store: PreferenceStore) -> None:
    queries = make_round(0)
    store.post(queries)
    assert store.query(queries[2].id).first.true_return == 12.0
    assert store.clip(queries[0].second.id).true_return == 3.0
    with pytest.raises(UnknownNameError, match="no query 'nobody'"):
        store.query("nobody")
    with pytest.raises(UnknownNameError, match="no clip 'nobody'"):
        store.clip("nobody")


@pytest.mark.parametrize("name", ["obs.npy", "actions.npy"])
def test_a_damaged_shard_is_named_before_anything_is_trained_on_it(
    store: PreferenceStore, name: str
) -> None:
    queries = make_round(0)
    store.post(queries)
    store.answer([answer(query) for query in queries[:2]])
    path = store.path.parent / "clips" / "round-0000" / name
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    for read in (store.preferences, store.open_queries):
        with pytest.raises(CorruptDataError) as raised:
            read()
        assert str(path) in str(raised.value)


def test_a_store_is_only_made_if_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no preference store"):
        PreferenceStore(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()
