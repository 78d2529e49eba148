"""How a model's forward pass is called: with or without padding, with or without a cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

__all__ = ["SERVINGS", "Serving", "row_groups", "without_dropout"]


@dataclass(frozen=True)
class Serving:
    """What a model's forward pass can be trusted with; `ensure_agreement` finds it out."""

    pads: bool
    """Rows of different lengths are computed together, padded on the left under a mask. Otherwise
    rows of one length are, without padding, mask or positions, as by the model's own default."""
    caches: bool
    """The sampler feeds one new token at a time. Otherwise it feeds all tokens, every time."""

    def __str__(self) -> str:
        padded = "padded" if self.pads else "without padding"
        return f"{padded}, {'with' if self.caches else 'without'} a cache"


SERVINGS = (Serving(True, True), Serving(False, True), Serving(False, False))
"""The fastest first."""


def row_groups(serving: Serving, mask: Tensor) -> list[tuple[Tensor, int]]:
    """The rows that go through a model together, and how many columns of padding they begin with.

    Args:
        serving: Whether padding is left where it is; then there is one group, which drops nothing.
        mask: (B, L) bool, False in the padding on the left.

    Returns:
        (b,) int64 indices of rows and the columns to drop in front; every row in one group.
    """
    if serving.pads:
        return [(torch.arange(len(mask), device=mask.device), 0)]
    first = mask.long().argmax(1)  # (B,)
    return [((first == n).nonzero()[:, 0], n) for n in sorted(set(first.tolist()))]


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """A forward pass in eval mode, whatever mode the model was left in; with checkpointing.

    transformers' layers look at their own `training` before they drop activations that the backward
    pass computes again (`model.activation_checkpointing_enable()`), so that in eval mode nothing
    was saved. Here a layer says that it is in training until it has been asked, and no longer: its
    own forward, and what is computed again, run in eval mode.

    Args:
        model: Checkpointing layers checkpoint where gradients are recorded.
    """
    if model.training:
        model.eval()
    layers = _checkpointing(model) if torch.is_grad_enabled() else []
    functions = [layer._gradient_checkpointing_func for layer in layers]
    for layer, function in zip(layers, functions, strict=True):
        layer.training, layer._gradient_checkpointing_func = True, _in_eval_mode(layer, function)
    try:
        yield
    finally:
        for layer, function in zip(layers, functions, strict=True):
            layer.training, layer._gradient_checkpointing_func = False, function


def _checkpointing(model: nn.Module) -> list[Any]:
    return [
        module
        for module in model.modules()
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
    ]


def _in_eval_mode(layer: nn.Module, checkpoint: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        layer.training = False
        try:
            return checkpoint(*args, **kwargs)
        finally:
            layer.training = True  # a layer may be called more than once in a pass

    return call
