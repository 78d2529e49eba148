"""A text agent's settings per task, from agents/text.yml."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

import yaml

from rlhf_gym.agents.text.settings import TextDPOSettings, TextPPOSettings
from rlhf_gym.agents.text.sft import SFTSettings
from rlhf_gym.config import from_mapping
from rlhf_gym.errors import ConfigError

__all__ = ["ModelShape", "TextAgentSettings", "load_text_settings"]


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The transformer that is built where no `--model` is named."""

    n_layers: int = 2
    """Blocks."""
    d_model: int = 64
    """Width, a multiple of `n_heads`."""
    n_heads: int = 4
    """Attention heads."""
    architecture: Literal["llama", "gpt2"] = "llama"
    """Rotary or learned positions."""


@dataclass(frozen=True, kw_only=True)
class TextAgentSettings:
    """How a language model is built, fine-tuned and improved."""

    n_completions: int = 20_000
    """The task's usual budget, taken where `--steps` names none."""
    max_rounds: int = 8
    """At most so many rounds: a text reward model's fit takes seconds, not milliseconds."""
    n_sft_examples: int = 4096
    """Examples of the task's corpus for supervised fine-tuning; 0 leaves it out."""
    num_layers_unfrozen: int | None = None
    """Blocks that train after SFT, from the output; the reference shares the others. None: all."""
    model: ModelShape = field(default_factory=ModelShape)
    """What is built where no model is named."""
    sft: SFTSettings = field(default_factory=SFTSettings)
    """Supervised fine-tuning."""
    ppo: TextPPOSettings = field(default_factory=TextPPOSettings)
    """With `--algo ppo`; `n_rollouts` and `max_new_tokens` follow from the run and the task."""
    dpo: TextDPOSettings = field(default_factory=TextDPOSettings)
    """With `--algo dpo`."""
    reward_model: dict[str, Any] = field(default_factory=dict)
    """Options of the text reward model."""

    def __post_init__(self) -> None:
        for name, low in (
            ("n_completions", 1),
            ("max_rounds", 1),
            ("n_sft_examples", 0),
            ("num_layers_unfrozen", 1),
        ):
            if getattr(self, name) is not None and getattr(self, name) < low:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; at least {low} is needed.")

    def as_mapping(self) -> dict[str, Any]:
        """Plain values, which lead to the same settings."""
        return dataclasses.asdict(self)


def load_text_settings(env_id: str, overrides: Mapping[str, Any]) -> TextAgentSettings:
    """The settings of an env: the table's default, the env's own, then the overrides.

    Args:
        env_id: An entry of agents/text.yml; others take `default`.
        overrides: In the table's shape; what is absent stays.

    Raises:
        ConfigError: an unknown name, or a value out of range.
    """
    text = (resources.files("rlhf_gym.agents") / "text.yml").read_text(encoding="utf-8")
    table = yaml.safe_load(text)
    merged = _merge(_merge(table["default"], table.get(env_id, {})), overrides)
    return from_mapping(TextAgentSettings, merged, f"the settings of {env_id}")


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            value = _merge(old, value)
        merged[key] = value
    return merged
