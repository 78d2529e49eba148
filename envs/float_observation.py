"""Observations as float32: the one form that policy, normaliser, buffers and clips all keep.

Stable-Baselines3's rollout buffer has the dtype of the observation space. VecNormalize's numbers
are fractions, and a buffer of uint8 keeps -1.944 as 255: the policy would learn from what it never
saw. float64 is left as it is, since every float32 fits into it.
"""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from rlhf_gym.data import Array
from rlhf_gym.envs.array_spaces import LARGEST, component_name
from rlhf_gym.errors import NumericalError

__all__ = ["FloatObservation", "RoundingWarning", "check_observation", "holds_fractions"]

_EXACT = 2**24  # float32 holds every whole number up to here


class RoundingWarning(UserWarning):
    """An observation of whole numbers is too large for float32 to tell neighbours apart."""


def holds_fractions(space: spaces.Box) -> bool:
    """Whether an array of this Box keeps a float32 as it is."""
    return np.dtype(space.dtype) in (np.dtype(np.float32), np.dtype(np.float64))


class FloatObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Returns observations as float32. `make_preference_ready` applies it where it is needed.

    It warns once (`RoundingWarning`) of whole numbers above 2**24, such as a Unix time, which
    float32 rounds.

    Args:
        env: An env that observes a Box of any dtype.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        assert isinstance(space, spaces.Box), "make_preference_ready flattens others first"
        with np.errstate(over="ignore"):  # the bounds of a long double
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self._may_round = np.dtype(space.dtype).kind in "iu" and np.dtype(space.dtype).itemsize > 2

    def observation(self, observation: Any) -> Array:
        """The same numbers, float32, in a fresh array."""
        numbers = np.asarray(observation)
        if self._may_round and ((numbers > _EXACT) | (numbers < -_EXACT)).any():
            self._may_round = False  # said once
            self._warn(numbers)
        with np.errstate(over="ignore"):  # infinity is refused by name further on
            floats: Array = numbers.astype(np.float32)
        return floats

    def _warn(self, numbers: Array) -> None:
        where = np.argwhere((numbers > _EXACT) | (numbers < -_EXACT))[0]
        flat = int(np.ravel_multi_index(tuple(where), numbers.shape))
        value = int(numbers[tuple(where)])
        warnings.warn(
            f"{self.env} observes whole numbers above 2**24 in {component_name(self.env, flat)}. "
            f"Policies and reward models work in float32, which keeps {value} as "
            f"{int(np.float32(value))} and cannot tell all of its neighbours apart. If the last "
            "digits matter, observe the difference to a fixed start (seconds since the episode "
            "began, say), or leave the component out.",
            RoundingWarning,
            stacklevel=3,
        )


def check_observation(obs: Any, context_id: str, when: str, env: int | None = None) -> None:
    """Stop before a NaN, or a number beyond float32, reaches normaliser, policy or reward model.

    Args:
        obs: (n_envs, ...) of all envs, or (...) of one.
        context_id: Names the env in the message.
        when: Ends its first half, e.g. "at recorded step 7".
        env: Which of the envs `obs` is of; None if it is of all.

    Raises:
        NumericalError: naming env, component and value.
    """
    numbers = np.asarray(obs)
    usable = np.abs(numbers) < LARGEST if numbers.dtype.kind == "f" else None  # NaN is not below
    if usable is None or usable.all():
        return
    index = tuple(int(i) for i in np.argwhere(~usable)[0])
    number, component = (index[0], index[1:]) if env is None else (env, index)
    raise NumericalError(
        f"{context_id} returned the observation {numbers[index]} {when} (env {number}, component "
        f"{', '.join(map(str, component))}); accepted is a finite number below {LARGEST:g} in "
        "size, since float32 holds little more. Nothing was trained on it. Check the environment's "
        "dynamics there, and observe an unknown or unlimited value as a number of usual size."
    )
