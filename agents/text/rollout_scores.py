"""What policy, value head and reference say of the completions of a rollout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_gym.agents.text.optimiser import require_finite
from rlhf_gym.agents.text.rollout import Reference
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.sampler import Sampled
from rlhf_gym.language.scores import completion_scores

__all__ = ["RolloutScores", "scores_as_sampled", "scores_by_forward_pass"]


@dataclass(frozen=True, eq=False)
class RolloutScores:
    """Per token, (B, T) float32, 0 in the padding."""

    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    entropies: Tensor

    def __post_init__(self) -> None:
        require_finite("the policy's log-probability", self.logprobs)
        require_finite("the reference's log-probability", self.ref_logprobs)
        require_finite("the value", self.values)


def scores_as_sampled(
    sampled: Sampled,
    batch: TokenBatch,
    reference: Reference,
    temperature: float,
    micro_batch_size: int | None,
) -> RolloutScores:
    """What the sampler noted while it wrote: a forward pass of the policy less.

    Args:
        sampled: With values and entropies.
        batch: Its batch, trimmed.
        reference: What the KL is measured against.
        temperature: The sampler's.
        micro_batch_size: Completions per forward pass of the reference.

    Raises:
        NumericalError: NaN or infinity; the message says where.
    """
    assert sampled.values is not None and sampled.entropies is not None
    n_columns = batch.completion_mask.shape[1]
    logprobs, values, entropies = (
        tensor[:, :n_columns] for tensor in (sampled.logprobs, sampled.values, sampled.entropies)
    )
    by_reference = [
        reference.completion_logprobs(part, temperature)
        for part in _micro_batches(batch, micro_batch_size)
    ]
    return RolloutScores(logprobs, torch.cat(by_reference), values, entropies)


def scores_by_forward_pass(
    lm: LanguageModel,
    value_head: ValueHead,
    batch: TokenBatch,
    reference: Reference,
    temperature: float,
    micro_batch_size: int | None,
) -> RolloutScores:
    """By the forward pass that training uses, so that the ratio is 1 before the first step.

    Args:
        lm: The policy.
        value_head: Reads its hidden states.
        batch: Completions.
        reference: What the KL is measured against.
        temperature: The sampler's.
        micro_batch_size: Completions per forward pass.

    Raises:
        NumericalError: NaN or infinity; the message says where.
    """
    parts = []
    for part in _micro_batches(batch, micro_batch_size):
        scores = completion_scores(
            lm, part, temperature=temperature, value_head=value_head, want_entropy=True
        )
        assert scores.values is not None and scores.entropies is not None
        by_reference = reference.completion_logprobs(part, temperature)
        parts.append((scores.logprobs, by_reference, scores.values, scores.entropies))
    return RolloutScores(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _micro_batches(batch: TokenBatch, size: int | None) -> list[TokenBatch]:
    everything = torch.arange(len(batch), device=batch.completion_ids.device)
    return [batch.select(rows) for rows in torch.split(everything, size or len(batch))]
