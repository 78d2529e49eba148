"""KL between two models along given completions, exact at every position.

The log-probabilities of the sampled tokens alone estimate the same mean with more noise, and can
come out below 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.scores import allowed_logits, forward

__all__ = ["completion_kl"]


@torch.no_grad()
def completion_kl(
    policy: LanguageModel, reference: LanguageModel, batch: TokenBatch, *, micro_batch: int = 32
) -> Tensor:
    """(B,) float32, sum over a completion's positions of KL(policy || reference) there, nats.

    Of completions that the policy sampled at temperature 1, the mean is an unbiased estimate of
    the KL per completion: E log(policy / reference) is the sum of its conditional expectations.

    Args:
        policy: The model whose expectation it is.
        reference: A model of the same vocabulary.
        batch: B prompts and completions.
        micro_batch: Completions per forward pass; changes memory and nothing else.
    """
    starts = range(0, len(batch), micro_batch)
    parts = [batch.select(slice(start, start + micro_batch)).trimmed() for start in starts]
    return torch.cat([_kl(policy, reference, part) for part in parts])


def _kl(policy: LanguageModel, reference: LanguageModel, batch: TokenBatch) -> Tensor:
    ours, theirs = _log_probs(policy, batch), _log_probs(reference, batch)  # (B, T, V)
    # A forbidden id has probability 0 and finite logarithms, which cancel.
    kl = (ours.exp() * (ours - theirs)).sum(-1)  # (B, T)
    return kl.masked_fill(~batch.completion_mask, 0.0).sum(1)


def _log_probs(lm: LanguageModel, batch: TokenBatch) -> Tensor:
    logits, _ = forward(
        lm,
        batch.input_ids[:, :-1],
        batch.attention_mask[:, :-1],
        batch.position_ids[:, :-1],
        batch.completion_ids.shape[1],
    )
    return allowed_logits(lm, logits, 1.0).log_softmax(-1)
