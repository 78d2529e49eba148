"""Which way of fitting ranks the next round's clips best, on the stored answers of a run.

The answers of a finished run are replayed: after each round the reward model is fitted to what had
been answered by then, and has to rank the clips that were asked about one round later, which no
fit had seen. Learning is not involved, so that settings are compared on equal clips.

    python benchmarks/fit_choices.py --run runs/HalfCheetah-v0-ppo-learned-seed0-001
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from common import RESULTS, use_one_thread, write_result

from rlhf_gym.benchmark.spec import task_slug
from rlhf_gym.config import from_yaml
from rlhf_gym.data import Query, RewardBatch
from rlhf_gym.envs.make import make_env, space_info
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.feedback.metrics import correlation
from rlhf_gym.feedback.reward_model import EnsembleRewardModel
from rlhf_gym.feedback.settings import FitSettings, RewardModelSettings
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.protocols import SpaceInfo
from rlhf_gym.runs import Run
from rlhf_gym.seeding import generator
from rlhf_gym.train_config import TrainConfig

CHOICES = {
    "default": FitSettings(),
    "validate by any number": FitSettings(min_validation=1),
    "constant weight decay": FitSettings(prior_answers=1e9),
    "bootstrap": FitSettings(bootstrap=True),
    "batch 64": FitSettings(batch_size=64, max_updates=40 * 4, max_epochs=15, patience=40),
    "no weight decay": FitSettings(weight_decay=0.0),
}


@dataclass(frozen=True)
class Options:
    """Compare ways of fitting on the answers of a run."""

    run: Path
    """A finished run folder."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Initial weights and shuffling."""
    choices: tuple[str, ...] = tuple(CHOICES)
    """Which of the choices to compare."""
    out: Path = RESULTS
    """Where the result goes."""


def replay(
    info: SpaceInfo,
    answers: Sequence[PreferenceSet],
    asked: Sequence[Sequence[Query]],
    settings: FitSettings,
    seed: int,
) -> dict[str, float]:
    """Fit after each round; correlations and accuracy on the next round's clips.

    "steps" are the correlations of single steps' rewards, which is what an agent trains on;
    "clips" those of whole clips' returns, which is what answers are about.
    """
    model = EnsembleRewardModel(info, RewardModelSettings(fit=settings), seed=seed)
    correlations, steps, accuracies, seconds = [], [], [], 0.0
    for round_, queries in enumerate(asked[1:]):
        report = model.fit(answers[round_], generator(seed, "fit", round_))
        seconds += report.seconds
        first, second = (
            model.clip_returns([q.clips[side] for q in queries]).mean(0) for side in (0, 1)
        )
        true_first = np.array([q.first.true_return for q in queries])
        true_second = np.array([q.second.true_return for q in queries])
        learned, true = np.append(first, second), np.append(true_first, true_second)
        correlations.append(correlation(learned, true))
        clips = [clip for query in queries for clip in query.clips]
        batch = RewardBatch.from_clips(clips)
        true_steps = np.concatenate([clip.true_rewards for clip in clips])
        steps.append(correlation(model.rewards(batch)[batch.mask], true_steps))
        accuracies.append(float(((first > second) == (true_first > true_second)).mean()))
    return {
        "clips_mean": float(np.mean(correlations)),
        "clips_first_three": float(np.mean(correlations[:3])),
        "clips_worst": float(np.min(correlations)),
        "steps_mean": float(np.mean(steps)),
        "steps_first_three": float(np.mean(steps[:3])),
        "steps_last_half": float(np.mean(steps[len(steps) // 2 :])),
        "accuracy_mean": float(np.mean(accuracies)),
        "seconds": seconds,
    }


def main(options: Options) -> None:
    """Compare all choices over all seeds and write fit_choices_<task>.json."""
    use_one_thread()
    run = Run.open(options.run)
    config = from_yaml(TrainConfig, run.config_path)
    env = make_env(config.env, env_kwargs=config.make_env_kwargs())
    info = space_info(env)
    env.close()
    with PreferenceStore(run.store_folder, create=False) as store:
        everything = store.preferences()
        n_rounds = max(p.query.round for p in everything) + 1
        answers = [store.preferences(first_rounds=k + 1) for k in range(n_rounds)]
        asked = [
            [store.query(p.query.id) for p in everything if p.query.round == k]
            for k in range(n_rounds)
        ]
    figures = {}
    for name in options.choices:
        rows = [replay(info, answers, asked, CHOICES[name], seed) for seed in options.seeds]
        figures[name] = rows
        means = {key: round(float(np.mean([row[key] for row in rows])), 3) for key in rows[0]}
        print(name, means, flush=True)
    write_result(
        f"fit_choices_{task_slug(config.env)}",
        None,
        {"env_id": config.env, "n_answers": len(everything), "choices": figures},
        list(options.seeds),
        folder=options.out,
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
