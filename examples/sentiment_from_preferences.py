"""A small language model learns to write positive reviews from answers about pairs of them."""

from __future__ import annotations

import json

from rlhf_gym.train_config import TrainConfig
from rlhf_gym.training import train


def main(algo: str = "ppo", seed: int = 0) -> tuple[float, float]:
    """Mean sentiment, within [-1, 1], after fine-tuning and after learning from preferences."""
    config = TrainConfig(
        env="rlhf_gym/Sentiment-v0",
        algo=algo,  # "ppo" on a learned reward, or "dpo" from the answers themselves
        teacher="synthetic",  # "human" waits for people: `rlhf-gym label FOLDER`
        labels=200,
        steps=1920,  # completions
        rounds=3,
        seed=seed,
        hyperparameters={"n_sft_examples": 3000},
    )
    run = train(config, quiet=True)
    summary = json.loads(run.summary_path.read_text())
    for sample in summary["samples"][:3]:
        print(f"{sample['prompt']} | {sample['before']}  ->  {sample['after']}")
    return summary["reference"]["random_return_mean"], summary["true_return_mean"]


if __name__ == "__main__":
    before, after = main()
    print(f"sentiment: {before:.2f} after fine-tuning, {after:.2f} after 200 answers")
