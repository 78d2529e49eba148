"""The peer's side of against_trl.py; runs in an environment of its own that has TRL 1.16.

    ENV/bin/python against_trl_peer.py JOB.json

Prints one line of JSON, the last of its output. Nothing of rlhf_gym is imported here; the model
and the data come as files. What TRL is told, and why, stands in against_trl.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from against_trl_shared import Job, Meter, Pairs, versions
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, RLOOConfig, RLOOTrainer

Figures = dict[str, Any]


class StepEnds(TrainerCallback):
    """Tells the meter of each optimiser step."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Transformers calls it."""
        self._meter.step()


class TimedDPOTrainer(DPOTrainer):
    """Notes how long the reference's log-probabilities take where they are computed in advance."""

    reference_seconds = reference_cpu_seconds = 0.0

    def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Dataset:
        started, started_cpu = time.perf_counter(), time.process_time()
        dataset = super()._precompute_ref_logps(*args, **kwargs)
        self.reference_seconds += time.perf_counter() - started
        self.reference_cpu_seconds += time.process_time() - started_cpu
        return dataset


def common_options(job: Job, folder: str) -> dict[str, Any]:
    """What all of TRL's configurations are given."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": job.sizes.batch_size,
        "learning_rate": job.sizes.learning_rate,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def texts(job: Job, tokenizer: Any, rows: list[list[int]]) -> list[str]:
    return [tokenizer.decode(row) for row in rows]


def measure_dpo(job: Job, *, precomputed: bool) -> Figures:
    meter, data = Meter(job.sizes), Pairs.read(job.folder)
    model = AutoModelForCausalLM.from_pretrained(job.folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(job.folder / "model")
    # Words are split at white space, so that texts come back as the tokens they were made of.
    columns = {
        "prompt": texts(job, tokenizer, data.prompts),
        "chosen": [" " + text for text in texts(job, tokenizer, data.chosen)],
        "rejected": [" " + text for text in texts(job, tokenizer, data.rejected)],
    }
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            **common_options(job, folder),
            num_train_epochs=1,
            precompute_ref_log_probs=precomputed,
        )
        trainer = TimedDPOTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            callbacks=[StepEnds(meter)],
        )
        seen = trainer.train_dataset
        assert seen["prompt_ids"][:] == data.prompts
        assert seen["chosen_ids"][:] == data.chosen
        assert seen["rejected_ids"][:] == data.rejected
        trainer.train()
    share = job.sizes.n_steps / (job.sizes.n_warm + job.sizes.n_steps)
    return meter.figures(
        reference_seconds=trainer.reference_seconds * share,
        reference_cpu_seconds=trainer.reference_cpu_seconds * share,
    )


def measure_reward(job: Job) -> Figures:
    meter, data = Meter(job.sizes), Pairs.read(job.folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        job.folder / "model", dtype=torch.float32, num_labels=1
    )
    tokenizer = AutoTokenizer.from_pretrained(job.folder / "model")
    columns = {
        f"{side}_ids": [p + c for p, c in zip(data.prompts, completions, strict=True)]
        for side, completions in (("chosen", data.chosen), ("rejected", data.rejected))
    }
    with tempfile.TemporaryDirectory() as folder:
        options = common_options(job, folder)
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(**options, num_train_epochs=1, weight_decay=0.01),
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            callbacks=[StepEnds(meter)],
        )
        trainer.train()
    return meter.figures()


def measure_rloo(job: Job) -> Figures:
    sizes, meter, data = job.sizes, Meter(job.sizes), Pairs.read(job.folder)
    model = AutoModelForCausalLM.from_pretrained(job.folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(job.folder / "model")
    half = model.config.vocab_size // 2
    lengths: list[float] = []

    def reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        lengths.append(sum(map(len, completion_ids)) / len(completion_ids))
        return [sum(i < half for i in ids) / len(ids) for ids in completion_ids]

    class RolloutEnds(TrainerCallback):
        """One rollout is `n_epochs` optimiser steps."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % sizes.n_epochs == 0:
                meter.step()

    with tempfile.TemporaryDirectory() as folder:
        config = RLOOConfig(
            **common_options(job, folder),
            max_steps=(sizes.n_warm + sizes.n_steps) * sizes.n_epochs,
            num_generations=sizes.n_per_prompt,
            num_iterations=sizes.n_epochs,
            max_completion_length=sizes.n_completion[1],
            beta=0.05,
        )
        trainer = RLOOTrainer(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": texts(job, tokenizer, data.prompts)}),
            processing_class=tokenizer,
            callbacks=[RolloutEnds()],
        )
        trainer.train()
    assert len(lengths) == sizes.n_warm + sizes.n_steps, "other rollouts than were timed"
    timed = lengths[sizes.n_warm :]
    return meter.figures(tokens_per_completion=sum(timed) / len(timed))


SIDES: dict[str, Callable[[Job], Figures]] = {
    "dpo": lambda job: measure_dpo(job, precomputed=False),
    "dpo_precomputed": lambda job: measure_dpo(job, precomputed=True),
    "reward": measure_reward,
    "ppo": measure_rloo,
    "ppo_4_epochs": measure_rloo,
}


def main() -> None:
    torch.set_num_threads(1)
    job = Job.read(Path(sys.argv[1]))
    figures = SIDES[job.side](job)
    found = versions("trl", "torch", "transformers", "accelerate", "datasets", "tokenizers")
    print(json.dumps({**figures, "versions": found}))


if __name__ == "__main__":
    main()
