"""One fit of a stacked ensemble to preferences: Bradley-Terry, out-of-bag validation, adaptive L2.

Deviations from Christiano et al. 2017 are numbered in docs/decisions.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_gym.errors import NumericalError
from rlhf_gym.feedback.bradley_terry import preference_loss
from rlhf_gym.feedback.reward_nets import StackedMLP
from rlhf_gym.feedback.settings import FitSettings

__all__ = ["PREFERENCES_AT_ONCE", "FitOutcome", "PairTensors", "fit_pairs", "pair_logits"]

_WEIGHT_DECAY_RANGE = (1.0, 30.0)
_WEIGHT_DECAY_FACTOR = 1.1  # a pass
_USUAL_CLIP_LENGTH = 50
PREFERENCES_AT_ONCE = 32
"""Where no gradient is needed: few enough that the activations stay in the processor's cache."""


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
    """(E, N) float32: how often each member trains on each preference. Where this is 0 the
    preference is not seen by the member, and validates it."""


@dataclass(frozen=True)
class FitOutcome:
    """What the optimisation did."""

    n_epochs: int
    weight_decay: float


def pair_logits(net: StackedMLP, data: PairTensors, rows: Tensor) -> Tensor:
    """Return differences first - second of the chosen preferences: logits of P(first).

    Args:
        net: The ensemble.
        data: The preferences.
        rows: (B,) the same preferences for all members, or (E, B) each member's own.

    Returns:
        (E, B)
    """
    clips = data.pairs[rows].movedim(-1, -2).flatten(-2)  # (..., 2B): firsts, then seconds
    features, mask = data.features[clips], data.mask[clips]  # (..., 2B, T, F), (..., 2B, T)
    rewards = net(features.flatten(-3, -2)).unflatten(1, mask.shape[-2:])  # (E, 2B, T)
    first, second = (rewards * mask).sum(-1).chunk(2, dim=1)  # (E, B) each
    difference: Tensor = first - second
    return difference


def fit_pairs(
    net: StackedMLP, data: PairTensors, settings: FitSettings, generator: torch.Generator
) -> FitOutcome:
    """Train all members at once with AdamW; each keeps the weights of its best validation.

    A member is validated on the preferences it does not train on: those outside its bootstrap
    sample (out of bag, Breiman 1996) and those held out from all.

    Args:
        net: Trained in place.
        data: The preferences; zero weights mark what validates.
        settings: See `FitSettings`.
        generator: Orders the minibatches.

    Raises:
        NumericalError: the loss is not finite.
    """
    unseen = (data.weights == 0).float()  # (E, N)
    validate = bool((unseen.sum(1) >= settings.min_validation).all())
    n_answers = max(float(data.weights.sum(1).mean()), 1.0)
    weight_decay = settings.weight_decay * min(1.0, settings.prior_answers / n_answers)
    optimizer = torch.optim.AdamW(
        net.parameters(), settings.learning_rate, weight_decay=weight_decay, fused=True
    )
    best_loss = torch.full((len(unseen),), torch.inf, device=unseen.device)  # (E,)
    best = [p.detach().clone() for p in net.parameters()]
    updates_per_epoch = math.ceil(int((data.weights > 0).sum(1).max()) / settings.batch_size)
    # An update's cost and what it learns from grow with its steps, so steps are what is budgeted.
    shorter = _USUAL_CLIP_LENGTH / data.mask.shape[1]
    max_epochs = math.ceil(settings.max_updates * shorter / updates_per_epoch)
    max_epochs = min(settings.max_epochs, max_epochs)
    epoch, stale = 0, 0
    while epoch < max_epochs and stale * updates_per_epoch < settings.patience * shorter:
        epoch += 1
        loss_train = _run_epoch(net, data, settings, optimizer, generator)
        if not validate:
            continue
        loss = _validation_loss(net, data, unseen, settings.noise)  # (E,)
        if settings.adapt_weight_decay:
            _adapt(optimizer, float(loss.mean()) / max(loss_train, 1e-8), weight_decay)
        better = loss < best_loss
        best_loss = torch.where(better, loss, best_loss)
        for kept, parameter in zip(best, net.parameters(), strict=True):
            kept[better] = parameter.detach()[better]
        stale = 0 if bool(better.any()) else stale + 1
    if validate:
        with torch.no_grad():
            for kept, parameter in zip(best, net.parameters(), strict=True):
                parameter.copy_(kept)
    return FitOutcome(epoch, float(optimizer.param_groups[0]["weight_decay"]))


def _run_epoch(
    net: StackedMLP,
    data: PairTensors,
    settings: FitSettings,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> float:
    """One pass of each member over its own sample; returns the mean loss seen on the way."""
    total = torch.zeros(())
    for rows in _minibatches(data.weights, settings.batch_size, generator):
        weights = data.weights.gather(1, rows)  # (E, B)
        logits = pair_logits(net, data, rows)
        losses = preference_loss(
            logits, torch.zeros_like(logits), data.probs[rows], settings.noise
        )  # (E, B)
        weighted = (losses * weights).sum()
        optimizer.zero_grad()
        # Members do not interact: the gradient of the sum is each member's own.
        (weighted / rows.shape[1]).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
        total += weighted.detach().cpu()
    if not torch.isfinite(total):
        raise NumericalError(
            f"the reward model's loss became {total.item()}; lower `learning_rate` (now "
            f"{settings.learning_rate}) or check the scale of the observations."
        )
    return float(total) / max(float(data.weights.sum()), 1.0)


def _minibatches(weights: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """(E, B) rows: every member's sample once, in its own random order.

    Members with a smaller sample are filled up with rows of weight 0, which change nothing.
    """
    keys = torch.rand(weights.shape, generator=generator).to(weights.device)
    order = (keys + 2.0 * (weights == 0)).argsort(dim=1)  # a member's own rows come first
    longest = int((weights > 0).sum(1).max())
    return torch.split(order[:, :longest], size, dim=1)


@torch.no_grad()
def _validation_loss(net: StackedMLP, data: PairTensors, unseen: Tensor, noise: float) -> Tensor:
    """(E,) mean log-loss of each member over the preferences it does not train on."""
    total = torch.zeros(len(unseen), device=unseen.device)
    for rows in torch.split(unseen.any(0).nonzero()[:, 0], PREFERENCES_AT_ONCE):
        logits = pair_logits(net, data, rows)  # (E, B)
        losses = preference_loss(logits, torch.zeros_like(logits), data.probs[rows], noise)
        total += (losses * unseen[:, rows]).sum(1)
    return total / unseen.sum(1)


def _adapt(optimizer: torch.optim.Optimizer, ratio: float, start: float) -> None:
    """Move the L2 coefficient: up when validation/train loss is above 1.5, down below 1.1.

    It stays within a range, which reaches as far as the coefficient that the fit started with.
    """
    factor = _WEIGHT_DECAY_FACTOR if ratio > 1.5 else 1 / _WEIGHT_DECAY_FACTOR
    factor = 1.0 if 1.1 <= ratio <= 1.5 else factor
    low, high = min(_WEIGHT_DECAY_RANGE[0], start), max(_WEIGHT_DECAY_RANGE[1], start)
    for group in optimizer.param_groups:
        if group["weight_decay"] > 0:
            group["weight_decay"] = min(max(group["weight_decay"] * factor, low), high)
