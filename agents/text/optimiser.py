"""The optimiser of the text algorithms: Adam, linear decay, clipped gradients, no NaN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rlhf_gym.errors import ConfigError, NumericalError

__all__ = ["Optimiser", "require_finite"]

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Optimiser:
    """Adam on the parameters that take a gradient.

    Args:
        modules: Their trainable parameters, each once (tied ones are one).
        learning_rate: The first one.
        eps: Adam's.
        max_grad_norm: Longer gradients are shortened to it.

    Raises:
        ConfigError: nothing takes a gradient.
    """

    def __init__(
        self, modules: Sequence[nn.Module], learning_rate: float, eps: float, max_grad_norm: float
    ) -> None:
        unique = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        self.parameters = list(unique.values())
        if not self.parameters:
            raise ConfigError("no parameter takes a gradient; unfreeze at least one layer.")
        self.adam = torch.optim.Adam(self.parameters, lr=learning_rate, eps=eps)
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adam.zero_grad(set_to_none=True)

    def step(self, remaining: float = 1.0) -> float:
        """Apply the accumulated gradient.

        Args:
            remaining: Multiplies the learning rate, within [0, 1].

        Returns:
            The gradient's norm before it was shortened.

        Raises:
            NumericalError: the norm is not finite; the weights are as before.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        require_finite("the gradient's norm", norm)
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * remaining
        self.adam.step()
        return float(norm)

    def state_tensors(self) -> dict[str, Tensor]:
        """Adam's moments and step counts as flat names, empty before the first step."""
        return {
            f"{index}.{name}": self.adam.state[parameter][name]
            for index, parameter in enumerate(self.parameters)
            if parameter in self.adam.state
            for name in _MOMENTS
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_tensors` gave.

        Raises:
            ConfigError: they belong to other parameters.
        """
        self.adam.state.clear()
        found = {int(name.split(".")[0]) for name in tensors}
        for index in sorted(found):
            state = {name: tensors[f"{index}.{name}"].clone() for name in _MOMENTS}
            shapes = [p.shape for p in self.parameters[index : index + 1]]
            if [state["exp_avg"].shape] != shapes:
                raise ConfigError(
                    f"the saved optimiser state {index} has the shape "
                    f"{tuple(state['exp_avg'].shape)}; build the trainer with the model, and the "
                    "frozen layers, that it was saved with."
                )
            self.adam.state[self.parameters[index]] = state


def require_finite(name: str, values: Tensor) -> None:
    """Stop where a NaN or an infinity is.

    Args:
        name: What it is called in the message, for example "the policy loss".
        values: Any shape.

    Raises:
        NumericalError: the message names the component, the first row and how many there are.
    """
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    wrong = (~finite).nonzero()
    where = f" in row {int(wrong[0, 0])}" if values.ndim else ""
    raise NumericalError(
        f"{name} is {float(values[~finite][0])}{where} ({len(wrong)} of {values.numel()} values); "
        "training stopped before it reached the weights. Look at the reward's range first, then "
        "lower the learning rate."
    )
