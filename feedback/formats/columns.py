"""Which columns of a row hold what: by the names that data sets use, or as the caller names them.

The question stands in `prompt`, `question`, `query`, `instruction` or `input`; with `instruction`
and `input` (Alpaca) the second stands below the first; `system` or `system_prompt` goes before it.
Where several of them say different things nobody can tell which is the question, so it is asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf_gym.errors import ConfigError, DataError

__all__ = ["QUESTIONS", "ROLES", "Columns", "Question", "parse_columns", "plain_words"]

ROLES = (
    "prompt",
    "system",
    "input",
    "chosen",
    "rejected",
    "margin",
    "score_chosen",
    "score_rejected",
)
"""What a column can be named for. `input` is text that belongs below the prompt."""

QUESTIONS = ("prompt", "question", "query", "instruction", "input")
"""Names under which data sets keep the question."""

_SYSTEMS = ("system", "system_prompt")
_SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
# Texts about a row, which are no part of what was asked.
_ABOUT = re.compile(
    r"(.*[_-])?(id|idx|index|uuid|hash|source|dataset|subset|split|type|category|topic|task|tags?"
    r"|lang|language|model|annotator|labell?er|worker|author|licen[cs]e|url|date|time(stamp)?"
    r"|version|status)([_-](chosen|rejected))?|(chosen|rejected)[_-]model",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Question:
    """What a row asks."""

    prompt: str | list[Any] | None
    """A text, a list of messages, empty if it is so in the row, or None without such a column."""
    system: str = ""
    """What stands before it."""
    used: frozenset[str] = frozenset()
    """The columns it was taken from, or that only repeat it."""


@dataclass(frozen=True)
class Columns:
    """How the columns of a file are to be understood.

    Raises:
        ConfigError: an unknown role, or an empty column.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    """Column by role, see `ROLES`; what is not here is looked for by its usual names."""
    no_prompt: bool = False
    """Whether rows without a prompt have an empty one, and are not refused."""

    def __post_init__(self) -> None:
        for role, name in self.named.items():
            if role not in ROLES or not name:
                raise ConfigError(
                    f"`--columns` has {role}={name}; write ROLE=COLUMN, with the roles "
                    f"{', '.join(ROLES)}: `--columns prompt=question,chosen=good,rejected=bad`."
                )

    def of(self, role: str) -> str:
        """The column of a role that has only one usual name, its own."""
        return self.named.get(role, role)

    def question(self, row: Mapping[str, Any]) -> Question:
        """What a row asks.

        Raises:
            DataError: a named column is missing or no text, or several columns hold what may be
                the question.
        """
        if any(role in self.named for role in ("prompt", "input")):
            return self._named_question(row)
        found = {name: row[name] for name in QUESTIONS if not _is_empty(row.get(name))}
        for name, value in found.items():
            _require_text(name, value)
        system, used = self._system(row)
        asked = row.keys() & set(QUESTIONS)
        used |= asked  # those that are empty have nothing to lose
        if not found:
            return Question("" if asked else None, system, used)
        if set(found) == {"instruction", "input"}:
            prompt = _below(found["instruction"], found["input"])
            return Question(prompt, system, used)
        main = [name for name in found if not _is_repeated(name, found)]
        if len(main) > 1:
            named = " and ".join(f"`{name}`" for name in main)
            raise DataError(
                f"{named} hold different texts, and each may be the question; say which it is, "
                f"for example `--columns prompt={main[0]}`"
            )
        return Question(found[main[0]], system, used)

    def score_names(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """The columns with the scores of the chosen and the rejected text, if the row has both.

        Raises:
            DataError: only one is named by the caller.
        """
        own = [self.named.get(role) for role in ("score_chosen", "score_rejected")]
        if any(own):
            if own[0] is None or own[1] is None:
                raise DataError("`--columns` names one score; name score_chosen and score_rejected")
            return own[0], own[1]
        numbers = {name for name, value in row.items() if type(value) in (int, float)}
        return next((names for names in _SCORES if numbers.issuperset(names)), None)

    def scores(self, row: Mapping[str, Any]) -> tuple[float, float] | None:
        """The scores of the chosen and the rejected text, if the row has both.

        Raises:
            DataError: a score is no finite number, or a named column is missing.
        """
        names = self.score_names(row)
        return None if names is None else (_number(names[0], row), _number(names[1], row))

    def margin(self, row: Mapping[str, Any]) -> float | None:
        """By how much the chosen text is better, if the row says so.

        Raises:
            DataError: it is no finite number of at least 0, or a named column is missing.
        """
        name = self.of("margin")
        if _is_empty(row.get(name)) and "margin" not in self.named:
            return None
        value = _number(name, row)
        if value < 0:
            raise DataError(f"`{name}` is {value:g}, at least 0 is expected")
        return value

    def other_texts(self, row: Mapping[str, Any], used: frozenset[str]) -> list[str]:
        """Columns not used that may hold what was asked, under a name of their own.

        Nothing where the caller named both texts: then the other columns were meant to be left out.
        """
        if {"chosen", "rejected"} <= self.named.keys():
            return []
        return [
            name
            for name, value in row.items()
            if name not in used
            and isinstance(value, str | list)
            and not _is_empty(value)
            and not _ABOUT.fullmatch(name)
        ]

    def _named_question(self, row: Mapping[str, Any]) -> Question:
        parts = [(role, self.named[role]) for role in ("prompt", "input") if role in self.named]
        values = []
        for _, name in parts:
            if name not in row:
                raise DataError(f"column `{name}` is missing; the columns are {_names(row)}")
            _require_text(name, row[name])
            values.append(row[name])
        prompt = values[0] if len(values) == 1 else _below(*values)
        system, used = self._system(row) if "system" in self.named else ("", frozenset())
        return Question(prompt, system, used | {name for _, name in parts})

    def _system(self, row: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
        own = self.named.get("system")
        if own is not None and own not in row:
            raise DataError(f"column `{own}` is missing; the columns are {_names(row)}")
        for name in (own,) if own is not None else _SYSTEMS:
            value = row.get(name)
            if name in row and isinstance(value, str | None):
                return value or "", frozenset((name,))
        return "", frozenset()


def parse_columns(items: Iterable[str]) -> dict[str, str]:
    """Columns by role, from `ROLE=COLUMN` texts, several in one separated by commas.

    Raises:
        ConfigError: a text of another form, an unknown role, or a role named twice.

    >>> parse_columns(["prompt=question,chosen=good, better", "rejected=bad"])
    {'prompt': 'question', 'chosen': 'good, better', 'rejected': 'bad'}
    """
    named: dict[str, str] = {}
    comma = re.compile(rf",\s*(?=(?:{'|'.join(ROLES)})=)")
    for item in (part for text in items for part in comma.split(text)):
        role, equals, name = item.partition("=")
        if not equals or role not in ROLES or not name:
            raise ConfigError(
                f"`--columns` has {item!r}; write ROLE=COLUMN, with the roles {', '.join(ROLES)}: "
                "`--columns prompt=question,chosen=good,rejected=bad`."
            )
        if role in named:
            raise ConfigError(f"`--columns` names two columns for {role}; name one.")
        named[role] = name
    return named


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list) and not value)


def _require_text(name: str, value: Any) -> None:
    if not isinstance(value, str | list):
        raise DataError(f"`{name}` is {value!r}, text or a list of messages is expected")


def _below(one: Any, two: Any) -> str:
    if not isinstance(one, str) or not isinstance(two, str):
        raise DataError("the prompt and the input below it must be texts, found a list of messages")
    return "\n\n".join(part for part in (one, two) if part)


def plain_words(value: Any) -> str:
    """A question's words without regard to white space, to see whether others only repeat them."""
    if isinstance(value, list):
        value = "\n".join(str(m.get("content", "")) for m in value if isinstance(m, dict))
    return " ".join(str(value).split())


def _is_repeated(name: str, found: Mapping[str, Any]) -> bool:
    """Whether another column says the same and more, or the same under a name before this one."""
    mine, names = plain_words(found[name]), list(found)
    for other in names:
        theirs = plain_words(found[other])
        earlier = names.index(other) < names.index(name)
        if other != name and mine in theirs and (mine != theirs or earlier):
            return True
    return False


def _number(name: str, row: Mapping[str, Any]) -> float:
    if name not in row:
        raise DataError(f"column `{name}` is missing; the columns are {_names(row)}")
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"`{name}` is {value!r}, a number is expected")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"`{name}` is no finite number")
    return number


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(row) or "none"
