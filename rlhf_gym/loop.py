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

from rlhf_gym.data import Query, Trajectory
from rlhf_gym.errors import DataError
from rlhf_gym.evaluation import evaluate_trajectories, reward_correlation
from rlhf_gym.feedback.acquisition import count_pairs, uniform
from rlhf_gym.feedback.answer_sources import AnswerSource, Due
from rlhf_gym.feedback.given import count_asked
from rlhf_gym.feedback.pooling import Pooling, pool_labellers
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.protocols import Acquisition, Agent, RewardModel, Signal
from rlhf_gym.runs import Run
from rlhf_gym.scored import scored_figures
from rlhf_gym.seeding import generator, stream

__all__ = ["Parts", "Plan", "RoundObserver", "n_steps_of", "run_rounds"]

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
    n_given: int = 0
    """Answers that are in the store before the first question."""
    source: Literal["learned", "true"] = "learned"
    """What the agent is trained on; with "true" nothing is asked."""
    warm_up_as: tuple[str, str] = ("collect", "warming up")
    """What the warm-up's seconds are counted as, and what a display calls it."""

    @property
    def n_rounds(self) -> int:
        """Rounds in the whole run."""
        return len(self.steps)


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


@dataclass
class _Clock:
    """Seconds per phase of one round."""

    observer: RoundObserver
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, key: str, title: str) -> Iterator[None]:
        self.observer.phase(title)
        started = time.perf_counter()
        yield
        spent = time.perf_counter() - started
        self.seconds[f"seconds_{key}"] = self.seconds.get(f"seconds_{key}", 0.0) + spent


def run_rounds(
    parts: Parts,
    plan: Plan,
    run: Run,
    observer: RoundObserver,
    first_round: int = 0,
    fitted_to: int | None = None,
) -> None:
    """Play all rounds from `first_round` on, each ending in metrics and a checkpoint.

    Args:
        parts: As the checkpoint before `first_round` left them.
        plan: What each round may spend.
        run: Where metrics and checkpoints go.
        observer: Is told how it goes.
        first_round: The first one to play.
        fitted_to: The last answer that the reward model was fitted to, as the checkpoint has it.

    Raises:
        DataError: the first round finds no two clips to compare.
    """
    for round_ in range(first_round, plan.n_rounds):
        clock = _Clock(observer)
        metrics = _play_round(parts, plan, round_, clock, fitted_to)
        fitted_to = metrics.get("last_sequence")
        metrics.update(clock.seconds)
        run.append_metrics(metrics)

        def write(folder: Path) -> None:
            parts.agent.save(folder)
            if parts.reward_model is not None:
                parts.reward_model.save(folder)

        observer.phase("saving")
        state = {key: metrics.get(key) for key in ("last_sequence", parts.agent.counts)}
        run.save_checkpoint(round_, write, state)
        observer.round(metrics, plan.n_rounds)


def _play_round(
    parts: Parts, plan: Plan, round_: int, clock: _Clock, fitted_to: int | None
) -> dict[str, Any]:
    """One round; `fitted_to` is the last answer that the reward model knows."""
    agent, reward_model = parts.agent, parts.reward_model
    metrics: dict[str, Any] = {"round": round_}

    agent.begin_round(stream(plan.seed, "round", round_))
    if round_ == 0:
        with clock(*plan.warm_up_as):
            agent.warm_up(plan.warm_up)

    signal = Signal(source="true")
    if plan.source == "learned":
        with clock("label", "asking"):
            parts.answers.collect(parts.store, _ask(parts, plan, round_))
        # What the round is trained on, whoever answers while it goes on.
        metrics["last_sequence"] = parts.store.last_sequence
        preferences = parts.store.preferences(
            up_to=metrics["last_sequence"], first_rounds=round_ + 1
        )
        pooled = pool_labellers(preferences, plan.pooling)
        if reward_model is not None and metrics["last_sequence"] != fitted_to:
            with clock("fit", "fitting the reward"):
                report = reward_model.fit(pooled, generator(plan.seed, "fit", round_))
            metrics.update(_fit_figures(asdict(report)))
        signal = Signal(pooled, reward_model)
        metrics["n_labels"] = len(preferences)

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
    metrics["eval_steps"] = n_steps_of(episodes, agent)
    metrics[agent.counts] = agent.n_steps_done
    return metrics


def n_steps_of(episodes: Sequence[Trajectory], agent: Agent) -> int:
    """What episodes cost in the agent's own unit: env steps, or completions, one each."""
    return sum(map(len, episodes)) if agent.counts == "env_steps" else len(episodes)


def _ask(parts: Parts, plan: Plan, round_: int) -> Due:
    """Post this round's queries, and those for which earlier rounds found too few pairs."""
    n_before = count_asked(parts.store, before_round=round_)
    n_queries = sum(plan.labels[: round_ + 1]) // plan.answers_per_query - n_before
    if n_queries > 0:
        n_queries = _post(parts, plan, round_, n_queries)
    n_answers = (n_before + n_queries) * plan.answers_per_query
    return Due(round_, n_answers, n_given=plan.n_given, n_new=n_queries)


def _post(parts: Parts, plan: Plan, round_: int, n_queries: int) -> int:
    """Post so many queries, or as many as there are pairs; returns their number."""
    rng = generator(plan.seed, "queries", round_)
    clips = parts.agent.clips(n_queries * parts.agent.clips_per_query, plan.clip_length, rng)
    full = {clip.id: clip for clip in clips}
    # Completions that all come out alike, say: the next round asks what is missing here.
    n_queries = min(n_queries, count_pairs(clips))
    if n_queries == 0 and round_ == 0 and plan.n_given == 0:
        raise DataError(
            f"the {len(clips)} clips of the first round hold no two different ones to compare; "
            "raise `--warm-up` for robots; for texts take a model whose completions of a prompt "
            "differ."
        )
    blind = [clip.without_true_rewards() for clip in full.values()]
    # Nothing is known before the first fit: like B-Pref, the first session asks at random.
    choose: Acquisition = parts.acquisition if round_ > 0 else uniform
    pairs = choose(blind, parts.reward_model, n_queries, rng)
    queries = [
        Query((full[first.id], full[second.id]), plan.seed, round_, i)
        for i, (first, second) in enumerate(pairs)
    ]
    parts.store.post(queries, n_wanted=plan.answers_per_query)
    return len(queries)


def _fit_figures(report: dict[str, Any]) -> dict[str, Any]:
    """A fit's report under the names of metrics.jsonl."""
    return {
        "reward_accuracy_train": report["accuracy_train"],
        "reward_accuracy_heldout": report["accuracy_heldout"],
        "reward_log_loss_train": report["loss_train"],
        "reward_log_loss_heldout": report["loss_heldout"],
        "reward_calibration_error": report["calibration_error"],
        "reward_weight_decay": report["weight_decay"],
        "fit_epochs": report["n_epochs"],
    }
