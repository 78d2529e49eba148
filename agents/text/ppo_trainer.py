"""PPO on a language model: `collect` completions, `update` on them, or `train` for both in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from rlhf_gym.agents.text.advantages import apply_missing_eos, gae, kl_rewards
from rlhf_gym.agents.text.kl_control import KLController
from rlhf_gym.agents.text.losses import (
    entropy_mean,
    ppo_policy_loss,
    ppo_value_loss,
    ratio_statistics,
    sft_loss,
)
from rlhf_gym.agents.text.masked import whiten
from rlhf_gym.agents.text.metrics import rollout_metrics
from rlhf_gym.agents.text.optimiser import Optimiser, require_finite
from rlhf_gym.agents.text.rollout import Reference, RewardFunction, TextRollout, checked_scores
from rlhf_gym.agents.text.rollout_scores import rollout_scores
from rlhf_gym.agents.text.settings import TextPPOSettings
from rlhf_gym.agents.text.trainer_state import read_state, restore_module, write_state
from rlhf_gym.errors import ConfigError
from rlhf_gym.language.agreement import ensure_agreement
from rlhf_gym.language.batches import EncodedPrompts, TokenBatch
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.sampler import sample_completions
from rlhf_gym.language.scores import CompletionScores, completion_scores

__all__ = ["TextPPOTrainer"]

# With one rate for both, values lag behind returns: all advantages of a token that is nearly
# certain have one sign then, and rollouts of Format-v0 were up to 10 nats from the reference.
_VALUE_RATE = 10.0


class TextPPOTrainer:
    """PPO with a value head, a KL penalty in the reward, and any reward function.

    Args:
        lm: The policy; trained in place. Its parameters that take no gradient stay as they are.
        value_head: Reads the policy's hidden states; trained in place.
        reference: What the KL is measured against: `reference_of(lm)` before training.
        reward: Scores a batch of completions, see `RewardFunction`. The attribute may be replaced
            between rollouts, as when a reward model was fitted anew.
        prompts: What completions are drawn for, uniformly; encoded and left-padded.
        settings: See `TextPPOSettings`.
        seed: Draws prompts, completions and the order of minibatches.
        ptx: A corpus whose likelihood is held up (InstructGPT's pretraining mix); needed where
            `ptx_coef` is above 0.

    Attributes:
        kl: The KL controller; `kl.coef` is the present price.
        n_rollouts: Rollouts learnt from so far.
        n_completions: Completions learnt from so far.
        n_tokens: Their tokens.

    Raises:
        ConfigError: settings that do not fit the model, the prompts or the corpus.
    """

    def __init__(
        self,
        lm: LanguageModel,
        value_head: ValueHead,
        reference: Reference,
        reward: RewardFunction,
        prompts: EncodedPrompts,
        settings: TextPPOSettings | None = None,
        *,
        seed: int = 0,
        ptx: TokenBatch | None = None,
    ) -> None:
        s = self.settings = settings or TextPPOSettings()
        self.lm, self.value_head, self.reference, self.reward = lm, value_head, reference, reward
        self.prompts, self.ptx = prompts, ptx
        self._check_inputs()
        self.generator = torch.Generator(device=lm.device).manual_seed(seed)
        value_rate = s.vf_learning_rate or _VALUE_RATE * s.learning_rate
        self.optimiser = Optimiser(
            [lm.model, value_head], [s.learning_rate, value_rate], s.adam_eps, s.max_grad_norm
        )
        self.kl = KLController(s.kl_coef, s.kl_target, s.kl_horizon)
        self.n_rollouts = self.n_completions = self.n_tokens = 0

    def _check_inputs(self) -> None:
        s = self.settings
        if len(self.prompts.ids) == 0:
            raise ConfigError("`prompts` is empty; give at least one prompt.")
        longest = int(self.prompts.mask.sum(1).max()) + s.max_new_tokens
        if self.lm.max_length is not None and longest > self.lm.max_length:
            raise ConfigError(
                f"the longest prompt and `max_new_tokens` {s.max_new_tokens} make {longest} "
                f"tokens; the model has {self.lm.max_length} positions. Shorten one of the two."
            )
        if s.ptx_coef > 0 and (self.ptx is None or len(self.ptx) == 0):
            raise ConfigError(f"`ptx_coef` is {s.ptx_coef} without a corpus; give `ptx`, or 0.")

    def train(
        self,
        n_rollouts: int | None = None,
        callback: Callable[[dict[str, float]], bool | None] | None = None,
    ) -> list[dict[str, float]]:
        """Collect and update in turn.

        Args:
            n_rollouts: How many; None goes on to the end of the run, `settings.n_rollouts`.
            callback: Called with each rollout's metrics; returning False stops.

        Returns:
            The metrics of each rollout.
        """
        left = self.settings.n_rollouts - self.n_rollouts
        history: list[dict[str, float]] = []
        for _ in range(left if n_rollouts is None else n_rollouts):
            history.append(self.update(self.collect()))
            if callback is not None and callback(history[-1]) is False:
                break
        return history

    # -- collecting --------------------------------------------------------------------------------

    @property
    def rescores(self) -> bool:
        """Whether a forward pass of its own gives a rollout's log-probabilities and values."""
        if self.settings.rescore is not None:
            return self.settings.rescore
        return any(p.dtype != torch.float32 for p in self.lm.model.parameters())

    @torch.no_grad()
    def collect(self) -> TextRollout:
        """Sample one batch of completions, score it, and work out advantages.

        Raises:
            DataError: the reward function's answer has another shape.
            ConfigError: a model that cannot be sampled as it is trained, see `ensure_agreement`.
            NumericalError: NaN or infinity in log-probabilities or reward; the message says where.
        """
        s, device = self.settings, self.lm.device
        ensure_agreement(self.lm, self.prompts.ids, self.prompts.mask, s.max_new_tokens)
        n = len(self.prompts.ids)
        indices = torch.randint(n, (s.batch_size,), generator=self.generator, device=device)
        rows = indices.to(self.prompts.ids.device)
        sampled = sample_completions(
            self.lm,
            self.prompts.ids[rows].to(device),
            self.prompts.mask[rows].to(device),
            s.max_new_tokens,
            generator=self.generator,
            temperature=s.temperature,
            value_head=None if self.rescores else self.value_head,
            want_entropy=not self.rescores,
        )
        batch = sampled.batch.trimmed()
        mask = batch.completion_mask
        scored = rollout_scores(
            sampled,
            batch,
            self.reference,
            s.temperature,
            s.micro_batch_size,
            self._rescored if self.rescores else None,
        )
        scores = checked_scores(self.reward(batch, indices), batch)
        rewards = kl_rewards(
            self._after_eos_rule(scores, batch),
            scored.logprobs,
            scored.ref_logprobs,
            mask,
            self.kl.coef,
        )
        if s.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, scored.values, mask, s.gamma, s.gae_lambda)
        per_completion = scores.sum(1) if scores.ndim == 2 else scores
        metrics = rollout_metrics(
            batch,
            per_completion,
            scored,
            sampler_logprobs=sampled.logprobs[:, : mask.shape[1]],
            returns=returns,
        )
        return TextRollout(
            batch=batch,
            prompt_indices=indices,
            scores=per_completion,
            logprobs=scored.logprobs,
            ref_logprobs=scored.ref_logprobs,
            values=scored.values,
            rewards=rewards,
            advantages=whiten(advantages, mask) if s.whiten_advantages else advantages,
            returns=returns,
            metrics=metrics,
        )

    def _rescored(self, batch: TokenBatch) -> CompletionScores:
        """By the forward pass that training uses, so that the ratio is 1 before the first step."""
        return completion_scores(
            self.lm,
            batch,
            temperature=self.settings.temperature,
            value_head=self.value_head,
            want_entropy=True,
        )

    def _after_eos_rule(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        s = self.settings
        if s.missing_eos_penalty is None:
            return scores
        if scores.ndim == 1:
            return apply_missing_eos(scores, batch.finished, s.missing_eos_penalty, s.missing_eos)
        # A reward per token: the rule falls on the completion, so what it changes is put on the
        # last token, and "replace" takes the other tokens' rewards away.
        totals = scores.sum(1)
        change = apply_missing_eos(totals, batch.finished, s.missing_eos_penalty, s.missing_eos)
        last = torch.nn.functional.one_hot(batch.lengths - 1, scores.shape[1]).to(scores.dtype)
        return scores + last * (change - totals)[:, None]  # (B, T)

    # -- updating ----------------------------------------------------------------------------------

    def update(self, rollout: TextRollout) -> dict[str, float]:
        """Learn from one rollout.

        Returns:
            The rollout's metrics and the update's, averaged over its optimiser steps:
            `policy_loss`, `value_loss`, `approx_kl` (nats per token), `clip_fraction`,
            `grad_norm`, `first_ratio_error` (max |ratio - 1| before the first step),
            `learning_rate`, `kl_coef`, `objective` (score after the EOS rule - kl_coef KL, where
            rewards are not whitened), `n_steps` (fewer where `target_kl` ended the passes), and
            `ptx_loss` with a corpus.

        Raises:
            ConfigError: the run of `settings.n_rollouts` is over.
            NumericalError: NaN or infinity in a loss or gradient, named.
        """
        s = self.settings
        if self.n_rollouts >= s.n_rollouts:
            raise ConfigError(
                f"the run of `n_rollouts` {s.n_rollouts} is over and its learning rate at its "
                "end; build a trainer with a larger `n_rollouts`."
            )
        remaining = 1 - self.n_rollouts / s.n_rollouts if s.lr_decay == "linear" else 1.0
        steps: list[dict[str, float]] = []
        for rows in self._minibatches(len(rollout)):
            # The first step is taken whatever approx_kl is: 0, but for a rollout that was used.
            limit = s.target_kl if steps else None
            step = self._minibatch_step(rollout, rows, remaining, limit)
            if step is None:
                break
            steps.append(step)
        metrics = {name: sum(x[name] for x in steps) / len(steps) for name in steps[0]}
        metrics["first_ratio_error"] = steps[0]["ratio_error"]
        del metrics["ratio_error"]
        metrics |= {
            "n_steps": float(len(steps)),
            "learning_rate": s.learning_rate * remaining,
            "kl_coef": self.kl.coef,
            "objective": float(rollout.rewards.sum(1).mean()),
            **rollout.metrics,
        }
        self.n_rollouts += 1
        self.n_completions += len(rollout)
        self.n_tokens += int(rollout.batch.completion_mask.sum())
        self.kl.update(rollout.metrics["kl_to_ref"], len(rollout))
        return metrics

    def _minibatches(self, n: int) -> list[Tensor]:
        """The rows of every optimiser step of one update; each pass in a new order."""
        s = self.settings
        passes = [
            torch.randperm(n, generator=self.generator, device=self.lm.device)
            for _ in range(s.n_epochs)
        ]
        return [rows for order in passes for rows in order.chunk(s.n_minibatches)]

    def _minibatch_step(
        self, rollout: TextRollout, rows: Tensor, remaining: float, target_kl: float | None = None
    ) -> dict[str, float] | None:
        """One optimiser step, or None, without one, where approx_kl exceeds 1.5 `target_kl`.

        Its gradient does not depend on how it is cut into micro-batches.
        """
        n_tokens = int(rollout.batch.completion_mask[rows].sum())
        totals: dict[str, float] = {}
        self.optimiser.zero_grad()
        for part in torch.split(rows, self.settings.micro_batch_size or len(rows)):
            for name, value in self._backward(rollout, part, n_tokens).items():
                old = totals.get(name, 0.0)
                totals[name] = max(old, value) if name == "ratio_error" else old + value
        if target_kl is not None and totals["approx_kl"] > 1.5 * target_kl:
            return None
        if self.settings.ptx_coef > 0:
            totals["ptx_loss"] = self._backward_ptx()
        return totals | {"grad_norm": self.optimiser.step(remaining)}

    def _backward(self, rollout: TextRollout, rows: Tensor, n_tokens: int) -> dict[str, float]:
        s = self.settings
        batch = rollout.batch.select(rows).trimmed()
        mask = batch.completion_mask
        n_columns = mask.shape[1]

        def columns(tensor: Tensor) -> Tensor:
            return tensor[rows, :n_columns]

        scores = completion_scores(
            self.lm,
            batch,
            temperature=s.temperature,
            value_head=self.value_head,
            want_entropy=s.ent_coef > 0,
        )
        assert scores.values is not None
        old = columns(rollout.logprobs)
        policy_loss = ppo_policy_loss(
            scores.logprobs, old, columns(rollout.advantages), mask, s.clip_range, n_tokens
        )
        value_loss = ppo_value_loss(
            scores.values,
            columns(rollout.values),
            columns(rollout.returns),
            mask,
            s.clip_range_vf,
            n_tokens,
        )
        require_finite("the policy loss", policy_loss.detach())
        require_finite("the value loss", value_loss.detach())
        loss = policy_loss + s.vf_coef * value_loss
        if scores.entropies is not None:
            loss = loss - s.ent_coef * entropy_mean(scores.entropies, mask, n_tokens)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
        moved = ratio_statistics(scores.logprobs.detach(), old, mask, s.clip_range, n_tokens)
        return {
            "policy_loss": float(policy_loss.detach()),
            "value_loss": float(value_loss.detach()),
            "approx_kl": float(moved.approx_kl),
            "clip_fraction": float(moved.clip_fraction),
            "ratio_error": float(moved.max_deviation),
        }

    def _backward_ptx(self) -> float:
        """Add the gradient of the pretraining mix (Ouyang et al. 2022, eq. 2)."""
        s = self.settings
        assert self.ptx is not None  # checked when the trainer was made
        rows = torch.randint(
            len(self.ptx), (s.ptx_batch_size,), generator=self.generator, device=self.lm.device
        )
        batch = self.ptx.select(rows.to(self.ptx.prompt_ids.device)).to(self.lm.device)
        n_tokens = int(batch.completion_mask.sum())
        total = 0.0
        everything = torch.arange(len(batch), device=self.lm.device)
        for part in torch.split(everything, s.micro_batch_size or len(batch)):
            micro = batch.select(part).trimmed()
            # Temperature 1: the corpus was not sampled from the policy.
            logprobs = completion_scores(self.lm, micro).logprobs
            loss = sft_loss(logprobs, micro.completion_mask, n_tokens)
            require_finite("the pretraining loss", loss.detach())
            (s.ptx_coef * loss).backward()  # type: ignore[no-untyped-call]  # as above
            total += float(loss.detach())
        return total

    # -- state -------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write `ppo.safetensors` and `ppo.json`: with them a run goes on bit for bit.

        Prompts, reward, reference and corpus are not in them: give the new trainer the same.
        """
        numbers = {
            "settings": dataclasses.asdict(self.settings),
            "kl_coef": self.kl.coef,
            "n_rollouts": self.n_rollouts,
            "n_completions": self.n_completions,
            "n_tokens": self.n_tokens,
        }
        modules = {"policy": self.lm.model, "value_head": self.value_head}
        write_state(folder, "ppo", modules, self.optimiser.state_tensors(), self.generator, numbers)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote into a trainer built as the saved one was.

        Weights are changed in place; build the reference before, from the model PPO started with.

        Raises:
            CorruptDataError: a file is missing, damaged, or of another model.
            SchemaError: another version, or other settings.
        """
        state = read_state(folder, "ppo", dataclasses.asdict(self.settings))
        restore_module(self.lm.model, state.modules.get("policy", {}))
        restore_module(self.value_head, state.modules.get("value_head", {}))
        self.optimiser.load_state_tensors(state.optimiser)
        state.restore_generator(self.generator)
        self.kl.coef = state.numbers["kl_coef"]
        self.n_rollouts = state.numbers["n_rollouts"]
        self.n_completions = state.numbers["n_completions"]
        self.n_tokens = state.numbers["n_tokens"]
