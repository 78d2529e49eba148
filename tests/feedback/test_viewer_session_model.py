"""One sitting's session against a model of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlhf_gym.data import Choice
from tests.feedback.session_sitting import Sitting, make_queries


class SessionMachine(RuleBasedStateMachine):
    """Anything a labeller may do, in any order, against a list and a dictionary."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.sitting = Sitting(Path(self.folder.name), 4)
        self.given: list[tuple[str, Choice]] = []
        self.n_posted = 4

    def teardown(self) -> None:
        self.sitting.session.close()
        self.sitting.store.close()
        self.folder.cleanup()

    @precondition(lambda self: self.sitting.session.state == "showing")
    @rule(side=st.sampled_from(["left", "right", "tie", "skip"]))
    def answer(self, side: Any) -> None:
        question = self.sitting.shown
        assert self.sitting.session.answer(side)
        self.given.append((question.query.id, question.choice(side)))

    @rule()
    def undo(self) -> None:
        if self.given:
            query_id, _ = self.given.pop()
            self.sitting.session.undo()
            assert self.sitting.shown.query.id == query_id
        else:
            self.sitting.session.undo()

    @rule()
    def postpone(self) -> None:
        self.sitting.session.postpone()

    @rule(seconds=st.sampled_from([0.1, 1.1, 40.0]))
    def wait(self, seconds: float) -> None:
        self.sitting.wait(seconds, per_tick=seconds / 2)

    @precondition(lambda self: self.n_posted < 8)
    @rule()
    def post(self) -> None:
        self.sitting.store.post(make_queries(1, start=self.n_posted))
        self.n_posted += 1

    @invariant()
    def the_store_holds_what_was_answered(self) -> None:
        assert self.sitting.answers() == dict(self.given)
        assert self.sitting.session.n_answers == len(self.given)

    @invariant()
    def what_is_shown_wants_an_answer(self) -> None:
        session = self.sitting.session
        if session.state == "showing":
            assert self.sitting.shown.query.id not in dict(self.given)
        else:
            assert session.state == "waiting"


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, derandomize=True
)
