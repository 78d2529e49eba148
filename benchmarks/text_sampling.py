"""How fast completions are written: our sampler against transformers' `generate`.

The same model (llama, 128 wide, 4 layers, vocabulary 2,048, 1.3 million parameters, random weights)
continues the same prompts by the same number of tokens, on one thread, both sides in turn in one
process. `generate` samples from the full distribution (top_k=0) and is forbidden to end early, so
that both write every token; ours also returns the log-probability of each token, which `generate`
would have to be asked for (`output_logits`).

`varied` lets texts end: EOS is given about one chance in 24 at each token, as in a
task of short answers. Tokens per second then count real tokens only, and `generate` goes on with
rows that have ended, which ours takes out.

    python benchmarks/text_sampling.py

Target: at least 1.25 times `generate`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from common import RESULTS, spread, use_one_thread, write_result

from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.sampler import sample_completions
from rlhf_gym.language.tokenizers import word_tokenizer

__all__ = ["Options", "build_model", "measure"]

N_WORDS, D_MODEL, N_LAYERS, N_HEADS = 2045, 128, 4, 4  # and three special tokens: 2,048


@dataclass(frozen=True)
class Options:
    """Measure how fast completions are written."""

    repetitions: int = 5
    """Measurements of each side, in turn."""
    batch_sizes: tuple[int, ...] = (8, 32, 64)
    """Completions written at once."""
    n_prompt: int = 16
    """Tokens of each prompt."""
    n_new: int = 64
    """Tokens of each completion, at most."""
    smoke: bool = False
    """A tiny run that only shows that everything works."""
    out: Path = RESULTS
    """Where the result goes."""


def build_model() -> LanguageModel:
    """The model that both sides use."""
    tokenizer = word_tokenizer([f"w{index}" for index in range(N_WORDS)])
    return LanguageModel.tiny(
        tokenizer, n_layers=N_LAYERS, d_model=D_MODEL, n_heads=N_HEADS, max_length=256
    )


def measure(
    lm: LanguageModel, batch_size: int, options: Options, *, varied: bool
) -> dict[str, list[dict[str, float]]]:
    """Tokens, seconds and processor seconds of every repetition of each side."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, options.n_prompt)
    prompts = torch.randint(3, lm.vocab_size, shape, generator=generator)
    mask = torch.ones_like(prompts, dtype=torch.bool)

    def ours() -> int:
        done = sample_completions(lm, prompts, mask, options.n_new, generator=generator)
        return int(done.batch.lengths.sum())

    def theirs() -> int:
        least: dict[str, Any] = {} if varied else {"min_new_tokens": options.n_new}
        with torch.no_grad():
            out = lm.model.generate(
                prompts,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                max_new_tokens=options.n_new,
                pad_token_id=lm.pad_id,
                eos_token_id=lm.eos_id,
                **least,
            )
        return int((out[:, options.n_prompt :] != lm.pad_id).sum())

    sides: dict[str, Callable[[], int]] = {"ours": ours, "generate": theirs}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for repetition in range(options.repetitions + 1):
        for name, side in sides.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            n_tokens = side()
            seconds, seconds_cpu = (
                time.perf_counter() - started,
                time.process_time() - started_cpu,
            )
            if repetition > 0:  # the first one warms up
                found[name].append(
                    {"tokens": n_tokens, "seconds": seconds, "cpu_seconds": seconds_cpu}
                )
    return found


def summarise(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Rates of both sides and their ratio, by wall clock and by processor time."""
    n_tokens = {name: [run["tokens"] for run in runs] for name, runs in found.items()}
    figures: dict[str, Any] = {"n_tokens": n_tokens}
    for unit in ("seconds", "cpu_seconds"):
        rates = {n: spread([r["tokens"] / r[unit] for r in runs]) for n, runs in found.items()}
        figures[f"tokens_per_{unit[:-1]}"] = rates
        figures[f"ratio_by_{unit}"] = rates["ours"]["median"] / rates["generate"]["median"]
    return figures


def main(options: Options) -> None:
    """Measure and write benchmarks/results/text_sampling.json."""
    use_one_thread()
    if options.smoke:
        options = Options(1, (2,), 4, 4, True, options.out)
    lm = build_model()
    figures: dict[str, Any] = {
        "settings": {"n_prompt": options.n_prompt, "n_new": options.n_new},
        "target": 1.25,
    }
    figures["n_parameters"] = sum(p.numel() for p in lm.model.parameters())
    # Both sides are kept from ending, ours by the same means as PAD.
    lm.forbidden[lm.eos_id] = True
    for size in options.batch_sizes:
        figures[f"fixed_length_{size}"] = summarise(measure(lm, size, options, varied=False))
    lm.forbidden[lm.eos_id] = False
    # A head of its own, in which EOS has a bias: exp(4.5) against 2,047 others of about 1.1 each.
    with_bias = torch.nn.Linear(D_MODEL, lm.vocab_size)
    with torch.no_grad():
        with_bias.weight.copy_(lm.model.get_input_embeddings().weight)
        with_bias.bias.zero_()
        with_bias.bias[lm.eos_id] = 4.5
    lm.model.set_output_embeddings(with_bias)
    for size in options.batch_sizes:
        figures[f"varied_length_{size}"] = summarise(measure(lm, size, options, varied=True))
    path = write_result("text_sampling", None, figures, folder=options.out)
    for name, result in figures.items():
        if isinstance(result, dict) and "ratio_by_seconds" in result:
            print(
                f"{name:18s} ours {result['tokens_per_second']['ours']['median']:8.0f} tokens/s, "
                f"{result['ratio_by_seconds']:.2f} x generate "
                f"({result['ratio_by_cpu_seconds']:.2f} x by processor time)"
            )
    print(path)


if __name__ == "__main__":
    main(tyro.cli(Options))
