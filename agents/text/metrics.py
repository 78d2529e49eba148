"""The figures of a rollout: all over real tokens, or over completions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf_gym.agents.text.advantages import kl_per_token
from rlhf_gym.agents.text.masked import masked_mean, masked_sum, masked_variance
from rlhf_gym.agents.text.rollout_scores import RolloutScores
from rlhf_gym.language.batches import TokenBatch

__all__ = ["distinct_n", "explained_variance", "rollout_metrics"]


def distinct_n(completions: Sequence[Sequence[int]], n: int) -> float:
    """Distinct n-grams of token ids over all n-grams of the batch, within [0, 1]; NaN without any.

    Li et al. 2016. It falls with the number of completions, so compare batches of one size.
    """
    grams = [tuple(ids[i : i + n]) for ids in completions for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over real tokens; NaN where returns never vary."""
    spread = masked_variance(returns, mask)
    if float(spread) == 0:
        return float("nan")
    return float(1 - masked_variance(returns - values, mask) / spread)


def rollout_metrics(
    batch: TokenBatch,
    scores: Tensor,
    scored: RolloutScores,
    *,
    sampler_logprobs: Tensor,
    returns: Tensor,
) -> dict[str, float]:
    """What to watch of a rollout.

    Args:
        batch: The completions.
        scores: (B,) before the EOS rule.
        scored: What policy, value head and reference say of them.
        sampler_logprobs: (B, T) as the sampler noted them.
        returns: (B, T), the value head's targets.

    Returns:
        `score_mean`, `score_std`; `kl_to_ref` and `kl_to_ref_k3`, nats per completion; `entropy`,
        nats per token; `length`, tokens with EOS; `eos_share`; `distinct_1`, `distinct_2`;
        `explained_variance` of the values; `sampler_mismatch`, the largest difference of the
        two log-probabilities of one token: above 1e-3, sampler and training disagree. It is 0
        where the sampler's are the ones in use (`TextPPOSettings.rescore`); then an update's
        `first_ratio_error` shows it.
    """
    mask = batch.completion_mask
    logprobs, ref_logprobs = scored.logprobs, scored.ref_logprobs
    mismatch = torch.where(mask, (logprobs - sampler_logprobs).abs(), torch.zeros_like(logprobs))
    lists = batch.completion_lists()
    return {
        "score_mean": float(scores.mean()),
        "score_std": float(scores.std(correction=0)),
        "kl_to_ref": float(masked_sum(kl_per_token(logprobs, ref_logprobs), mask)) / len(batch),
        "kl_to_ref_k3": float(masked_sum(kl_per_token(logprobs, ref_logprobs, "k3"), mask))
        / len(batch),
        "entropy": float(masked_mean(scored.entropies, mask)),
        "length": float(batch.lengths.float().mean()),
        "eos_share": float(batch.finished.float().mean()),
        "distinct_1": distinct_n(lists, 1),
        "distinct_2": distinct_n(lists, 2),
        "explained_variance": explained_variance(scored.values, returns, mask),
        "sampler_mismatch": float(mismatch.max()),
    }
