"""The options of the default reward model; read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_gym.errors import ConfigError

__all__ = ["FitSettings", "RewardModelSettings"]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a reward model is fitted."""

    learning_rate: float = 1e-3
    """Adam's step size, above 0."""
    batch_size: int = 16
    """Preferences per gradient step, at least 1."""
    max_updates: int = 160
    """Gradient steps per fit on clips of 50 steps, at least 1, rounded up to whole passes; shorter
    clips get more in proportion. A fit costs the same however many answers there are and however
    long their clips, and few answers are passed over more often."""
    max_epochs: int = 100
    """Passes over the training preferences, at least 1, if that is fewer."""
    patience: int = 60
    """Gradient steps, counted like `max_updates`, without a better validation loss of any member
    after which a fit stops (whole passes, rounded up); each member keeps its best weights."""
    heldout_fraction: float = 0.1
    """Share of answers that no member trains on, in [0, 0.5]: the held-out figures come from
    these. Members are validated on them and on what their bootstrap sample left out; with neither
    there is no early stopping and no adaptive rule."""
    bootstrap: bool = False
    """Whether each member trains on its own resample of the answers."""
    label_noise: float | None = None
    """Chance that an answer is uniformly random, in [0, 1); a training run that leaves it open
    takes 0 for the oracle and 0.1 for anyone else."""
    weight_decay: float = 10.0
    """Where a fit's decoupled L2 coefficient starts with `prior_answers` answers or fewer: a step
    multiplies the weights by 1 - learning_rate * weight_decay. Strong, because clip returns say
    little about single steps; 0 turns it off."""
    prior_answers: float = 175.0
    """Beyond as many answers it starts in inverse proportion to their number, as a prior's weight
    against the data does."""
    min_validation: int = 50
    """With fewer held-out answers their loss is noise: it neither stops a fit nor moves the L2
    coefficient, and members keep their last weights."""
    adapt_weight_decay: bool = True
    """Whether it is moved to keep validation/train loss within [1.1, 1.5] (Christiano et al.)."""

    def __post_init__(self) -> None:
        for name, low in (
            ("batch_size", 1),
            ("max_updates", 1),
            ("max_epochs", 1),
            ("patience", 1),
            ("min_validation", 1),
            ("prior_answers", 1),
        ):
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
    use_next_obs: bool = True
    """Whether the reward sees the next observation as well."""
    fit: FitSettings = field(default_factory=FitSettings)
    """The optimisation."""

    def __post_init__(self) -> None:
        if self.n_members < 1 or not self.hidden or min(self.hidden) < 1:
            raise ConfigError(
                f"`n_members` ({self.n_members}) and every entry of `hidden` ({self.hidden}) must "
                "be at least 1."
            )
