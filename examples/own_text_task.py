"""A text task of your own: prompts from a file, two rewards, and stock SB3 that learns it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from rlhf_gym.agents.sb3_text import (
    SB3_TEXT_DEFAULTS,
    KLPenaltyCallback,
    load_lm_head,
    text_policy_kwargs,
)
from rlhf_gym.envs.text.prompts import read_prompts
from rlhf_gym.envs.text.rewards import TextReward
from rlhf_gym.envs.text.task import TextTask
from rlhf_gym.envs.text.token_env import TokenEnv
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import word_tokenizer

ANIMALS = {"cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack"}


def right_sound(prompts: list[str], completions: list[str], *, sound: list[str]) -> list[float]:
    """1 where the sound occurs; `sound` is the row's own column."""
    return [float(s in text.split()) for text, s in zip(completions, sound, strict=True)]


def n_words(prompts: list[str], completions: list[str]) -> list[float]:
    """How many words: a price on length, by a negative weight."""
    return [float(len(text.split())) for text in completions]


def make_task(path: Path) -> TextTask:
    """Write four prompts with a column into a JSON-lines file, and make a task of it."""
    rows = [{"prompt": f"the {a} says", "sound": s} for a, s in ANIMALS.items()]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return TextTask(
        "animals",
        word_tokenizer(["the", "says", *ANIMALS, *ANIMALS.values()]),  # or any HF tokenizer
        read_prompts(path),
        {"sound": right_sound, "length": TextReward(n_words, weight=-0.1)},
        max_new_tokens=4,
    )


def main(steps: int = 12_000, seed: int = 0) -> tuple[float, float]:
    """Mean true reward before and after training; 0.9 is the best there is."""
    torch.set_num_threads(1)  # a model this small gains nothing from more
    task = make_task(Path("animals.jsonl"))
    lm = LanguageModel.tiny(task.tokenizer, n_layers=1, d_model=32, n_heads=2, seed=seed)
    env = VecMonitor(DummyVecEnv([lambda: TokenEnv(task)] * 16))
    model = PPO(
        "MultiInputPolicy",
        env,
        policy_kwargs=text_policy_kwargs(lm),
        n_steps=64,
        batch_size=256,
        n_epochs=4,
        learning_rate=lambda left: 5e-3 * left,
        seed=seed,
        device="cpu",
        **SB3_TEXT_DEFAULTS,
    )
    load_lm_head(model.policy, lm, task.forbidden)
    before, _ = evaluate_policy(model, env, n_eval_episodes=200, deterministic=False)
    model.learn(steps, callback=KLPenaltyCallback(beta=0.02, reference=lm))
    after, _ = evaluate_policy(model, env, n_eval_episodes=200, deterministic=False)
    return float(before), float(after)


if __name__ == "__main__":
    print("true reward: {:.2f} before, {:.2f} after (0.9 is the best)".format(*main()))
