"""Gymnasium environments, preferences and agents for reinforcement learning from human feedback.

`import rlhf_gym` registers the environments with Gymnasium and loads the vocabulary (data types,
protocols, errors). It loads neither torch nor Stable-Baselines3 nor pygame.
"""

from __future__ import annotations

import os
import sys


def _leave_current_folder() -> None:
    """Take the current folder off the path where `python -m rlhf_gym` has put it first.

    Before anything else is imported: a `yaml.py` or `torch.py` that lies there would be run.
    """
    looks_for_module = sys.argv[:1] == ["-m"]  # what stands there while Python looks for it
    options = zip(sys.orig_argv, [*sys.orig_argv[1:], ""], strict=True)
    for_us = any(
        option.startswith("-") and module.partition(".")[0] == "rlhf_gym"
        for option, word in options
        for module in (word, option.partition("m")[2])  # -m rlhf_gym, -mrlhf_gym
    )
    if looks_for_module and for_us and not sys.flags.safe_path:
        try:
            here = os.getcwd()
        except OSError:  # it was deleted: Python has put nothing there
            return
        if sys.path[:1] == [here]:
            del sys.path[0]


_leave_current_folder()

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
