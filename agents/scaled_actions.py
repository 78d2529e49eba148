"""A policy acts within [-1, 1]; the env receives the same actions in its own units.

PPO's policy begins as a normal distribution of mean 0 and deviation 1, whatever the action space:
on a box of another size or centre it explores too little or sits at the bounds, and learns badly
for no reason but the unit. Every action is therefore mapped onto the box, component by component.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from rlhf_gym.data import Array
from rlhf_gym.envs.array_spaces import check_box_of_actions

__all__ = [
    "ActionScale",
    "ScaledActions",
    "UnscaledActionsWarning",
    "action_scale",
    "scale_actions",
]


class UnscaledActionsWarning(UserWarning):
    """A policy of SB3's is to learn on a box of actions other than [-1, 1]."""


@dataclass(frozen=True, eq=False)
class ActionScale:
    """The map from [-1, 1] onto the bounds of a Box: `center + half_width * action`."""

    box: spaces.Box
    """The env's action space, with finite bounds."""

    @property
    def policy_space(self) -> spaces.Box:
        """What the policy acts in: [-1, 1], float32, of the box's shape."""
        return spaces.Box(-1.0, 1.0, self.box.shape, np.float32)

    @property
    def center(self) -> Array:
        """float64 (A...), the env's action for 0."""
        low, high = self.box.low.astype(np.float64), self.box.high.astype(np.float64)
        middle: Array = low / 2 + high / 2
        return middle

    @property
    def half_width(self) -> Array:
        """float64 (A...), at least 0: what the env's action changes by from 0 to 1."""
        low, high = self.box.low.astype(np.float64), self.box.high.astype(np.float64)
        half: Array = high / 2 - low / 2
        return half

    def inverse(self) -> tuple[Array, Array]:
        """Center and half width of the map back, from the box onto [-1, 1]."""
        half = np.where(self.half_width > 0, self.half_width, 1.0)  # a single point: onto 0
        return -self.center / half, 1 / half

    def to_env(self, actions: Array) -> Array:
        """(n, A...) of the policy -> (n, A...) within the box, in its dtype."""
        scaled = self.center + self.half_width * actions
        within: Array = np.clip(scaled, self.box.low, self.box.high).astype(self.box.dtype)
        return within


def action_scale(space: spaces.Space[Any]) -> ActionScale | None:
    """The map that an action space needs; None for [-1, 1] itself, and for what is no Box.

    Raises:
        ConfigError: a Box of actions without finite bounds, or of whole numbers.
    """
    if not isinstance(space, spaces.Box):
        return None
    check_box_of_actions("the action space", space)
    return None if (space.low == -1).all() and (space.high == 1).all() else ActionScale(space)


class ScaledActions(VecEnvWrapper):
    """A vectorised env whose actions lie in [-1, 1]; `scale_actions` makes it where it is needed.

    It stands above whatever keeps executed actions (`Recorder`, `VecLearnedReward`), which thereby
    see them in the env's units, and below or above VecNormalize.

    Args:
        venv: A vectorised env with a Box of actions.
        scale: The map onto that Box.
    """

    def __init__(self, venv: VecEnv, scale: ActionScale) -> None:
        super().__init__(venv, action_space=scale.policy_space)
        self.scale = scale

    def reset(self) -> Any:
        """Reset all envs."""
        return self.venv.reset()

    def step_async(self, actions: Array) -> None:
        """Hand the actions on in the env's units."""
        self.venv.step_async(self.scale.to_env(actions))

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step."""
        return self.venv.step_wait()


def scale_actions(venv: VecEnv) -> VecEnv:
    """Let a policy act in [-1, 1]; an env whose actions are that already is returned as it is.

    Example::

        venv = VecNormalize(scale_actions(Recorder(hidden, ...)), norm_reward=False)

    Raises:
        ConfigError: a Box of actions without finite bounds, or of whole numbers.
    """
    scale = action_scale(venv.action_space)
    return venv if scale is None else ScaledActions(venv, scale)
