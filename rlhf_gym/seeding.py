"""One root seed, any number of named random streams.

Library code never seeds anything global: whoever needs randomness asks for its own stream by name,
so that adding a stream, or drawing more numbers from one, changes no other.
"""

from __future__ import annotations

import hashlib
import json
from operator import index

import numpy as np

from rlhf_gym.errors import ConfigError

__all__ = ["generator", "stream", "torch_seed"]


def stream(root: int, *names: str | int) -> np.random.SeedSequence:
    """The random stream that `names` stand for under one root seed.

    Root and names are hashed together by sha256, not by Python's `hash`, so a stream is the same in
    every process; a string and the number it spells name different streams.

    Args:
        root: The run's seed, 0 or more; as large as you like.
        names: A path such as `"round", 3, "acquisition"`.

    Raises:
        ConfigError: the root is not a whole number of at least 0, or a name is neither text nor a
            whole number.

    >>> int(stream(0, "round", 3).generate_state(1)[0])
    4174631394
    >>> bool((stream(0, "a").generate_state(4) == stream(0, "b").generate_state(4)).any())
    False
    """
    if _whole_number("seed", root) < 0:
        raise ConfigError(f"`seed` is {root}; give a whole number of at least 0.")
    path = [name if isinstance(name, str) else _whole_number("name", name) for name in names]
    key = json.dumps([_whole_number("seed", root), *path])
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.SeedSequence(int.from_bytes(digest, "little"))


def generator(root: int, *names: str | int) -> np.random.Generator:
    """A numpy generator on the stream that `names` stand for; arguments as for `stream`."""
    return np.random.default_rng(stream(root, *names))


def torch_seed(seq: np.random.SeedSequence) -> int:
    """A seed in [0, 2**31) for libraries that take one integer: torch, Gymnasium, SB3.

    >>> torch_seed(stream(0)) == torch_seed(stream(0))
    True
    """
    return int(seq.generate_state(1, np.uint32)[0]) & 0x7FFF_FFFF


def _whole_number(name: str, value: object) -> int:
    """The value as a Python int (numpy's integers are welcome, floats and booleans are not)."""
    if not isinstance(value, bool):
        try:
            return index(value)  # type: ignore[arg-type]  # refused below when it is no integer
        except TypeError:
            pass
    raise ConfigError(f"`{name}` is {value!r}; a whole number is needed (0, 1, 2, ...).")
