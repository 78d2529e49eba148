"""From Gymnasium's spaces to the arrays that clips hold: what is flattened, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from rlhf_gym.data import Array
from rlhf_gym.errors import ConfigError

__all__ = [
    "LARGEST",
    "FlatObservation",
    "check_action_space",
    "check_box_of_actions",
    "component_name",
    "is_image",
    "refuse_images",
    "sample_actions",
    "unsupported_spaces",
]

LARGEST = 1e38
"""What is as large as this is no number of a robot's. float32 ends at 3.4e38, and its last values
are written where something is unlimited or unknown."""

_ARRAYS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_OBSERVATIONS = (
    "Supported are Box, Discrete, MultiDiscrete and MultiBinary, and Dict and Tuple of these, "
    "nested at will"
)


class FlatObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Turns observations into one vector each, by `gymnasium.spaces.flatten`.

    The parts of a Dict or Tuple follow each other in the space's order, nested ones included;
    Discrete and MultiDiscrete become one-hot. The dtype is the one that NumPy promotes the parts
    to. `make_preference_ready` applies it where it is needed.

    Args:
        env: An env whose observations are not arrays yet.
        obs_keys: The top-level keys of a Dict to keep, in any order; () keeps all.

    Attributes:
        obs_keys: The keys kept, in the space's order; () where there are no keys.
        space: What is flattened: the env's observation space, or the part of it that is kept.

    Raises:
        ConfigError: an unknown key, keys for a space that has none, a space that has no vector
            form of one length (Text, Graph, Sequence and so on), one of no numbers at all, or
            pictures.
    """

    def __init__(self, env: gym.Env[Any, Any], obs_keys: Sequence[str] = ()) -> None:
        RecordConstructorArgs.__init__(self, obs_keys=list(obs_keys))
        gym.ObservationWrapper.__init__(self, env)
        self.space = _kept(env, obs_keys)
        self.obs_keys = tuple(self.space) if isinstance(self.space, spaces.Dict) else ()
        if wrong := unsupported_spaces(self.space):
            keys = " or leave its key out of `obs_keys`" if self.obs_keys else ""
            raise ConfigError(
                f"{env} observes {', '.join(wrong)}, which is no array of one shape. "
                f"{_OBSERVATIONS}; turn it into one of them with "
                f"gymnasium.wrappers.TransformObservation{keys} before `make_preference_ready`."
            )
        refuse_images(env, self.space)
        if spaces.flatdim(self.space) == 0:
            raise ConfigError(
                f"{env} observes {env.observation_space}, which holds no number; a policy needs "
                "one at least."
            )
        self.observation_space = spaces.flatten_space(self.space)

    def observation(self, observation: Any) -> Array:
        """The vector of one observation: (D,), a fresh array."""
        flat: Array = np.asarray(spaces.flatten(self.space, observation))
        return flat


def _kept(env: gym.Env[Any, Any], obs_keys: Sequence[str]) -> spaces.Space[Any]:
    """The observation space, without the keys that were not chosen."""
    space = env.observation_space
    if not obs_keys:
        return space
    if not isinstance(space, spaces.Dict):
        raise ConfigError(
            f"`obs_keys` is {list(obs_keys)}, but the observations of {env} have no keys: they are "
            f"{space}. Leave `obs_keys` out."
        )
    if unknown := [key for key in obs_keys if key not in space.spaces]:
        raise ConfigError(
            f"`obs_keys` names {unknown}, which {env} does not observe; its keys are {list(space)}."
        )
    # The space's order, so that the same choice is the same vector however it was written down.
    return spaces.Dict([(key, part) for key, part in space.items() if key in obs_keys])


def unsupported_spaces(space: spaces.Space[Any], name: str = "") -> list[str]:
    """The parts of a space that have no vector form of one length, each with where it stands.

    >>> from gymnasium.spaces import Box, Dict, Text
    >>> unsupported_spaces(Dict({"joints": Box(0, 1, (2,)), "task": Dict({"name": Text(9)})}))
    ["Text(1, 9, charset=...) (at 'task/name')"]
    """
    return [
        f"{_in_words(leaf)} (at {name!r})" if name else _in_words(leaf)
        for name, leaf in _leaves(space, name)
        if not isinstance(leaf, _ARRAYS)
    ]


def _leaves(space: spaces.Space[Any], name: str = "") -> Iterator[tuple[str, spaces.Space[Any]]]:
    """The parts of a space that hold no others, with their paths, in the order of flattening."""
    if isinstance(space, spaces.Dict):
        parts: list[tuple[Any, spaces.Space[Any]]] = list(space.items())
    elif isinstance(space, spaces.Tuple):
        parts = list(enumerate(space.spaces))
    else:
        yield name, space
        return
    for key, part in parts:
        yield from _leaves(part, f"{name}/{key}" if name else str(key))


def component_name(env: gym.Env[Any, Any], index: int) -> str:
    """What a component of an env's flat observation is, in words.

    Args:
        env: An env that observes a Box.
        index: Position in the flattened observation, from 0.

    Returns:
        "component 3", and where the env's Dict or Tuple was flattened "component 3 ('arm/angle')".
    """
    name = f"component {index}"
    layer = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, FlatObservation):
            for path, leaf in _leaves(layer.space):
                if index < spaces.flatdim(leaf):
                    return f"{name} ({path!r})" if path else name
                index -= spaces.flatdim(leaf)
        layer = layer.env
    return name


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether Stable-Baselines3 takes a space for pictures: its `is_image_space`, without torch."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 3
        and space.dtype == np.uint8
        and bool((space.low == 0).all() and (space.high == 255).all())
    )


def refuse_images(env: gym.Env[Any, Any], space: spaces.Space[Any]) -> None:
    """Refuse pictures among the observations, as long as no network is there for them.

    Args:
        env: Named in the message.
        space: What of its observations is kept.

    Raises:
        ConfigError: naming the picture.
    """
    for path, leaf in _leaves(space):
        if is_image(leaf):
            at = f" (at {path!r})" if path else ""
            leave_out = "leave its key out with `obs_keys`, " if path else ""
            raise ConfigError(
                f"{env} observes {leaf}{at}, an image to Stable-Baselines3, and there is no "
                f"network for images here yet; {leave_out}observe numbers instead (positions, "
                "velocities), or, if it is a small grid and no picture, turn it into a vector "
                "with gymnasium.wrappers.FlattenObservation."
            )


def _in_words(space: spaces.Space[Any]) -> str:
    """A space as it prints itself, but for Text, which shows its whole alphabet."""
    if isinstance(space, spaces.Text):
        return f"Text({space.min_length}, {space.max_length}, charset=...)"
    return str(space)


def check_action_space(env: gym.Env[Any, Any]) -> None:
    """Refuse actions that clips and policies cannot hold as arrays.

    Raises:
        ConfigError: anything but Box, Discrete, MultiDiscrete and MultiBinary, choices that are not
            counted from 0 or not in a row, or a Box without bounds, of whole numbers or of none.
    """
    space = env.action_space
    if not isinstance(space, _ARRAYS):
        raise ConfigError(
            f"the action space of {env} is {_in_words(space)}. Supported are Box, Discrete, "
            "MultiDiscrete and MultiBinary; turn it into one of them with "
            "gymnasium.wrappers.TransformAction, e.g. a Tuple of Discrete into a MultiDiscrete."
        )
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start != 0):
        raise ConfigError(
            f"the action space of {env} is {space}, and Stable-Baselines3 counts choices from 0; "
            "shift it with gymnasium.wrappers.TransformAction, or declare it without `start`."
        )

    if isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)) and len(space.shape) > 1:
        raise ConfigError(
            f"the action space of {env} is {space}, and Stable-Baselines3's policies choose in one "
            "row; declare it with one dimension, and reshape the action in the env."
        )
    if isinstance(space, spaces.Box):
        check_box_of_actions(f"the action space of {env}", space)


def check_box_of_actions(what: str, space: spaces.Box) -> None:
    """Refuse a Box that actions cannot be scaled to or drawn from.

    Args:
        what: Begins the message, e.g. "the action space of <MyRobot>".
        space: The Box.

    Raises:
        ConfigError: a component without finite bounds, whole numbers, or no number at all.
    """
    _require_bounds(what, space)
    if np.dtype(space.dtype).kind != "f":
        raise ConfigError(
            f"{what} is {space}, a Box of {space.dtype}, and policies drive a "
            "Box by fractions; declare choices as MultiDiscrete, or a Box of float32."
        )
    if 0 in space.shape:
        raise ConfigError(f"{what} is {space}, which holds no number.")


def _require_bounds(what: str, space: spaces.Box) -> None:
    # Not `is_bounded`: it takes the largest float for a bound. No widening: ints pass as well.
    bounded = (space.low > -LARGEST) & (space.high < LARGEST)
    if bounded.all():
        return
    where = tuple(int(i) for i in np.argwhere(~bounded)[0])
    raise ConfigError(
        f"{what} is {space}, which has no bounds (component {', '.join(map(str, where))} runs from "
        f"{space.low[where]} to {space.high[where]}), and neither can random actions be drawn from "
        "it nor a policy's be scaled to it; declare the bounds within which the robot may be "
        "driven, in the env or around it: "
        "`gymnasium.wrappers.TransformAction(env, lambda action: action, Box(low, high))`."
    )


def sample_actions(space: spaces.Space[Any], n: int, rng: np.random.Generator) -> Array:
    """Actions drawn uniformly and independently from an action space, in one call.

    Args:
        space: Box with finite bounds, Discrete, MultiDiscrete or MultiBinary.
        n: How many.
        rng: What they depend on; the space's own generator is left alone.

    Returns:
        (n, A...): a Box's own dtype, else int64.

    Raises:
        ConfigError: another space, or a Box without finite bounds.
    """
    if isinstance(space, spaces.Box):
        _require_bounds("the action space", space)
        size = (n, *space.shape)
        if np.dtype(space.dtype).kind == "f":
            return rng.uniform(space.low, space.high, size).astype(space.dtype)
        return rng.integers(space.low, space.high, size, endpoint=True).astype(space.dtype)
    drawn: Array
    if isinstance(space, spaces.Discrete):
        drawn = rng.integers(space.n, size=n) + space.start
        return drawn
    if isinstance(space, spaces.MultiDiscrete):
        drawn = rng.integers(space.nvec, size=(n, *space.nvec.shape)) + space.start
        return drawn
    if isinstance(space, spaces.MultiBinary):
        drawn = rng.integers(2, size=(n, *space.shape))
        return drawn
    raise ConfigError(
        f"random actions cannot be drawn from {space}; supported are Box, Discrete, MultiDiscrete "
        "and MultiBinary."
    )
