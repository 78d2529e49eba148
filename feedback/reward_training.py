"""One fit of a stacked ensemble to preferences: Bradley-Terry, held-out split, adaptive L2.

Deviations from Christiano et al. 2017 are numbered in docs/decisions.md.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_gym.errors import NumericalError
from rlhf_gym.feedback.bradley_terry import preference_loss
from rlhf_gym.feedback.reward_nets import StackedMLP
from rlhf_gym.feedback.settings import FitSettings

__all__ = ["FitOutcome", "PairTensors", "fit_pairs", "pair_logits", "row_chunks"]


@dataclass(frozen=True, eq=False)
class PairTensors:
    """Preferences as tensors: pairs of rows of a table of clips."""

    features: Tensor
    """(M, T, F) normalised features of M clips."""
    mask: Tensor
    """(M, T) float, 0 where a shorter clip was padded."""
    pairs: Tensor
    """(N, 2) int64 rows of `features`."""
    probs: Tensor
    """(N,) float32 P(first preferred)."""
    weights: Tensor
    """(E, N) float32 bootstrap counts."""

    def subset(self, rows: Tensor) -> PairTensors:
        """The same clips, fewer preferences."""
        return PairTensors(
            self.features, self.mask, self.pairs[rows], self.probs[rows], self.weights[:, rows]
        )


@dataclass(frozen=True)
class FitOutcome:
    """What the optimisation did."""

    n_epochs: int
    weight_decay: float


def row_chunks(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Split a list of rows into chunks of at most `size`."""
    return torch.split(rows, size)


def pair_logits(net: StackedMLP, data: PairTensors, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Clip returns of both sides of the chosen preferences, (E, B) each."""
    clips = data.pairs[rows].T.reshape(-1)  # (2B,): all firsts, then all seconds
    features, mask = data.features[clips], data.mask[clips]  # (2B, T, F), (2B, T)
    rewards = net(features.flatten(0, 1)).unflatten(1, mask.shape)  # (E, 2B, T)
    first, second = (rewards * mask).sum(-1).chunk(2, dim=1)  # (E, B) each
    return first, second


def _loss(net: StackedMLP, data: PairTensors, rows: Tensor, noise: float) -> Tensor:
    """Weighted mean log-loss of each member, summed over members: members do not interact."""
    first, second = pair_logits(net, data, rows)
    losses = preference_loss(first, second, data.probs[rows].expand_as(first), noise)  # (E, B)
    mean: Tensor = (losses * data.weights[:, rows]).sum() / len(rows)
    return mean


@torch.no_grad()
def _mean_loss(net: StackedMLP, data: PairTensors, noise: float) -> float:
    """Weighted log-loss per preference, averaged over members; in chunks to bound memory."""
    total = sum(
        _loss(net, data, rows, noise).item() * len(rows)
        for rows in row_chunks(torch.arange(len(data.pairs)), 1024)
    )
    return total / max(float(data.weights.sum()), 1.0)


def fit_pairs(
    net: StackedMLP,
    train: PairTensors,
    heldout: PairTensors,
    settings: FitSettings,
    generator: torch.Generator,
) -> FitOutcome:
    """Train all members at once with Adam; keep the weights of the best held-out pass.

    Args:
        net: Trained in place.
        train: Preferences to train on, with bootstrap weights.
        heldout: Preferences to validate on; may be empty.
        settings: See `FitSettings`.
        generator: Orders the minibatches.

    Raises:
        NumericalError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(
        net.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    validate = len(heldout.pairs) > 0
    best_loss, best_weights, stale = float("inf"), None, 0
    epoch = 0
    for epoch in range(1, settings.max_epochs + 1):
        loss_train = _run_epoch(net, train, settings, optimizer, generator)
        if not validate:
            continue
        loss_heldout = _mean_loss(net, heldout, settings.noise)
        if settings.adapt_weight_decay:
            _adapt(optimizer, loss_heldout / max(loss_train, 1e-8))
        if loss_heldout < best_loss:
            best_loss, best_weights, stale = loss_heldout, copy.deepcopy(net.state_dict()), 0
        else:
            stale += 1
            if stale >= settings.patience and epoch >= settings.min_epochs:
                break
    if best_weights is not None:
        net.load_state_dict(best_weights)
    return FitOutcome(epoch, float(optimizer.param_groups[0]["weight_decay"]))


def _run_epoch(
    net: StackedMLP,
    train: PairTensors,
    settings: FitSettings,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> float:
    """One pass in random order; returns the mean loss per member seen on the way."""
    total = 0.0
    order = torch.randperm(len(train.pairs), generator=generator)
    for rows in row_chunks(order, settings.batch_size):
        optimizer.zero_grad()
        loss = _loss(net, train, rows, settings.noise)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature is untyped
        optimizer.step()
        total += loss.item() * len(rows)
    if not torch.isfinite(torch.tensor(total)):
        raise NumericalError(
            f"the reward model's loss became {total}; lower `learning_rate` (now "
            f"{settings.learning_rate}) or check the scale of the observations."
        )
    return total / max(float(train.weights.sum()), 1.0)


def _adapt(optimizer: torch.optim.Optimizer, ratio: float) -> None:
    """Move the L2 coefficient: up when held-out/train loss is above 1.5, down below 1.1."""
    factor = 1.5 if ratio > 1.5 else 1 / 1.5 if ratio < 1.1 else 1.0
    groups: list[dict[str, Any]] = optimizer.param_groups
    for group in groups:
        if group["weight_decay"] > 0:
            group["weight_decay"] = min(max(group["weight_decay"] * factor, 1e-6), 1.0)
