"""The loop: act, ask, fit, improve, measure; a round at a time.

It knows neither Stable-Baselines3 nor transformers, only the protocols. Everything random in a
round derives from the root seed and the round's number, and everything a later round needs is in
the checkpoint at its end: a run that is killed and resumed ends bit for bit like one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from rlhf_gym.asking import Questions, post_questions
from rlhf_gym.data import Trajectory
from rlhf_gym.evaluation import evaluate_trajectories, reward_correlation
from rlhf_gym.feedback.acquisition import uniform
from rlhf_gym.feedback.answer_sources import AnswerSource, Due
from rlhf_gym.feedback.given import known_answers, last_answer
from rlhf_gym.feedback.pooling import Pooling, pool_labellers
from rlhf_gym.feedback.quality.patterns import AnswerWarning, answer_warnings
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.protocols import Acquisition, Agent, RewardModel, Signal
from rlhf_gym.runs import Run
from rlhf_gym.scored import scored_figures
from rlhf_gym.seeding import generator, stream

__all__ = ["Parts", "Plan", "Progress", "RoundObserver", "n_steps_of", "run_rounds"]

_FRESH_CLIPS = 200


@dataclass(frozen=True)
class Plan:
    """What each round may spend."""

    seed: int
    labels: list[int]
    """Answers per round."""
    steps: list[int]
    """Steps of improvement per round."""
    warm_up: int
    """Random steps before the first question."""
    clip_length: int
    eval_episodes: int
    answers_per_query: int = 1
    """Labellers who are to answer each query."""
    pooling: Pooling = "none"
    """How the answers of several labellers to one query are put together."""
    source: Literal["learned", "true"] = "learned"
    """What the agent is trained on; with "true" nothing is asked."""
    warm_up_as: tuple[str, str] = ("collect", "warming up")
    """What the warm-up's seconds are counted as, and what a display calls it."""

    @property
    def n_rounds(self) -> int:
        """Rounds in the whole run."""
        return len(self.steps)


@dataclass(frozen=True)
class Progress:
    """What a round hands on to the next, through the checkpoint."""

    last_sequence: int | None = None
    """The last answer that was trained on."""
    n_labels: int | None = None
    """How many there were; None in checkpoints of earlier versions."""
    n_asked: int = 0
    """Questions that the run asked, whatever else its store holds."""


@dataclass(frozen=True)
class Parts:
    """The players. Direct methods learn from the preferences and need no reward model."""

    agent: Agent
    store: PreferenceStore
    answers: AnswerSource
    acquisition: Acquisition
    reward_model: RewardModel | None


class RoundObserver(Protocol):
    """Is told how the run goes."""

    def phase(self, name: str) -> None:
        """A new phase began."""

    def round(self, metrics: dict[str, Any], n_rounds: int) -> None:
        """A round ended with these figures."""

    def note(self, text: str) -> None:
        """Something that the person who runs this should know, to stay on the screen."""


@dataclass
class _Clock:
    """Seconds per phase of one round, and what was said once."""

    observer: RoundObserver
    seconds: dict[str, float] = field(default_factory=dict)
    warned: set[tuple[str, str]] = field(default_factory=set)

    @contextmanager
    def __call__(self, key: str, title: str) -> Iterator[None]:
        self.observer.phase(title)
        started = time.perf_counter()
        yield
        spent = time.perf_counter() - started
        self.seconds[f"seconds_{key}"] = self.seconds.get(f"seconds_{key}", 0.0) + spent

    def warn(self, warning: AnswerWarning) -> None:
        """Show a warning, each kind about the same labeller once."""
        if (warning.kind, warning.who) not in self.warned:
            self.warned.add((warning.kind, warning.who))
            self.observer.note(f"warning: {warning}")


def run_rounds(
    parts: Parts,
    plan: Plan,
    run: Run,
    observer: RoundObserver,
    first_round: int = 0,
    progress: Progress | None = None,
) -> None:
    """Play all rounds from `first_round` on, each ending in metrics and a checkpoint.

    Args:
        parts: As the checkpoint before `first_round` left them.
        plan: What each round may spend.
        run: Where metrics and checkpoints go.
        observer: Is told how it goes.
        first_round: The first one to play.
        progress: What the rounds before it left, as the checkpoint has it.

    Raises:
        DataError: the first round finds no two clips to compare.
    """
    progress, clock = progress or Progress(), _Clock(observer)
    for round_ in range(first_round, plan.n_rounds):
        clock.seconds.clear()
        metrics, progress = _play_round(parts, plan, round_, clock, progress)
        metrics.update(clock.seconds)
        run.append_metrics(metrics)

        def write(folder: Path) -> None:
            parts.agent.save(folder)
            if parts.reward_model is not None:
                parts.reward_model.save(folder)

        observer.phase("saving")
        state = {parts.agent.counts: metrics[parts.agent.counts], **asdict(progress)}
        run.save_checkpoint(round_, write, state)
        observer.round(metrics, plan.n_rounds)


def _play_round(
    parts: Parts, plan: Plan, round_: int, clock: _Clock, progress: Progress
) -> tuple[dict[str, Any], Progress]:
    """One round: its metrics, and what it hands on."""
    agent, reward_model = parts.agent, parts.reward_model
    metrics: dict[str, Any] = {"round": round_}

    agent.begin_round(stream(plan.seed, "round", round_))
    if round_ == 0:
        with clock(*plan.warm_up_as):
            agent.warm_up(plan.warm_up)

    signal = Signal(source="true")
    if plan.source == "learned":
        with clock("label", "asking"):
            n_asked = progress.n_asked + _ask(parts, plan, round_, progress.n_asked)
        # What the round is trained on, whoever answers while it goes on. The store may hold answers
        # of later rounds, which a damaged checkpoint threw the run back from.
        last = last_answer(parts.store, up_to_round=round_)
        metrics["last_sequence"] = last
        preferences = parts.store.preferences(up_to=last, first_rounds=round_ + 1)
        pooled = pool_labellers(preferences, plan.pooling)
        before, progress = progress, Progress(last, len(preferences), n_asked)
        # The last answer alone does not tell: it may be about an earlier round than this one.
        is_new = last != before.last_sequence or before.n_labels not in (None, len(preferences))
        report = None
        if reward_model is not None and is_new:
            with clock("fit", "fitting the reward"):
                report = reward_model.fit(pooled, generator(plan.seed, "fit", round_))
            metrics.update(_fit_figures(asdict(report)))
        if is_new:
            known = known_answers(parts.store, last, round_)
            warnings = answer_warnings(known, round_, report)
            for warning in warnings:
                clock.warn(warning)
            metrics["warnings"] = [asdict(warning) for warning in warnings]
        signal = Signal(pooled, reward_model)
        metrics["n_labels"], metrics["n_asked"] = len(preferences), n_asked

    with clock("improve", "training"):
        metrics.update(agent.improve(signal, plan.steps[round_]))

    with clock("evaluate", "evaluating"):
        seed = stream(plan.seed, "evaluation", round_)
        episodes = agent.evaluate(plan.eval_episodes, seed)
        metrics.update(evaluate_trajectories(episodes, reward_model).figures())
        metrics.update(scored_figures(episodes))
        if reward_model is not None:
            rng = generator(plan.seed, "fresh clips", round_)
            fresh = agent.clips(_FRESH_CLIPS, plan.clip_length, rng)
            metrics["reward_correlation"] = reward_correlation(fresh, reward_model)
            metrics["reward_correlation_clips"] = len(fresh)
    metrics["eval_episodes"] = len(episodes)
    metrics["eval_steps"] = n_steps_of(episodes, agent)
    metrics[agent.counts] = agent.n_steps_done
    return metrics, progress


def n_steps_of(episodes: Sequence[Trajectory], agent: Agent) -> int:
    """What episodes cost in the agent's own unit: env steps, or completions, one each."""
    return sum(map(len, episodes)) if agent.counts == "env_steps" else len(episodes)


def _ask(parts: Parts, plan: Plan, round_: int, n_before: int) -> int:
    """Have questions asked and answered, and more while nothing is said that can be learned from.

    Returns:
        How many were asked: this round's, and those for which earlier rounds found too few pairs.
    """
    # Nothing is known before the first fit: like B-Pref, the first session asks at random.
    choose: Acquisition = parts.acquisition if round_ > 0 else uniform
    each = plan.answers_per_query
    budget, n_asked = sum(plan.labels) // each, n_before
    batch = wanted = sum(plan.labels[: round_ + 1]) // each - n_before
    while True:
        n_new, n_in_vain = 0, n_asked - n_before
        if wanted > 0:
            what = Questions(wanted, plan.seed, round_, n_in_vain, plan.clip_length, each)
            n_new = post_questions(what, parts.agent, parts.store, choose, parts.reward_model)
        n_asked += n_new
        left, is_last = max(budget - n_asked, 0), round_ == plan.n_rounds - 1
        due = Due(round_, n_asked * each, n_new, n_in_vain, left, is_last)
        if not parts.answers.collect(parts.store, due) or n_new == 0:
            return n_asked - n_before
        wanted = min(batch, left) or batch  # people are asked on: what they skipped taught nothing


def _fit_figures(report: dict[str, Any]) -> dict[str, Any]:
    """A fit's report under the names of metrics.jsonl."""
    return {
        "reward_accuracy_train": report["accuracy_train"],
        "reward_accuracy_heldout": report["accuracy_heldout"],
        "reward_log_loss_train": report["loss_train"],
        "reward_log_loss_heldout": report["loss_heldout"],
        "reward_n_heldout": report["n_heldout_decisive"],
        "reward_calibration_error": report["calibration_error"],
        "reward_weight_decay": report["weight_decay"],
        "fit_epochs": report["n_epochs"],
        "reward_dropped_inputs": list(report["dropped_inputs"]),
    }
