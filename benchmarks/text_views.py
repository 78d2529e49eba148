"""How fast text is gathered and trained on: whole completions against one token at a time.

The same task and the same model (llama, 128 wide, 4 layers, vocabulary 2,048, 1.3 million
parameters, random weights), prompts of 16 tokens, completions of exactly 32 (EOS is forbidden), one
thread, both sides in turn in one process:

- completions: `CompletionVectorEnv` with `sample_completions` (a key-value cache; log-probabilities
  and values are returned as well), and the reward; then one epoch in four minibatches of a clipped
  policy loss and a value loss;
- tokens: stock Stable-Baselines3 PPO on `TokenEnv` with `CausalLMExtractor`, its
  `collect_rollouts`; then its `train`, one epoch in four minibatches.

`gather` is the first part alone, `iterate` both together.

Where the factor comes from: without a cache a completion costs 32 passes over 16 to 47 tokens,
1,008 positions (padding is cut off); with one it costs 47. The factor grows with the batch, as a
step's fixed cost is shared by more rows.

    python benchmarks/text_views.py

Target: at least 10 times the tokens per second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from common import RESULTS, spread, use_one_thread, write_result
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from rlhf_gym.agents.sb3_text import SB3_TEXT_DEFAULTS, load_lm_head, text_policy_kwargs
from rlhf_gym.envs.text.completion_vector_env import CompletionVectorEnv
from rlhf_gym.envs.text.task import TextTask
from rlhf_gym.envs.text.token_env import TokenEnv
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.sampler import sample_completions
from rlhf_gym.language.scores import completion_scores
from rlhf_gym.language.tokenizers import EOS, word_tokenizer

__all__ = ["Options", "build", "measure"]

N_WORDS, D_MODEL, N_LAYERS, N_HEADS = 2045, 128, 4, 4  # and three special tokens: 2,048
N_MINIBATCHES = 4
LEARNING_RATE = 1e-6  # the policies stay what they are; the work is the same

Side = tuple[Callable[[], None], Callable[[], None]]


@dataclass(frozen=True)
class Options:
    """Measure how fast text is gathered and trained on."""

    repetitions: int = 3
    """Measurements of each side, in turn."""
    batch_sizes: tuple[int, ...] = (16, 64, 128)
    """Completions written at once; envs side by side."""
    n_prompt: int = 16
    """P, BOS included."""
    n_new: int = 32
    """T."""
    smoke: bool = False
    """A tiny run that only shows that everything works."""
    out: Path = RESULTS
    """Where the result goes."""


def build(n_prompt: int, n_new: int) -> tuple[TextTask, LanguageModel]:
    """A task of random prompts that pays for one of the words, and the model of both sides."""
    words = [f"w{index}" for index in range(N_WORDS)]
    tokenizer = word_tokenizer(words)
    rng = np.random.default_rng(0)
    prompts = [" ".join(rng.choice(words, size=n_prompt - 1)) for _ in range(256)]
    task = TextTask(
        "words",
        tokenizer,
        prompts,
        lambda prompts, completions: [float(text.count("w1")) for text in completions],
        max_new_tokens=n_new,
        forbidden_tokens=[EOS],
    )
    lm = LanguageModel.tiny(
        tokenizer, n_layers=N_LAYERS, d_model=D_MODEL, n_heads=N_HEADS, max_length=n_prompt + n_new
    )
    lm.forbidden |= torch.from_numpy(task.forbidden.copy())
    return task, lm


def completions_side(task: TextTask, lm: LanguageModel, n_rows: int) -> Side:
    """Gathers n_rows completions with their rewards, and trains on them."""
    env = CompletionVectorEnv(task, n_rows)
    head = ValueHead(lm.hidden_size)
    optimiser = torch.optim.Adam([*lm.model.parameters(), *head.parameters()], lr=LEARNING_RATE)
    last: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(0)
    env.reset(seed=0)

    def gather() -> None:
        obs, _ = env.reset()
        sampled = sample_completions(
            lm,
            torch.from_numpy(obs["input_ids"]).long(),
            torch.from_numpy(obs["attention_mask"]).bool(),
            task.max_new_tokens,
            generator=generator,
            value_head=head,
        )
        rewards = env.step(sampled.batch.completion_ids.numpy())[1]
        last.update(sampled=sampled, rewards=torch.from_numpy(rewards).float()[:, None])

    def train() -> None:
        sampled = last["sampled"]
        for rows in torch.arange(n_rows).chunk(N_MINIBATCHES):
            scores = completion_scores(lm, sampled.batch.select(rows), value_head=head)
            assert scores.values is not None
            advantages = last["rewards"][rows] - sampled.values[rows]
            ratio = (scores.logprobs - sampled.logprobs[rows]).exp()
            clipped = ratio.clamp(0.8, 1.2)
            loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
            loss = loss + 0.1 * (scores.values - last["rewards"][rows]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return gather, train


def tokens_side(task: TextTask, lm: LanguageModel, n_envs: int) -> Side:
    """SB3's rollout of one completion per env, and its training on them."""
    model = PPO(
        "MultiInputPolicy",
        DummyVecEnv([lambda: TokenEnv(task)] * n_envs),
        policy_kwargs=text_policy_kwargs(lm),
        n_steps=task.max_new_tokens,
        batch_size=n_envs * task.max_new_tokens // N_MINIBATCHES,
        n_epochs=1,
        learning_rate=LEARNING_RATE,
        seed=0,
        device="cpu",
        **SB3_TEXT_DEFAULTS,
    )
    load_lm_head(model.policy, lm, task.forbidden)
    _, callback = model._setup_learn(total_timesteps=10**9)

    def gather() -> None:
        assert model.env is not None
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)

    return gather, model.train


def measure(n_rows: int, options: Options) -> dict[str, Any]:
    """Tokens per second of both sides, their ratios, by wall clock and by processor time."""
    task, lm = build(options.n_prompt, options.n_new)
    sides = {
        "tokens": tokens_side(task, lm, n_rows),
        "completions": completions_side(task, lm, n_rows),
    }
    n_tokens = n_rows * options.n_new
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for repetition in range(options.repetitions + 1):
        for name, (gather, train) in sides.items():
            times = [(time.perf_counter(), time.process_time())]
            for part in (gather, train):
                part()
                times.append((time.perf_counter(), time.process_time()))
            if repetition == 0:  # warms up
                continue
            for index, clock in enumerate(("second", "cpu_second")):
                for phase, end in (("gather", 1), ("iterate", 2)):
                    rate = n_tokens / (times[end][index] - times[0][index])
                    rates = found.setdefault(phase, {}).setdefault(f"tokens_per_{clock}", {})
                    rates.setdefault(name, []).append(rate)
    return {phase: summarise(clocks) for phase, clocks in found.items()}


def summarise(clocks: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """The spread of all rates, and the ratio of their medians by each clock."""
    figures: dict[str, Any] = {}
    for unit, rates in clocks.items():
        spreads = {name: spread(values) for name, values in rates.items()}
        figures[unit] = spreads
        figures[f"ratio_{unit}"] = spreads["completions"]["median"] / spreads["tokens"]["median"]
    return figures


def main(options: Options) -> None:
    """Measure and write text_views.json."""
    use_one_thread()
    if options.smoke:
        options = Options(1, (2,), 4, 4, True, options.out)
    figures: dict[str, Any] = {"settings": {"n_prompt": options.n_prompt, "n_new": options.n_new}}
    for n_rows in options.batch_sizes:
        figures[f"batch_{n_rows}"] = measure(n_rows, options)
        for phase, result in figures[f"batch_{n_rows}"].items():
            rates = result["tokens_per_second"]
            ours, theirs = (rates[name]["median"] for name in ("completions", "tokens"))
            print(
                f"{n_rows:4d} at a time, {phase:7s}: {ours:6.0f} tokens/s by completions, "
                f"{theirs:5.0f} by tokens: {result['ratio_tokens_per_second']:.1f} x "
                f"({result['ratio_tokens_per_cpu_second']:.1f} x by processor time)",
                flush=True,
            )
    print(write_result("text_views", None, figures, folder=options.out))


if __name__ == "__main__":
    main(tyro.cli(Options))
