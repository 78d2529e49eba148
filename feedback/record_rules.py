"""What the fields of a stored answer and of a query may hold, checked at every door.

Whoever writes into a store is checked: a viewer, a program, an import. What one door lets in, none
of the readers refuses later.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_gym.errors import DataError

__all__ = [
    "MAX_DETAILS",
    "MAX_NAME",
    "MAX_TIME",
    "MAX_WANTED",
    "check_answer",
    "check_details",
    "check_name",
    "check_query",
]

MAX_NAME = 256
"""Characters of a labeller's, a teacher's or an answer's name."""
MAX_TIME = 253_402_300_800.0
"""Seconds since 1970 until the year 10,000."""
MAX_WANTED = 10_000
"""Labellers of one query."""
MAX_DETAILS = 1 << 20
"""Characters of an answer's details, as JSON."""

_MAX_WHOLE = (1 << 63) - 1
_MAX_SEED_BITS = 1024
_MAX_ROUND = (1 << 31) - 1
_MAX_DEPTH = 32


def check_name(what: str, value: object, *, may_be_empty: bool = True) -> None:
    """Refuse what is no short printable text.

    Raises:
        DataError: it is something else.
    """
    is_name = isinstance(value, str) and len(value) <= MAX_NAME and value.isprintable()
    if not is_name or not (value or may_be_empty):
        least = "" if may_be_empty else "1 to "
        raise _wrong(what, value, f"a printable text of {least}{MAX_NAME} characters")


def check_answer(
    uuid: object, teacher: object, labeller: object, shown_at: object, answered_at: object
) -> None:
    """Refuse an answer that nobody can have given.

    Raises:
        DataError: a name is too long or not printable, a time is none, or the answer came before
            its question.
    """
    check_name("uuid", uuid, may_be_empty=False)
    check_name("teacher", teacher)
    check_name("labeller", labeller)
    for what, time in (("shown_at", shown_at), ("answered_at", answered_at)):
        if not _is_number(time, 0.0, MAX_TIME):
            raise _wrong(what, time, "a time in seconds, from 1970 (0) to the year 10,000")
    if float(answered_at) < float(shown_at):  # type: ignore[arg-type]  # both are numbers
        raise DataError(f"`answered_at` is {answered_at}, before `shown_at`, {shown_at}")


def check_query(seed: object, round_: object, index: object, n_wanted: object) -> None:
    """Refuse numbers of a query that no run gives it.

    Raises:
        DataError: a number is not whole, negative or too large.
    """
    for what, value, low, high in (
        ("seed", seed, 0, (1 << _MAX_SEED_BITS) - 1),
        ("round", round_, 0, _MAX_ROUND),
        ("index", index, 0, _MAX_WHOLE),
        ("n_wanted", n_wanted, 1, MAX_WANTED),
    ):
        if not _is_whole(value, low, high):
            limit = f"{high:,}" if high <= _MAX_WHOLE else f"{_MAX_SEED_BITS} bits"
            raise _wrong(what, value, f"a whole number from {low} to {limit}")


def check_details(details: Mapping[str, Any]) -> None:
    """Refuse details that are no JSON values, or of which a field is not what its name says.

    Raises:
        DataError: such a field, a number that is not finite, or lists in lists without end.
    """
    for name, value in details.items():
        is_right, expected = _FIELDS.get(name, (_is_any, ""))
        if not is_right(value):
            raise _wrong(f"details.{name}", value, expected)
        if not _is_json(value, _MAX_DEPTH):
            raise _wrong(
                f"details.{name}", value, f"finite JSON values, at most {_MAX_DEPTH} levels deep"
            )


def _wrong(what: str, value: object, expected: str) -> DataError:
    return DataError(f"`{what}` is {reprlib.repr(value)}, {expected} is expected")


def _is_whole(value: object, low: int, high: int) -> bool:
    # bool is an int to Python, not to anybody who reads the file.
    is_int = hasattr(value, "__index__") and not isinstance(value, bool)
    return is_int and low <= value <= high  # type: ignore[operator]  # it is an int


def _is_number(value: object, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return low <= value <= high  # False of NaN


def _is_json(value: object, depth: int) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if value is None or isinstance(value, str | int):
        return True
    if depth == 0:
        return False
    if isinstance(value, list | tuple):
        return all(_is_json(item, depth - 1) for item in value)
    return isinstance(value, dict) and all(
        isinstance(key, str) and _is_json(item, depth - 1) for key, item in value.items()
    )


def _is_any(value: object) -> bool:
    return True


def _number(low: float, high: float, words: str) -> tuple[Callable[[object], bool], str]:
    return (lambda value: _is_number(value, low, high)), words


def _whole(low: int, words: str) -> tuple[Callable[[object], bool], str]:
    return (lambda value: _is_whole(value, low, _MAX_WHOLE)), words


def _text(words: str) -> tuple[Callable[[object], bool], str]:
    return (lambda value: isinstance(value, str)), words


_CLOCK = _number(-1e15, 1e15, "a clock's seconds, a finite number,")
_FIELDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "left": ((lambda value: value in ("first", "second")), "first or second"),
    "side_seed": _whole(0, "a whole number of at least 0"),
    "sitting": _text("text"),
    "shown_monotonic": _CLOCK,
    "answered_monotonic": _CLOCK,
    "replays": _whole(0, "a whole number of at least 0"),
    "watched_fraction": _number(0, 1e6, "a number from 0 to a million"),
    "speed": _number(0, 1e6, "a number from 0 to a million"),
    "input": _text("text"),
    "viewer": _text("text"),
    "comment": _text("text"),
    "margin": _number(0, 1e30, "a number from 0 to 1e30"),
    "score_first": _number(-1e300, 1e300, "a finite number"),
    "score_second": _number(-1e300, 1e300, "a finite number"),
    "n_qualification": _whole(1, "a whole number of at least 1"),
    "pass_mark": _number(0, 1, "a number from 0 to 1"),
    "given_as": _text("text"),
}
"""What the fields of `AnswerRecord.details` hold that somebody reads; others may hold any JSON."""
