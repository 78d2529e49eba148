"""Configuration as frozen dataclasses: to YAML and back, with unknown keys refused."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from rlhf_gym.documents import read_yaml
from rlhf_gym.errors import ConfigError, CorruptDataError

__all__ = ["from_mapping", "from_yaml", "is_whole", "to_yaml"]

T = TypeVar("T")


def is_whole(value: Any, low: int = 1) -> bool:
    """Whether a value is a whole number, numpy's included, of at least `low`; a bool is none."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(value >= low)


def to_yaml(config: Any) -> str:
    """A dataclass as YAML text that `from_yaml` reads back to an equal one."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def from_yaml(cls: type[T], path: Path, names: Collection[str] = ()) -> T:
    """Read a dataclass from a YAML file; keys that are absent keep their defaults.

    Args:
        cls: The dataclass.
        path: The file.
        names: Options that hold names, in a list or as a mapping's keys: these are text as they
            were written, where YAML would read `yes` as true and `0700` as 448.

    Raises:
        ConfigError: the file is missing or malformed, a key unknown, or a value of a wrong type.
    """
    try:
        content = read_yaml(path, names)
    except CorruptDataError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of options, found {type(content).__name__}.")
    return from_mapping(cls, content, str(path))


def from_mapping(cls: type[T], content: Mapping[str, Any], where: str) -> T:
    """Build a dataclass from a mapping, nested ones included.

    Raises:
        ConfigError: a key is unknown or a value has a wrong type; the message names both.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]  # T is one
    for key in content:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else f" Accepted are {known}."
            raise ConfigError(f"{where}: unknown option `{key}`.{hint}")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in content.items()}
    return cls(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a mapping, found {value!r}.")
        return from_mapping(typing.cast(type[Any], hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = [a for a in arguments if a is not type(None)]
        return _convert(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    accepted = (
        value in arguments
        if origin is typing.Literal
        else isinstance(value, origin or hint) and not (hint is int and isinstance(value, bool))
    )
    if not accepted:
        raise ConfigError(f"{where} is {value!r}; accepted is {_in_words(hint)}.")
    return value


_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
}


def _in_words(hint: Any) -> str:
    """A type as a reader of YAML would name it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {list(arguments)}"
    if origin is tuple:
        return f"a list, each entry {_in_words(arguments[0])}"
    return _WORDS.get(hint, "a mapping" if (origin or hint) in (dict, Mapping) else str(hint))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value
