"""Single settings on the command line, `ppo.kl_coef=0`, laid over those of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_gym.documents import parse_yaml
from rlhf_gym.errors import ConfigError, CorruptDataError

__all__ = ["with_overrides"]


def with_overrides(settings: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Nested settings with some of them replaced; the given ones stay as they are.

    Args:
        settings: Mappings within mappings, as in a YAML file.
        assignments: `name=value` each, nested names with dots. A value is read as YAML, and 1e-4 is
            a number.

    Raises:
        ConfigError: no `=`, an empty name, a value that is no YAML, or a name below a plain value.
    """
    changed = dict(settings)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(
                f"`{assignment}` sets nothing; write `name=value`, such as `ppo.kl_coef=0`, "
                "without blanks."
            )
        changed = _replaced(changed, keys, _value(text, assignment), assignment)
    return changed


def _replaced(
    settings: Mapping[str, Any], keys: Sequence[str], value: Any, assignment: str
) -> dict[str, Any]:
    key, *rest = keys
    if rest:
        below = settings.get(key, {})
        if not isinstance(below, Mapping):
            raise ConfigError(f"`{assignment}`: `{key}` is {below!r}, which has no `{rest[0]}`.")
        value = _replaced(below, rest, value, assignment)
    return {**settings, key: value}


def _value(text: str, assignment: str) -> Any:
    try:
        value = parse_yaml(text, f"the value in `{assignment}`")
    except CorruptDataError as error:
        raise ConfigError(str(error)) from error
    if isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 takes 1e-4 for a word
        except ValueError:
            pass
    return value
