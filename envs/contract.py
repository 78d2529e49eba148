"""Gymnasium's contract, checked where an env is first reset and stepped.

What breaks it ends in one sentence that names env and method, before NumPy, Stable-Baselines3 or
the recorder trip over it somewhere else.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from rlhf_gym.data import Array
from rlhf_gym.envs.array_spaces import sample_actions
from rlhf_gym.envs.blame import is_about_contract
from rlhf_gym.errors import DataError, NumericalError, RlhfGymError

__all__ = ["ContractCheck", "check_reset", "check_step", "env_name", "try_env"]

_THOROUGH_STEPS = 5
_TRIED_STEPS = 3
_RESET_TAKES = "`reset(self, *, seed=None, options=None)` that returns (observation, info)"
_STEP_RETURNS = "(observation, reward, terminated, truncated, info)"
_USUAL_REWARDS = frozenset({float, int, np.float64, np.float32})


class ContractCheck(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Refuses what breaks Gymnasium's contract; everything else passes as it is.

    Each reset and the first five steps are looked at thoroughly. After that a step costs a few
    comparisons, and is looked at thoroughly again only where one of them is unusual. What the env's
    own code raises stays what it is, with a line that says whose it is.

    Args:
        env: An env without wrappers of ours.

    Raises:
        DataError: `reset` or `step` breaks the contract.
        NumericalError: an observation of a reset or of the first steps is not finite.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._n_thorough = _THOROUGH_STEPS
        space = env.observation_space
        self._shape = space.shape if isinstance(space, spaces.Box) else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the env; what it returns is looked at thoroughly."""
        try:
            result = self.env.reset(seed=seed, options=options)
        except Exception as error:
            self._explain(error, "reset", _RESET_TAKES)
            raise
        check_reset(result, self.env)
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the env; what it returns is looked at."""
        try:
            result = self.env.step(action)
        except Exception as error:
            self._explain(error, "step", f"`step(self, action)` that returns {_STEP_RETURNS}")
            raise
        if self._n_thorough:
            self._n_thorough -= 1
            check_step(result, self.env)
        elif self._is_unusual(result):
            check_step(result, self.env, finite=False)
        return result

    def _is_unusual(self, result: Any) -> bool:
        return (
            result.__class__ is not tuple
            or len(result) != 5
            or result[1].__class__ not in _USUAL_REWARDS
            or result[4].__class__ is not dict
            or "episode" in result[4]
            or (self._shape is not None and getattr(result[0], "shape", None) != self._shape)
        )

    def _explain(self, error: Exception, method: str, expected: str) -> None:
        """Turn what Gymnasium tripped over into one sentence; say whose any other error is."""
        name = env_name(self.env)
        if is_about_contract(error):
            raise DataError(
                f"{name}: `{method}` breaks Gymnasium's contract ({error}); expected is "
                f"{expected}. Correct it in the env."
            ) from error
        if not isinstance(error, RlhfGymError):
            error.add_note(f"This was raised by `{method}` of {name}, in the env's own code.")


def try_env(env: gym.Env[Any, Any]) -> None:
    """Reset an env and take a few random steps, to see that a run can begin.

    Args:
        env: Ready for preferences (`make_preference_ready`); it is reset, not closed.

    Raises:
        DataError: it breaks Gymnasium's contract.
        NumericalError: it returns numbers that are not finite.
        Exception: whatever the env's own code raises.
    """
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(_TRIED_STEPS):
        # Not `action_space.sample`: spaces may be shared by all envs, and their draws are counted.
        action = sample_actions(env.action_space, 1, rng)[0]
        _, reward, terminated, truncated, _ = env.step(action)
        if not math.isfinite(reward):
            raise NumericalError(
                f"{env_name(env)}: `step` returned the true reward {float(reward)}; expected is a "
                "finite number. Return 0.0 where there is no reward."
            )
        if terminated or truncated:
            env.reset()


def env_name(env: gym.Env[Any, Any]) -> str:
    """The id of an env, or its class where it was made by hand."""
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id


def check_reset(result: Any, env: gym.Env[Any, Any]) -> None:
    """Refuse what `env.reset` returned, if it is not (observation, info).

    Raises:
        DataError, NumericalError: as `ContractCheck`.
    """
    name = env_name(env)
    _check_tuple(result, 2, name, "reset", "(observation, info)")
    _check_observation(result[0], env.observation_space, name, "reset")
    _check_info(result[1], name, "reset")


def check_step(result: Any, env: gym.Env[Any, Any], *, finite: bool = True) -> None:
    """Refuse what `env.step` returned, if it is not what Gymnasium's contract says.

    Args:
        result: What `step` returned.
        env: The env that returned it.
        finite: Whether the observation must be finite; a recorder looks at that in any case.

    Raises:
        DataError, NumericalError: as `ContractCheck`.
    """
    name = env_name(env)
    _check_tuple(result, 5, name, "step", _STEP_RETURNS)
    obs, reward, terminated, truncated, info = result
    _check_observation(obs, env.observation_space, name, "step", finite=finite)
    if not _is_number(reward):
        raise DataError(
            f"{name}: `step` returned the reward {_found(reward)}; expected is one number, e.g. "
            "`float(reward)`."
        )
    for flag, value in (("terminated", terminated), ("truncated", truncated)):
        if not _is_flag(value):
            raise DataError(
                f"{name}: `step` returned {flag} = {_found(value)}; expected is True or False."
            )
    _check_info(info, name, "step")
    if "episode" in info:
        _check_episode(info["episode"], bool(terminated or truncated), name)


def _check_tuple(result: Any, n: int, name: str, method: str, expected: str) -> None:
    if isinstance(result, tuple) and len(result) == n:
        return
    found = f"{len(result)} values" if isinstance(result, tuple) else _found(result)
    raise DataError(
        f"{name}: `{method}` returned {found}; expected is a tuple of {n}, {expected}. "
        "Gymnasium's `Env` describes it, and its migration guide what older envs return."
    )


def _check_info(info: Any, name: str, method: str) -> None:
    if not isinstance(info, dict):
        raise DataError(
            f"{name}: `{method}` returned the info {_found(info)}; expected is a dict, {{}} where "
            "there is nothing to say."
        )


def _check_episode(value: Any, ended: bool, name: str) -> None:
    """SB3 counts every `info["episode"]` as an episode that ended, whoever put it there."""
    if not ended or not isinstance(value, Mapping) or not {"r", "l"} <= value.keys():
        raise DataError(
            f"{name}: `step` put {_found(value)} under `episode` into the info, where "
            "Stable-Baselines3 expects return and length of an episode that has just ended; give "
            "it another name."
        )


def _check_observation(
    obs: Any, space: spaces.Space[Any], name: str, method: str, *, finite: bool = True
) -> None:
    wrong = _wrong_part(obs, space)
    if wrong is not None:
        where, found, expected = wrong
        at = f" (at {where!r})" if where else ""
        raise DataError(
            f"{name}: `{method}` returned the observation {found}{at}; expected is {expected}, as "
            "`observation_space` says. Correct either."
        )
    if finite and not _is_finite(obs):
        raise NumericalError(
            f"{name}: `{method}` returned a non-finite observation, {_found(obs)}; expected are "
            "finite numbers. Check the env's dynamics there."
        )


def _wrong_part(obs: Any, space: spaces.Space[Any], where: str = "") -> tuple[str, str, str] | None:
    """Where an observation is outside of its space, what is found there and what is expected."""
    if isinstance(space, spaces.Box):
        return None if _fits_box(obs, space) else (where, _found(obs), _array_of(space))
    parts: list[tuple[Any, spaces.Space[Any]]] = []
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping):
            return where, _found(obs), f"a dict with the keys {list(space)}"
        if missing := [key for key in space if key not in obs]:
            return where, f"without the keys {missing}", f"a dict with the keys {list(space)}"
        parts = list(space.items())
    elif isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple | list) or len(obs) != len(space.spaces):
            return where, _found(obs), f"a tuple of {len(space.spaces)}"
        parts = list(enumerate(space.spaces))
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return None if space.contains(obs) else (where, _found(obs), f"an element of {space}")
    for key, part in parts:
        wrong = _wrong_part(obs[key], part, f"{where}/{key}" if where else str(key))
        if wrong is not None:
            return wrong
    return None  # other spaces are refused, or left out by their key, when the env is made


def _fits_box(obs: Any, space: spaces.Box) -> bool:
    """The shape exactly; the dtype as far as nothing is lost but digits (float64 in float32)."""
    if not isinstance(obs, np.ndarray | np.generic) or obs.shape != space.shape:
        return False
    if np.can_cast(obs.dtype, space.dtype, "same_kind"):
        return True
    both_whole = obs.dtype.kind in "iu" and np.dtype(space.dtype).kind in "iu"
    values: Array = np.asarray(obs)
    return both_whole and bool(np.all((space.low <= values) & (values <= space.high)))


def _is_finite(obs: Any) -> bool:
    if isinstance(obs, Mapping):
        return all(map(_is_finite, obs.values()))
    if isinstance(obs, tuple | list):
        return all(map(_is_finite, obs))
    is_float = isinstance(obs, np.ndarray | np.generic) and obs.dtype.kind == "f"
    return not is_float or bool(np.isfinite(obs).all())


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.shape == () and value.dtype.kind in "fiub"
    return isinstance(value, numbers.Real | np.bool_)


def _is_flag(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.shape == () and value.dtype.kind in "bui" and int(value) in (0, 1)
    return isinstance(value, bool | np.bool_ | int | np.integer) and int(value) in (0, 1)


def _array_of(space: spaces.Box) -> str:
    return f"an array of shape {space.shape} and dtype {space.dtype}"


def _found(value: Any) -> str:
    """A value in words: an array by shape and dtype, anything else by type and beginning."""
    if isinstance(value, np.ndarray):
        array: Array = value
        return f"of shape {array.shape} and dtype {array.dtype}"
    if value is None:
        return "None"
    text = " ".join(repr(value).split())
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{shown} ({type(value).__name__})"
