"""From scores to advantages: the KL penalty in the reward, the EOS rule, and GAE."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rlhf_gym.agents.text.masked import last_real_index
from rlhf_gym.errors import ConfigError, DataError

__all__ = [
    "Advantages",
    "KLEstimator",
    "MissingEOS",
    "apply_missing_eos",
    "gae",
    "kl_per_token",
    "kl_rewards",
]

KLEstimator = Literal["k1", "k3"]
MissingEOS = Literal["subtract", "replace"]


class Advantages(NamedTuple):
    """What GAE gives, both 0 in the padding."""

    advantages: Tensor
    """(B, T), in reward units."""
    returns: Tensor
    """(B, T), advantages + values: the targets of the value head."""


def kl_per_token(logprobs: Tensor, ref_logprobs: Tensor, kind: KLEstimator = "k1") -> Tensor:
    """Estimates of KL(pi || ref) on tokens sampled from pi, elementwise (Schulman 2020).

    - k1: log pi - log ref. Unbiased, and the only one whose use *in the reward* gives the right
      policy gradient, because E[grad log pi] = 0.
    - k3: ref/pi - 1 - log(ref/pi). Unbiased, never negative, of less variance: for logging.

    Args:
        logprobs: (B, T) of the sampled tokens under pi.
        ref_logprobs: (B, T) of the same tokens under the reference.
        kind: "k1" or "k3".

    Raises:
        ConfigError: another kind.
    """
    difference = logprobs - ref_logprobs
    if kind == "k1":
        return difference
    if kind == "k3":
        return torch.exp(-difference) - 1 + difference
    raise ConfigError(f"the KL estimator is {kind!r}; 'k1' and 'k3' are known.")


def apply_missing_eos(
    scores: Tensor, finished: Tensor, penalty: float | None, rule: MissingEOS = "subtract"
) -> Tensor:
    """The scores after the rule for completions that ran into the length limit.

    - subtract: score - penalty (TRL's `missing_eos_penalty`): what was good stays better.
    - replace: -penalty, whatever the score was (Huang et al. 2024, the "EOS trick" with
      penalty 1): the truncated text is not judged at all.

    Args:
        scores: (B,).
        finished: (B,) bool, whether the completion ended by EOS.
        penalty: What it costs, in reward units; None changes nothing.
        rule: "subtract" or "replace".

    Raises:
        ConfigError: another rule.
    """
    if rule not in ("subtract", "replace"):
        raise ConfigError(f"`missing_eos` is {rule!r}; 'subtract' and 'replace' are known.")
    if penalty is None:
        return scores
    unfinished = scores - penalty if rule == "subtract" else torch.full_like(scores, -penalty)
    return torch.where(finished, scores, unfinished)


def kl_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, coef: float
) -> Tensor:
    """Rewards per token (Ziegler et al. 2019, eq. 2): -coef (log pi - log ref), plus the score.

    A score per completion is added at its last real token, EOS where there is one. Summed over a
    completion this is score - coef log(pi/ref), whose expectation is the objective J.

    Args:
        scores: (B,) one per completion, or (B, T) one per token.
        logprobs: (B, T) under the sampling policy.
        ref_logprobs: (B, T) under the reference.
        mask: (B, T) bool.
        coef: Weight of the KL term, in reward units per nat.

    Returns:
        (B, T), 0 where `mask` is False.

    Raises:
        DataError: `scores` is of neither shape, or a row has no real token.
    """
    last = last_real_index(mask)  # (B,)
    rewards = -coef * kl_per_token(logprobs, ref_logprobs)
    if scores.shape == mask.shape:
        rewards = rewards + scores
    elif scores.shape == mask.shape[:1]:
        rows = torch.arange(len(scores), device=scores.device)
        rewards = rewards.index_put((rows, last), scores.to(rewards.dtype), accumulate=True)
    else:
        raise DataError(
            f"`scores` is {tuple(scores.shape)} for completions of {tuple(mask.shape)}; give one "
            f"per completion, {tuple(mask.shape[:1])}, or one per token, {tuple(mask.shape)}."
        )
    return torch.where(mask, rewards, torch.zeros_like(rewards))


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> Advantages:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) on right-padded rows.

    The end of a completion is terminal, whether by EOS or by the length limit: what is behind the
    last real token has the value 0.

    Args:
        rewards: (B, T).
        values: (B, T), the value before each token.
        mask: (B, T) bool.
        gamma: Discount per token.
        lam: GAE's lambda.
    """
    real = mask.to(rewards.dtype)
    values = torch.where(mask, values, torch.zeros_like(values))
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])  # advantage of the token behind, (B,)
    next_value = torch.zeros_like(following)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * real[:, t]
        advantages[:, t] = following
        next_value = values[:, t]
    return Advantages(advantages, advantages + values)
