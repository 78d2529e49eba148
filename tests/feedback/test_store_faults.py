"""What a store survives: kills, other writers, a full disk, and any order of calls."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import CorruptDataError
from rlhf_gym.feedback.store import PreferenceStore


def make_clip(i: int) -> Clip:
    return Clip(
        obs=np.full((4, 2), i, np.float32),
        actions=np.full((3, 1), -i, np.float32),
        context_id="Env-v0",
        true_rewards=np.full(3, i, np.float32),
    )


def make_query(round_: int, index: int, first: int, second: int) -> Query:
    clips = make_clip(first), make_clip(second)
    return Query(clips, seed=1 << 100, round=round_, index=index)


def make_round(round_: int, n: int = 3) -> list[Query]:
    """Queries on 2n clips that belong to this round alone."""
    start = 1000 * round_
    return [make_query(round_, i, start + 2 * i, start + 2 * i + 1) for i in range(n)]


def answer(query: Query, choice: Choice = Choice.FIRST, **fields: object) -> Preference:
    return Preference(query, choice, **{"teacher": "human", **fields})  # type: ignore[arg-type]


# The scripts of other processes begin with all that stands above, but for slow imports.
HELPERS = "".join(
    line
    for line in Path(__file__).read_text().partition("HELPERS =")[0].splitlines(keepends=True)
    if "pytest" not in line and "hypothesis" not in line
)

# Starts children one after the other; each posts and answers, and says so after every call that
# returned, until it is killed at a random moment.
KILLED = """
import os, random, signal, time
folder, n_kills = Path(sys.argv[1]), int(sys.argv[2])
random.seed(0)

def work(pipe):
    with PreferenceStore(folder) as store:
        while True:
            round_ = store.counts()["n_queries"] // 4
            for query in store.open_queries():
                store.answer([answer(query)])
                os.write(pipe, f"answered {query.id}\\n".encode())
            queries = make_round(round_, n=4)
            store.post(queries)
            os.write(pipe, "".join(f"posted {query.id}\\n" for query in queries).encode())

for _ in range(n_kills):
    out, pipe = os.pipe()
    child = os.fork()
    if child == 0:
        work(pipe)
    os.close(pipe)
    acknowledged = os.read(out, 65536)
    time.sleep(random.uniform(0, 0.04))
    os.kill(child, signal.SIGKILL)
    while more := os.read(out, 65536):
        acknowledged += more
    os.close(out)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    sys.stdout.write(acknowledged.decode())
"""


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HELPERS + script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def check_kills(folder: Path, n_kills: int) -> None:
    done = run_script(KILLED, folder, n_kills)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    posted = {key for verb, key in lines if verb == "posted"}
    answered = [key for verb, key in lines if verb == "answered"]
    assert len(answered) >= n_kills and len(answered) == len(set(answered))
    with PreferenceStore(folder, create=False) as store:
        found = store.preferences().query_ids
        assert len(found) == len(set(found)) == store.counts()["n_answers"]
        assert set(answered) <= set(found)
        # Killed between the commit and its message: one answer each time at most.
        assert len(found) - len(answered) <= n_kills
        assert posted <= set(found) | {query.id for query in store.open_queries()}
        assert store.counts()["n_superseded"] == 0
    with closing(sqlite3.connect(folder / "preferences.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_what_was_acknowledged_survives_20_kills(tmp_path: Path) -> None:
    check_kills(tmp_path / "run", 20)


@pytest.mark.slow
def test_what_was_acknowledged_survives_200_kills(tmp_path: Path) -> None:
    check_kills(tmp_path / "run", 200)


def test_four_processes_answer_at_once_without_a_lock_error(tmp_path: Path) -> None:
    script = """
folder, part = Path(sys.argv[1]), int(sys.argv[2])
with PreferenceStore(folder, create=False) as store:
    for query in store.open_queries():
        if query.index % 4 == part:
            store.answer([answer(query, labeller=str(part))])
"""
    queries = make_round(0, n=80)
    with PreferenceStore(tmp_path) as store:
        store.post(queries)
        command = [sys.executable, "-c", HELPERS + script, str(tmp_path)]
        writers = [
            subprocess.Popen([*command, str(part)], stderr=subprocess.PIPE, text=True)
            for part in range(4)
        ]
        errors = [writer.communicate(timeout=120)[1] for writer in writers]
        assert [
            (writer.returncode, error) for writer, error in zip(writers, errors, strict=True)
        ] == [(0, "")] * 4
        found = store.preferences()
        assert [p.query.id for p in found] == [query.id for query in queries]
        assert [p.labeller for p in found] == [str(i % 4) for i in range(80)]
        assert store.last_sequence == 80


FULL = """
import resource
folder, what = Path(sys.argv[1]), sys.argv[2]
with PreferenceStore(folder) as store:
    limit = store.path.stat().st_size + 4096 if what == "rows" else 200
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    many = make_round(1, n=200)
    try:
        store.post(many)
    except OSError as error:
        print(json.dumps([error.errno, error.filename, str(error)]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert store.counts()["n_queries"] == 3 and store.counts()["n_answers"] == 3
    assert len(store.preferences()) == 3
    assert store.post(many) == 200
    store.answer([answer(query) for query in many])
    assert len(store.preferences()) == 203
"""


@pytest.mark.parametrize("what", ["clips", "rows"])
def test_a_full_disk_is_named_and_nothing_earlier_is_harmed(tmp_path: Path, what: str) -> None:
    with PreferenceStore(tmp_path) as store:
        store.post(make_round(0))
        store.answer([answer(query) for query in make_round(0)])
    done = run_script(FULL, tmp_path, what)
    assert done.returncode == 0, done.stderr
    number, path, message = json.loads(done.stdout)
    assert number > 0
    assert path.startswith(str(tmp_path)) and path in message
    assert "free disk space" in message
    with PreferenceStore(tmp_path) as store:
        assert store.counts()["n_answers"] == 203
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert names == ["round-0000", "round-0001"]


# --- the whole against a model ----------------------------------------------------------------


class StoreAgainstModel(RuleBasedStateMachine):
    """Any order of posts, answers and reopenings leaves what a plain dict would hold."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = PreferenceStore(self.folder)
        self.posted: dict[str, Query] = {}
        self.log: list[tuple[str, str, Choice]] = []  # (query id, labeller, choice), in order

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    @rule(
        round_=st.integers(0, 2),
        pairs=st.lists(
            st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda pair: pair[0] != pair[1]),
            max_size=3,
        ),
    )
    def post(self, round_: int, pairs: list[tuple[int, int]]) -> None:
        queries = [make_query(round_, i, a, b) for i, (a, b) in enumerate(pairs)]
        expected = len({query.id for query in queries} - set(self.posted))
        assert self.store.post(queries) == expected
        self.posted |= {query.id: query for query in queries}

    @precondition(lambda self: self.posted)
    @rule(
        data=st.data(),
        choices=st.lists(
            st.tuples(st.sampled_from(["", "ann"]), st.sampled_from(Choice)), min_size=1, max_size=3
        ),
    )
    def answer(self, data: st.DataObject, choices: list[tuple[str, Choice]]) -> None:
        keys = st.sampled_from(sorted(self.posted))
        batch = [(data.draw(keys), labeller, choice) for labeller, choice in choices]
        self.store.answer([answer(self.posted[key], c, labeller=who) for key, who, c in batch])
        for key, who, choice in batch:
            if self.standing(len(self.log)).get((key, who), (0, None))[1] is not choice:
                self.log.append((key, who, choice))

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = PreferenceStore(self.folder, create=False)

    def standing(self, last: int) -> dict[tuple[str, str], tuple[int, Choice]]:
        latest = {}
        for sequence, (key, who, choice) in enumerate(self.log[:last], start=1):
            latest[key, who] = (sequence, choice)
        return latest

    def expected(self, last: int, rounds: int) -> list[tuple[str, str, Choice]]:
        found = []
        for (key, who), (sequence, choice) in self.standing(last).items():
            query = self.posted[key]
            if query.round < rounds:
                # Queries that share round and index stand in the order of their answers.
                found.append((query.round, query.index, sequence, key, who, choice))
        return [row[3:] for row in sorted(found, key=lambda row: row[:3])]

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        n = len(self.log)
        assert self.store.last_sequence == n
        for last, rounds in ((n, 3), (n // 2, 3), (n, 1)):
            found = self.store.preferences(up_to=last, first_rounds=rounds)
            assert [(p.query.id, p.labeller, p.choice) for p in found] == self.expected(
                last, rounds
            )
            for preference in found:
                original = self.posted[preference.query.id]
                for clip, exact in zip(preference.query.clips, original.clips, strict=True):
                    np.testing.assert_array_equal(clip.obs, exact.obs)
        answered = {key for key, _, _ in self.log}
        assert {query.id for query in self.store.open_queries()} == set(self.posted) - answered
        clips = {clip.id for query in self.posted.values() for clip in query.clips}
        assert self.store.counts() == {
            "n_queries": len(self.posted),
            "n_open": len(self.posted) - len(answered),
            "n_answers": len(self.standing(n)),
            "n_clips": len(clips),
            "n_superseded": n - len(self.standing(n)),
        }


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=10, stateful_step_count=10, deadline=None)


@pytest.mark.parametrize(
    "name", ["preferences.db", "preferences.db-journal", "clips", "clips/round-0000/obs.npy"]
)
def test_a_link_in_a_store_is_refused_and_not_followed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "store"
    with PreferenceStore(folder) as store:
        store.post(make_round(0))
    outside = tmp_path / "outside"
    if (folder / name).exists():
        (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    before = sorted(tmp_path.rglob("*")), outside.exists()
    for create in (True, False):
        with pytest.raises(CorruptDataError, match=f"`{folder / name}` is a link"):
            PreferenceStore(folder, create=create)
    assert (sorted(tmp_path.rglob("*")), outside.exists()) == before
