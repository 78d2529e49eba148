"""Rows of PandaLM's test set: two responses to an instruction, judged by three annotators each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_gym.data import Choice
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.formats.read_row import ReadRow
from rlhf_gym.feedback.formats.text_pairs import TextPair

__all__ = ["read_panda_lm"]

_TEXTS = ("instruction", "input", "response1", "response2")
_ANNOTATORS = ("annotator1", "annotator2", "annotator3")
_CHOICES = {"0": Choice.TIE, "1": Choice.FIRST, "2": Choice.SECOND}


def read_panda_lm(row: Mapping[str, Any]) -> ReadRow:
    """The three answers of a row: 1 is response1, 2 is response2, 0 is a tie.

    The prompt is the instruction and, where there is one, the input below an empty line.

    Raises:
        DataError: a column is missing, a text is no text, or an answer is none of 0, 1 and 2.
    """
    missing = [name for name in (*_TEXTS, *_ANNOTATORS) if name not in row]
    if missing:
        raise DataError(
            f"column `{missing[0]}` is missing; the columns are {', '.join(row) or 'none'}"
        )
    instruction, given, first, second = (_text(row, name) for name in _TEXTS)
    prompt = instruction + (f"\n\n{given}" if given else "")
    pairs = []
    for name in _ANNOTATORS:
        choice = None if isinstance(row[name], bool) else _CHOICES.get(str(row[name]))
        if choice is None:
            raise DataError(f"`{name}` is {row[name]!r}; accepted are 0 (tie), 1 and 2")
        pairs.append(TextPair(prompt, first, second, choice, labeller=name))
    return ReadRow(tuple(pairs), frozenset((*_TEXTS, *_ANNOTATORS)))


def _text(row: Mapping[str, Any], name: str) -> str:
    """A text; where a response reads True or 7, the published file has it without quotes."""
    value = row[name]
    if not isinstance(value, str | bool | int | float):
        raise DataError(f"`{name}` is {value!r}, text is expected")
    return str(value)
