"""What one nat of KL costs: a fixed price, or one that steers towards a target."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_gym.errors import ConfigError, NumericalError

__all__ = ["KLController"]

# Ziegler et al. 2019, section 2.2: the proportional error is cut off at +-0.2.
_LIMIT = 0.2


@dataclass
class KLController:
    """The weight of the KL term, fixed or adaptive (Ziegler et al. 2019, section 2.2).

    Attributes:
        coef: The present weight, in reward units per nat.
        target: Wanted KL in nats per completion; None keeps `coef` fixed.
        horizon: Completions over which an error of 1 multiplies `coef` by e.
    """

    coef: float
    target: float | None = None
    horizon: int = 10_000

    def __post_init__(self) -> None:
        if not 0 <= self.coef < float("inf"):
            raise ConfigError(f"`kl_coef` is {self.coef}; a number of at least 0 is needed.")
        if self.target is None:
            return
        if not 0 < self.target < float("inf"):
            raise ConfigError(
                f"`kl_target` is {self.target}; give nats per completion above 0, or None for a "
                "fixed coefficient."
            )
        if self.coef == 0:
            raise ConfigError("`kl_coef` is 0, which a factor never changes; start above 0.")
        if self.horizon < 1:
            raise ConfigError(f"`kl_horizon` is {self.horizon}; at least 1 completion is needed.")

    def update(self, kl: float, n_completions: int) -> None:
        """Take note of the KL measured on `n_completions`; coef *= 1 + error min(n / horizon, 1).

        The error is kl / target - 1, within +-0.2.

        Raises:
            NumericalError: `kl` is NaN.
        """
        if kl != kl:
            raise NumericalError("the KL to the reference is NaN; look at the log-probabilities.")
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -_LIMIT), _LIMIT)
        # Ziegler et al. do not limit n: above 5 horizons, their price could turn negative.
        self.coef *= 1 + error * min(n_completions / self.horizon, 1.0)
