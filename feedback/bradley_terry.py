"""The Bradley-Terry model of a choice between two clips, on logits.

P(first) = sigmoid(d) with d = R(first) - R(second), R the sum of a clip's rewards (Christiano et
al. 2017, equation 1; Bradley and Terry 1952). With label noise, a share `noise` of the answers is a
coin toss: P'(first) = (1 - noise) sigmoid(d) + noise / 2 (Christiano 2.2.3: 0.1 for people).

Probabilities never appear: float32 sigmoids round to 0 or 1 beyond |d| = 17, where a loss built on
them has wrong gradients or none, and sums over a clip of 50 steps reach that easily.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from rlhf_gym.errors import ConfigError, DataError

__all__ = ["preference_log_probs", "preference_loss"]


def preference_log_probs(
    returns_first: torch.Tensor,
    returns_second: torch.Tensor,
    noise: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of either answer to each pair.

    Args:
        returns_first: (B,) or (E, B) float sums of rewards over the first clips, finite.
        returns_second: the same shape, over the second clips.
        noise: share of answers that are a coin toss, in [0, 1).

    Returns:
        (log P(first), log P(second)), each of the shape of the returns, nats, never above 0. Finite
        for any finite difference, with finite gradients.

    Raises:
        DataError: the two shapes differ.
        ConfigError: `noise` is outside [0, 1).

    >>> returns = torch.tensor([0.0, math.log(3.0)])
    >>> first, second = preference_log_probs(returns, torch.zeros(2))
    >>> [round(p, 4) for p in first.exp().tolist()]
    [0.5, 0.75]
    >>> [round(p, 4) for p in second.exp().tolist()]
    [0.5, 0.25]
    >>> first, _ = preference_log_probs(returns, torch.zeros(2), noise=0.1)
    >>> [round(p, 4) for p in first.exp().tolist()]
    [0.5, 0.725]
    """
    if returns_first.shape != returns_second.shape:
        raise DataError(
            f"`returns_first` has shape {tuple(returns_first.shape)} but `returns_second` "
            f"{tuple(returns_second.shape)}; one return per clip of each pair is needed in both."
        )
    if not 0.0 <= noise < 1.0:
        raise ConfigError(
            f"`noise` is {noise}, expected 0 <= noise < 1 (the share of answers that are a coin "
            "toss); use 0.1 for people and 0 for an oracle."
        )
    difference = returns_first - returns_second
    log_first, log_second = F.logsigmoid(difference), F.logsigmoid(-difference)
    if noise == 0.0:
        # logaddexp with log(0) = -inf would be right in value but costs a pass for nothing.
        return log_first, log_second
    log_sincere = math.log1p(-noise)
    log_toss = difference.new_tensor(math.log(noise / 2.0))
    return (
        torch.logaddexp(log_first + log_sincere, log_toss),
        torch.logaddexp(log_second + log_sincere, log_toss),
    )


def preference_loss(
    returns_first: torch.Tensor,
    returns_second: torch.Tensor,
    probs: torch.Tensor,
    noise: float = 0.0,
) -> torch.Tensor:
    """Log-loss of each answer: -(p log P(first) + (1 - p) log P(second)).

    Args:
        returns_first: (B,) or (E, B) float sums of rewards over the first clips, finite.
        returns_second: the same shape, over the second clips.
        probs: (B,) or the returns' shape, the answers as P(first preferred) in [0, 1]: 1, 0, or 0.5
            for a tie. One answer serves all E members.
        noise: share of answers that are a coin toss, in [0, 1).

    Returns:
        The loss of each pair, the returns' shape, nats, never below 0. Nothing is averaged: the
        caller weighs by its own bootstrap mask.

    Raises:
        DataError: the returns' shapes differ, or `probs` does not match their last axes.
        ConfigError: `noise` is outside [0, 1).

    >>> loss = preference_loss(torch.zeros(2), torch.zeros(2), torch.tensor([1.0, 0.5]))
    >>> [round(value, 6) for value in loss.tolist()]  # log 2, whatever was answered
    [0.693147, 0.693147]
    >>> members = torch.zeros(3, 2)  # E = 3, B = 2
    >>> preference_loss(members, members, torch.tensor([1.0, 0.0])).shape
    torch.Size([3, 2])
    """
    shape = returns_first.shape
    if probs.shape != shape[len(shape) - probs.ndim :]:
        raise DataError(
            f"`probs` has shape {tuple(probs.shape)}, expected {tuple(shape)} or "
            f"{tuple(shape[-1:])} to match the returns; give one answer per pair."
        )
    log_first, log_second = preference_log_probs(returns_first, returns_second, noise)
    return -(probs * log_first + (1.0 - probs) * log_second)
