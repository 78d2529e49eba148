"""One rollout: sampled completions, their scores, and all that PPO needs to learn from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rlhf_gym.agents.text.optimiser import require_finite
from rlhf_gym.errors import DataError
from rlhf_gym.language.batches import TokenBatch

__all__ = [
    "Reference",
    "RewardFunction",
    "TextRollout",
    "checked_scores",
]


class Reference(Protocol):
    """What the KL is measured against; `rlhf_gym.language.models.ReferenceModel` is one."""

    def completion_logprobs(self, batch: TokenBatch, temperature: float) -> Tensor:
        """(B, T) log-probabilities of the completions' tokens, 0 in the padding."""
        ...


RewardFunction = Callable[[TokenBatch, Tensor], Any]
"""(batch, prompt_indices (B,) int64) -> scores, (B,) one per completion or (B, T) one per token.

A tensor, an array or a list. The indices are the rows of the prompts the trainer was given, so that
a reward finds what belongs to a prompt without comparing texts."""


@dataclass(frozen=True, eq=False)
class TextRollout:
    """What one call of `TextPPOTrainer.collect` gives; every (B, T) is 0 in the padding."""

    batch: TokenBatch
    prompt_indices: Tensor
    """(B,) int64, rows of the trainer's prompts."""
    scores: Tensor
    """(B,) as the reward function gave them, before the EOS rule; a per-token reward's sum."""
    logprobs: Tensor
    """(B, T) under the sampling policy; see `TextPPOSettings.rescore`."""
    ref_logprobs: Tensor
    """(B, T) under the reference."""
    values: Tensor
    """(B, T) before each token."""
    rewards: Tensor
    """(B, T) after KL, EOS rule and whitening: what GAE saw."""
    advantages: Tensor
    """(B, T), whitened where the settings say so."""
    returns: Tensor
    """(B, T), the value head's targets."""
    metrics: dict[str, float]
    """Figures of this rollout; every average is over real tokens or over completions."""

    def __len__(self) -> int:
        return len(self.batch)


def checked_scores(scores: Any, batch: TokenBatch) -> Tensor:
    """A reward function's answer as a float32 tensor on the batch's device.

    Args:
        scores: (B,) or (B, T) numbers: tensor, array or list.
        batch: What was scored.

    Raises:
        DataError: something else than numbers, or another shape.
        NumericalError: NaN or infinity; the message names the row.
    """
    try:
        tensor = (
            scores if isinstance(scores, Tensor) else torch.as_tensor(np.asarray(scores, float))
        )
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the reward gave {type(scores).__name__} {str(scores)[:80]!r}, not numbers; return "
            f"one float for each of the {len(batch)} completions."
        ) from error
    tensor = tensor.detach().to(batch.completion_ids.device, torch.float32)
    shape = tuple(batch.completion_ids.shape)
    if tuple(tensor.shape) not in {shape, shape[:1]}:
        raise DataError(
            f"the reward gave {tuple(tensor.shape)} for completions of {shape}; return one number "
            f"per completion, {shape[:1]}, or one per token, {shape}."
        )
    if tensor.ndim == 2:
        tensor = torch.where(batch.completion_mask, tensor, torch.zeros_like(tensor))
    require_finite("the reward", tensor)
    return tensor
