"""The closing figures of a run: final evaluation, calibration, cost, and the yardsticks beside."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import numpy as np

from rlhf_gym.evaluation import evaluate_trajectories, reward_correlation
from rlhf_gym.feedback.metrics import calibration_table
from rlhf_gym.feedback.splits import heldout_mask
from rlhf_gym.files import write_json
from rlhf_gym.loop import Parts
from rlhf_gym.runs import Run
from rlhf_gym.seeding import generator, stream
from rlhf_gym.train_config import TrainConfig

__all__ = ["write_summary"]

_FRESH_CLIPS = 500


def write_summary(run: Run, config: TrainConfig, parts: Parts, seconds_setup: float) -> None:
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
        parts.agent.counts: parts.agent.n_steps_done,
        "eval_steps": sum(len(t) for t in episodes) + sum(m["eval_steps"] for m in metrics),
        # People may answer on after the last fit: what counts is what was trained on.
        "n_labels": _last(metrics, "n_labels") or 0,
        **evaluation.figures(),
        "evaluation_returns": evaluation.true_returns.tolist(),
        "reference": _reference(config, [t.true_return for t in random]),
    }
    if model is not None:
        assert config.clip_length is not None, "a run's configuration is complete"
        rng = generator(config.seed, "final clips")
        fresh = parts.agent.clips(_FRESH_CLIPS, config.clip_length, rng)
        summary["reward_correlation"] = reward_correlation(fresh, model)
        # Which answers another model held out is not known; that of texts holds out by prompt.
        own = config.reward_model != "ensemble" or parts.agent.counts == "completions"
        summary["calibration"] = {"bins": []} if own else _calibration(config, parts)
        summary["reward_accuracy_heldout"] = _last(metrics, "reward_accuracy_heldout")
    if parts.agent.counts == "completions":
        summary |= _text_figures(parts.agent, n_episodes, metrics, stream(config.seed, "compared"))
    seconds = _seconds(metrics)
    seconds["setup"] = seconds_setup
    seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.perf_counter() - started
    summary["seconds"] = seconds
    summary["seconds_total"] = sum(seconds.values())
    write_json(run.summary_path, summary)


def _text_figures(
    agent: Any, n: int, metrics: list[dict[str, Any]], seed: np.random.SeedSequence
) -> dict[str, Any]:
    """What a text run is judged by beside its return, where the agent can say."""
    keys = ("kl_to_ref", "length", "distinct_2")
    figures = {key: _last(metrics, key) for key in keys}
    if hasattr(agent, "compare"):
        figures |= agent.compare(n, seed)
    return figures


def _calibration(config: TrainConfig, parts: Parts) -> dict[str, Any]:
    """Predicted against observed P(first preferred), on answers that were never trained on."""
    assert parts.reward_model is not None
    answers = parts.store.preferences().trained()
    mask = heldout_mask(answers.query_ids, config.ensemble.fit.heldout_fraction)
    heldout = [answers[i] for i in np.flatnonzero(mask).tolist()]
    if not heldout:
        return {"bins": []}
    first, second = (
        parts.reward_model.clip_returns([p.query.clips[side] for p in heldout])  # (E, B)
        for side in (0, 1)
    )
    predicted = (1 / (1 + np.exp(np.clip(second - first, -500, 500)))).mean(axis=0)  # (B,)
    noise = config.ensemble.fit.noise
    predicted = predicted * (1 - noise) + noise / 2
    labels = np.array([p.preference_prob for p in heldout], dtype=np.float64)
    return {"bins": calibration_table(predicted, labels)}


def _reference(config: TrainConfig, random_returns: Iterable[float]) -> dict[str, Any]:
    """What random actions reach, measured now, and the yardstick of the same budget, if on file."""
    table = json.loads((resources.files("rlhf_gym") / "yardsticks.json").read_text())
    entry = table.get(config.env, {})
    # Of the same task: another horizon, or other arguments, make another.
    comparable = entry.get("steps") == config.steps and not config.make_env_kwargs()
    return {
        "random_return_mean": float(np.mean(list(random_returns))),
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
