from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError
from rlhf_gym.feedback.answer_sources import Due, Replay
from rlhf_gym.feedback.given import (
    add_given,
    count_asked,
    count_given,
    count_outstanding,
    has_given,
    last_answer,
    read_given,
)
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.protocols import SpaceInfo
from rlhf_gym.text_clips import text_clip

INFO = SpaceInfo("Env-v0", spaces.Box(-9, 9, (3,)), spaces.Box(-1, 1, (1,)), 4)
WIDE = replace(INFO, observation_space=spaces.Box(-9, 9, (4,)))


def clip(i: int, context: str = "Env-v0", size: int = 3) -> Clip:
    rng = np.random.default_rng(i)
    obs, actions = rng.normal(size=(5, size)), rng.normal(size=(4, 1))
    states = rng.normal(size=(5, 2)).astype(np.float32)
    rewards = np.full(4, i, np.float32)
    return Clip(obs.astype(np.float32), actions.astype(np.float32), context, rewards, states)


def filled(folder: Path, context: str = "Env-v0", size: int = 3) -> Path:
    """Two pairs of round 3, one of them answered by two people, one of whom changed her mind."""
    pairs = [
        Query((clip(2 * i, context, size), clip(2 * i + 1, context, size)), 7, 3, i)
        for i in range(2)
    ]
    with PreferenceStore(folder) as store:
        store.post(pairs, n_wanted=2)
        for labeller, choice in (("a", Choice.TIE), ("b", Choice.FIRST), ("a", Choice.SECOND)):
            details = {"comment": labeller}
            store.answer([Preference(pairs[1], choice, "human", labeller, 5.0, 6.0, details)])
    return folder


def test_standing_answers_count_from_round_0_on_with_their_clips(tmp_path: Path) -> None:
    source = filled(tmp_path / "old")
    with PreferenceStore(tmp_path / "new") as store:
        assert add_given(store, read_given(source, "Env-v0", INFO)) == count_given(store) == 2
        given = store.preferences(first_rounds=1)
        assert sorted((p.labeller, p.choice.value) for p in given) == [
            ("a", "second"),
            ("b", "first"),
        ]
        assert {p.teacher for p in given} == {"human"}
        assert {p.details["given_as"] for p in given} == {Query((clip(2), clip(3)), 7, 3, 1).id}
        query = store.query(given[0].query.id)
        assert [c.id for c in query.clips] == [clip(2).id, clip(3).id]
        assert query.first.true_return == 8.0  # four steps of 2
        np.testing.assert_array_equal(query.second.sim_states, clip(3).sim_states)


def test_giving_twice_adds_nothing_and_later_more_only_what_is_new(tmp_path: Path) -> None:
    source = filled(tmp_path / "old")
    with PreferenceStore(tmp_path / "new") as store:
        add_given(store, read_given(source, "Env-v0", INFO))
        before = store.counts(), store.last_sequence
        assert add_given(store, read_given(source, "Env-v0", INFO)) == 2
        assert (store.counts(), store.last_sequence) == before
        # An answer to an earlier pair shifts every position in the source, and no id here.
        with PreferenceStore(source) as old:
            old.answer([Preference(old.open_queries()[0], Choice.FIRST, "human", "c")])
        assert add_given(store, read_given(source, "Env-v0", INFO)) == 3
        assert (store.counts()["n_answers"], store.counts()["n_queries"]) == (3, 2)


def test_a_replay_that_is_given_the_same_has_them_once(tmp_path: Path) -> None:
    given = read_given(filled(tmp_path / "old"), "Env-v0", INFO)
    own = Query((clip(8), clip(9)), 1, 0, 0)
    with PreferenceStore(tmp_path / "recorded") as store:
        add_given(store, given)
        store.post([own])
        store.answer([Preference(own, Choice.FIRST, "human", "a")])
        recorded = [r.uuid for r in store.answer_records()]
    with PreferenceStore(tmp_path / "new") as store:
        add_given(store, given)
        store.post([own])
        Replay(tmp_path / "recorded").collect(store, Due(0, 3, 3))
        assert [r.uuid for r in store.answer_records()] == recorded and len(recorded) == 3


def test_answers_about_another_env_are_refused(tmp_path: Path) -> None:
    source = filled(tmp_path / "old", "Other-v0")
    with pytest.raises(ConfigError, match="about Other-v0; this run is about Env-v0"):
        read_given(source, "Env-v0", INFO)


def test_clips_that_do_not_fit_this_runs_spaces_are_refused_first(tmp_path: Path) -> None:
    source = filled(tmp_path / "old")
    with pytest.raises(ConfigError, match=r"shape \(3,\).*here they have \(4,\).*--obs-keys"):
        read_given(source, "Env-v0", WIDE)
    with pytest.raises(ConfigError, match=r"actions of shape \(1,\); here they have .* \(2,\)"):
        read_given(source, "Env-v0", replace(INFO, action_space=spaces.MultiDiscrete([3, 3])))


def test_the_env_is_compared_as_the_run_names_it(tmp_path: Path) -> None:
    """With the module that registers it, as clips carry it; the env's own id has none."""
    source = filled(tmp_path / "old", "mine:Env-v0")
    assert len(read_given(source, "mine:Env-v0", INFO).records) == 2


def test_forgotten_answers_were_given_all_the_same(tmp_path: Path) -> None:
    with PreferenceStore(tmp_path / "new") as store:
        assert not has_given(store)
        add_given(store, read_given(filled(tmp_path / "old"), "Env-v0", INFO))
        for labeller in "ab":
            store.forget_labeller(labeller)
        assert has_given(store) and count_given(store) == 0


def test_texts_carry_over_from_one_text_task_to_another(tmp_path: Path) -> None:
    pairs = [
        Query((text_clip(f"Q{i}", "one", True), text_clip(f"Q{i}", "two", True)), 7, 0, i)
        for i in range(5)
    ]
    with PreferenceStore(tmp_path / "old") as store:
        store.post(pairs)
        store.answer([Preference(pair, Choice.FIRST, "human") for pair in pairs])
    assert len(read_given(tmp_path / "old", "Env-v0", INFO, is_text=True).records) == 5
    with pytest.raises(ConfigError, match=r"about text:\w+, text:\w+, text:\w+ and 2 more; this"):
        read_given(tmp_path / "old", "Env-v0", INFO)
    with pytest.raises(ConfigError, match="about Env-v0; this run"):
        read_given(filled(tmp_path / "robot"), "Env-v0", INFO, is_text=True)


def test_clips_of_another_shape_are_refused(tmp_path: Path) -> None:
    given = read_given(filled(tmp_path / "old", size=4), "Env-v0", WIDE)
    with PreferenceStore(tmp_path / "new") as store:
        store.post([Query((clip(8), clip(9)), 1, 0, 0)])
        with pytest.raises(DataError, match="obs"):
            add_given(store, given)
        assert store.counts()["n_queries"] == 1


def test_a_store_without_answers_is_refused(tmp_path: Path) -> None:
    PreferenceStore(tmp_path / "old").close()
    with pytest.raises(ConfigError, match="holds no answer"):
        read_given(tmp_path / "old", "Env-v0", INFO)


def test_a_damaged_answer_is_left_to_who_reads_it(tmp_path: Path) -> None:
    with PreferenceStore(filled(tmp_path / "old")) as store:
        for (name,) in store.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            store._connection.execute(f"DROP TRIGGER {name}")
        store._connection.execute("UPDATE answers SET payload = '{\"choice\"'")
        assert count_given(store) == 0
        with pytest.raises(CorruptDataError, match="cannot be read"):
            store.preferences()


def test_the_last_answer_of_the_rounds_so_far_leaves_later_rounds_out(tmp_path: Path) -> None:
    rounds = [Query((clip(2 * i), clip(2 * i + 1)), 7, i, 0) for i in range(3)]
    with PreferenceStore(tmp_path) as store:
        assert last_answer(store, 2) == 0
        store.post(rounds)
        for query in (rounds[0], rounds[2], rounds[1]):
            store.answer([Preference(query, Choice.FIRST, "human", "a")])
        assert [last_answer(store, k) for k in range(3)] == [1, 3, 3]


def test_a_disk_that_fills_up_in_between_leaves_nothing_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions without their answers would count as given, and be put to people."""
    given = read_given(filled(tmp_path / "old"), "Env-v0", INFO)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with PreferenceStore(tmp_path / "new") as store:
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr("rlhf_gym.feedback.formats.snapshot.restore_answer", full)
            add_given(store, given)
        assert not has_given(store) and store.counts()["n_queries"] == 0
        assert add_given(store, given) == 2


def test_what_is_outstanding_is_the_runs_own(tmp_path: Path) -> None:
    with PreferenceStore(tmp_path / "new") as store:
        add_given(store, read_given(filled(tmp_path / "old"), "Env-v0", INFO))
        own = [Query((clip(20 + 2 * i), clip(21 + 2 * i)), 1, i, 0) for i in range(3)]
        store.post(own, n_wanted=2)
        assert [count_outstanding(store, k) for k in range(3)] == [2, 4, 6]
        assert [count_asked(store, k) for k in range(4)] == [0, 1, 2, 3]
        store.answer([Preference(own[1], Choice.FIRST, "human", "a")])
        assert [count_outstanding(store, k) for k in range(3)] == [2, 3, 5]
        for labeller in "ab":  # of those given; their pairs are open again, and not this run's
            store.forget_labeller(labeller)
        assert [count_outstanding(store, k) for k in range(3)] == [2, 4, 6]
