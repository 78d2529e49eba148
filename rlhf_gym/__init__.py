"""Gymnasium environments, preferences and agents for reinforcement learning from human feedback.

`import rlhf_gym` registers the environments with Gymnasium and loads the vocabulary (data types,
protocols, errors). It loads neither torch nor Stable-Baselines3 nor pygame.
"""

from __future__ import annotations

from rlhf_gym import envs  # registers the environments with Gymnasium
from rlhf_gym.data import Choice, Clip, Preference, Query, RewardBatch, Trajectory
from rlhf_gym.errors import RlhfGymError
from rlhf_gym.protocols import Acquisition, Agent, FitReport, RewardModel, Signal, Teacher

__version__ = "0.1.0"

__all__ = [
    "Acquisition",
    "Agent",
    "Choice",
    "Clip",
    "FitReport",
    "Preference",
    "Query",
    "RewardBatch",
    "RewardModel",
    "RlhfGymError",
    "Signal",
    "Teacher",
    "Trajectory",
    "__version__",
    "envs",
]
