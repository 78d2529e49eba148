"""Sums, means and whitening over the real tokens of a padded batch.

Every figure of the text algorithms, losses and metrics alike, is an average over real tokens. The
divisor is an argument (`n_tokens`): with the count of the whole minibatch, the losses of its
micro-batches add up to the loss of the minibatch, however it was cut.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_gym.errors import DataError

__all__ = ["last_real_index", "masked_mean", "masked_sum", "masked_variance", "whiten"]


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """The sum of `values` where `mask` is True, a scalar; NaN in the padding does no harm.

    Args:
        values: Any shape.
        mask: The same shape, bool.

    Raises:
        DataError: the shapes differ.
    """
    if values.shape != mask.shape:
        raise DataError(
            f"`values` is {tuple(values.shape)} and `mask` is {tuple(mask.shape)}; give one mask "
            "entry for each value."
        )
    return torch.where(
        mask, values, torch.zeros((), dtype=values.dtype, device=values.device)
    ).sum()


def masked_mean(values: Tensor, mask: Tensor, n_tokens: int | None = None) -> Tensor:
    """The mean of `values` where `mask` is True, a scalar; 0 where nothing is True.

    Args:
        values: Any shape.
        mask: The same shape, bool.
        n_tokens: The divisor; None counts `mask`. Give the count of the whole minibatch where
            `values` is a part of it, and the parts' means add up to the minibatch's.
    """
    divisor = int(mask.sum()) if n_tokens is None else n_tokens
    return masked_sum(values, mask) / max(divisor, 1)


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """The variance (divided by n, not n - 1) of `values` where `mask` is True, a scalar."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Scale the real tokens' values to deviation 1; 0 where `mask` is False.

    With `shift_mean` the mean becomes 0, without it the mean stays (Ziegler et al. 2019, `whiten`
    of lm-human-preferences): (x - mean) / std + mean.

    Args:
        values: Any shape.
        mask: The same shape, bool.
        shift_mean: Whether the mean is removed.
        eps: Added to the variance.
    """
    mean = masked_mean(values, mask)
    scaled = (values - mean) * torch.rsqrt(masked_variance(values, mask) + eps)
    return torch.where(mask, scaled if shift_mean else scaled + mean, torch.zeros_like(values))


def last_real_index(mask: Tensor) -> Tensor:
    """The position of each row's last real token, (B,) int64.

    Args:
        mask: (B, T) bool, right-padded.

    Raises:
        DataError: a row has no real token, or a gap between its tokens.
    """
    lengths = mask.sum(1)  # (B,)
    contiguous = torch.arange(mask.shape[1], device=mask.device)[None, :] < lengths[:, None]
    wrong = (lengths == 0) | (mask != contiguous).any(1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"row {row} of the completion mask is {mask[row].int().tolist()}; a completion has at "
            "least one real token, and its padding stands to the right."
        )
    return lengths - 1
