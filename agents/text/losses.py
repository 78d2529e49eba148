"""The losses of SFT, PPO and DPO: pure functions of tensors, without a model.

Each is an average over real tokens (or pairs) with the divisor as an argument, see
`rlhf_gym.agents.text.masked`. docs/text-algorithms.md has every formula with its source.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_gym.agents.text.masked import masked_mean
from rlhf_gym.errors import ConfigError

__all__ = [
    "DPOLossType",
    "RatioStatistics",
    "dpo_loss",
    "entropy_mean",
    "masked_mean",
    "ppo_policy_loss",
    "ppo_value_loss",
    "ratio_statistics",
    "sft_loss",
]

DPOLossType = Literal["sigmoid", "ipo"]


class RatioStatistics(NamedTuple):
    """How far a policy has moved from the one that sampled; scalars, averages over real tokens."""

    approx_kl: Tensor
    """Nats per token: the k3 estimate of KL(old || new) on the old policy's samples, never < 0."""
    clip_fraction: Tensor
    """The share of tokens whose ratio lies outside of 1 +- clip_range."""
    max_deviation: Tensor
    """max |ratio - 1| over the real tokens; a maximum, not an average."""


def sft_loss(logprobs: Tensor, mask: Tensor, n_tokens: int | None = None) -> Tensor:
    """Negative log-likelihood, nats per completion token.

    Args:
        logprobs: (B, T) of the completion's tokens, EOS included.
        mask: (B, T) bool.
        n_tokens: The divisor, None for `mask`'s count.
    """
    return -masked_mean(logprobs, mask, n_tokens)


def entropy_mean(entropies: Tensor, mask: Tensor, n_tokens: int | None = None) -> Tensor:
    """The mean entropy of the next-token distributions, nats per token; arguments as `sft_loss`."""
    return masked_mean(entropies, mask, n_tokens)


def ppo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float = 0.2,
    n_tokens: int | None = None,
) -> Tensor:
    """The clipped surrogate, negated (Schulman et al. 2017, eq. 7), a scalar.

    Args:
        logprobs: (B, T) under the policy that is trained.
        old_logprobs: (B, T) under the policy that sampled, no gradient.
        advantages: (B, T), no gradient.
        mask: (B, T) bool.
        clip_range: Half width of the interval around ratio 1.
        n_tokens: The divisor, None for `mask`'s count.
    """
    ratio = torch.exp(logprobs - old_logprobs)  # (B, T)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -masked_mean(torch.minimum(ratio * advantages, clipped * advantages), mask, n_tokens)


def ppo_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip_range: float | None = 0.2,
    n_tokens: int | None = None,
) -> Tensor:
    """Half the squared error of the values, clipped to a step of `clip_range`; a scalar.

    Ziegler et al. 2019: 0.5 max((V - R)^2, (clip(V, V_old +- c) - R)^2).

    Args:
        values: (B, T) of the value head, before each token.
        old_values: (B, T) at collection, no gradient.
        returns: (B, T) targets, no gradient.
        mask: (B, T) bool.
        clip_range: c in reward units; None leaves the plain squared error.
        n_tokens: The divisor, None for `mask`'s count.
    """
    error = (values - returns) ** 2
    if clip_range is not None:
        near = old_values + (values - old_values).clamp(-clip_range, clip_range)
        error = torch.maximum(error, (near - returns) ** 2)
    return 0.5 * masked_mean(error, mask, n_tokens)


@torch.no_grad()
def ratio_statistics(
    logprobs: Tensor,
    old_logprobs: Tensor,
    mask: Tensor,
    clip_range: float = 0.2,
    n_tokens: int | None = None,
) -> RatioStatistics:
    """What to watch while PPO updates; arguments as for `ppo_policy_loss`."""
    difference = torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
    ratio = torch.exp(difference)
    outside = ((ratio - 1).abs() > clip_range).to(ratio.dtype)
    return RatioStatistics(
        approx_kl=masked_mean(ratio - 1 - difference, mask, n_tokens),
        clip_fraction=masked_mean(outside, mask, n_tokens),
        max_deviation=(ratio - 1).abs().max(),
    )


def dpo_loss(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
    loss_type: DPOLossType = "sigmoid",
    *,
    prob: Tensor | None = None,
    weights: Tensor | None = None,
    n_pairs: int | None = None,
) -> Tensor:
    """DPO (Rafailov et al. 2023, eq. 7) or IPO (Azar et al. 2023, eq. 17) with soft labels.

    With h = (log pi/ref)(chosen) - (log pi/ref)(rejected) and q the probability that the label is
    right, q = p (1 - eps) + (1 - p) eps:

    - sigmoid: -q log sigma(beta h) - (1 - q) log sigma(-beta h); p = 1 gives DPO, and with
      `label_smoothing` cDPO (Mitchell 2023).
    - ipo: q (h - 1 / (2 beta))^2 + (1 - q) (h + 1 / (2 beta))^2.

    Args:
        logp_chosen: (B,) log-probability of the whole chosen completion under the policy.
        logp_rejected: (B,) of the rejected one.
        ref_chosen: (B,) of the chosen one under the reference, no gradient.
        ref_rejected: (B,) of the rejected one under the reference, no gradient.
        beta: Weight of the KL term, > 0; IPO's tau.
        label_smoothing: eps within [0, 0.5): the share of labels taken to be flipped.
        loss_type: "sigmoid" or "ipo".
        prob: (B,) within [0, 1], the probability p that the chosen is the better one, 0.5 for a
            tie; None stands for 1.
        weights: (B,) >= 0, how often each pair counts; None stands for 1.
        n_pairs: The divisor, None for B; weights do not enter it.

    Raises:
        ConfigError: a setting out of its range.
    """
    if not beta > 0:
        raise ConfigError(f"`beta` is {beta}; a number above 0 is needed (0.1 is usual).")
    if not 0 <= label_smoothing < 0.5:
        raise ConfigError(f"`label_smoothing` is {label_smoothing}; 0 <= eps < 0.5 is needed.")
    h = (logp_chosen - ref_chosen) - (logp_rejected - ref_rejected)  # (B,)
    p = torch.ones_like(h) if prob is None else prob
    q = p * (1 - label_smoothing) + (1 - p) * label_smoothing
    if loss_type == "sigmoid":
        losses = -q * logsigmoid(beta * h) - (1 - q) * logsigmoid(-beta * h)
    elif loss_type == "ipo":
        margin = 1 / (2 * beta)
        losses = q * (h - margin) ** 2 + (1 - q) * (h + margin) ** 2
    else:
        raise ConfigError(f"`loss_type` is {loss_type!r}; 'sigmoid' and 'ipo' are known.")
    weighted = losses if weights is None else losses * weights
    return weighted.sum() / max(len(h) if n_pairs is None else n_pairs, 1)
