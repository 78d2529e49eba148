"""Several sittings at one store in any order, against a few dictionaries."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlhf_gym.feedback.desk import LabelDesk
from rlhf_gym.feedback.store import PreferenceStore
from tests.feedback.desk_rounds import PLAIN, ids, make_round
from tests.feedback.fakes import Clock


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
