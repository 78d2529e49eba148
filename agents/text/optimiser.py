"""The optimiser of the text algorithms: Adam, linear decay, clipped gradients, no NaN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rlhf_gym.errors import ConfigError, NumericalError
from rlhf_gym.files import whole_number

__all__ = ["Optimiser", "require_finite"]

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Optimiser:
    """Adam on the parameters that take a gradient.

    Args:
        modules: Their trainable parameters, each once: of tied ones, the first module's.
        learning_rate: At the start; one for all modules, or one for each.
        eps: Adam's.
        max_grad_norm: Longer gradients are shortened to it.

    Raises:
        ConfigError: nothing takes a gradient.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        learning_rate: float | Sequence[float],
        eps: float,
        max_grad_norm: float,
    ) -> None:
        rates = (
            learning_rate if isinstance(learning_rate, Sequence) else [learning_rate] * len(modules)
        )
        rate_of: dict[nn.Parameter, float] = {}
        for module, rate in zip(modules, rates, strict=True):
            for parameter in module.parameters():
                if parameter.requires_grad:
                    rate_of.setdefault(parameter, rate)
        if not rate_of:
            raise ConfigError("no parameter takes a gradient; unfreeze at least one layer.")
        self.parameters = list(rate_of)
        groups = [
            {"params": [p for p in rate_of if rate_of[p] == rate], "first_lr": rate}
            for rate in dict.fromkeys(rate_of.values())
        ]
        self.adam = torch.optim.Adam(groups, eps=eps)
        self.max_grad_norm = max_grad_norm

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adam.zero_grad(set_to_none=True)

    def step(self, remaining: float = 1.0) -> float:
        """Apply the accumulated gradient.

        Args:
            remaining: Multiplies the learning rates, within [0, 1].

        Returns:
            The gradient's norm before it was shortened.

        Raises:
            NumericalError: the norm is not finite; the weights are as before.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        require_finite("the gradient's norm", norm)
        for group in self.adam.param_groups:
            group["lr"] = group["first_lr"] * remaining
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
        found = {whole_number(name.partition(".")[0]) for name in tensors}
        for index in sorted(-1 if n is None else n for n in found):
            if any(f"{index}.{name}" not in tensors for name in _MOMENTS):
                raise ConfigError(
                    f"the saved optimiser state names {sorted(tensors)[:3]}, which are no moments "
                    "of Adam's; restore the checkpoint from a copy."
                )
            state = {name: tensors[f"{index}.{name}"].clone() for name in _MOMENTS}
            shapes = [p.shape for p in self.parameters[index : index + 1]]
            if [state["exp_avg"].shape] != shapes:
                raise ConfigError(
                    f"the saved optimiser state {index} has the shape "
                    f"{tuple(state['exp_avg'].shape)}; build the trainer with the model, and the "
                    "frozen layers, that it was saved with."
                )
            parameter = self.parameters[index]
            for name in ("exp_avg", "exp_avg_sq"):  # Adam keeps the count on the CPU
                state[name] = state[name].to(parameter.device)
            self.adam.state[parameter] = state


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
