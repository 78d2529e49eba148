"""A configuration that was checked against its env: complete, with the plan it leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlhf_gym.loop import Plan
from rlhf_gym.protocols import SpaceInfo
from rlhf_gym.train_config import TrainConfig

__all__ = ["Prepared"]


@dataclass(frozen=True)
class Prepared:
    """Everything that a run needs before anything is built."""

    config: TrainConfig
    """With nothing left open."""
    settings: Any
    """The agent's: `AgentSettings` for control, `TextAgentSettings` for texts."""
    info: SpaceInfo
    plan: Plan
    is_text: bool = False
    """Whether the env is a text task's."""
