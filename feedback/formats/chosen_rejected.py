r"""Rows of chosen and rejected texts, in the forms that data sets and TRL use, as text pairs.

    {"prompt": "...", "chosen": "...", "rejected": "..."}            with or without "margin"
    {"chosen": "...", "rejected": "..."}                             both begin with the prompt
    {"prompt": [MESSAGE, ...], "chosen": [MESSAGE], "rejected": [MESSAGE]}     conversations, also
    {"chosen": [MESSAGE, ...], "rejected": [MESSAGE, ...]}                     with implicit prompt
    {"prompt": "...", "chosen": [MESSAGE, ...], "rejected": [MESSAGE, ...]}    UltraFeedback's form

A MESSAGE is {"role": "user", "content": "..."}. Dialogues become text as in Anthropic's HH data:
"\n\nHuman: ...\n\nAssistant: ...". Where the answers are conversations and the prompt is a text,
the conversations' common beginning is the prompt, as in TRL's `maybe_extract_prompt`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_gym.data import Choice
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.formats.columns import Columns, Question, plain_words
from rlhf_gym.feedback.formats.read_row import ReadRow, Remark
from rlhf_gym.feedback.formats.shared_text import ends_word, n_shared, shared_words
from rlhf_gym.feedback.formats.text_pairs import TextPair

__all__ = ["read_hh", "read_trl"]

_TURN = "\n\nAssistant:"
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}
_USUAL = Columns()

_Texts = tuple[str, str, str]
"""Prompt, chosen and rejected completion."""

_Turns = list[tuple[str, str]]
"""Speaker and words of each message."""


def read_hh(row: Mapping[str, Any]) -> ReadRow:
    r"""A row of Anthropic's HH-RLHF: two dialogues that share all up to an assistant's turn.

    The prompt ends with the last "\n\nAssistant:" that both share before they part.

    Raises:
        DataError: a column is missing, no text, or the two share no such turn.
    """
    texts = [_either(row, name) for name in ("chosen", "rejected")]
    for name, text in zip(("chosen", "rejected"), texts, strict=True):
        if not isinstance(text, str):
            raise DataError(f"`{name}` is a list, text is expected")
    parts = _split_dialogues(texts[0], texts[1])
    if parts is None:
        raise DataError(
            f"`chosen` and `rejected` share no {_TURN!r} before they part after "
            f"{n_shared(*texts)} characters; their prompts differ, or this is not HH's form"
        )
    return ReadRow((_pair(parts, None, None),), frozenset(("chosen", "rejected")))


def read_trl(row: Mapping[str, Any], columns: Columns = _USUAL) -> ReadRow:
    """A row of TRL's preference format: explicit or implicit prompt, text or conversation.

    Equal scores, or a margin of 0, make a tie; scores that contradict the label change nothing and
    are remarked.

    Raises:
        DataError: a column is missing or of the wrong type, there is no prompt, or several columns
            may be it.
    """
    names = columns.of("chosen"), columns.of("rejected")
    chosen, rejected = (_either(row, name) for name in names)
    if type(chosen) is not type(rejected):
        raise DataError(
            f"`{names[0]}` and `{names[1]}` mix texts and lists of messages; use one form in both"
        )
    question = columns.question(row)
    margin, scores = columns.margin(row), columns.scores(row)
    used = question.used.union(names, columns.score_names(row) or ())
    used |= {columns.of("margin")} if margin is not None else set()
    remarks: set[Remark] = set()
    are_texts = isinstance(chosen, str)
    if are_texts:
        texts = _read_texts(question, chosen, rejected, remarks)
    else:
        chosen, rejected = _turns(chosen), _turns(rejected)
        texts = _read_conversations(question, chosen, rejected, remarks)
        chosen, rejected = _join(chosen), _join(rejected)
    if texts is None and columns.no_prompt:
        texts = question.system, chosen, rejected
    elif texts is None:
        others = columns.other_texts(row, used)
        at = 0
        if are_texts and not others and question.prompt is None and not question.system:
            at = shared_words(chosen, rejected)
            # Tokenizers count a space to the word behind it: it goes to the answers.
            at -= chosen[:at].endswith(" ")
        if not at:
            raise DataError(_no_prompt(row, others))
        texts = chosen[:at], chosen[at:], rejected[at:]
    pair = _pair(texts, margin, scores)
    if pair.choice is Choice.TIE:
        remarks.add(Remark.EQUAL)
    elif scores is not None and scores[0] < scores[1]:
        remarks.add(Remark.AGAINST_SCORES)
    return ReadRow((pair,), frozenset(used & row.keys()), frozenset(remarks))


def _read_texts(
    question: Question, chosen: str, rejected: str, remarks: set[Remark]
) -> _Texts | None:
    """Answers that are texts; None where no column holds the prompt."""
    dialogues = _split_dialogues(chosen, rejected)
    asked = question.prompt
    if not asked:
        return dialogues and (_with_system(question.system, dialogues[0]), *dialogues[1:])
    said = asked if isinstance(asked, str) else _join(_turns(asked)) + _TURN
    prompt = _with_system(question.system, said)
    for repeated in (prompt, said):
        if all(t.startswith(repeated) and ends_word(t, len(repeated)) for t in (chosen, rejected)):
            remarks.add(Remark.REPEATED)
            return prompt, chosen[len(repeated) :], rejected[len(repeated) :]
    if dialogues is not None and plain_words(asked) in plain_words(dialogues[0]):
        remarks.add(Remark.REPEATED)
        return _with_system(question.system, dialogues[0]), *dialogues[1:]
    if isinstance(asked, list):
        return prompt, f" {chosen}", f" {rejected}"
    return prompt, chosen, rejected


def _read_conversations(
    question: Question, chosen: _Turns, rejected: _Turns, remarks: set[Remark]
) -> _Texts | None:
    """Answers that are conversations; None where no prompt is found."""
    n = n_shared(chosen, rejected)
    if question.prompt and isinstance(question.prompt, list):
        prompt = _turns(question.prompt)
        if chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
            remarks.add(Remark.REPEATED)
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    elif n:
        prompt, chosen, rejected = chosen[:n], chosen[n:], rejected[n:]
        if question.prompt and plain_words(question.prompt) not in plain_words(_join(prompt)):
            remarks.add(Remark.OTHER_PROMPT)
    elif question.prompt:
        prompt = [("Human", str(question.prompt))]
    else:
        return None
    if question.system and "System" not in dict(prompt):
        prompt = [("System", question.system), *prompt]
    shared, one, two = _join(prompt), _join(chosen), _join(rejected)
    if one.startswith(_TURN) and two.startswith(_TURN):
        return shared + _TURN, one[len(_TURN) :], two[len(_TURN) :]
    return shared, one, two


def _no_prompt(row: Mapping[str, Any], others: Sequence[str]) -> str:
    """What to say of a row whose prompt is neither in a column of a known name nor in its texts."""
    columns = f"the columns are {', '.join(row)}"
    if not others:
        return (
            f"it has no prompt; {columns}. Name the prompt's column, `--columns prompt=COLUMN`, or "
            "take such rows without a prompt, `--no-prompt`"
        )
    named = ", ".join(f"`{name}`" for name in others[:5])
    return (
        f"the prompt is in none of the columns that usually hold it; {columns}. If it is in "
        f"{named}: `--columns prompt={others[0]}`; if both texts begin with it: `--columns "
        "chosen=chosen,rejected=rejected`; if there is none: `--no-prompt`"
    )


def _with_system(system: str, prompt: str) -> str:
    if not system:
        return prompt
    if prompt.startswith(("\n\nHuman:", "\n\nAssistant:")):
        return f"\n\nSystem: {system}{prompt}"
    return prompt if prompt.startswith("\n\nSystem:") else f"{system}\n\n{prompt}"


def _split_dialogues(chosen: str, rejected: str) -> _Texts | None:
    """Two dialogues in HH's form behind the last assistant's turn that both share; None if none."""
    shared = chosen[: n_shared(chosen, rejected)]
    turn = shared.rfind(_TURN)
    if turn < 0:
        return None
    end = turn + len(_TURN)
    return chosen[:end], chosen[end:], rejected[end:]


def _turns(messages: Sequence[Any]) -> _Turns:
    """Speaker and words of each message.

    Raises:
        DataError: something is no message, a role is unknown, or a content is no text.
    """
    turns = []
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise DataError(f"{message!r} is no message; `role` and `content` are expected")
        speaker = _SPEAKERS.get(str(message["role"]))
        if speaker is None:
            accepted = ", ".join(_SPEAKERS)
            raise DataError(f"`role` is {message['role']!r}; accepted are {accepted}")
        if not isinstance(message["content"], str):
            raise DataError(f"`content` is {type(message['content']).__name__}, not text")
        turns.append((speaker, message["content"]))
    return turns


def _join(turns: _Turns) -> str:
    return "".join(f"\n\n{speaker}: {words}" for speaker, words in turns)


def _pair(texts: _Texts, margin: float | None, scores: tuple[float, float] | None) -> TextPair:
    """The pair, in an order that says nothing about which of the two was chosen."""
    prompt, chosen, rejected = texts
    details: dict[str, float] = {} if margin is None else {"margin": margin}
    # Were the chosen one always first, "first" would be the answer to every query of the set.
    backward = _hash(chosen) > _hash(rejected)
    first, second = (rejected, chosen) if backward else (chosen, rejected)
    choice = Choice.SECOND if backward else Choice.FIRST
    if margin == 0 or (scores is not None and scores[0] == scores[1]):
        choice = Choice.TIE
    if scores is not None:
        ordered = scores[::-1] if backward else scores
        details |= {"score_first": ordered[0], "score_second": ordered[1]}
    return TextPair(prompt, first, second, choice, margin=margin, details=details)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _either(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise DataError(f"column `{name}` is missing; the columns are {', '.join(row) or 'none'}")
    value = row[name]
    if not isinstance(value, str | list):
        raise DataError(f"`{name}` is {value!r}, text or a list of messages is expected")
    return value
