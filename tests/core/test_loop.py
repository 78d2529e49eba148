"""The loop by itself: what it hands to the players of a round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Preference, Query, Trajectory
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.acquisition import uniform
from rlhf_gym.feedback.answer_sources import AtOnce, Due
from rlhf_gym.feedback.given import last_answer
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.loop import Parts, Plan, Progress, run_rounds
from rlhf_gym.protocols import FitReport, Signal
from rlhf_gym.runs import Run

N_QUERIES = 30


@dataclass
class Learner:
    """An agent that does nothing and remembers what it was to improve on."""

    make_clip: Callable[..., Clip]
    counts: str = "env_steps"
    clips_per_query: int = 2
    n_steps_done: int = 0
    signals: list[Signal] = field(default_factory=list)
    n_clips: list[int] = field(default_factory=list)
    """Clips that each next call finds; empty for as many as are asked for."""

    def begin_round(self, seed: np.random.SeedSequence) -> None:
        pass

    def warm_up(self, n_steps: int) -> None:
        self.n_steps_done += n_steps

    def clips(self, n: int, length: int, rng: np.random.Generator) -> list[Clip]:
        n = min(n, self.n_clips.pop(0)) if self.n_clips else n
        return [self.make_clip(length) for _ in range(n)]

    def improve(self, signal: Signal, n_steps: int) -> dict[str, float]:
        self.signals.append(signal)
        self.n_steps_done += n_steps
        return {}

    def evaluate(self, n_episodes: int, seed: np.random.SeedSequence) -> list[Trajectory]:
        clip = self.make_clip(4)
        return [
            Trajectory(clip.obs, clip.actions, clip.true_rewards, False, True, clip.context_id)
        ] * n_episodes

    def save(self, folder: Path) -> None:
        (folder / "agent").write_text("nothing")


@dataclass
class Fitted:
    """A reward model that remembers what it was fitted to."""

    fits: list[object] = field(default_factory=list)

    def fit(self, preferences: object, rng: np.random.Generator) -> FitReport:
        self.fits.append(preferences)
        return FitReport(1, 0, 1, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0)

    def rewards(self, batch: object) -> np.ndarray:
        return np.zeros((1, 4), np.float32)

    def clip_returns(self, clips: list[Clip]) -> np.ndarray:
        return np.zeros((1, len(clips)), np.float32)

    def save(self, folder: Path) -> None:
        (folder / "model").write_text("nothing")


class Desk:
    """Two agree on every pair, now on the first, now on the second; the third contradicts."""

    def collect(self, store: PreferenceStore, due: Due) -> None:
        for query in store.open_queries():
            said = [Choice.FIRST, Choice.SECOND]
            agreed, opposite = said if query.index % 2 else said[::-1]
            store.answer(
                [
                    Preference(query, choice, "human", labeller=who)
                    for who, choice in {"a": agreed, "b": agreed, "c": opposite}.items()
                ]
            )


class AllFirst:
    """Answers at once; notes what was due."""

    def __init__(self) -> None:
        self.dues: list[Due] = []

    def collect(self, store: PreferenceStore, due: Due) -> None:
        self.dues.append(due)
        store.answer([Preference(q, Choice.FIRST, "rule") for q in store.open_queries()])


class Quiet:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def phase(self, name: str) -> None:
        pass

    def round(self, metrics: dict[str, object], n_rounds: int) -> None:
        pass


@pytest.mark.parametrize("direct", [False, True], ids=["reward model", "direct"])
@pytest.mark.parametrize("pooling", ["none", "dawid-skene"])
def test_answers_of_several_labellers_are_pooled_for_whoever_learns_from_them(
    tmp_path: Path, make_clip: Callable[..., Clip], pooling: str, direct: bool
) -> None:
    model, agent = (None if direct else Fitted()), Learner(make_clip)
    plan = Plan(
        0, [3 * N_QUERIES], [10], 5, clip_length=4, eval_episodes=1, answers_per_query=3,
        pooling=pooling,
    )  # fmt: skip
    run = Run.create(tmp_path / "run")
    with PreferenceStore(run.store_folder) as store:
        run_rounds(Parts(agent, store, Desk(), uniform, model), plan, run, Quiet(), 0)
    (signal,) = agent.signals
    learned_from = [signal.preferences] if direct else [signal.preferences, model.fits[0]]
    for preferences in learned_from:
        if pooling == "none":
            assert len(preferences) == 3 * N_QUERIES
        else:
            # One label per pair, with the two who bear each other out; averaged: 1/3 or 2/3.
            certainty = np.abs(preferences.probs - 0.5)
            assert len(preferences) == N_QUERIES and certainty.min() > 0.4
    # What people gave is counted in answers, whatever is made of them.
    assert run.metrics()[0]["n_labels"] == 3 * N_QUERIES


def play(folder: Path, agent: Learner, plan: Plan, source: AllFirst, **where: Any) -> Fitted:
    model = Fitted()
    run = Run(folder) if folder.exists() else Run.create(folder)
    with PreferenceStore(run.store_folder) as store:
        run_rounds(Parts(agent, store, source, uniform, model), plan, run, Quiet(), **where)
    return model


def test_clips_are_drawn_again_until_there_are_pairs_enough(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    # One clip, then three more of the same env: 1, then 4 make 6 pairs.
    agent = Learner(make_clip, n_clips=[1, 3])
    plan = Plan(0, [5], [10], 5, clip_length=4, eval_episodes=1)
    play(tmp_path / "run", agent, plan, AllFirst())
    assert agent.n_clips == [] and Run(tmp_path / "run").metrics()[0]["n_labels"] == 5


def test_questions_that_found_no_pair_are_asked_in_the_next_round(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    # In the first round the eight draws find four clips in all, which make 6 pairs of the 10
    # wanted; nine are for the correlation; in the second round they find one, which makes none.
    few = [4, *[0] * 7, 9, 1, *[0] * 7]
    agent, source = Learner(make_clip, n_clips=few), AllFirst()
    plan = Plan(0, [10, 2, 2, 0], [10] * 4, 5, clip_length=4, eval_episodes=1)
    model = play(tmp_path / "run", agent, plan, source)
    n_labels = [row["n_labels"] for row in Run(tmp_path / "run").metrics()]
    # 10 and 2 were planned for the first two rounds, 14 in all.
    assert n_labels == [6, 6, 14, 14]
    assert [(due.n_answers, due.n_new) for due in source.dues] == [(6, 6), (6, 0), (14, 8), (14, 0)]
    assert len(model.fits) == 2, "where nothing new was answered, nothing is fitted"


def test_where_there_is_no_pair_nobody_is_asked_to_choose_one(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    asked: list[int] = []

    def choose(clips: list[Clip], model: object, n: int, rng: np.random.Generator) -> list[object]:
        asked.append(n)
        return uniform(clips, None, n, rng)

    agent = Learner(make_clip, n_clips=[100, 9, *[0] * 8, 9, 100])
    plan = Plan(0, [2, 2, 2], [10] * 3, 5, clip_length=4, eval_episodes=1)
    run = Run.create(tmp_path / "run")
    with PreferenceStore(run.store_folder) as store:
        parts = Parts(agent, store, AllFirst(), choose, Fitted())
        run_rounds(parts, plan, run, Quiet())
    assert asked == [4], "the first round asks at random, the second finds nothing"


def test_a_first_round_without_any_pair_says_so(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    plan = Plan(0, [10], [10], 5, clip_length=4, eval_episodes=1)
    with pytest.raises(DataError, match=r"of the first round \(1\) hold no two different ones"):
        play(tmp_path / "run", Learner(make_clip, n_clips=[1, *[0] * 7]), plan, AllFirst())


def test_a_round_that_asks_nothing_still_collects_what_people_said_since(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    class Late(AllFirst):
        def collect(self, store: PreferenceStore, due: Due) -> None:
            store.answer([Preference(q, Choice.FIRST, "human") for q in store.open_queries(2)])

    plan = Plan(0, [5, 0, 0, 0], [10] * 4, 5, clip_length=4, eval_episodes=1)
    model = play(tmp_path / "run", Learner(make_clip), plan, Late())
    # Two answers a round; in the last one none is new.
    assert [len(fitted) for fitted in model.fits] == [2, 4, 5]


def test_what_a_store_holds_besides_is_not_taken_for_what_the_run_asked(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    """Answers imported into a run's own store add to its own; they do not replace them."""

    class Imports(AllFirst):
        def collect(self, store: PreferenceStore, due: Due) -> None:
            if due.round == 0:
                others = [Query((make_clip(4), make_clip(4)), 0, 0, 100 + i) for i in range(50)]
                store.post(others)
            super().collect(store, due)

    plan = Plan(0, [4, 2, 2], [10] * 3, 5, clip_length=4, eval_episodes=1)
    play(tmp_path / "run", Learner(make_clip), plan, source := Imports())
    assert [due.n_new for due in source.dues] == [4, 2, 2]
    assert [row["n_labels"] for row in Run(tmp_path / "run").metrics()] == [54, 56, 58]


def test_a_run_thrown_back_by_a_round_trains_it_on_what_it_knew_then(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    class Repeatable(Learner):
        def clips(self, n: int, length: int, rng: np.random.Generator) -> list[Clip]:
            obs = rng.standard_normal((n, length + 1, 3)).astype(np.float32)
            return [Clip(of, np.zeros((length, 2), np.float32), "Test-v0") for of in obs]

    plan = Plan(0, [5] * 4, [10] * 4, 5, clip_length=4, eval_episodes=1)
    whole = play(tmp_path / "whole", Repeatable(make_clip), plan, AllFirst())
    assert [len(fitted) for fitted in whole.fits] == [5, 10, 15, 20]
    # All rounds were asked and answered; then the last two checkpoints were lost.
    again = play(
        tmp_path / "whole", Repeatable(make_clip), plan, AllFirst(),
        first_round=2, progress=Progress(last_sequence=10, n_labels=10, n_asked=10),
    )  # fmt: skip
    assert [len(fitted) for fitted in again.fits] == [15, 20]
    marks = [row["last_sequence"] for row in Run(tmp_path / "whole").metrics()]
    assert marks == [5, 10, 15, 20, 15, 20]


def test_a_checkpoint_says_what_was_asked_and_learned(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    plan = Plan(0, [5, 0], [10] * 2, 5, clip_length=4, eval_episodes=1)
    play(tmp_path / "run", Learner(make_clip), plan, AllFirst())
    checkpoint = Run(tmp_path / "run").latest_checkpoint()
    assert checkpoint is not None
    state = checkpoint.state
    assert (state["last_sequence"], state["n_labels"], state["n_asked"]) == (5, 5, 5)


def test_a_late_answer_about_an_earlier_round_hides_no_fit(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    """The store's last answer is about round 0; round 1's own came before it."""

    class Backwards(AllFirst):
        def collect(self, store: PreferenceStore, due: Due) -> None:
            open_ = store.open_queries()
            if due.round == 0:
                store.answer([Preference(q, Choice.FIRST, "human") for q in open_[1:]])
            else:
                store.answer([Preference(q, Choice.FIRST, "human") for q in reversed(open_)])

    plan = Plan(0, [3, 2, 0], [10] * 3, 5, clip_length=4, eval_episodes=1)
    run_folder = tmp_path / "run"
    whole = play(run_folder, Learner(make_clip), plan, Backwards())
    assert [len(fitted) for fitted in whole.fits] == [2, 5]
    # Thrown back to round 0, whose late answer is now known at once: 3, and 5 in the next.
    with PreferenceStore(run_folder) as store:
        assert last_answer(store, 0) == last_answer(store, 1) == 5
    plan = Plan(0, [0, 0, 0], [10] * 3, 5, clip_length=4, eval_episodes=1)
    again = play(run_folder, Learner(make_clip), plan, AllFirst(), first_round=0)
    assert [len(fitted) for fitted in again.fits] == [3, 5]


class Repeatable(Learner):
    """Clips that follow from the generator alone."""

    def clips(self, n: int, length: int, rng: np.random.Generator) -> list[Clip]:
        obs = rng.standard_normal((n, length + 1, 3)).astype(np.float32)
        zeros, rewards = np.zeros((length, 2), np.float32), np.zeros(length, np.float32)
        return [Clip(of, zeros, "Test-v0", rewards) for of in obs]


class Rule:
    """A teacher with a rule of its own: the k-th answer it ever gives."""

    name = "rule"

    def __init__(self, rule: Callable[[int], Choice]) -> None:
        self.rule, self.n = rule, 0

    def answer(self, queries: list[Query]) -> list[Preference]:
        self.n += len(queries)
        start = self.n - len(queries)
        return [Preference(q, self.rule(start + i), self.name) for i, q in enumerate(queries)]


def play_rule(
    folder: Path, make_clip: Callable[..., Clip], plan: Plan, rule: Callable[[int], Choice]
) -> Quiet:
    run, observer = Run(folder) if folder.exists() else Run.create(folder), Quiet()
    with PreferenceStore(run.store_folder) as store:
        parts = Parts(Repeatable(make_clip), store, AtOnce(Rule(rule)), uniform, Fitted())
        run_rounds(parts, plan, run, observer)
    return observer


def skip_first(n: int) -> Callable[[int], Choice]:
    return lambda k: Choice.SKIP if k < n else Choice.FIRST if k % 3 else Choice.SECOND


def test_a_first_round_of_nothing_but_cant_tell_is_asked_again_within_the_labels(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    plan = Plan(0, [4, 6, 2], [10] * 3, 5, clip_length=4, eval_episodes=1)
    play_rule(tmp_path / "run", make_clip, plan, skip_first(8))
    rows = Run(tmp_path / "run").metrics()
    # Twice in vain; the third batch says something, and the later rounds ask nothing any more.
    assert [row["n_asked"] for row in rows] == [12, 12, 12]
    with PreferenceStore(tmp_path / "run") as store:
        queries = store.queries([r.query_id for r in store.answer_records()])
        assert len({q.id for q in queries}) == len({q.clips for q in queries}) == 12


def test_a_teacher_that_skips_everything_ends_in_one_error_before_training(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    plan = Plan(0, [4, 6, 2], [10] * 3, 5, clip_length=4, eval_episodes=1)
    with pytest.raises(DataError, match=r"'rule' said \"can't tell\" to all 12 queries"):
        play_rule(tmp_path / "run", make_clip, plan, skip_first(99))
    assert Run(tmp_path / "run").metrics() == []


def test_a_run_killed_while_it_asked_again_goes_on_as_if_it_had_not(
    tmp_path: Path, make_clip: Callable[..., Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(0, [4, 6, 6], [10] * 3, 5, clip_length=4, eval_episodes=1)
    whole = tmp_path / "whole"
    play_rule(whole, make_clip, plan, skip_first(4))
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Learner, "improve", killed)
        with pytest.raises(KeyboardInterrupt):
            play_rule(tmp_path / "cut", make_clip, plan, skip_first(4))
    # What taught something is in the store already, and is asked again all the same.
    play_rule(tmp_path / "cut", make_clip, plan, lambda k: skip_first(4)(k + 8))
    keys = ("n_asked", "n_labels", "last_sequence")
    rows = [
        [[row[key] for key in keys] for row in Run(f).metrics()] for f in (whole, tmp_path / "cut")
    ]
    assert rows[0] == rows[1] == [[8, 8, 8], [10, 10, 10], [16, 16, 16]]


def test_a_later_round_of_nothing_but_cant_tell_trains_on_what_is_there_and_says_so(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    plan = Plan(0, [5, 3, 2], [10] * 3, 5, clip_length=4, eval_episodes=1)
    observer = play_rule(
        tmp_path / "run", make_clip, plan, lambda k: Choice.SKIP if 5 <= k < 8 else Choice.FIRST
    )
    (note,) = observer.notes
    assert note.startswith('warning: round 2: all 3 answers are "can\'t tell"')
    rows = Run(tmp_path / "run").metrics()
    assert [row["n_labels"] for row in rows] == [5, 8, 10]
    assert [len(row["warnings"]) for row in rows] == [0, 1, 0]


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (lambda k: Choice.TIE, "ties"),
        (lambda k: Choice.SECOND, "one side"),
        (lambda k: Choice.FIRST if k % 2 else Choice.SECOND, "in turn"),
    ],
)
def test_degenerate_answers_are_warned_of_once_and_noted_in_every_round(
    tmp_path: Path, make_clip: Callable[..., Clip], rule: Callable[[int], Choice], kind: str
) -> None:
    plan = Plan(0, [10, 10, 10], [10] * 3, 5, clip_length=4, eval_episodes=1)
    observer = play_rule(tmp_path / "run", make_clip, plan, rule)
    (note,) = observer.notes
    assert note.startswith("warning: rule ")
    kinds = [[w["kind"] for w in row["warnings"]] for row in Run(tmp_path / "run").metrics()]
    assert kinds[-1] == [kind] and kinds == sorted(kinds)


def test_the_last_round_is_known_as_the_last(
    tmp_path: Path, make_clip: Callable[..., Clip]
) -> None:
    plan = Plan(0, [4, 2, 0], [10] * 3, 5, clip_length=4, eval_episodes=1)
    play(tmp_path / "run", Learner(make_clip), plan, source := AllFirst())
    assert [due.is_last for due in source.dues] == [False, False, True]
    assert [due.n_left for due in source.dues] == [2, 0, 0]


@pytest.mark.parametrize(
    ("choose", "what"),
    [
        (lambda clips, model, n, rng: None, "returned NoneType"),
        (lambda clips, model, n, rng: [(clips[0], clips[1])] * (n - 1), "returned 2"),
        (lambda clips, model, n, rng: [(clips[0],)] * n, "something else than two of the"),
    ],
)
def test_an_acquisition_that_breaks_its_contract_is_named(
    tmp_path: Path, make_clip: Callable[..., Clip], choose: Any, what: str
) -> None:
    choose.__name__ = "own"
    run = Run.create(tmp_path / "run")
    plan = Plan(0, [3, 3], [10] * 2, 5, clip_length=4, eval_episodes=1)
    with PreferenceStore(run.store_folder) as store:
        parts = Parts(Learner(make_clip), store, AllFirst(), choose, Fitted())
        with pytest.raises(DataError, match=f"the acquisition 'own' .*{what}"):
            run_rounds(parts, plan, run, Quiet())
        assert store.counts()["n_queries"] == 3
