"""How close fine-tuning comes to the best loss there is: the entropy of the review grammar.

A tiny llama (64 wide, 2 layers) learns reviews of `ReviewGrammar` from scratch, one pass, on one
thread. The held-out loss of other reviews is compared with the grammar's entropy per token, and,
to take the luck of the draw out of it, with the loss that the grammar itself has on the same texts.

    python benchmarks/text_sft.py

Target: the held-out loss within 0.02 nats per token of the entropy, worst of 5 seeds, in less than
3 minutes each.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import RESULTS, use_one_thread, write_result

from rlhf_gym.agents.text.sft import SFTSettings, SFTTrainer, encode_examples
from rlhf_gym.envs.text.grammar import ReviewGrammar
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import word_tokenizer
from rlhf_gym.seeding import generator

__all__ = ["Options", "fine_tune"]

SETTINGS = SFTSettings(batch_size=16, learning_rate=3e-3)


@dataclass(frozen=True)
class Options:
    """Measure how close fine-tuning comes to the entropy."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each draws its own corpus, weights and order."""
    n_train: int = 40_000
    """Reviews to learn from, once each."""
    n_heldout: int = 10_000
    """Reviews to measure on."""
    smoke: bool = False
    """A tiny run that only shows that everything works."""
    out: Path = RESULTS
    """Where the result goes."""


def fine_tune(seed: int, n_train: int, n_heldout: int) -> dict[str, Any]:
    """One run: losses in nats per token, and what it took."""
    grammar = ReviewGrammar()
    lm = LanguageModel.tiny(
        word_tokenizer(grammar.words), n_layers=2, d_model=64, max_length=64, seed=seed
    )
    corpora = [
        grammar.sample(generator(seed, name), n)
        for name, n in (("train", n_train), ("heldout", n_heldout))
    ]
    train, heldout = (
        encode_examples(
            lm,
            [""] * len(reviews),
            reviews,
            max_prompt_tokens=1,
            max_completion_tokens=grammar.max_tokens,
        )
        for reviews in corpora
    )
    trainer = SFTTrainer(lm, SETTINGS)
    started_cpu = time.process_time()
    report = trainer.train(train, generator(seed, "order"))
    cpu_seconds = time.process_time() - started_cpu
    loss = trainer.evaluate(heldout)
    n_tokens = sum(len(row) for row in heldout.completions)
    best = -sum(grammar.log_prob(review) for review in corpora[1]) / n_tokens
    entropy = grammar.entropy_nats_per_token()
    return {
        "seed": seed,
        "loss_heldout": loss,
        "entropy": entropy,
        "above_entropy": loss - entropy,
        "loss_of_the_grammar_heldout": best,
        "above_the_grammar": loss - best,
        "cpu_seconds": cpu_seconds,
        **asdict(report),
    }


def main(options: Options) -> None:
    """Measure and write benchmarks/results/text_sft.json."""
    use_one_thread()
    if options.smoke:
        options = Options((0,), 64, 64, True, options.out)
    runs = []
    for seed in options.seeds:
        runs.append(fine_tune(seed, options.n_train, options.n_heldout))
        print(
            f"seed {seed}: {runs[-1]['above_entropy']:+.4f} nats per token above the entropy "
            f"{runs[-1]['entropy']:.4f} ({runs[-1]['above_the_grammar']:+.4f} above the grammar on "
            f"the same texts), {runs[-1]['cpu_seconds']:.0f} s of processor time",
            flush=True,
        )
    worst = max(runs, key=lambda run: float(run["above_entropy"]))
    figures = {
        "n_train": options.n_train,
        "n_heldout": options.n_heldout,
        "settings": asdict(SETTINGS),
        "target_above_entropy": 0.02,
        "worst_above_entropy": worst["above_entropy"],
        "worst_above_the_grammar": float(np.max([run["above_the_grammar"] for run in runs])),
        "worst_seed": worst["seed"],
        "smoke": options.smoke,
        "runs": runs,
    }
    print(write_result("text_sft", None, figures, options.seeds, folder=options.out))


if __name__ == "__main__":
    main(tyro.cli(Options))
