"""The options of the default reward model; read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_gym.errors import ConfigError

__all__ = ["FitSettings", "RewardModelSettings"]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a reward model is fitted."""

    learning_rate: float = 3e-4
    """Adam's step size, above 0."""
    batch_size: int = 64
    """Preferences per gradient step, at least 1."""
    max_epochs: int = 50
    """Passes over the training preferences, at least 1."""
    min_epochs: int = 5
    """Passes before early stopping may end a fit."""
    patience: int = 10
    """Passes without a better held-out loss after which a fit stops; the best weights are kept."""
    heldout_fraction: float = 0.1
    """Share of answers kept back for validation, in [0, 0.5]; 0 turns early stopping and the
    adaptive rule off."""
    bootstrap: bool = True
    """Whether each member trains on its own resample of the answers."""
    label_noise: float | None = None
    """Chance that an answer is uniformly random, in [0, 1); a training run that leaves it open
    takes 0 for the oracle and 0.1 for anyone else."""
    weight_decay: float = 1e-4
    """Where the L2 coefficient starts; 0 turns it off."""
    adapt_weight_decay: bool = True
    """Whether it is moved to keep held-out/train loss within [1.1, 1.5] (Christiano et al.)."""

    def __post_init__(self) -> None:
        for name, low in (("batch_size", 1), ("max_epochs", 1), ("patience", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"`{name}` is {getattr(self, name)}, at least {low} is needed.")
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"`learning_rate` ({self.learning_rate}) must be above 0 and `weight_decay` "
                f"({self.weight_decay}) not below it."
            )
        if not 0 <= self.heldout_fraction <= 0.5 or not 0 <= self.noise < 1:
            raise ConfigError(
                f"`heldout_fraction` ({self.heldout_fraction}) must lie in [0, 0.5] and "
                f"`label_noise` ({self.label_noise}) in [0, 1)."
            )

    @property
    def noise(self) -> float:
        """The label noise, 0 where it was left open."""
        return self.label_noise or 0.0


@dataclass(frozen=True, kw_only=True)
class RewardModelSettings:
    """The default reward model's shape and how it is fitted."""

    n_members: int = 3
    """E, networks in the ensemble, at least 1."""
    hidden: tuple[int, ...] = (64, 64)
    """Units per hidden layer."""
    use_next_obs: bool = False
    """Whether the reward sees the next observation as well."""
    fit: FitSettings = field(default_factory=FitSettings)
    """The optimisation."""

    def __post_init__(self) -> None:
        if self.n_members < 1 or not self.hidden or min(self.hidden) < 1:
            raise ConfigError(
                f"`n_members` ({self.n_members}) and every entry of `hidden` ({self.hidden}) must "
                "be at least 1."
            )
