r"""Rows of chosen and rejected texts, in the forms that data sets and TRL use, as text pairs.

    {"prompt": "...", "chosen": "...", "rejected": "..."}            with or without "margin"
    {"chosen": "...", "rejected": "..."}                             both begin with the prompt
    {"prompt": [MESSAGE, ...], "chosen": [MESSAGE], "rejected": [MESSAGE]}     conversations, also
    {"chosen": [MESSAGE, ...], "rejected": [MESSAGE, ...]}                     with implicit prompt

A MESSAGE is {"role": "user", "content": "..."}. Dialogues become text as in Anthropic's HH data:
"\n\nHuman: ...\n\nAssistant: ...".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_gym.data import Choice
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.formats.text_pairs import TextPair

__all__ = ["dialogue_text", "hh_pair", "trl_pair"]

_TURN = "\n\nAssistant:"
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}


def hh_pair(row: Mapping[str, Any]) -> TextPair:
    r"""A row of Anthropic's HH-RLHF: two dialogues that share all up to an assistant's turn.

    The prompt ends with the last "\n\nAssistant:" that both share before they part.

    Raises:
        DataError: a column is missing, no text, or the two share no such turn.
    """
    chosen, rejected = _text(row, "chosen"), _text(row, "rejected")
    shared = chosen[: _n_shared(chosen, rejected)]
    turn = shared.rfind(_TURN)
    if turn < 0:
        raise DataError(
            f"`chosen` and `rejected` share no {_TURN!r} before they part after "
            f"{len(shared)} characters; their prompts differ, or this is not HH's form"
        )
    end = turn + len(_TURN)
    return _pair(chosen[:end], chosen[end:], rejected[end:], None)


def trl_pair(row: Mapping[str, Any]) -> TextPair:
    """A row of TRL's preference format: explicit or implicit prompt, text or conversation.

    Raises:
        DataError: a column is missing or of the wrong type, or the margin is no finite number of
            at least 0.
    """
    margin = row.get("margin")
    if margin is not None:
        if isinstance(margin, bool) or not isinstance(margin, int | float):
            raise DataError(f"`margin` is {margin!r}, a number is expected")
        if not (math.isfinite(margin) and margin >= 0):
            raise DataError(f"`margin` is {margin}, at least 0 is expected")
    chosen, rejected = _either(row, "chosen"), _either(row, "rejected")
    prompt = _either(row, "prompt") if "prompt" in row else None
    kinds = {type(part) for part in (prompt, chosen, rejected) if part is not None}
    if len(kinds) > 1:
        raise DataError("it mixes texts and lists of messages; use one form in all columns")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if isinstance(prompt, str):
            return _pair(prompt, chosen, rejected, margin)
        if _TURN in chosen[: _n_shared(chosen, rejected)]:
            pair = hh_pair(row)
            return _pair(
                pair.prompt, chosen[len(pair.prompt) :], rejected[len(pair.prompt) :], margin
            )
        start = _shared_words(chosen, rejected)
        return _pair(chosen[:start], chosen[start:], rejected[start:], margin)
    if prompt is None:
        n_shared = _n_shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:n_shared], chosen[n_shared:], rejected[n_shared:]
    shared_text = dialogue_text(prompt)
    one, two = dialogue_text(chosen), dialogue_text(rejected)
    if one.startswith(_TURN) and two.startswith(_TURN):
        shared_text, one, two = shared_text + _TURN, one[len(_TURN) :], two[len(_TURN) :]
    return _pair(shared_text, one, two, margin)


def dialogue_text(messages: Any) -> str:
    """A conversation as one text, in HH's form.

    Raises:
        DataError: something is no message, a role is unknown, or a content is no text.
    """
    parts = []
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise DataError(f"{message!r} is no message; `role` and `content` are expected")
        speaker = _SPEAKERS.get(str(message["role"]))
        if speaker is None:
            accepted = ", ".join(_SPEAKERS)
            raise DataError(f"`role` is {message['role']!r}; accepted are {accepted}")
        if not isinstance(message["content"], str):
            raise DataError(f"`content` is {type(message['content']).__name__}, not text")
        parts.append(f"\n\n{speaker}: {message['content']}")
    return "".join(parts)


def _pair(prompt: str, chosen: str, rejected: str, margin: float | None) -> TextPair:
    """The pair, in an order that says nothing about which of the two was chosen."""
    details = {} if margin is None else {"margin": float(margin)}
    # Were the chosen one always first, "first" would be the answer to every query of the set.
    backward = _hash(chosen) > _hash(rejected)
    first, second = (rejected, chosen) if backward else (chosen, rejected)
    choice = Choice.SECOND if backward else Choice.FIRST
    return TextPair(prompt, first, second, choice, margin=margin, details=details)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _n_shared(one: Sequence[Any], two: Sequence[Any]) -> int:
    """How many entries two sequences begin with alike."""
    unequal = (i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    return next(unequal, min(len(one), len(two)))


def _shared_words(one: str, two: str) -> int:
    """Where two texts part, moved back to the beginning of the word and of the space before it.

    Tokenizers count the space to the word behind it: a prompt that ends in one is cut up as no
    text is.
    """
    end = _n_shared(one, two)
    while 0 < end and not one[end - 1].isspace():
        end -= 1
    return end - one[:end].endswith(" ")


def _text(row: Mapping[str, Any], name: str) -> str:
    value = _either(row, name)
    if not isinstance(value, str):
        raise DataError(f"`{name}` is a list, text is expected")
    return value


def _either(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise DataError(f"column `{name}` is missing; the columns are {', '.join(row) or 'none'}")
    value = row[name]
    if not isinstance(value, str | list):
        raise DataError(f"`{name}` is {value!r}, text or a list of messages is expected")
    return value
