"""Named rewards of texts: what a user's function is given, and what it may return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf_gym.errors import ConfigError, DataError, NumericalError

__all__ = ["TextReward", "TextRewards"]

Scores = npt.NDArray[np.float64]

_OWN_COLUMN = "finished"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class TextReward:
    """A reward function and its weight in the total.

    Raises:
        ConfigError: the function cannot be called, or the weight is not finite.
    """

    function: Callable[..., Sequence[float]]
    """`function(prompts, completions, **columns)` -> one number per row."""
    weight: float = 1.0
    """Its factor in the total; 0 computes and logs the component without paying it."""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigError(
                f"a reward is a {type(self.function).__name__}, expected a function "
                "`reward(prompts, completions, **columns) -> list[float]`."
            )
        if not np.isfinite(self.weight):
            raise ConfigError(f"a reward's weight is {self.weight}, expected a finite number.")


class TextRewards:
    """Several named, weighted rewards of a batch of texts.

    A function is given `prompts` and `completions`, lists of B strings, and as keyword arguments
    those of the columns that its signature names (all, if it takes `**columns`): the rows' own,
    and `finished`, a list of B bools, whether a completion ended by itself.

    Args:
        rewards: One function, then called "reward", or functions and `TextReward`s by name.
        columns: The names of the rows' own columns.

    Raises:
        ConfigError: there is no reward, or a function asks for a column that is not there.
    """

    def __init__(
        self,
        rewards: Callable[..., Sequence[float]]
        | Mapping[str, Callable[..., Sequence[float]] | TextReward],
        columns: Sequence[str],
    ) -> None:
        named = rewards if isinstance(rewards, Mapping) else {"reward": rewards}
        if not named:
            raise ConfigError("`rewards` is empty; name at least one reward function.")
        self.components: dict[str, TextReward] = {
            name: reward if isinstance(reward, TextReward) else TextReward(reward)
            for name, reward in named.items()
        }
        available = (*columns, _OWN_COLUMN)
        self._wanted = {
            name: _wanted_columns(name, reward.function, available)
            for name, reward in self.components.items()
        }

    def __call__(
        self,
        prompts: list[str],
        completions: list[str],
        finished: list[bool],
        columns: Mapping[str, list[Any]],
    ) -> tuple[Scores, dict[str, Scores]]:
        """The total and the components, (B,) float64 each.

        Every function is called once. The total is the weighted sum in the order of the names, so
        that a row's total does not depend on the rows beside it.

        Raises:
            DataError: a function returned something else than a list of B numbers.
            NumericalError: a function returned NaN or infinity.
        """
        given = {**columns, _OWN_COLUMN: finished}
        total = np.zeros(len(prompts), np.float64)
        components = {}
        for name, reward in self.components.items():
            # Copies: a function that sorts its arguments must not shift the rows of the next one.
            arguments = {column: list(given[column]) for column in self._wanted[name]}
            values = reward.function(list(prompts), list(completions), **arguments)
            components[name] = _checked(name, values, len(prompts))
            if reward.weight != 0:
                total = total + reward.weight * components[name]
        return total, components


def _wanted_columns(
    name: str, function: Callable[..., Sequence[float]], available: Sequence[str]
) -> tuple[str, ...]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # written in C: it says nothing about itself
        return ()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return tuple(available)
    # The first two places are taken by prompts and completions, whatever they are called.
    taken = [p for p in parameters if p.kind in _POSITIONAL][:2]
    others = [p for p in parameters if p not in taken and p.kind in _NAMED]
    missing = [p.name for p in others if p.default is p.empty and p.name not in available]
    if missing:
        raise ConfigError(
            f"reward {name!r} asks for the column {missing[0]!r}, which the rows do not have; "
            f"there are {sorted(available)}. Add the column, or give the parameter a default."
        )
    return tuple(p.name for p in others if p.name in available)


def _checked(name: str, values: Any, n_rows: int) -> Scores:
    """The values as (B,) float64, or an error that says which row is wrong and how."""
    if not isinstance(values, list | tuple | np.ndarray):
        raise DataError(
            f"reward {name!r} returned a {type(values).__name__}, expected a list of "
            f"{n_rows} numbers, one per completion."
        )
    if len(values) != n_rows:
        raise DataError(
            f"reward {name!r} returned {len(values)} values for {n_rows} completions; return one "
            "per completion, in their order."
        )
    for row, value in enumerate(values):
        if not isinstance(value, Real | np.bool_):
            raise DataError(
                f"reward {name!r} returned {value!r} for completion {row}, a "
                f"{type(value).__name__}; expected a number."
            )
    scores = np.asarray(values, np.float64)
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise NumericalError(
            f"reward {name!r} returned {scores[wrong[0]]} for completion {wrong[0]} "
            f"({len(wrong)} of {n_rows} are not finite); return a finite number for every text, "
            "the empty one too."
        )
    return scores
