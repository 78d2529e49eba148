"""Episodes that say more than their return: what it is made of, and what it cost in KL.

A text task names its rewards and may watch some that it does not pay. Their means stand beside the
return, so that one sees what the agent gave up for what it is paid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rlhf_gym.data import Trajectory

__all__ = ["COMPONENT", "ScoredTrajectory", "scored_figures"]

COMPONENT = "component_"
"""What the figures of a reward's parts begin with."""


@dataclass(frozen=True, eq=False)
class ScoredTrajectory(Trajectory):
    """An episode of a task that says what its true return is made of."""

    components: Mapping[str, float] = field(default_factory=dict)
    """Each part by name, over the whole episode, before any weight."""
    kl_to_ref: float = math.nan
    """Nats per episode, of the policy to its reference; NaN where that is unknown."""


def scored_figures(episodes: Sequence[Trajectory]) -> dict[str, float]:
    """Means over the episodes: `component_NAME`, and `kl_evaluated` where it is known.

    Empty where no episode says more than its return.
    """
    scored = [episode for episode in episodes if isinstance(episode, ScoredTrajectory)]
    names = dict.fromkeys(name for episode in scored for name in episode.components)
    figures = {
        COMPONENT + name: float(np.mean([e.components[name] for e in scored])) for name in names
    }
    kl = [episode.kl_to_ref for episode in scored if math.isfinite(episode.kl_to_ref)]
    return figures | ({"kl_evaluated": float(np.mean(kl))} if kl else {})
