"""The settings of PPO and DPO for language models; each checks itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rlhf_gym.agents.text.advantages import MissingEOS
from rlhf_gym.agents.text.losses import DPOLossType
from rlhf_gym.errors import ConfigError

__all__ = ["TextDPOSettings", "TextPPOSettings"]

Decay = Literal["linear", "none"]


@dataclass(frozen=True, kw_only=True)
class TextPPOSettings:
    """How PPO trains a language model; docs/text-algorithms.md has the sources of the defaults."""

    n_rollouts: int = 200
    """Rollouts of the whole run; the learning rate reaches 0 behind the last."""
    batch_size: int = 128
    """Completions per rollout."""
    n_epochs: int = 4
    """Passes over a rollout."""
    n_minibatches: int = 1
    """Optimiser steps per pass."""
    micro_batch_size: int | None = None
    """Completions per forward pass; changes memory and nothing else. None takes a whole
    minibatch."""
    max_new_tokens: int = 32
    """T: the longest completion."""
    rescore: bool | None = None
    """Whether a forward pass of its own gives the completions' log-probabilities and values, or
    the sampler notes them while it writes. None: only below float32, where the two disagree."""
    temperature: float = 1.0
    """Divides the logits when sampling, in training and for the reference alike."""
    learning_rate: float = 1e-5
    vf_learning_rate: float | None = None
    """Of the value head, which starts from nothing and must keep up with the policy; None takes
    ten times `learning_rate`."""
    lr_decay: Decay = "linear"
    adam_eps: float = 1e-5
    max_grad_norm: float = 1.0
    clip_range: float = 0.2
    """Half width of the interval that the policy's ratio is clipped to."""
    clip_range_vf: float | None = 0.2
    """Largest step of a value that counts, in reward units; None does not clip."""
    vf_coef: float = 0.1
    ent_coef: float = 0.0
    gamma: float = 1.0
    gae_lambda: float = 0.95
    whiten_advantages: bool = True
    """Scale advantages to mean 0, deviation 1 over the rollout's real tokens."""
    whiten_rewards: bool = False
    """Scale the rewards per token, KL included, to deviation 1; their mean stays."""
    kl_coef: float = 0.05
    """Reward units per nat of KL to the reference; the first one where `kl_target` is given."""
    kl_target: float | None = None
    """Nats per completion that an adaptive `kl_coef` steers to; None keeps it fixed."""
    kl_horizon: int = 10_000
    """Completions over which an error of 1 multiplies the adaptive `kl_coef` by e."""
    missing_eos: MissingEOS = "subtract"
    """What `missing_eos_penalty` does to the score of a completion that did not end by itself:
    "subtract" it from the score, or "replace" the score by its negative."""
    missing_eos_penalty: float | None = None
    """In reward units; None leaves such scores alone."""
    ptx_coef: float = 0.0
    """Weight of the pretraining loss, in nats per token of the mixed-in corpus."""
    ptx_batch_size: int = 32
    """Texts of the corpus in each optimiser step."""
    target_kl: float | None = None
    """Ends the passes over a rollout before the first step at which approx_kl, in nats per token,
    exceeds 1.5 times this."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "n_rollouts", "batch_size", "n_epochs", "n_minibatches")
        _at_least(self, 1, "max_new_tokens", "ptx_batch_size", "kl_horizon", "micro_batch_size")
        _positive(self, "temperature", "learning_rate", "adam_eps", "max_grad_norm", "clip_range")
        _positive(self, "vf_learning_rate", "clip_range_vf", "kl_target", "target_kl")
        _not_negative(self, "vf_coef", "ent_coef", "kl_coef", "missing_eos_penalty", "ptx_coef")
        _fraction(self, "gamma", "gae_lambda")
        _one_of(self, "lr_decay", ("linear", "none"))
        _one_of(self, "missing_eos", ("subtract", "replace"))
        if self.kl_target is not None and self.kl_coef == 0:
            raise ConfigError(
                f"`kl_target` is {self.kl_target} and `kl_coef` 0, which a factor never changes; "
                "start above 0."
            )
        if self.batch_size % self.n_minibatches:
            raise ConfigError(
                f"`n_minibatches` {self.n_minibatches} does not divide `batch_size` "
                f"{self.batch_size}; choose a divisor, so that each step weighs the same."
            )


@dataclass(frozen=True, kw_only=True)
class TextDPOSettings:
    """How DPO or IPO trains a language model."""

    loss_type: DPOLossType = "sigmoid"
    beta: float = 0.1
    """Weight of the KL term; IPO's tau."""
    label_smoothing: float = 0.0
    """The share of labels taken to be flipped, within [0, 0.5)."""
    n_epochs: int = 1
    batch_size: int = 64
    """Pairs per optimiser step."""
    micro_batch_size: int | None = None
    """Pairs per forward pass; changes memory and nothing else. None takes the whole batch."""
    temperature: float = 1.0
    """Divides the logits of the policy and of the reference; the sampler's."""
    learning_rate: float = 1e-5
    lr_decay: Decay = "linear"
    adam_eps: float = 1e-8
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        _at_least(self, 1, "n_epochs", "batch_size", "micro_batch_size")
        _positive(self, "beta", "temperature", "learning_rate", "adam_eps", "max_grad_norm")
        _one_of(self, "lr_decay", ("linear", "none"))
        _one_of(self, "loss_type", ("sigmoid", "ipo"))
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(
                f"`label_smoothing` is {self.label_smoothing}; 0 <= eps < 0.5 is needed."
            )


def _refuse(settings: object, name: str, accepted: str) -> None:
    raise ConfigError(f"`{name}` is {getattr(settings, name)!r}; {accepted} is needed.")


def _at_least(settings: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and (not isinstance(value, int) or value < least):
            _refuse(settings, name, f"a whole number of at least {least}")


def _positive(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            _refuse(settings, name, "a number above 0")


def _not_negative(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < math.inf:
            _refuse(settings, name, "a number of at least 0")


def _fraction(settings: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            _refuse(settings, name, "a number within [0, 1]")


def _one_of(settings: object, name: str, accepted: tuple[str, ...]) -> None:
    if getattr(settings, name) not in accepted:
        _refuse(settings, name, "one of " + ", ".join(map(repr, accepted)))
