"""Our side of against_trl.py, and the plain loop: one measurement per process.

    python against_trl_ours.py JOB.json

Prints one line of JSON, the last of its output.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from against_trl_shared import Job, Meter, Pairs, versions
from common import use_one_thread
from torch import Tensor, nn

from rlhf_gym.agents.text.dpo_trainer import TextDPOTrainer
from rlhf_gym.agents.text.pairs import CompletionPairs
from rlhf_gym.agents.text.ppo_trainer import TextPPOTrainer
from rlhf_gym.agents.text.settings import TextDPOSettings, TextPPOSettings
from rlhf_gym.feedback.text_data import EncodedTexts, PairTable
from rlhf_gym.feedback.text_reward_model import TextRewardModel
from rlhf_gym.feedback.text_reward_training import fit_texts
from rlhf_gym.feedback.text_settings import TextRewardSettings
from rlhf_gym.language.batches import EncodedPrompts, TokenBatch, pad_left, pad_right
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.reference import reference_of

__all__ = ["SIDES", "measure_dpo", "measure_plain", "measure_ppo", "measure_reward"]

Figures = dict[str, Any]


def measure_dpo(job: Job) -> Figures:
    """`TextDPOTrainer`, and apart from its steps the reference's pass over all completions."""
    sizes, meter = job.sizes, Meter(job.sizes)
    lm, data = LanguageModel.from_folder(job.folder / "model"), Pairs.read(job.folder)

    def batch(completions: list[list[int]]) -> TokenBatch:
        return TokenBatch.from_lists(data.prompts, completions, lm.pad_id, lm.eos_id)

    pairs = CompletionPairs.from_batches(batch(data.chosen), batch(data.rejected))
    settings = TextDPOSettings(batch_size=sizes.batch_size, learning_rate=sizes.learning_rate)
    started, started_cpu = time.perf_counter(), time.process_time()
    trainer = TextDPOTrainer(lm, reference_of(lm), pairs, settings)
    seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    history = trainer.train(callback=lambda _: meter.step())
    share = sizes.n_steps / (sizes.n_warm + sizes.n_steps)
    return meter.figures(
        reference_seconds=seconds * share,
        reference_cpu_seconds=cpu * share,
        first_loss=history[0]["loss"],
    )


def measure_reward(job: Job) -> Figures:
    """`fit_texts` of a `TextRewardModel` with one head, and apart from it the normalisation."""
    sizes, meter = job.sizes, Meter(job.sizes)
    lm, data = LanguageModel.from_folder(job.folder / "model"), Pairs.read(job.folder)
    settings = TextRewardSettings(
        n_members=1,
        batch_texts=2 * sizes.batch_size,
        learning_rate=sizes.learning_rate,
        warmup_fraction=0.0,
        max_epochs=1,
        heldout_fraction=0.0,
    )
    model = TextRewardModel(lm, settings)
    n_warm = sizes.n_warm * sizes.batch_size

    def fit(table: PairTable) -> None:
        weights, heldout = np.ones((1, len(table)), np.float32), np.zeros(len(table), bool)
        rng = np.random.default_rng(0)
        fit_texts(model.net, table, weights, heldout, settings, lm.pad_id, rng)

    fit(_table(data, slice(n_warm)))
    table = _table(data, slice(n_warm, None))
    meter.start()
    fit(table)
    meter.stop()
    started = time.perf_counter()
    model.net.score_texts(table.texts, lm.pad_id)
    return meter.figures(normalisation_seconds=time.perf_counter() - started)


def _table(data: Pairs, which: slice) -> PairTable:
    sides = zip(data.prompts[which], data.chosen[which], data.rejected[which], strict=True)
    rows, lengths = [], []
    for prompt, *completions in sides:
        rows += [[*prompt, *completion] for completion in completions]
        lengths += [len(completion) for completion in completions]
    n = len(rows) // 2
    names = [str(index) for index in range(n)]
    return PairTable(
        texts=EncodedTexts(rows, np.array(lengths, np.int64), 0, 0),
        groups=np.arange(n).repeat(2),
        pairs=np.arange(2 * n).reshape(n, 2),
        probs=np.ones(n, np.float32),
        margins=np.zeros(n, np.float32),
        query_ids=names,
        context_ids=names,
    )


def measure_plain(job: Job) -> Figures:
    """The least that training a reward model takes: a loop over padded batches, in torch alone."""
    sizes, meter = job.sizes, Meter(job.sizes)
    lm, data = LanguageModel.from_folder(job.folder / "model"), Pairs.read(job.folder)
    trunk, head = lm.model.base_model, nn.Linear(lm.hidden_size, 1)
    parameters = [*trunk.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, sizes.learning_rate)
    sides = list(zip(data.prompts, data.chosen, data.rejected, strict=True))
    order = np.random.default_rng(0).permutation(len(sides))
    n_steps = sizes.n_warm + sizes.n_steps
    for step, rows in enumerate(np.split(order, n_steps)):
        for group in optimiser.param_groups:
            group["lr"] = sizes.learning_rate * (1 - step / n_steps)
        batch = [sides[row] for row in rows]
        texts = [[*p, *c] for p, c, _ in batch] + [[*p, *r] for p, _, r in batch]
        ids, mask = pad_right(texts, lm.pad_id)
        hidden = trunk(input_ids=ids, use_cache=False).last_hidden_state  # (2B, L, H)
        scores = head(hidden[torch.arange(len(ids)), mask.sum(1) - 1])[:, 0]  # (2B,)
        chosen, rejected = scores.chunk(2)
        loss = -nn.functional.logsigmoid(chosen - rejected).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        meter.step()
    return meter.figures()


def measure_ppo(job: Job) -> Figures:
    """`TextPPOTrainer`, rollouts and updates in turn."""
    sizes, meter = job.sizes, Meter(job.sizes)
    lm, data = LanguageModel.from_folder(job.folder / "model"), Pairs.read(job.folder)
    settings = TextPPOSettings(
        n_rollouts=sizes.n_warm + sizes.n_steps,
        batch_size=sizes.batch_size,
        n_epochs=sizes.n_epochs,
        max_new_tokens=sizes.n_completion[1],
        learning_rate=sizes.learning_rate,
    )
    half = lm.vocab_size // 2

    def reward(batch: TokenBatch, _: Tensor) -> Tensor:
        low = (batch.completion_ids < half) & batch.completion_mask
        return low.sum(1) / batch.lengths

    prompts = EncodedPrompts(*pad_left(data.prompts, lm.pad_id), 0)
    trainer = TextPPOTrainer(
        lm, ValueHead(lm.hidden_size), reference_of(lm), reward, prompts, settings
    )
    history = trainer.train(callback=lambda _: meter.step())
    lengths = [figures["length"] for figures in history[sizes.n_warm :]]
    return meter.figures(tokens_per_completion=float(np.mean(lengths)))


SIDES: dict[str, Callable[[Job], Figures]] = {
    "dpo": measure_dpo,
    "reward": measure_reward,
    "reward_plain": measure_plain,
    "ppo": measure_ppo,
    "ppo_4_epochs": measure_ppo,
}


def main() -> None:
    use_one_thread()
    job = Job.read(Path(sys.argv[1]))
    figures = SIDES[job.side](job)
    found = versions("rlhf_gym", "torch", "transformers", "tokenizers", "numpy")
    print(json.dumps({**figures, "versions": found}))


if __name__ == "__main__":
    main()
