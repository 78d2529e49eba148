"""From raw observations and executed actions to the feature vectors of a reward network."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from rlhf_gym.data import Array, RewardBatch
from rlhf_gym.errors import ConfigError
from rlhf_gym.protocols import SpaceInfo

__all__ = ["StepEncoder"]

_ACCEPTED = (
    "observations Box (any shape); actions Box, Discrete, MultiDiscrete or MultiBinary. Pass the "
    "env through `rlhf_gym.envs.make_preference_ready`, which flattens other observations, or pass "
    "your own reward model as module:attribute"
)


class StepEncoder:
    """Turns a batch of steps into float32 features: observation, action and, if asked, next one.

    Box and MultiBinary are flattened; Discrete actions become one-hot vectors, MultiDiscrete ones a
    one-hot vector per dimension, one after the other, as `gymnasium.spaces.flatten` has it.

    Args:
        info: The spaces of the env.
        use_next_obs: Whether r(s, a, s') rather than r(s, a) is learned.

    Attributes:
        n_features: F.
        feature_names: (F,) what each feature is, e.g. "observation[2]"; numbers count the entries
            of the flattened array.

    Raises:
        ConfigError: a space that the default reward model does not take.
    """

    def __init__(self, info: SpaceInfo, *, use_next_obs: bool = False) -> None:
        self._obs_size = _flat_size(info.observation_space, "observation space", (spaces.Box,))
        accepted = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
        self._action_size = _flat_size(info.action_space, "action space", accepted)
        self._choices = _choices(info.action_space)
        self.use_next_obs = use_next_obs
        obs, actions = range(self._obs_size), range(self._action_size)
        self.feature_names = [f"observation[{i}]" for i in obs] + [f"action[{i}]" for i in actions]
        if use_next_obs:
            self.feature_names += [f"next observation[{i}]" for i in obs]
        self.n_features = len(self.feature_names)

    def __call__(self, batch: RewardBatch) -> Array:
        """Encode a (B, T) batch into (B, T, F) float32 features."""
        lead = batch.mask.shape
        parts = [batch.obs.reshape(*lead, self._obs_size), self._encode_actions(batch.actions)]
        if self.use_next_obs:
            parts.append(batch.next_obs.reshape(*lead, self._obs_size))
        return np.concatenate(parts, axis=-1, dtype=np.float32)  # (B, T, F)

    def _encode_actions(self, actions: Array) -> Array:
        flat = actions.reshape(*actions.shape[:2], -1)  # (B, T, dimensions)
        if self._choices is not None:
            n_choices, values = self._choices
            # Comparing lets the zeros of padded steps pass, whatever the first choice is.
            one_hot: Array = np.repeat(flat, n_choices, axis=-1) == values  # (B, T, A)
            return one_hot.astype(np.float32)
        return flat.astype(np.float32)  # (B, T, A)


def _choices(space: spaces.Space[Any]) -> tuple[Array, Array] | None:
    """How many choices each dimension has, and all their values in a row; None for numbers."""
    if isinstance(space, spaces.Discrete):
        n_choices, starts = np.array([space.n]), np.array([space.start])
    elif isinstance(space, spaces.MultiDiscrete):
        n_choices, starts = space.nvec.flatten(), space.start.flatten()
    else:
        return None
    values = [start + np.arange(n) for n, start in zip(n_choices, starts, strict=True)]
    return n_choices, np.concatenate(values)


def _flat_size(space: spaces.Space[Any], name: str, accepted: tuple[type, ...]) -> int:
    if not isinstance(space, accepted):
        raise ConfigError(
            f"the default reward model does not take the {name} {space}; it takes {_ACCEPTED}."
        )
    return int(spaces.flatdim(space))
