"""What policy, value head and reference say of the completions of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_gym.agents.text.optimiser import require_finite
from rlhf_gym.agents.text.rollout import Reference
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.sampler import Sampled
from rlhf_gym.language.scores import CompletionScores

__all__ = ["RolloutScores", "rollout_scores"]


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


def rollout_scores(
    sampled: Sampled,
    batch: TokenBatch,
    reference: Reference,
    temperature: float,
    micro_batch_size: int | None,
    rescore: Callable[[TokenBatch], CompletionScores] | None = None,
) -> RolloutScores:
    """The policy's part as the sampler noted it, or by a forward pass as training has it.

    Args:
        sampled: With values and entropies, unless there is `rescore`.
        batch: Its batch, trimmed.
        reference: What the KL is measured against.
        temperature: The sampler's.
        micro_batch_size: Completions per forward pass.
        rescore: The policy's scores, with values and entropies, of some completions.

    Raises:
        NumericalError: NaN or infinity; the message says where.
    """
    everything = torch.arange(len(batch), device=batch.completion_ids.device)
    rows = torch.split(everything, micro_batch_size or len(batch))
    parts = [batch.select(some) for some in rows]
    by_reference = torch.cat([reference.completion_logprobs(p, temperature) for p in parts])
    n_columns = batch.completion_mask.shape[1]
    found = [rescore(part) for part in parts] if rescore else [sampled]

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(one, name)[:, :n_columns] for one in found])

    return RolloutScores(joined("logprobs"), by_reference, joined("values"), joined("entropies"))
