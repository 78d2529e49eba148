"""One store, several labellers: who is asked what, what is kept, and what is taken back."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback import desk as module
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk, Question
from rlhf_gym.feedback.store import PreferenceStore

PLAIN = DeskSettings(gold_share=0, repeat_share=0)


def make_query(index: int, round_: int = 0) -> Query:
    """Clip returns are 6 * index and 6 * index + 3, so the second one is better."""

    def clip(i: int) -> Clip:
        obs, actions = np.full((4, 2), i, np.float32), np.full((3, 1), -i, np.float32)
        return Clip(obs, actions, "Env-v0", true_rewards=np.full(3, i, np.float32))

    start = 1000 * round_ + 2 * index
    return Query((clip(start), clip(start + 1)), seed=7, round=round_, index=index)


def make_round(n: int, round_: int = 0) -> list[Query]:
    return [make_query(index, round_) for index in range(n)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PreferenceStore]:
    with PreferenceStore(tmp_path / "run") as opened:
        opened.rows("PRAGMA synchronous = OFF")  # these tests cut no power
        yield opened


class Clock:
    """Seconds since the epoch, as the test has it."""

    def __init__(self, now: float = 1e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def ids(questions: list[Question]) -> list[str]:
    return [question.query.id for question in questions]


def answer_all(desk: LabelDesk, n: int, side: str = "left") -> list[Question]:
    asked = []
    for _ in range(n):
        [question] = desk.upcoming(1)
        desk.answer(question, side, shown_at=0.0)  # type: ignore[arg-type]
        asked.append(question)
    return asked


# --- one labeller ---------------------------------------------------------------------------


def test_pairs_come_in_order_and_stay_until_answered(store: PreferenceStore) -> None:
    queries = make_round(6)
    store.post(queries)
    desk = LabelDesk(store, "ann", PLAIN)
    first = desk.upcoming(3)
    assert ids(first) == [query.id for query in queries[:3]]
    again = desk.upcoming(4)
    assert again[:3] == first and ids(again) == [query.id for query in queries[:4]]
    desk.answer(again[1], "left", shown_at=1.0)  # not the first one: the others stay
    assert ids(desk.upcoming(4)) == [queries[i].id for i in (0, 2, 3, 4)]


def test_a_question_carries_no_true_rewards(store: PreferenceStore) -> None:
    store.post(make_round(1))
    [question] = LabelDesk(store, "ann", PLAIN).upcoming(1)
    assert all(clip.true_rewards is None for clip in question.query.clips)
    assert question.query.first.id == make_query(0).first.id


@pytest.mark.parametrize("left", ["first", "second"])
def test_a_side_means_the_clip_that_stood_there(left: str) -> None:
    query = make_query(0)
    question = Question(query, "pairwise", left, side_seed=0)  # type: ignore[arg-type]
    right = {"first": "second", "second": "first"}[left]
    assert question.choice("left").value == left and question.choice("right").value == right
    assert question.choice("tie") is Choice.TIE and question.choice("skip") is Choice.SKIP
    assert question.sides[0] is getattr(query, left) and question.sides[1] is getattr(query, right)
    for choice in Choice:
        assert question.choice(question.side(choice)) is choice


def test_an_answer_is_recorded_with_sides_times_and_sitting(store: PreferenceStore) -> None:
    store.post(make_round(1))
    clock = Clock(500.0)
    desk = LabelDesk(store, "ann", PLAIN, clock=clock)
    [question] = desk.upcoming(1)
    desk.answer(question, "right", shown_at=498.5, details={"replays": 2}, uuid="u1")
    [record] = store.answer_records()
    assert (record.uuid, record.labeller, record.teacher) == ("u1", "ann", "human")
    assert (record.shown_at, record.answered_at, record.kind) == (498.5, 500.0, "pairwise")
    assert record.details == {
        "replays": 2,
        "left": question.left,
        "side_seed": question.side_seed,
        "sitting": desk.sitting,
    }
    assert record.chose_left is False
    assert store.preferences()[0].choice is question.choice("right")


def test_an_answer_given_before_the_clock_was_set_back_is_kept(store: PreferenceStore) -> None:
    store.post(make_round(1))
    clock = Clock(10_000.0)
    desk = LabelDesk(store, "ann", PLAIN, clock=clock)
    [question] = desk.upcoming(1)
    clock.now -= 3600
    desk.answer(question, "tie", shown_at=10_000.0)
    [record] = store.answer_records()
    assert record.answered_at == record.shown_at == 10_000.0


def test_the_same_uuid_twice_is_one_answer_and_one_undo(store: PreferenceStore) -> None:
    store.post(make_round(2))
    desk = LabelDesk(store, "ann", PLAIN)
    [question] = desk.upcoming(1)
    for _ in range(2):
        desk.answer(question, "left", shown_at=0.0, uuid="once")
    assert len(store.answer_records(superseded=True)) == 1
    assert desk.progress().n_sitting == 1
    assert desk.undo() is question and desk.undo() is None


def test_a_full_disk_leaves_the_pair_open_and_the_desk_usable(
    store: PreferenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.post(make_round(3))
    desk = LabelDesk(store, "ann", PLAIN)
    question = desk.upcoming(2)[0]

    def fail(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(module, "release_leases", fail)
    with pytest.raises(OSError, match="no space"):
        desk.answer(question, "left", shown_at=0.0, uuid="u")
    assert store.counts()["n_answers"] == 0
    assert desk.upcoming(1) == [question] and desk.progress().n_sitting == 0
    monkeypatch.undo()
    desk.answer(question, "left", shown_at=0.0, uuid="u")
    assert [record.uuid for record in store.answer_records()] == ["u"]


def test_a_postponed_pair_comes_after_all_that_is_open(store: PreferenceStore) -> None:
    queries = make_round(3)
    store.post(queries)
    desk = LabelDesk(store, "ann", PLAIN)
    late = desk.upcoming(1)[0]
    desk.postpone(late)
    desk.postpone(late)
    assert desk.progress().n_postponed == 1
    assert ids(answer_all(desk, 3)) == [queries[i].id for i in (1, 2, 0)]
    assert desk.upcoming(1) == []


def test_undo_goes_back_to_the_first_answer_of_the_sitting(store: PreferenceStore) -> None:
    store.post(make_round(4))
    desk = LabelDesk(store, "ann", PLAIN)
    asked = answer_all(desk, 4)
    for question in reversed(asked):
        assert desk.undo() is question
        assert desk.upcoming(1) == [question]
    assert desk.undo() is None
    assert store.counts()["n_answers"] == 0 and store.counts()["n_open"] == 4
    answer_all(desk, 4, side="right")
    assert store.counts() == {
        "n_queries": 4, "n_open": 0, "n_answers": 4, "n_clips": 8, "n_superseded": 8
    }  # fmt: skip
    assert [record.chose_left for record in store.answer_records()] == [False] * 4
    kinds = [record.kind for record in store.answer_records(superseded=True)]
    assert kinds == ["pairwise"] * 4 + ["retraction"] * 4 + ["pairwise"] * 4


def test_undo_takes_back_an_answer_that_repeated_an_earlier_sittings(
    store: PreferenceStore,
) -> None:
    store.post(make_round(1))
    clock = Clock()
    one, two = (LabelDesk(store, "ann", PLAIN, clock=clock) for _ in range(2))
    [of_one] = one.upcoming(1)
    clock.now += 121
    [of_two] = two.upcoming(1)
    one.answer(of_one, "left", shown_at=0.0)
    two.answer(of_two, "left", shown_at=0.0)  # says the same: one answer stands
    assert store.counts()["n_answers"] == 1
    assert two.undo() is of_two
    assert store.counts()["n_answers"] == 0 and store.counts()["n_open"] == 1


def test_a_new_round_reaches_a_waiting_desk(store: PreferenceStore) -> None:
    desk = LabelDesk(store, "ann", PLAIN)
    assert desk.upcoming(4) == []
    store.post(make_round(2, round_=3))
    assert len(desk.upcoming(4)) == 2


def test_a_damaged_shard_is_left_out_reported_and_given_back(store: PreferenceStore) -> None:
    bad, good = make_round(2), make_round(2, round_=1)
    store.post(bad)
    store.post(good)
    (store.path.parent / "clips" / "round-0000" / "obs.npy").write_bytes(b"rubbish")
    desk = LabelDesk(store, "ann", PLAIN)
    assert ids(desk.upcoming(3)) == [query.id for query in good]
    assert set(desk.damaged) == {query.id for query in bad}
    assert "round-0000" in desk.damaged[bad[0].id]
    assert ids(answer_all(desk, 2)) == [query.id for query in good]
    assert desk.upcoming(1) == []
    assert store.rows("SELECT count(*) FROM leases") == [(0,)]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1b[31m", "a\x00b", "\udc80"])
def test_a_name_that_cannot_be_shown_is_refused(store: PreferenceStore, name: str) -> None:
    with pytest.raises(ConfigError, match="--labeller"):
        LabelDesk(store, name)


@pytest.mark.parametrize("name", ["Åse 你好 🙂", "x'; DROP TABLE answers; --", '"%_\\'])
def test_odd_but_printable_names_are_kept_as_they_are(store: PreferenceStore, name: str) -> None:
    store.post(make_round(2))
    answer_all(LabelDesk(store, name, PLAIN), 1)
    assert [record.labeller for record in store.answer_records()] == [name]
    assert store.forget_labeller(name) == 1 and store.answer_records() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"gold_share": -0.1}, {"gold_share": 0.6}, {"repeat_share": math.nan}, {"n_practice": -1},
        {"n_qualification": -1}, {"pass_mark": 1.1}, {"lease_seconds": 0},
        {"lease_seconds": math.nan},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DeskSettings(**wrong)  # type: ignore[arg-type]


# --- sides ----------------------------------------------------------------------------------


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


# --- several labellers ----------------------------------------------------------------------


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


class DesksAgainstModel(RuleBasedStateMachine):
    """Any order of calls by four sittings of three labellers does what a few dicts say."""

    WHO = ("ann", "ben", "cay", "ann")  # ann has two windows open
    AHEAD = (1, 2, 4, 2)

    @initialize(wanted=st.lists(st.integers(1, 3), min_size=2, max_size=6))
    def begin(self, wanted: list[int]) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.stores = [PreferenceStore(self.folder) for _ in self.WHO]
        for store in self.stores:
            store.rows("PRAGMA synchronous = OFF")
        queries = make_round(len(wanted))
        for query, n in zip(queries, wanted, strict=True):
            self.stores[0].post([query], n_wanted=n)
        self.wanted = {query.id: n for query, n in zip(queries, wanted, strict=True)}
        self.answers: dict[tuple[str, str], str] = {}  # (query, labeller) -> uuid that stands
        self.surplus: set[tuple[str, str, str]] = set()  # (query, labeller, uuid)
        self.leases: dict[tuple[str, str], tuple[int, float]] = {}  # -> (desk, end)
        self.n_rows = 0
        self.desks: list[LabelDesk] = []
        self.lines: list[list[str]] = [[] for _ in self.WHO]
        self.later: list[list[str]] = [[] for _ in self.WHO]
        self.given: list[list[tuple[str, str]]] = [[] for _ in self.WHO]  # (query, uuid)
        for i, name in enumerate(self.WHO):
            self.desks.append(LabelDesk(self.stores[i], name, PLAIN, clock=self.clock))

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            for store in self.stores:
                store.close()
            shutil.rmtree(self.folder)

    # The model's own rules.

    def is_valid(self, key: tuple[str, str]) -> bool:
        return key in self.leases and 0 < self.leases[key][1] - self.clock.now <= 240

    def n_answers(self, query: str) -> int:
        return sum(key[0] == query for key in self.answers)

    def is_free(self, query: str, i: int) -> bool:
        me = self.WHO[i]
        held = sum(key[0] == query and key[1] != me and self.is_valid(key) for key in self.leases)
        if self.n_answers(query) + held >= self.wanted[query] or (query, me) in self.answers:
            return False
        if any(key[:2] == (query, me) for key in self.surplus):
            return False
        mine = (query, me)
        return not (self.is_valid(mine) and self.leases[mine][0] != i)

    def top_up(self, i: int, n: int) -> None:
        busy = {*self.lines[i], *self.later[i]}
        for query in self.wanted:
            if len(self.lines[i]) >= n:
                break
            if query not in busy and self.is_free(query, i):
                self.leases[query, self.WHO[i]] = (i, self.clock.now + 120)
                self.lines[i].append(query)

    # What people do.

    @rule(i=st.integers(0, 3))
    def look(self, i: int) -> None:
        self.top_up(i, self.AHEAD[i])
        if not self.lines[i]:
            self.lines[i], self.later[i] = self.later[i], []
        shown = self.desks[i].upcoming(self.AHEAD[i])
        assert ids(shown) == self.lines[i][: self.AHEAD[i]]
        assert all(question.kind == "pairwise" for question in shown)

    @precondition(lambda self: any(self.lines))
    @rule(data=st.data(), side=st.sampled_from(["left", "right", "tie", "skip"]))
    def answer(self, data: st.DataObject, side: str) -> None:
        i = data.draw(st.sampled_from([i for i, line in enumerate(self.lines) if line]))
        self.look(i)
        question = data.draw(st.sampled_from(self.desks[i].upcoming(self.AHEAD[i])))
        query, me, uuid = question.query.id, self.WHO[i], f"uuid-{self.n_rows}"
        kept = self.n_answers(query) < self.wanted[query] or (query, me) in self.answers
        before = {record.uuid for record in self.stores[0].answer_records(superseded=True)}
        self.desks[i].answer(question, side, shown_at=1.0, uuid=uuid)  # type: ignore[arg-type]
        added = {r.uuid for r in self.stores[0].answer_records(superseded=True)} - before
        self.n_rows += len(added)
        if not kept:
            self.surplus.add((query, me, uuid))
        elif added:
            self.answers[query, me] = uuid
        else:  # the labeller's other sitting has said the same
            uuid = self.answers[query, me]
        if self.leases.get((query, me), (None,))[0] == i:
            del self.leases[query, me]
        self.lines[i].remove(query)
        if uuid not in [given for _, given in self.given[i]]:
            self.given[i].append((query, uuid))
        self.top_up(i, self.AHEAD[i])  # in the same commit

    @precondition(lambda self: any(self.lines))
    @rule(data=st.data())
    def postpone(self, data: st.DataObject) -> None:
        i = data.draw(st.sampled_from([i for i, line in enumerate(self.lines) if line]))
        self.look(i)
        question = self.desks[i].upcoming(1)[0]
        self.desks[i].postpone(question)
        self.later[i].append(self.lines[i].pop(0))

    @rule(i=st.integers(0, 3))
    def undo(self, i: int) -> None:
        question = self.desks[i].undo()
        if not self.given[i]:
            assert question is None
            return
        query, uuid = self.given[i].pop()
        me = self.WHO[i]
        assert question is not None and question.query.id == query
        if self.answers.get((query, me)) == uuid:
            del self.answers[query, me]
            self.n_rows += 1
        elif (query, me, uuid) in self.surplus:
            self.surplus.remove((query, me, uuid))
            self.n_rows += 1
        if self.is_free(query, i):
            self.leases[query, me] = (i, self.clock.now + 120)
        self.lines[i] = [query, *(q for q in self.lines[i] if q != query)]
        self.later[i] = [q for q in self.later[i] if q != query]

    @rule(i=st.integers(0, 3))
    def renew(self, i: int) -> None:
        self.desks[i].renew()
        held = set()
        for key, (desk, _) in list(self.leases.items()):
            others = sum(
                k[0] == key[0] and k[1] != key[1] and self.is_valid(k) for k in self.leases
            )
            if desk == i and (
                self.is_valid(key) or self.n_answers(key[0]) + others < self.wanted[key[0]]
            ):
                self.leases[key] = (i, self.clock.now + 120)
                held.add(key[0])
        first = self.lines[i][:1]
        self.lines[i] = first + [q for q in self.lines[i][1:] if q in held]
        self.later[i] = [q for q in self.later[i] if q in held]

    @rule(i=st.integers(0, 3))
    def close_and_come_back(self, i: int) -> None:
        self.desks[i].close()
        self.leases = {key: lease for key, lease in self.leases.items() if lease[0] != i}
        self.reset(i)

    @rule(i=st.integers(0, 3))
    def die_and_come_back(self, i: int) -> None:
        # Its leases stay behind, as another sitting's.
        self.leases = {
            k: ((-1, end) if d == i else (d, end)) for k, (d, end) in self.leases.items()
        }
        self.reset(i)

    def reset(self, i: int) -> None:
        self.desks[i] = LabelDesk(self.stores[i], self.WHO[i], PLAIN, clock=self.clock)
        self.lines[i], self.later[i], self.given[i] = [], [], []

    @rule(seconds=st.sampled_from([1.0, 60.0, 121.0, 3600.0, -3600.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def what_stands_is_what_the_model_holds(self) -> None:
        records = self.stores[0].answer_records()
        counted = [(r.query_id, r.labeller) for r in records if r.kind == "pairwise"]
        assert len(counted) == len(set(counted))
        for query, n in self.wanted.items():
            assert sum(key[0] == query for key in counted) <= n
        standing = {(r.query_id, r.labeller): r.uuid for r in records if r.kind == "pairwise"}
        assert standing == self.answers
        surplus = {(r.query_id, r.labeller, r.uuid) for r in records if r.kind == "surplus"}
        assert surplus == self.surplus
        assert self.stores[0].last_sequence == self.n_rows
        n_open = sum(self.n_answers(query) < n for query, n in self.wanted.items())
        assert self.stores[0].counts()["n_open"] == n_open
        assert len(self.stores[0].preferences()) == len(self.answers)

    @invariant()
    def abandoned_pairs_come_back_after_the_lease(self) -> None:
        # Somebody new would be asked, in two minutes, whatever wants an answer and is not renewed.
        newcomer = LabelDesk(self.stores[0], "dan", PLAIN, clock=lambda: self.clock.now + 9999)
        wants = [q for q, n in self.wanted.items() if self.n_answers(q) < n]
        assert ids(newcomer.upcoming(9)) == wants
        newcomer.close()


TestDesksAgainstModel = DesksAgainstModel.TestCase
TestDesksAgainstModel.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)


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
