"""PPO on film reviews that people wrote: does a judge that had no part in it see the rise?

The training sentences of SST-2 (Stanford Sentiment Treebank, binary) are dealt into two halves.

- Half A: its sentences fine-tune a transformer from nothing to continue an opening of three words;
  its labels fit a text reward model, also from nothing, which classifies the dev sentences.
- PPO raises that model's score of opening and continuation, under a price on KL.
- Half B fits two judges that PPO never sees: logistic regression on words, and a text reward model
  with another tokenizer and other weights. They say how many of the texts are positive.

Openings are those of the dev sentences: nothing was trained on them.

    python benchmarks/text_sst2.py --data FOLDER

The settings were chosen on seed 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from common import RESULTS, spread, use_one_thread, write_result
from sst2 import SST, Judge, Labelled, accuracy, read_sentences, reward_judge, word_judge

from rlhf_gym.agents.text.agent_settings import load_text_settings
from rlhf_gym.agents.text.metrics import distinct_n
from rlhf_gym.agents.text.ppo_agent import TextPPOAgent
from rlhf_gym.data import Trajectory
from rlhf_gym.envs.text.task import TextTask
from rlhf_gym.envs.text.token_env import TokenEnv
from rlhf_gym.feedback.quality.labeller import Share
from rlhf_gym.language.tokenizers import train_byte_bpe
from rlhf_gym.protocols import Signal
from rlhf_gym.text_clips import symbols_text

ENV = "rlhf_gym_benchmarks/SST2-v0"
N_OPENING_WORDS, MAX_NEW_TOKENS, VOCABULARY, N_ROUNDS = 3, 48, 2048, 5
SETTINGS: dict[str, Any] = {
    "n_sft_examples": 30_000,
    "model": {"n_layers": 2, "d_model": 128, "n_heads": 4},
    "sft": {"n_epochs": 1, "batch_size": 16, "learning_rate": 0.0015},
    # No price on texts that do not end: it would be one on long texts.
    "ppo": {
        "kl_coef": 0.1,
        "learning_rate": 0.0003,
        "missing_eos_penalty": None,
        "target_kl": None,  # the others were chosen without an early end
    },
}


@dataclass(frozen=True)
class Options:
    """Raise the sentiment of continued film reviews, and have it judged."""

    data: Path
    """The folder with the files of SST-2."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Halves, weights, samples."""
    steps: int = 6400
    """Completions of PPO."""
    n_judged: int = 872
    """Continuations before and after."""
    out: Path = RESULTS
    """Where the result goes."""


def halves(path: Path, seed: int) -> tuple[Labelled, Labelled]:
    """The sentences, each once, in two halves that share none."""
    texts, good = read_sentences(path)
    known = dict(zip(texts, good, strict=True))
    texts, good = list(known), np.array(list(known.values()))
    order = np.random.default_rng(seed).permutation(len(texts))
    first, second = order[::2], order[1::2]
    return ([texts[i] for i in first], good[first]), ([texts[i] for i in second], good[second])


def cut(sentence: str) -> tuple[str, str]:
    """Its opening, and the rest with the space before it."""
    words = sentence.split(" ")
    return " ".join(words[:N_OPENING_WORDS]), "".join(f" {w}" for w in words[N_OPENING_WORDS:])


def make_task(train: Labelled, openings: Sequence[str], reward: Judge) -> TextTask:
    """Continue an opening; the reward is a reward model's score of all of it."""
    cuts = [pair for text in train[0] if (pair := cut(text))[1]]

    def corpus(rng: np.random.Generator, n: int) -> tuple[list[str], list[str]]:
        rows = rng.integers(len(cuts), size=n)
        return [cuts[i][0] for i in rows], [cuts[i][1] for i in rows]

    def score(prompts: list[str], completions: list[str]) -> list[float]:
        return [
            float(s) for s in reward([p + c for p, c in zip(prompts, completions, strict=True)])
        ]

    return TextTask(
        "SST-2",
        train_byte_bpe(train[0], VOCABULARY),
        sorted(set(openings)),
        {"score": score},
        max_new_tokens=MAX_NEW_TOKENS,
        corpus=corpus,
    )


def described(trajectories: Sequence[Trajectory], judges: dict[str, Judge]) -> dict[str, Any]:
    """What the judges say of continuations, and how varied they are."""
    parts = [symbols_text(t.actions) for t in trajectories]
    texts = [prompt + completion for prompt, completion, _ in parts]
    positive = {
        name: asdict(Share(int((judge(texts) > 0).sum()), len(texts)))
        for name, judge in judges.items()
    }
    return {
        "positive": positive,
        "score": float(np.mean([t.true_return for t in trajectories])),
        "words": float(np.mean([len(completion.split()) for _, completion, _ in parts])),
        "ended": float(np.mean([ended for *_, ended in parts])),
        "distinct_2": distinct_n([completion.split() for _, completion, _ in parts], 2),
        "kl_to_ref": float(np.mean([t.kl_to_ref for t in trajectories])),
        "samples": texts[:12],
    }


def run(options: Options, seed: int) -> dict[str, Any]:
    """One seed: both halves, PPO, and what the judges say."""
    train_path, dev_path = (options.data / name for name in SST)
    half_a, half_b = halves(train_path, seed)
    dev = read_sentences(dev_path)
    reward, _ = reward_judge(half_a, VOCABULARY, seed)
    judges = {
        "reward_model_a": reward,
        "words_b": word_judge(half_b),
        "reward_model_b": reward_judge(half_b, 2 * VOCABULARY, seed + 1000)[0],
    }
    task = make_task(half_a, [cut(text)[0] for text in dev[0]], reward)
    if ENV in gym.registry:
        del gym.registry[ENV]
    gym.register(ENV, entry_point=lambda **kwargs: TokenEnv(task, **kwargs))
    settings = load_text_settings(ENV, SETTINGS)
    agent = TextPPOAgent(ENV, n_run_steps=options.steps, settings=settings, seed=seed)
    agent.begin_round(np.random.SeedSequence([seed, 0]))
    agent.warm_up(0)
    agent.begin_round(np.random.SeedSequence([seed, 1]))
    before = agent.evaluate(options.n_judged, np.random.SeedSequence([seed, 2]))
    per_round = options.steps // (N_ROUNDS * agent.steps_unit) * agent.steps_unit
    rounds = [agent.improve(Signal(source="true"), per_round) for _ in range(N_ROUNDS)]
    after = agent.evaluate(options.n_judged, np.random.SeedSequence([seed, 2]))
    return {
        "seed": seed,
        "n_sentences": [len(half_a[0]), len(half_b[0])],
        "dev_accuracy": {name: accuracy(judge, dev) for name, judge in judges.items()},
        "sft": agent.sft_figures,
        "rounds": rounds,
        "before": described(before, judges),
        "after": described(after, judges),
    }


def show(figures: dict[str, Any]) -> None:
    """One line before and one after PPO."""
    for when in ("before", "after"):
        found = figures[when]
        positive = {name: round(share["value"], 3) for name, share in found["positive"].items()}
        others = {k: round(v, 2) for k, v in found.items() if isinstance(v, float)}
        print(figures["seed"], when, positive, others, flush=True)


def main(options: Options) -> None:
    """Measure all seeds and write text_sst2.json."""
    missing = [name for name in SST if not (options.data / name).is_file()]
    if missing:
        print(f"skipped: {missing[0]} is not there; --data names the folder that has it")
        return
    use_one_thread()
    runs = []
    for seed in options.seeds:
        runs.append(run(options, seed))
        show(runs[-1])
    positive = {
        when: {
            name: spread([r[when]["positive"][name]["value"] for r in runs])
            for name in runs[0]["dev_accuracy"]
        }
        for when in ("before", "after")
    }
    command = ["python", "benchmarks/text_sst2.py", "--data", "FOLDER"]
    figures = {"settings": SETTINGS, "positive": positive, "runs": runs}
    print(write_result("text_sst2", command, figures, options.seeds, folder=options.out))


if __name__ == "__main__":
    main(tyro.cli(Options))
