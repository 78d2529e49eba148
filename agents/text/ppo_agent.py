"""Text PPO behind the `Agent` protocol: the loop's learned reward, or the task's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rlhf_gym.agents.text.agent import TextAgent
from rlhf_gym.agents.text.agent_settings import TextAgentSettings
from rlhf_gym.agents.text.ppo_trainer import TextPPOTrainer
from rlhf_gym.data import RewardBatch
from rlhf_gym.errors import ConfigError
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import ValueHead
from rlhf_gym.protocols import Signal
from rlhf_gym.seeding import torch_seed

__all__ = ["TextPPOAgent"]

_FIGURES = (
    "kl_to_ref", "entropy", "length", "eos_share", "distinct_1", "distinct_2", "kl_coef",
    "approx_kl",
)  # fmt: skip


class TextPPOAgent(TextAgent):
    """PPO with a KL penalty to the model that SFT left; see `TextAgent` for the arguments."""

    trainer: TextPPOTrainer | None = None
    """Made once the reference is known, after SFT."""

    def _set_reference(self) -> None:
        super()._set_reference()
        assert self.reference is not None
        n_rollouts = max(self.n_run_steps // self.steps_unit, 1)
        self.trainer = TextPPOTrainer(
            self.lm,
            ValueHead(self.lm.hidden_size, seed=self.seed).to(self.lm.device),
            self.reference,
            _no_reward,
            self.prompts,
            replace(
                self.settings.ppo,
                n_rollouts=n_rollouts,
                max_new_tokens=self.task.max_new_tokens,
            ),
            seed=self.seed,
            ptx=self._pretraining_mix(),
        )

    def _pretraining_mix(self) -> TokenBatch | None:
        """Examples of the task's corpus, the same after resuming; None where they count nothing."""
        if self.settings.ppo.ptx_coef == 0:
            return None
        n = self.settings.n_sft_examples or TextAgentSettings.n_sft_examples
        data = self._corpus(np.random.default_rng(self.seed), n)
        return data.batch(self.lm, range(n))

    def begin_round(self, seed: np.random.SeedSequence) -> None:
        """Reseed everything random."""
        super().begin_round(seed)
        if self.trainer is not None:
            self.trainer.generator.manual_seed(torch_seed(seed.spawn(1)[0]))

    def improve(self, signal: Signal, n_steps: int) -> dict[str, float]:
        """Train PPO on `n_steps` completions, a whole number of rollouts.

        Returns:
            Means over the rollouts: `learned_rollout_return`, the reward trained on, `kl_to_ref`
            (nats per completion), `entropy` (nats per token), `length`, `eos_share`, `distinct_1`,
            `distinct_2`, `kl_coef`, `approx_kl` (nats per token, of an update), `steps_per_update`
            (fewer where `target_kl` ended the passes).

        Raises:
            ConfigError: `n_steps` is no multiple of the rollout, or there is no reward model.
        """
        trainer = self.trainer
        assert trainer is not None, "warm_up or load comes first"
        if n_steps % self.steps_unit:
            raise ConfigError(
                f"`n_steps` is {n_steps}, no multiple of the rollout's {self.steps_unit} "
                "completions; round it."
            )
        trainer.reward = self._reward(signal)
        rows = []
        for _ in range(n_steps // self.steps_unit):
            rows += trainer.train(1)
            self.n_steps_done += self.steps_unit
            self._report_steps()
        figures = {key: float(np.mean([row[key] for row in rows])) for key in _FIGURES}
        return {
            "learned_rollout_return": float(np.mean([row["score_mean"] for row in rows])),
            **figures,
            "steps_per_update": float(np.mean([row["n_steps"] for row in rows])),
            **self.sft_figures,
        }

    def _reward(self, signal: Signal) -> Callable[[TokenBatch, Tensor], Any]:
        if signal.source == "true":
            return self._true_scores
        model = signal.reward_model
        if model is None:
            raise ConfigError("PPO needs a reward model in its signal; fit one first.")

        def learned(batch: TokenBatch, rows: Tensor) -> Any:
            # By text: a reward model may have another tokenizer, and its own way of batching.
            clips = self._blind_clips(batch, rows.tolist())
            return model.rewards(RewardBatch.from_clips(clips)).sum(axis=1)

        return learned

    def _true_scores(self, batch: TokenBatch, rows: Tensor) -> Any:
        return self._scores(batch, rows).total

    def save(self, folder: Path) -> None:
        """Write model, reference, value head, optimiser and counters."""
        super().save(folder)
        assert self.trainer is not None, "a round ends after warm_up"
        self.trainer.save(folder / "trainer")

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, bit for bit.

        Raises:
            CorruptDataError: a file is missing or damaged.
        """
        super().load(folder)
        assert self.trainer is not None, "made with the reference"
        self.trainer.load(folder / "trainer")


def _no_reward(batch: TokenBatch, rows: Tensor) -> Tensor:
    raise ConfigError("no signal has come yet; `improve` sets the reward.")
