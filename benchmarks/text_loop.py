"""The whole loop on texts: SFT, 2,000 answers about pairs of completions, reward model, PPO or DPO.

On rlhf_gym/Sentiment-v0, per seed: PPO on a learned reward, PPO on the true one with the same
budget, and DPO. Everything comes from the run folders that `rlhf-gym train` makes.

    python benchmarks/text_loop.py --seeds 0 1 2 3 4

Targets: P(positive) from about 0.5 to at least 0.90 at a KL of at most 10 nats, with distinct-2 at
least 70 % of SFT's; the learned reward brings at least 90 % of the true one's gain.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from common import use_one_thread, write_result

ENV = "rlhf_gym/Sentiment-v0"
SETTINGS: dict[str, dict[str, Any]] = {
    "learned": {},
    "true": {"reward": "true"},
    "dpo": {"algo": "dpo"},
}
N_COMPLETIONS = 512


def run(job: tuple[str, int, int, int | None]) -> dict[str, Any]:
    """One training run; its figures."""
    import numpy as np

    from rlhf_gym.agents.text.metrics import distinct_n
    from rlhf_gym.offline import load_agent
    from rlhf_gym.train_config import TrainConfig
    from rlhf_gym.training import train

    name, seed, labels, steps = job
    use_one_thread()
    config = TrainConfig(
        env=ENV, seed=seed, labels=labels, steps=steps, eval_episodes=64,
        final_episodes=N_COMPLETIONS, **SETTINGS[name],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        finished = train(config, Path(scratch) / "run", quiet=True)
        summary = json.loads(finished.summary_path.read_text())
        agent = load_agent(finished.folder)
    figures: dict[str, Any] = {"setting": name, "seed": seed}
    keys = ("true_return_mean", "kl_to_ref", "length", "win_rate", "win_rate_low", "n_labels")
    figures |= {key: summary[key] for key in (*keys, "completions", "seconds_total")}
    rng = np.random.default_rng(12345)
    rows = rng.integers(len(agent.task), size=N_COMPLETIONS)
    for when, lm in (("sft", agent.reference.lm), ("now", agent.lm)):
        agent.begin_round(np.random.SeedSequence(seed))
        batch = agent._sample(rows, agent._generator, lm)
        scores = agent.task.score(
            rows.tolist(), batch.completion_ids.numpy(), batch.completion_mask.numpy()
        )
        figures[f"positive_{when}"] = float(scores.components["positive"].mean())
        figures[f"sentiment_{when}"] = float(scores.components["sentiment"].mean())
        figures[f"distinct_2_{when}"] = distinct_n(batch.completion_lists(), 2)
    return figures


def shares(runs: list[dict[str, Any]], seeds: list[int]) -> dict[str, list[float]]:
    """Per seed, the gain in sentiment over SFT as a share of the true reward's."""
    gains = {(r["setting"], r["seed"]): r["sentiment_now"] - r["sentiment_sft"] for r in runs}
    return {
        name: [gains[name, seed] / gains["true", seed] for seed in seeds]
        for name in ("learned", "dpo")
    }


def main() -> None:
    """Run all settings and seeds, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--labels", type=int, default=2000)
    parser.add_argument("--steps", type=int, help="completions; default: the task's own")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", default="text_loop")
    options = parser.parse_args()
    jobs = [
        (name, seed, options.labels, options.steps) for seed in options.seeds for name in SETTINGS
    ]
    context = multiprocessing.get_context("spawn")
    runs = []
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        for figures in pool.map(run, jobs):
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()})
            runs.append(figures)
    gained = shares(runs, options.seeds)
    worst = {name: min(values) for name, values in gained.items()}
    content = {"runs": runs, "share_of_the_true_rewards_gain": gained, "worst_share": worst}
    path = write_result(options.out, None, content, options.seeds)
    print(json.dumps({"share": gained, "worst": worst}, indent=1), path, sep="\n")


if __name__ == "__main__":
    main()
