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
    "observations Box (any shape); actions Box, Discrete or MultiBinary. For other spaces wrap the "
    "env (gymnasium.wrappers.FlattenObservation) or pass your own reward model as module:attribute"
)


class StepEncoder:
    """Turns a batch of steps into float32 features: observation, action and, if asked, next one.

    Box observations and actions are flattened, Discrete actions become one-hot vectors.

    Args:
        info: The spaces of the env.
        use_next_obs: Whether r(s, a, s') rather than r(s, a) is learned.

    Raises:
        ConfigError: a space that the default reward model does not take.
    """

    def __init__(self, info: SpaceInfo, *, use_next_obs: bool = False) -> None:
        self._obs_size = _flat_size(info.observation_space, "observation space", (spaces.Box,))
        self._action_space = info.action_space
        accepted = (spaces.Box, spaces.Discrete, spaces.MultiBinary)
        self._action_size = _flat_size(info.action_space, "action space", accepted)
        self.use_next_obs = use_next_obs
        self.n_features = self._obs_size * (2 if use_next_obs else 1) + self._action_size

    def __call__(self, batch: RewardBatch) -> Array:
        """Encode a (B, T) batch into (B, T, F) float32 features."""
        lead = batch.mask.shape
        parts = [batch.obs.reshape(*lead, self._obs_size), self._encode_actions(batch.actions)]
        if self.use_next_obs:
            parts.append(batch.next_obs.reshape(*lead, self._obs_size))
        return np.concatenate(parts, axis=-1, dtype=np.float32)  # (B, T, F)

    def _encode_actions(self, actions: Array) -> Array:
        if isinstance(self._action_space, spaces.Discrete):
            one_hot = np.eye(self._action_size, dtype=np.float32)
            rows = actions.astype(np.int64) - int(self._action_space.start)
            return one_hot[rows.reshape(actions.shape[:2])]  # (B, T, A)
        return actions.reshape(*actions.shape[:2], self._action_size).astype(np.float32)


def _flat_size(space: spaces.Space[Any], name: str, accepted: tuple[type, ...]) -> int:
    if not isinstance(space, accepted):
        raise ConfigError(
            f"the default reward model does not take the {name} {space}; it takes {_ACCEPTED}."
        )
    return int(spaces.flatdim(space))
