"""The optimiser of the text algorithms: Adam, linear decay, clipped gradients, no NaN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rlhf_gym.errors import ConfigError, NumericalError
from rlhf_gym.files import whole_number

__all__ = ["Optimiser", "require_finite"]

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_MASTER = "master"
_PRECISIONS = (torch.float32, torch.float64, torch.bfloat16)


class Optimiser:
    """Adam on the parameters that take a gradient, in float32 whatever their own precision.

    bfloat16 has 8 bits of mantissa: at a learning rate of 1e-6 most weights are so much larger than
    a step that adding it changes nothing. Such a parameter therefore has a float32 master, which
    Adam moves by float32 moments, and is itself the master rounded (mixed precision, Micikevicius
    et al. 2018). A parameter that somebody else changes in between carries its master along.

    Args:
        modules: Their trainable parameters, each once: of tied ones, the first module's.
        learning_rate: At the start; one for all modules, or one for each.
        eps: Adam's.
        max_grad_norm: Longer gradients are shortened to it.

    Raises:
        ConfigError: nothing takes a gradient, or a precision that gradients do not survive.
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
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    _require_precision(name, parameter)
                    rate_of.setdefault(parameter, rate)
        if not rate_of:
            raise ConfigError("no parameter takes a gradient; unfreeze at least one layer.")
        self.parameters = list(rate_of)
        self.masters = [_master_of(parameter) for parameter in self.parameters]
        """What Adam moves: the parameter itself where it is exact enough."""
        every = list(zip(self.masters, rate_of.values(), strict=True))
        groups = [
            {"params": [m for m, of in every if of == rate], "first_lr": rate}
            for rate in dict.fromkeys(rate_of.values())
        ]
        self.adam = torch.optim.Adam(groups, eps=eps)
        self.max_grad_norm = max_grad_norm

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self, remaining: float = 1.0) -> float:
        """Apply the accumulated gradient.

        Args:
            remaining: Multiplies the learning rates, within [0, 1].

        Returns:
            The gradient's norm before it was shortened.

        Raises:
            NumericalError: the norm is not finite; the weights are as before.
        """
        rounded = self._rounded()
        for _, parameter, master in rounded:
            _follow(parameter, master)
            master.grad = None if parameter.grad is None else parameter.grad.float()
        norm = nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm)
        require_finite("the gradient's norm", norm)
        for group in self.adam.param_groups:
            group["lr"] = group["first_lr"] * remaining
        self.adam.step()
        with torch.no_grad():
            for _, parameter, master in rounded:
                parameter.copy_(master)
                master.grad = None
        return float(norm)

    def state_tensors(self) -> dict[str, Tensor]:
        """Adam's moments, step counts and masters as flat names, empty before the first step."""
        tensors = {
            f"{index}.{name}": self.adam.state[master][name]
            for index, master in enumerate(self.masters)
            if master in self.adam.state
            for name in _MOMENTS
        }
        if tensors:
            tensors |= {f"{i}.{_MASTER}": master.detach() for i, _, master in self._rounded()}
        return tensors

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_tensors` gave; the parameters themselves are restored before.

        Raises:
            ConfigError: they belong to other parameters, or to another precision.
        """
        self.adam.state.clear()
        self._load_masters(tensors)
        moments = [name for name in tensors if not name.endswith(_MASTER)]
        found = {whole_number(name.partition(".")[0]) for name in moments}
        for index in sorted(-1 if n is None else n for n in found):
            if any(f"{index}.{name}" not in tensors for name in _MOMENTS):
                raise ConfigError(
                    f"the saved optimiser state names {sorted(moments)[:3]}, which are no moments "
                    "of Adam's; restore the checkpoint from a copy."
                )
            state = {name: tensors[f"{index}.{name}"].clone() for name in _MOMENTS}
            shapes = [p.shape for p in self.masters[index : index + 1]]
            if [state["exp_avg"].shape] != shapes:
                raise ConfigError(
                    f"the saved optimiser state {index} has the shape "
                    f"{tuple(state['exp_avg'].shape)}; build the trainer with the model, and the "
                    "frozen layers, that it was saved with."
                )
            master = self.masters[index]
            for name in ("exp_avg", "exp_avg_sq"):  # Adam keeps the count on the CPU
                state[name] = state[name].to(master.device)
            self.adam.state[master] = state

    def _rounded(self) -> list[tuple[int, nn.Parameter, nn.Parameter]]:
        """Number, parameter and master where these are two."""
        pairs = enumerate(zip(self.parameters, self.masters, strict=True))
        return [
            (i, parameter, master) for i, (parameter, master) in pairs if parameter is not master
        ]

    @torch.no_grad()
    def _load_masters(self, tensors: Mapping[str, Tensor]) -> None:
        saved = {name for name in tensors if name.endswith(_MASTER)}
        wanted = {f"{index}.{_MASTER}" for index, _, _ in self._rounded()}
        if tensors and saved != wanted:
            raise ConfigError(
                f"the saved optimiser state has float32 masters of {len(saved)} parameters, this "
                f"model needs {len(wanted)}; load the model in the precision that it was saved in."
            )
        for index, parameter, master in self._rounded():
            master.copy_(tensors.get(f"{index}.{_MASTER}", parameter))


def _master_of(parameter: nn.Parameter) -> nn.Parameter:
    if parameter.dtype.itemsize >= 4:
        return parameter
    return nn.Parameter(parameter.detach().float())


@torch.no_grad()
def _follow(parameter: nn.Parameter, master: nn.Parameter) -> None:
    """Take over what was written into a parameter since its master was last rounded into it."""
    same = master.to(parameter.dtype) == parameter
    master.copy_(torch.where(same, master, parameter.float()))


def _require_precision(name: str, parameter: nn.Parameter) -> None:
    if parameter.dtype not in _PRECISIONS:
        raise ConfigError(
            f"`{name}` is {parameter.dtype}, in which small gradients become 0 (their loss is not "
            "scaled here); load the model with dtype=torch.bfloat16, which trains on float32 "
            "masters, or dtype=torch.float32."
        )


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
