"""The options of the text reward model; read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhf_gym.errors import ConfigError

__all__ = ["TextRewardSettings"]


@dataclass(frozen=True, kw_only=True)
class TextRewardSettings:
    """The text reward model's heads, its limits, and how it is fitted."""

    n_members: int = 3
    """E, linear heads on one trunk, at least 1."""
    bootstrap: bool = False
    """Whether each head trains on its own resample of the answers."""
    max_prompt_tokens: int = 128
    """Longer prompts lose their beginning (BOS stays), at least 1."""
    max_completion_tokens: int = 128
    """Longer completions lose their end, and with it their EOS, at least 1."""
    on_too_long: Literal["truncate", "refuse"] = "truncate"
    """What becomes of longer texts: cut and counted in the report, or an error."""
    learning_rate: float = 5e-4
    """AdamW's step size after warm-up, above 0; it falls linearly to 0 over a fit."""
    warmup_fraction: float = 0.05
    """Share of a fit over which the step size rises from 0, in [0, 1)."""
    batch_texts: int = 64
    """Texts per gradient step, at least 2: as many prompts, with all their completions and pairs,
    as fit. A prompt with more texts than that is split."""
    max_epochs: int = 4
    """Passes over the training preferences, at least 1."""
    max_updates: int = 2000
    """Gradient steps per fit, at least 1, if that is fewer."""
    weight_decay: float = 0.01
    """AdamW's decoupled L2 coefficient, at least 0."""
    max_grad_norm: float = 1.0
    """Longer gradients are shortened to it, above 0."""
    heldout_fraction: float = 0.1
    """Share of answers that no head trains on, in [0, 0.5]."""
    heldout_by: Literal["prompt", "query"] = "prompt"
    """What is held out: whole prompts, so that no held-out text was trained on, or single queries.
    Where it leaves nothing on one side, as with a single prompt, queries are."""
    min_validation: int = 50
    """With fewer held-out answers their loss is noise and does not choose among the weights."""
    validate_every: int = 25
    """Gradient steps between two looks at the held-out loss, at least 1."""
    patience: int = 8
    """Looks without a better held-out loss after which a fit stops, at least 1; it ends with the
    weights of the best look."""
    label_noise: float | None = None
    """Chance that an answer is uniformly random, in [0, 1); a training run that leaves it open
    takes 0 for the oracle and 0.1 for anyone else."""
    use_margins: bool = False
    """Whether the two scores of a decisive answer are to differ by its `details["margin"]` and more
    (Touvron et al. 2023, equation 2); answers without one have margin 0."""
    centering: float = 0.0
    """Weight of (score of first + score of second)^2, which keeps scores around 0, at least 0; 0.01
    is usual (Eisenstein et al. 2023)."""

    def __post_init__(self) -> None:
        for name, low in (
            ("n_members", 1),
            ("max_prompt_tokens", 1),
            ("max_completion_tokens", 1),
            ("batch_texts", 2),
            ("max_epochs", 1),
            ("max_updates", 1),
            ("min_validation", 1),
            ("validate_every", 1),
            ("patience", 1),
        ):
            if getattr(self, name) < low:
                raise ConfigError(f"`{name}` is {getattr(self, name)}, at least {low} is needed.")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"`{name}` is {getattr(self, name)}, it must be above 0.")
        for name in ("weight_decay", "centering"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"`{name}` is {getattr(self, name)}, it must not be below 0.")
        for name, accepted in (
            ("on_too_long", ("truncate", "refuse")),
            ("heldout_by", ("prompt", "query")),
        ):
            if getattr(self, name) not in accepted:
                raise ConfigError(
                    f"`{name}` is {getattr(self, name)!r}; accepted are {' and '.join(accepted)}."
                )
        if (
            not 0 <= self.heldout_fraction <= 0.5
            or not 0 <= self.noise < 1
            or not 0 <= self.warmup_fraction < 1
        ):
            raise ConfigError(
                f"`heldout_fraction` ({self.heldout_fraction}) must lie in [0, 0.5], `label_noise` "
                f"({self.label_noise}) and `warmup_fraction` ({self.warmup_fraction}) in [0, 1)."
            )

    @property
    def noise(self) -> float:
        """The label noise, 0 where it was left open."""
        return self.label_noise or 0.0
