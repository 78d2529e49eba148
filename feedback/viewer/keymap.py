"""Which key does what: the field's standard, and how to change it.

Left, Right, Up and Down mean what they mean in Christiano et al. (2017, appendix A): left better,
right better, equally good, can't tell.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_gym.documents import read_yaml
from rlhf_gym.errors import ConfigError, CorruptDataError

__all__ = ["ACTIONS", "DEFAULT_KEYS", "KEYS", "Action", "Keymap", "key_label", "load_keymap"]


@dataclass(frozen=True)
class Action:
    """Something that a key or a button does."""

    name: str
    """As the YAML file spells it."""
    label: str
    """Short, for a button."""
    help: str
    """One line for the help page."""


ACTIONS = {
    action.name: action
    for action in (
        Action("left", "Left better", "the left one is better"),
        Action("right", "Right better", "the right one is better"),
        Action("tie", "Equal", "both are equally good"),
        Action("skip", "Can't tell", "can't tell which is better"),
        Action("postpone", "Later", "show this pair again later"),
        Action("undo", "Undo", "take the last answer back, as often as you like"),
        Action("pause", "Pause", "pause, play on"),
        Action("back", "Step back", "pause, one frame back; text: scroll up"),
        Action("forward", "Step on", "pause, one frame on; text: scroll down"),
        Action("slower", "Slower", "play slower, down to a quarter"),
        Action("faster", "Faster", "play faster, up to four times"),
        Action("restart", "Restart", "play from the first frame; text: scroll to the top"),
        Action("comment", "Comment", "write a comment on this pair"),
        Action("diff", "Differences", "text: mark the words that differ"),
        Action("rubric", "Rubric", "show what to judge by"),
        Action("help", "Help", "show this page"),
        Action("quit", "Quit", "quit; every answer is saved already"),
    )
}
"""Every action by its name, in the order of the help page."""

DEFAULT_KEYS: dict[str, tuple[str, ...]] = {
    "left": ("left", "1"),
    "right": ("right", "2"),
    "tie": ("up", "="),
    "skip": ("down", "0"),
    "postpone": ("s",),
    "undo": ("z", "backspace"),
    "pause": ("space",),
    "back": (",",),
    "forward": (".",),
    "slower": ("-",),
    "faster": ("+",),
    "restart": ("r",),
    "comment": ("c",),
    "diff": ("d",),
    "rubric": ("g",),
    "help": ("?", "f1"),
    "quit": ("q", "escape"),
}
"""The keys of each action, the main one first."""

_NAMED = {
    "left": "Left",
    "right": "Right",
    "up": "Up",
    "down": "Down",
    "space": "Space",
    "backspace": "Backspace",
    "escape": "Esc",
    "return": "Enter",
    "tab": "Tab",
    "home": "Home",
    "end": "End",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "insert": "Ins",
    "delete": "Del",
    **{f"f{n}": f"F{n}" for n in range(1, 13)},
}

KEYS = (*_NAMED, *(chr(code) for code in range(33, 127) if not chr(code).isupper()))
"""Every key that can be given an action: named ones, and the characters that a key types."""


def key_label(key: str) -> str:
    """A key as it is printed on the screen.

    >>> key_label("left"), key_label("s"), key_label("+")
    ('Left', 'S', '+')
    """
    return _NAMED.get(key, key.upper())


@dataclass(frozen=True)
class Keymap:
    """Keys by action.

    Raises:
        ConfigError: an unknown action or key, a key used twice, or an action without a key.
    """

    keys: Mapping[str, Sequence[str]] = field(default_factory=lambda: DEFAULT_KEYS)
    """Keys of each action, the main one first."""
    where: str = "the keys"
    """The file they come from, for messages."""

    def __post_init__(self) -> None:
        used: dict[str, str] = {}
        for action, keys in self.keys.items():
            _check_action(action, self.where)
            if not keys:
                raise ConfigError(f"{self.where}: `{action}` has no key; give it at least one.")
            for key in keys:
                _check_key(key, action, self.where)
                if key in used:
                    raise ConfigError(
                        f"{self.where}: the key {key!r} is given to both `{used[key]}` and "
                        f"`{action}`; a key does one thing."
                    )
                used[key] = action
        missing = [name for name in ACTIONS if name not in self.keys]
        if missing:
            raise ConfigError(f"{self.where}: no key for {missing}; give each at least one.")

    def action(self, key: str) -> str | None:
        """The name of what a key does, or None."""
        return next((name for name, keys in self.keys.items() if key in keys), None)

    def label(self, action: str) -> str:
        """The main key of an action as it is printed on the screen."""
        return key_label(self.keys[action][0])

    def labels(self, action: str) -> str:
        """All keys of an action as they are printed on the help page."""
        return "  or  ".join(key_label(key) for key in self.keys[action])


def load_keymap(path: Path) -> Keymap:
    """The standard keys, changed by a YAML file that maps actions to a key or a list of keys.

    For example::

        tie: t
        left: [a, left]

    A key taken for an action is taken away from the standard action that had it.

    Raises:
        ConfigError: the file cannot be read; an unknown action or key; a key used twice; an action
            left without a key. The message names the file, what was found and what is accepted.
    """
    try:
        content = read_yaml(path)
    except CorruptDataError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"cannot read the keys {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} must map actions to keys, such as `tie: t`, found {type(content).__name__}."
        )
    chosen = {str(action): _keys(value, str(action), path) for action, value in content.items()}
    taken = {key for keys in chosen.values() for key in keys}
    standard = {
        action: tuple(key for key in keys if key not in taken)
        for action, keys in DEFAULT_KEYS.items()
    }
    return Keymap({**standard, **chosen}, str(path))


def _keys(value: Any, action: str, path: Path) -> tuple[str, ...]:
    keys = value if isinstance(value, list) else [value]
    # YAML reads a bare 1 as a number; every other type is a mistake (no, on and ~ among them).
    for key in keys:
        if not isinstance(key, str) and (isinstance(key, bool) or not isinstance(key, int)):
            raise ConfigError(
                f"{path}: `{action}` is {value!r}; accepted is a key or a list of keys, with "
                "quotes around characters that YAML reads as something else ('=', '-', 'n')."
            )
    return tuple(str(key).lower() for key in keys)


def _check_action(action: str, where: str) -> None:
    if action not in ACTIONS:
        close = difflib.get_close_matches(action, ACTIONS, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"accepted are {', '.join(ACTIONS)}."
        raise ConfigError(f"{where}: unknown action `{action}`; {hint}")


def _check_key(key: str, action: str, where: str) -> None:
    if key not in KEYS:
        raise ConfigError(
            f"{where}: `{action}` is given the unknown key {key!r}; accepted are "
            f"{', '.join(_NAMED)}, and any single character on the keyboard."
        )
