"""Names for the parts one can choose, each loaded on its first use.

A part has a short name within its group ("agent", "teacher", ...) or, if it is your own, an import
string `module:attribute`. The table below holds strings only, so that listing the names loads
neither torch nor Stable-Baselines3.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Any

from rlhf_gym.errors import ConfigError, MissingDependencyError, UnknownNameError

__all__ = ["load_object", "names", "resolve"]

_BUILTIN: dict[str, dict[str, str]] = {
    "agent": {"ppo": "rlhf_gym.agents.ppo:PPOAgent"},
    "text_agent": {
        "dpo": "rlhf_gym.agents.text.dpo_agent:TextDPOAgent",
        "ppo": "rlhf_gym.agents.text.ppo_agent:TextPPOAgent",
    },
    "teacher": {"synthetic": "rlhf_gym.feedback.teachers:SyntheticTeacher"},
    "acquisition": {
        "uniform": "rlhf_gym.feedback.acquisition:uniform",
        "disagreement": "rlhf_gym.feedback.acquisition:disagreement",
        "entropy": "rlhf_gym.feedback.acquisition:entropy",
    },
    "reward_model": {"ensemble": "rlhf_gym.feedback.reward_model:EnsembleRewardModel"},
}


def names(group: str) -> tuple[str, ...]:
    """The short names of a group, sorted.

    Args:
        group: "agent", "text_agent", "teacher", "acquisition" or "reward_model".

    Raises:
        UnknownNameError: there is no such group.

    >>> names("acquisition")
    ('disagreement', 'entropy', 'uniform')
    """
    return tuple(sorted(_group(group)))


def resolve(group: str, name: str) -> Any:
    """The part a name stands for: a short name of the group, or `module:attribute`.

    Args:
        group: "agent", "text_agent", "teacher", "acquisition" or "reward_model".
        name: For instance "ppo", or "my_pkg.teachers:Strict".

    Raises:
        UnknownNameError: the group, the short name, the module or its attribute does not exist.
        MissingDependencyError: the module needs a package that is not installed.
        ConfigError: the import string is malformed.
    """
    parts = _group(group)
    if name in parts:
        return load_object(parts[name])
    if ":" in name:
        return load_object(name)
    raise UnknownNameError(
        f"no {group} is called {name!r}.{_did_you_mean(name, list(parts))} Accepted: "
        f"{', '.join(sorted(parts))}, or your own as `module:attribute`."
    )


def load_object(import_string: str) -> Any:
    """Import what `module:attribute` names; dots in the attribute reach into classes.

    Args:
        import_string: For instance "my_pkg.teachers:Strict" or "my_pkg.teachers:Strict.presets".

    Raises:
        ConfigError: it does not read `module:attribute`.
        UnknownNameError: the module, or the attribute in it, does not exist.
        MissingDependencyError: the module exists and imports a package that does not.

    >>> load_object("math:sqrt")(9.0)
    3.0
    """
    module_name, colon, attribute = import_string.partition(":")
    steps = attribute.split(".")
    if not colon or not all(s.isidentifier() for s in (*module_name.split("."), *steps)):
        raise ConfigError(
            f"{import_string!r} is not an import string; write `module:attribute`, "
            "for instance my_pkg.teachers:Strict."
        )
    found: Any = _import(module_name)
    for step in steps:
        if not hasattr(found, step):
            loaded = getattr(sys.modules.get(module_name), "__file__", None)
            raise UnknownNameError(
                f"{import_string!r}: module {module_name!r} has no attribute {attribute!r}."
                f"{_did_you_mean(step, dir(found))} It was loaded from {loaded or 'Python'}; "
                "if yours is another one, rename it: what is installed is found before the current "
                "folder."
            )
        found = getattr(found, step)
    return found


def _group(group: str) -> dict[str, str]:
    if group not in _BUILTIN:
        raise UnknownNameError(
            f"there is no group {group!r}.{_did_you_mean(group, list(_BUILTIN))} "
            f"Accepted: {', '.join(sorted(_BUILTIN))}."
        )
    return _BUILTIN[group]


def _import(module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        # A missing parent means that the caller's own module is not there; any other missing
        # name is something that module wanted to import.
        if missing == module_name or module_name.startswith(f"{missing}."):
            raise UnknownNameError(
                f"no module {missing!r} (from {module_name!r}); check the spelling, and that its "
                "package is installed, or that you stand in its folder or PYTHONPATH names it."
            ) from error
        package = missing.partition(".")[0]
        raise MissingDependencyError(
            f"{module_name!r} needs {missing!r}, which is not installed; "
            f"install the package that provides it (usually `pip install {package}`)."
        ) from error


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
