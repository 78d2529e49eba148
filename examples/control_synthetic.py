"""Train an agent from synthetic preferences; the task's own reward is only used to measure."""

from __future__ import annotations

import json

from rlhf_gym.train_config import TrainConfig
from rlhf_gym.training import train


def main(steps: int = 30_000, seed: int = 0) -> tuple[float, float]:
    """True return of random actions, and of the trained agent."""
    config = TrainConfig(
        env="rlhf_gym/PointMass-v0",  # HalfCheetah: TrainConfig() alone, minutes instead of seconds
        teacher="synthetic",  # compares the true returns of two clips; people make no such thing
        labels=300,
        steps=steps,
        rounds=6,
        clip_length=10,
        seed=seed,
    )
    run = train(config, quiet=True)  # everything about the run lies in run.folder
    summary = json.loads(run.summary_path.read_text())
    return summary["reference"]["random_return_mean"], summary["true_return_mean"]


if __name__ == "__main__":
    before, after = main()
    print(f"true return: {before:.1f} at random, {after:.1f} after 300 answers (optimum near -4.3)")
