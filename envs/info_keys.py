"""The keys under which our wrappers put things into an info, told apart from the env's own."""

from __future__ import annotations

__all__ = ["PICTURE", "SIM_STATE", "STEP_SECONDS", "TRUE_REWARD"]

PICTURE = "rlhf_gym.picture"
"""What the env shows, compressed (`PictureInfo`)."""

SIM_STATE = "rlhf_gym.sim_state"
"""The simulator's state, float64 (S,) (`SimStateInfo`)."""

STEP_SECONDS = "rlhf_gym.step_seconds"
"""How many seconds one step takes, in the info of a reset (`PictureInfo`)."""

TRUE_REWARD = "true_reward"
"""The reward that `step` returned before it was hidden or replaced, a float.

Without a namespace, since everybody reads it; what an env puts there itself is replaced.
"""
