"""DPO behind the `Agent` protocol: it learns from the answers themselves, round by round."""

from __future__ import annotations

import numpy as np
import torch

from rlhf_gym.agents.text.agent import TextAgent
from rlhf_gym.agents.text.dpo_trainer import TextDPOTrainer
from rlhf_gym.agents.text.exact_kl import completion_kl
from rlhf_gym.agents.text.metrics import distinct_n
from rlhf_gym.agents.text.preference_pairs import pairs_of_preferences
from rlhf_gym.protocols import Signal
from rlhf_gym.seeding import torch_seed

__all__ = ["TextDPOAgent"]

_N_PROBES = 128  # completions to measure KL and length by


class TextDPOAgent(TextAgent):
    """Direct preference optimisation, online: each round adds answers about the present policy.

    Every round fits all answers so far against the same reference, the model that SFT left. One
    step is one pair passed over. See `TextAgent` for the arguments.
    """

    _round_seed = 0

    @property
    def steps_unit(self) -> int:
        """Pairs of one optimiser step."""
        return self.settings.dpo.batch_size

    def begin_round(self, seed: np.random.SeedSequence) -> None:
        """Reseed everything random."""
        super().begin_round(seed)
        self._round_seed = torch_seed(seed.spawn(1)[0])

    def improve(self, signal: Signal, n_steps: int) -> dict[str, float]:
        """Pass over `n_steps` pairs, again and again, of all answers that tell two texts apart.

        What is left of `n_steps` after the last whole batch is not spent.

        Returns:
            Over all pairs, after it, `dpo_loss`, `dpo_accuracy` and `dpo_margin`,
            `logprob_chosen` and `logprob_rejected` (nats per completion; DPO may lower both),
            `n_pairs_left_out` (skipped, alike after cutting, or unusable), and of the policy
            `kl_to_ref` (nats per completion), `length`, `eos_share`, `distinct_1`, `distinct_2`.

        Raises:
            DataError: no answer is left to learn from.
        """
        assert self.reference is not None, "warm_up or load comes first"
        pairs, counts = pairs_of_preferences(
            self.lm,
            signal.preferences,
            max_prompt_tokens=self.task.max_prompt_tokens,
            max_completion_tokens=self.task.max_new_tokens,
        )
        trainer = TextDPOTrainer(
            self.lm,
            self.reference,
            pairs,
            self.settings.dpo,
            seed=self._round_seed,
            max_pairs=n_steps,
        )
        trainer.train()
        self.n_steps_done += n_steps
        self._report_steps()
        after = trainer.evaluate()
        return {
            "dpo_loss": after["loss"],
            "dpo_accuracy": after["accuracy"],
            "dpo_margin": after["margin"],
            "logprob_chosen": after["logprob_chosen"],
            "logprob_rejected": after["logprob_rejected"],
            "n_pairs_left_out": float(counts.n_skipped + counts.n_alike + len(counts.left_out)),
            **self._probe(),
            **self.sft_figures,
        }

    @torch.no_grad()
    def _probe(self) -> dict[str, float]:
        """What the policy has become, by fresh completions."""
        assert self.reference is not None
        rows = self._rng.integers(len(self.task), size=_N_PROBES)
        batch = self._sample(rows, self._generator, self.lm)
        kl = completion_kl(self.lm, self.reference.lm, batch)
        lists = batch.completion_lists()
        return {
            "kl_to_ref": float(kl.mean()),
            "length": float(batch.lengths.float().mean()),
            "eos_share": float(batch.finished.float().mean()),
            "distinct_1": distinct_n(lists, 1),
            "distinct_2": distinct_n(lists, 2),
        }
