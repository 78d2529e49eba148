"""An ensemble of small networks computed as one: every layer is a single batched multiplication."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["StackedMLP"]


class StackedMLP(nn.Module):
    """E multilayer perceptrons of equal shape, stacked along a leading axis.

    Hidden units are LeakyReLU with slope 0.01 (Christiano et al. 2017, appendix A.1). Each member
    is initialised like `torch.nn.Linear`, independently.

    Args:
        n_members: E.
        n_inputs: F, features per step.
        hidden: Units of each hidden layer.
        generator: Draws the initial weights.
    """

    def __init__(
        self, n_members: int, n_inputs: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        sizes = [n_inputs, *hidden, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = fan_in**-0.5
            weight = torch.empty(n_members, fan_in, fan_out)  # (E, in, out)
            bias = torch.empty(n_members, 1, fan_out)  # (E, 1, out)
            for tensor, params in ((weight, self.weights), (bias, self.biases)):
                tensor.uniform_(-bound, bound, generator=generator)
                params.append(nn.Parameter(tensor))

    def forward(self, features: Tensor) -> Tensor:
        """Score N steps by every member.

        Args:
            features: (N, F), the same steps for all members, or (E, N, F), each member's own.

        Returns:
            (E, N) rewards, not normalised.
        """
        x = features.expand(len(self.weights[0]), *features.shape[-2:])  # (E, N, F)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer > 0:
                x = nn.functional.leaky_relu_(x, 0.01)
            x = torch.baddbmm(bias, x, weight)  # (E, N, out)
        scores: Tensor = x.squeeze(-1)  # (E, N)
        return scores

    @torch.no_grad()
    def rescale_inputs(self, scale: Tensor, shift: Tensor) -> None:
        """Absorb a change of input normalisation so that the function stays the same.

        With the old features equal to `scale * new + shift`, the first layer becomes
        `W' = diag(scale) W` and `b' = b + shift W`.

        Args:
            scale: (F,) factors.
            shift: (F,) offsets.
        """
        first = self.weights[0]
        self.biases[0].add_((shift @ first)[:, None])  # (E, 1, H)
        first.mul_(scale[None, :, None])
