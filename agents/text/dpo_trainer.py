"""DPO and IPO: from pairs of completions to a policy, without a reward model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from rlhf_gym.agents.text.losses import dpo_loss
from rlhf_gym.agents.text.optimiser import Optimiser, require_finite
from rlhf_gym.agents.text.pairs import CompletionPairs
from rlhf_gym.agents.text.rollout import Reference
from rlhf_gym.agents.text.settings import TextDPOSettings
from rlhf_gym.agents.text.trainer_state import read_state, restore_module, write_state
from rlhf_gym.errors import ConfigError
from rlhf_gym.language.agreement import ensure_agreement
from rlhf_gym.language.batches import TokenBatch, by_length
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.scores import completion_scores

__all__ = ["TextDPOTrainer"]


class TextDPOTrainer:
    """Direct preference optimisation of a language model.

    The reference's log-probabilities of all completions are computed once, when the trainer is
    made; after that the reference is not needed. Within an optimiser step each completion is
    computed once, in however many pairs it stands.

    Args:
        lm: The policy; trained in place.
        reference: What it is held to: `reference_of(lm)` before training.
        pairs: The comparisons.
        settings: See `TextDPOSettings`.
        seed: Draws the order of the pairs.
        max_pairs: Pairs to pass over in the whole run, at most (one batch at least), in place of
            the settings' `n_epochs` whole passes; the last pass may be a part.

    Attributes:
        n_updates: Optimiser steps so far.
        n_total_updates: Optimiser steps of the whole run; the learning rate reaches 0 behind it.

    Raises:
        DataError: the completions do not fit the model.
        ConfigError: a model that cannot be sampled as it is trained, see `ensure_agreement`.
        NumericalError: the reference's log-probabilities are not finite.
    """

    def __init__(
        self,
        lm: LanguageModel,
        reference: Reference,
        pairs: CompletionPairs,
        settings: TextDPOSettings | None = None,
        *,
        seed: int = 0,
        max_pairs: int | None = None,
    ) -> None:
        s = self.settings = settings or TextDPOSettings()
        self.lm = lm
        self.pairs = pairs.to(lm.device)
        batch = lm.check(self.pairs.completions)
        n_columns = batch.completion_ids.shape[1]
        ensure_agreement(lm, batch.prompt_ids, batch.prompt_mask, n_columns)
        self.generator = torch.Generator(device=lm.device).manual_seed(seed)
        self.optimiser = Optimiser([lm.model], s.learning_rate, s.adam_eps, s.max_grad_norm)
        self.n_updates = 0
        left = s.n_epochs * len(pairs) if max_pairs is None else max_pairs
        n_passes, left = divmod(left, len(pairs))
        per_pass = math.ceil(len(pairs) / s.batch_size)
        self.n_total_updates = max(n_passes * per_pass + left // s.batch_size, 1)
        with torch.no_grad():
            self.ref_logprobs = self._sums(
                lambda batch: reference.completion_logprobs(batch, s.temperature)
            )  # (M,)
        require_finite("the reference's log-probability", self.ref_logprobs)
        self._order = torch.zeros(0, dtype=torch.int64, device=lm.device)

    def train(
        self,
        n_updates: int | None = None,
        callback: Callable[[dict[str, float]], bool | None] | None = None,
    ) -> list[dict[str, float]]:
        """Take optimiser steps over the pairs, reshuffled for each pass.

        Args:
            n_updates: How many; None goes on to the end of the run.
            callback: Called with each step's metrics; returning False stops.

        Returns:
            The metrics of each step, see `update`.
        """
        left = self.n_total_updates - self.n_updates
        history: list[dict[str, float]] = []
        for _ in range(left if n_updates is None else n_updates):
            history.append(self.update(self._next_rows()))
            if callback is not None and callback(history[-1]) is False:
                break
        return history

    def _next_rows(self) -> Tensor:
        if len(self._order) == 0:
            n, device = len(self.pairs), self.lm.device
            self._order = torch.randperm(n, generator=self.generator, device=device)
        size = self.settings.batch_size
        rows, self._order = self._order[:size], self._order[size:]
        return rows

    def update(self, rows: Tensor) -> dict[str, float]:
        """One optimiser step on the given pairs.

        Args:
            rows: (n,) int64, rows of `pairs`.

        Returns:
            `loss`; of the policy before the step, means over the pairs: `logprob_chosen`,
            `logprob_rejected` (nats per completion; DPO may lower both), `reward_chosen`,
            `reward_rejected` (beta log pi/ref), `margin` (their difference) and `accuracy` (of the
            pairs that are no tie, the share whose more likely winner has the higher reward; NaN
            without one); `grad_norm`, `learning_rate`.

        Raises:
            ConfigError: the run's last step is taken.
            NumericalError: NaN or infinity in the loss or the gradient.
        """
        s = self.settings
        if self.n_updates >= self.n_total_updates:
            raise ConfigError(
                f"the run of {self.n_total_updates} steps is over and its learning rate at its "
                "end; build a trainer with a larger `n_epochs` or `max_pairs`."
            )
        remaining = 1 - self.n_updates / self.n_total_updates if s.lr_decay == "linear" else 1.0
        self.optimiser.zero_grad()
        logprobs = torch.zeros(2, len(rows), device=self.lm.device)
        loss, done = 0.0, 0
        for part in torch.split(rows, s.micro_batch_size or len(rows)):
            part_loss, part_logprobs = self._backward(part, len(rows))
            logprobs[:, done : done + len(part)] = part_logprobs
            loss, done = loss + part_loss, done + len(part)
        grad_norm = self.optimiser.step(remaining)
        self.n_updates += 1
        return {
            "loss": loss,
            **self._diagnostics(rows, logprobs),
            "grad_norm": grad_norm,
            "learning_rate": s.learning_rate * remaining,
        }

    def _backward(self, rows: Tensor, n_pairs: int) -> tuple[float, Tensor]:
        """Add the gradient of these pairs; (loss, (2, n) log-probabilities of both sides)."""
        s, pairs = self.settings, self.pairs
        both = torch.stack([pairs.chosen[rows], pairs.rejected[rows]])  # (2, n)
        # Each completion once, by marking: torch.unique would sort, slower than the model itself.
        marks = torch.zeros(len(pairs.completions), dtype=torch.bool, device=both.device)
        marks[both.flatten()] = True
        where = (marks.cumsum(0) - 1)[both]  # (2, n) rows among the marked
        sums = self._sums(self._logprobs, marks.nonzero()[:, 0])
        # index_select: its gradient adds up much faster than that of sums[where].
        logprobs = sums.index_select(0, where.flatten()).view_as(where)  # (2, n)
        references = self.ref_logprobs[both]  # (2, n)
        loss = dpo_loss(
            logprobs[0],
            logprobs[1],
            references[0],
            references[1],
            s.beta,
            s.label_smoothing,
            s.loss_type,
            prob=pairs.prob[rows],
            weights=pairs.weights[rows],
            n_pairs=n_pairs,
        )
        require_finite("the DPO loss", loss.detach())
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
        return float(loss.detach()), logprobs.detach()

    def _logprobs(self, batch: TokenBatch) -> Tensor:
        return completion_scores(self.lm, batch, temperature=self.settings.temperature).logprobs

    def _sums(
        self, logprobs_of: Callable[[TokenBatch], Tensor], rows: Tensor | None = None
    ) -> Tensor:
        """(M,) log-probabilities of whole completions, like lengths together; of some, or all."""
        every = self.pairs.completions
        completions = every if rows is None else every.select(rows)
        sums = torch.zeros(len(completions), device=self.lm.device)
        for group in by_length(completions.attention_mask.sum(1), self.lm.device):
            sums[group] = logprobs_of(completions.select(group).trimmed()).sum(1)
        return sums

    def _diagnostics(self, rows: Tensor, logprobs: Tensor) -> dict[str, float]:
        pairs = self.pairs
        both = torch.stack([pairs.chosen[rows], pairs.rejected[rows]])  # (2, n)
        rewards = self.settings.beta * (logprobs - self.ref_logprobs[both])
        margins = rewards[0] - rewards[1]
        sides = torch.sign(pairs.prob[rows] - 0.5)  # 0: a tie
        right = (torch.sign(margins) == sides)[sides != 0]
        return {
            "logprob_chosen": float(logprobs[0].mean()),
            "logprob_rejected": float(logprobs[1].mean()),
            "reward_chosen": float(rewards[0].mean()),
            "reward_rejected": float(rewards[1].mean()),
            "margin": float(margins.mean()),
            "accuracy": float(right.float().mean()) if len(right) else float("nan"),
        }

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The loss and the diagnostics of `update` over all pairs, without learning."""
        s, pairs = self.settings, self.pairs
        sums = self._sums(self._logprobs)
        both = torch.stack([pairs.chosen, pairs.rejected])  # (2, N)
        logprobs, references = sums[both], self.ref_logprobs[both]
        loss = dpo_loss(
            logprobs[0],
            logprobs[1],
            references[0],
            references[1],
            s.beta,
            s.label_smoothing,
            s.loss_type,
            prob=pairs.prob,
            weights=pairs.weights,
        )
        rows = torch.arange(len(pairs), device=self.lm.device)
        return {"loss": float(loss), **self._diagnostics(rows, logprobs)}

    def save(self, folder: Path) -> None:
        """Write `dpo.safetensors` and `dpo.json`: with them a run goes on bit for bit.

        The pairs and the reference are not in them: give the new trainer the same.
        """
        numbers = {
            "settings": dataclasses.asdict(self.settings),
            "n_updates": self.n_updates,
            "n_pairs": len(self.pairs),
            "order": self._order.tolist(),
        }
        write_state(
            folder,
            "dpo",
            {"policy": self.lm.model},
            self.optimiser.state_tensors(),
            self.generator,
            numbers,
        )

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote into a trainer built as the saved one was.

        Raises:
            CorruptDataError: a file is missing, damaged, or of another model.
            SchemaError: another version, or other settings.
            ConfigError: another number of pairs.
        """
        state = read_state(folder, "dpo", dataclasses.asdict(self.settings))
        if state.numbers["n_pairs"] != len(self.pairs):
            raise ConfigError(
                f"the state was saved with {state.numbers['n_pairs']} pairs, this trainer has "
                f"{len(self.pairs)}; give the same ones."
            )
        restore_module(self.lm.model, state.modules.get("policy", {}))
        self.optimiser.load_state_tensors(state.optimiser)
        state.restore_generator(self.generator)
        self.n_updates = state.numbers["n_updates"]
        order = torch.tensor(state.numbers["order"], dtype=torch.int64)
        self._order = order.to(self.lm.device)
