"""Several labellers at one store: nobody takes, sees or counts what is another's."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from rlhf_gym.data import Choice, Preference
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk
from rlhf_gym.feedback.store import PreferenceStore
from tests.feedback.desk_rounds import PLAIN, answer_all, ids, make_round
from tests.feedback.fakes import Clock


def test_sides_are_fair_differ_between_labellers_and_follow_their_seed(
    store: PreferenceStore,
) -> None:
    n = 400
    store.post(make_round(n), n_wanted=3)
    lefts = {}
    for name, seed in (("ann", 0), ("ben", 0), ("cay", 1)):
        desk = LabelDesk(store, name, DeskSettings(gold_share=0, repeat_share=0, seed=seed))
        asked = desk.upcoming(n)
        lefts[name] = [question.left == "first" for question in asked]
        # A fair coin leaves 5 standard deviations with a probability of 6e-7; the seeds are fixed.
        assert abs(sum(lefts[name]) - n / 2) < 5 * math.sqrt(n) / 2
        assert [question.side_seed % 2 == 1 for question in asked] == lefts[name]
        desk.close()
        assert [q.left for q in desk.upcoming(n)] == [q.left for q in asked]
    for one, other in (("ann", "ben"), ("ann", "cay"), ("ben", "cay")):
        same = sum(a == b for a, b in zip(lefts[one], lefts[other], strict=True))
        assert abs(same - n / 2) < 5 * math.sqrt(n) / 2


def test_an_answer_that_comes_too_late_is_kept_as_surplus(store: PreferenceStore) -> None:
    store.post(make_round(1))
    clock = Clock()
    slow, quick = (LabelDesk(store, name, PLAIN, clock=clock) for name in ("slow", "quick"))
    [late] = slow.upcoming(1)
    assert quick.upcoming(1) == []
    clock.now += 121
    answer_all(quick, 1)
    slow.answer(late, "left", shown_at=0.0)
    records = store.answer_records()
    assert [(r.labeller, r.kind) for r in records] == [("quick", "pairwise"), ("slow", "surplus")]
    assert store.counts()["n_answers"] == 1 and len(store.preferences()) == 1
    # The surplus one does not become one too many, even if its labeller answers again.
    other = LabelDesk(store, "slow", PLAIN, clock=clock)
    other.answer(late, "right", shown_at=0.0)
    assert store.counts()["n_answers"] == 1


def test_a_sleeper_does_not_take_back_what_others_lease_since(store: PreferenceStore) -> None:
    queries = make_round(4)
    store.post(queries)
    clock = Clock()
    sleeper, other = (LabelDesk(store, name, PLAIN, clock=clock) for name in ("ann", "ben"))
    sleeper.upcoming(4)
    clock.now += 3600
    assert ids(other.upcoming(3)) == [query.id for query in queries[:3]]
    sleeper.renew()
    # The first may be on the screen; the two behind it are somebody else's now.
    assert ids(sleeper.upcoming(4)) == [queries[0].id, queries[3].id]
    answer_all(other, 3)
    assert other.upcoming(1) == []  # the fourth was renewed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("labelling", "--labellers 3 --answers 20 --think 0.05"),
        ("labelling_kills", "--kills 5 --pairs 400"),
    ],
)
def test_labelling_processes_harm_nothing_and_lose_nothing(
    tmp_path: Path, script: str, options: str
) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / f"{script}.py"
    command = [sys.executable, str(path), *options.split(), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    figures = json.loads((tmp_path / f"{script}.json").read_text())["figures"]
    if script == "labelling_kills":
        assert figures["n_acknowledged_lost"] == figures["n_duplicates"] == 0
        assert figures["n_integrity_ok"] == 5 and figures["n_acknowledged"] > 0
        return
    for part in ("alone", "paced", "saturated"):
        broken = [value for name, value in figures[part].items() if name.startswith("n_pairs")]
        assert broken == [0, 0, 0] and figures[part]["errors"] == []
    assert sum(figures["saturated"]["answers_per_labeller"]) == 60


def test_the_database_holds_no_lease_after_everybody_left(store: PreferenceStore) -> None:
    store.post(make_round(8), n_wanted=2)
    desks = [LabelDesk(store, name, PLAIN) for name in ("ann", "ben")]
    for desk in desks:
        with desk:
            answer_all(desk, 2)
            assert len(desk.upcoming(4)) == 4
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("SELECT count(*) FROM leases").fetchone() == (0,)


def test_progress_counts_mine_everybodys_and_what_is_open(store: PreferenceStore) -> None:
    queries = make_round(5)
    store.post(queries)
    store.answer([Preference(queries[0], Choice.FIRST, "human", labeller="ben")])
    answer_all(LabelDesk(store, "ann", PLAIN), 1)
    desk = LabelDesk(store, "ann", PLAIN)
    answer_all(desk, 2)
    desk.undo()
    progress = desk.progress()
    assert (progress.n_mine, progress.n_sitting) == (2, 1)
    assert (progress.n_answers, progress.n_open, progress.n_postponed) == (3, 2, 0)
