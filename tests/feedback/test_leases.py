"""Leases: promises with an end, under a clock that the test holds."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.feedback.leases import (
    claim_queries,
    release_dead_sittings,
    release_leases,
    renew_leases,
    select_free,
    turn,
    wants_answer,
)
from rlhf_gym.feedback.store import PreferenceStore


def make_query(index: int, n_clips: int = 2) -> Query:
    clips = [
        Clip(np.full((2, 1), 9 * index + i, np.float32), np.zeros((1, 1), np.float32), "E")
        for i in range(n_clips)
    ]
    return Query(tuple(clips), seed=0, round=0, index=index)


QUERIES = [make_query(index) for index in range(3)]
A, B, C = (query.id for query in QUERIES)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PreferenceStore]:
    with PreferenceStore(tmp_path) as opened:
        opened.rows("PRAGMA synchronous = OFF")  # these tests cut no power
        opened.post(QUERIES)
        yield opened


def claim(
    store: PreferenceStore, who: str, n: int = 9, now: float = 0.0, **more: object
) -> list[str]:
    """Claim for `labeller/sitting`."""
    labeller, _, sitting = who.partition("/")
    with store.writing() as connection:
        return claim_queries(connection, labeller, sitting or labeller, n, now, **more)  # type: ignore[arg-type]


def answer(store: PreferenceStore, index: int, labeller: str) -> None:
    store.answer([Preference(QUERIES[index], Choice.FIRST, "human", labeller=labeller)])


def test_what_one_has_claimed_nobody_else_gets_until_it_ends(store: PreferenceStore) -> None:
    assert claim(store, "ann", 2) == [A, B]
    assert claim(store, "ben", 2) == [C]
    assert claim(store, "cay") == []
    assert claim(store, "cay", now=119.9) == []
    assert claim(store, "cay", now=120.0) == [A, B, C]


def test_as_many_may_look_as_answers_are_wanted(store: PreferenceStore) -> None:
    twice = make_query(7)
    store.post([twice], n_wanted=2)
    for index in range(3):
        answer(store, index, "old")
    assert claim(store, "ann") == [twice.id] == claim(store, "ben")
    assert claim(store, "cay") == []
    store.answer([Preference(twice, Choice.TIE, "human", labeller="ann")])
    with store.writing() as connection:
        release_leases(connection, "ann")
    assert claim(store, "ann", now=500.0) == []  # has answered
    assert claim(store, "cay") == []  # ben still looks
    assert claim(store, "cay", now=500.0) == [twice.id]


def test_a_second_window_of_the_same_labeller_waits_for_the_first(store: PreferenceStore) -> None:
    assert claim(store, "ann/1", 1) == [A]
    assert claim(store, "ann/2", 1) == [B]
    assert claim(store, "ann/1", 3) == [A, C]  # its own again, as long as it wants
    assert claim(store, "ann/2", 3, now=130.0) == [A, B, C]


def test_rankings_and_excepted_pairs_are_not_claimed(store: PreferenceStore) -> None:
    store.post([make_query(8, n_clips=3)])
    assert claim(store, "ann", 2, but_not=[A]) == [B, C]
    assert claim(store, "ben", only=B) == []
    assert claim(store, "ben", only=A) == [A]
    assert claim(store, "cay", 0) == [] == claim(store, "cay", -1)


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_locks_no_pair_away(store: PreferenceStore, jump: float) -> None:
    assert len(claim(store, "ann", now=10_000.0)) == 3
    assert len(claim(store, "ben", now=10_000.0 + jump)) == 3


def test_renewing_holds_what_is_held_and_what_is_still_free(store: PreferenceStore) -> None:
    claim(store, "ann", 3)
    with store.writing() as connection:
        assert renew_leases(connection, "ann", 100.0) == [A, B, C]
    assert claim(store, "ben", now=219.0) == []
    assert claim(store, "ben", 1, now=221.0) == [A]
    answer(store, 1, "cay")
    with store.writing() as connection:
        assert renew_leases(connection, "ann", 222.0) == [C]
        assert renew_leases(connection, "nobody", 222.0) == []
    assert claim(store, "cay", now=300.0) == []


def test_release_ends_one_or_all_leases_of_one_sitting(store: PreferenceStore) -> None:
    claim(store, "ann", 2)
    claim(store, "ben", 1)
    with store.writing() as connection:
        release_leases(connection, "ann", [B, C])  # C is ben's
    assert claim(store, "cay") == [B]
    with store.writing() as connection:
        release_leases(connection, "ann")
    assert claim(store, "cay") == [A, B]


def test_an_answer_is_wanted_while_too_few_stand_or_it_replaces_ones_own(
    store: PreferenceStore,
) -> None:
    def wanted(who: str) -> bool:
        with store.writing() as connection:
            return wants_answer(connection, A, who)

    assert wanted("ann") and wanted("ben")
    answer(store, 0, "ann")
    assert wanted("ann") and not wanted("ben")
    store.retract(store.answer_records()[0].uuid)
    assert wanted("ben")
    with store.writing() as connection:
        assert not wants_answer(connection, "no such query", "ann")


def test_looking_for_free_pairs_leases_none(store: PreferenceStore) -> None:
    for _ in range(2):
        rows = store.rows(*select_free("ann", "ann", 2, 0.0))
        assert [key for _, key in rows] == [A, B]
    assert store.rows("SELECT count(*) FROM leases") == [(0,)]


def test_turns_exclude_each_other_and_need_not_be_given_back_by_the_dead(tmp_path: Path) -> None:
    inside: list[str] = []

    def work() -> None:
        with turn(tmp_path):
            inside.append("in")
            time.sleep(0.01)
            assert inside.pop() == "in" and not inside

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ValueError, match="broken"), turn(tmp_path):
        raise ValueError("broken")
    with turn(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_turn_that_does_not_come_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_gym.feedback.leases._LONGEST_TURN", 0.02)
    stuck = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        with turn(tmp_path):
            pass
    finally:
        os.close(stuck)


def test_the_pairs_of_a_window_whose_process_died_are_free_at_once(
    store: PreferenceStore,
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    for sitting, is_free in (
        (f"{host}:{dead.pid}:a", True),
        (f"{host}:{os.getpid()}:b", False),
        (f"elsewhere:{dead.pid}:c", False),  # nobody here can tell
    ):
        with store.writing() as connection:
            connection.execute("DELETE FROM leases")
            assert claim_queries(connection, "anna", sitting, 9, 1000.0) == [A, B, C]
            release_dead_sittings(connection)
            free = claim_queries(connection, "bert", "other", 9, 1000.0)
        assert free == ([A, B, C] if is_free else [])
