"""The closing figures of a run: final evaluation, calibration, cost, and the yardsticks beside."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from scipy.special import expit

from rlhf_gym.data import Preference, Trajectory
from rlhf_gym.documents import read_json
from rlhf_gym.evaluation import evaluate_trajectories, reward_correlation
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.feedback.given import count_given, count_late, count_outstanding
from rlhf_gym.feedback.metrics import CalibrationBin, calibration_table, with_noise
from rlhf_gym.feedback.pooling import pool_labellers
from rlhf_gym.feedback.quality.patterns import standing_warnings
from rlhf_gym.feedback.splits import heldout_mask
from rlhf_gym.files import write_json
from rlhf_gym.loop import Parts, Plan, n_steps_of
from rlhf_gym.protocols import RewardModel
from rlhf_gym.runs import Run
from rlhf_gym.scored import COMPONENT, scored_figures
from rlhf_gym.seeding import generator, stream
from rlhf_gym.train_config import TrainConfig

__all__ = ["write_summary"]

_FRESH_CLIPS = 500


@runtime_checkable
class _Calibrated(Protocol):
    """A reward model that knows which answers it held out."""

    def calibration(self, preferences: Sequence[Preference]) -> list[CalibrationBin]:
        """On those of them; given what the last fit was given."""


def write_summary(
    run: Run, config: TrainConfig, plan: Plan, parts: Parts, seconds_setup: float
) -> None:
    """Evaluate the trained agent and write summary.json."""
    started = time.perf_counter()
    n_episodes, model = config.final_episodes, parts.reward_model
    episodes = parts.agent.evaluate(n_episodes, stream(config.seed, "final evaluation"))
    random = parts.agent.evaluate(n_episodes, stream(config.seed, "random"), random=True)
    evaluation = evaluate_trajectories(episodes, model)
    metrics = run.metrics()
    summary: dict[str, Any] = {
        "env_id": config.env,
        "algo": config.algo,
        "seed": config.seed,
        "reward": config.reward,
        "n_rounds": len(metrics),
        "n_rounds_planned": config.rounds,
        "n_steps_planned": config.steps,
        parts.agent.counts: parts.agent.n_steps_done,
        "eval_steps": n_steps_of(episodes, parts.agent) + sum(m["eval_steps"] for m in metrics),
        # People may answer on after the last fit: what counts is what was trained on.
        "n_labels": _last(metrics, "n_labels") or 0,
        **_answers_left_over(plan, parts, metrics),
        **evaluation.figures(),
        **scored_figures(episodes),
        "evaluation_returns": evaluation.true_returns.tolist(),
        "reference": _reference(config, random),
    }
    if model is not None:
        assert config.clip_length is not None, "a run's configuration is complete"
        rng = generator(config.seed, "final clips")
        fresh = parts.agent.clips(_FRESH_CLIPS, config.clip_length, rng)
        summary["reward_correlation"] = reward_correlation(fresh, model)
        summary["reward_correlation_clips"] = len(fresh)
        summary["calibration"] = {"bins": _calibration(config, parts, metrics)}
        for key in ("reward_accuracy_heldout", "reward_n_heldout"):
            summary[key] = _last(metrics, key)
    if parts.agent.counts == "completions":
        summary |= _text_figures(parts.agent, n_episodes, metrics, stream(config.seed, "compared"))
    seconds = _seconds(metrics)
    seconds["setup"] = seconds_setup
    seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.perf_counter() - started
    summary["seconds"] = seconds
    summary["seconds_total"] = sum(seconds.values())
    summary["warnings"] = [str(warning) for warning in standing_warnings(metrics)]
    summary["warnings"] += _no_better_than_random(episodes, random, parts.agent.counts)
    write_json(run.summary_path, summary)


def _answers_left_over(plan: Plan, parts: Parts, metrics: list[dict[str, Any]]) -> dict[str, int]:
    """Answers that were asked for and not learned from, by the reason."""
    if plan.source == "true":
        return {}
    n_planned, n_asked = sum(plan.labels), _last(metrics, "n_asked") or 0
    return {
        "n_labels_planned": n_planned + count_given(parts.store),
        "n_questions_unasked": max(n_planned // plan.answers_per_query - n_asked, 0),
        "n_answers_missing": count_outstanding(parts.store, len(metrics) - 1),
        "n_answers_late": count_late(parts.store, _last(metrics, "last_sequence") or 0),
    }


def _no_better_than_random(
    episodes: Sequence[Trajectory], random: Sequence[Trajectory], counts: str
) -> list[str]:
    """One line where the agent's true return does not exceed the untrained one's, beyond chance.

    One-sided at 5 %: the difference of the means is compared with 1.64 of its standard errors.
    """
    ours, others = (np.array([t.true_return for t in some]) for some in (episodes, random))
    if np.isnan(ours).any() or np.isnan(others).any():
        return []  # a task without a true reward
    error = np.sqrt(sum(x.var(ddof=1) / len(x) if len(x) > 1 else 0.0 for x in (ours, others)))
    if ours.mean() - others.mean() > 1.64 * error:
        return []
    is_text = counts == "completions"
    what, unit = ("the model after SFT", counts) if is_text else ("random actions", "episodes")
    return [
        f"the agent is no better than {what}: true return {ours.mean():.4g} against "
        f"{others.mean():.4g}, over {len(ours)} {unit} each: no more than chance"
    ]


def _text_figures(
    agent: Any, n: int, metrics: list[dict[str, Any]], seed: np.random.SeedSequence
) -> dict[str, Any]:
    """What a text run is judged by beside its return, where the agent can say."""
    keys = ("kl_to_ref", "kl_coef", "length", "distinct_2")
    figures = {key: _last(metrics, key) for key in keys}
    if hasattr(agent, "compare"):
        figures |= agent.compare(n, seed)
    if hasattr(agent, "component_weights"):
        figures["component_weights"] = agent.component_weights
    return figures


def _calibration(
    config: TrainConfig, parts: Parts, metrics: list[dict[str, Any]]
) -> list[CalibrationBin]:
    """Predicted against observed P(first preferred), on answers that were never trained on."""
    model = parts.reward_model
    assert model is not None
    # As the last fit saw them: people may have answered on since.
    answers = parts.store.preferences(
        up_to=_last(metrics, "last_sequence"), first_rounds=len(metrics)
    )
    answers = pool_labellers(answers, config.pooling)
    if isinstance(model, _Calibrated):
        return model.calibration(answers)
    if config.reward_model != "ensemble":
        return []  # which answers it held out is not known
    return _ensemble_calibration(config, model, answers.trained())


def _ensemble_calibration(
    config: TrainConfig, model: RewardModel, answers: PreferenceSet
) -> list[CalibrationBin]:
    mask = heldout_mask(answers.query_ids, config.ensemble.fit.heldout_fraction)
    if mask.all() or not mask.any():  # of a handful that would all be held out, a fit holds none
        return []
    heldout = [answers[i] for i in np.flatnonzero(mask).tolist()]
    first, second = (
        model.clip_returns([p.query.clips[side] for p in heldout])  # (E, B)
        for side in (0, 1)
    )
    predicted = expit(np.float64(first) - second).mean(axis=0)  # (B,)
    labels = np.array([p.preference_prob for p in heldout], dtype=np.float64)
    return calibration_table(with_noise(predicted, config.ensemble.fit.noise), labels)


def _reference(config: TrainConfig, random: Sequence[Trajectory]) -> dict[str, Any]:
    """What random actions reach, measured now, and the yardstick of the same budget, if on file."""
    table = read_json(Path(str(resources.files("rlhf_gym") / "yardsticks.json")))
    entry = table.get(config.env, {})
    # Of the same task: another horizon, or other arguments, make another.
    comparable = entry.get("steps") == config.steps and not config.make_env_kwargs()
    return {
        "random_return_mean": float(np.mean([t.true_return for t in random])),
        **{k: v for k, v in scored_figures(random).items() if k.startswith(COMPONENT)},
        "true_reward_return_mean": entry.get("return_mean") if comparable else None,
        "source": entry.get("source") if comparable else None,
    }


def _seconds(metrics: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for row in metrics:
        for key, value in row.items():
            if key.startswith("seconds_"):
                name = key.removeprefix("seconds_")
                total[name] = total.get(name, 0.0) + value
    return total


def _last(metrics: list[dict[str, Any]], key: str) -> Any:
    """The newest value of a figure that not every round has."""
    return next((row[key] for row in reversed(metrics) if row.get(key) is not None), None)
