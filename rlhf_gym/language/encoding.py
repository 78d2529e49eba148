r"""Text to token ids: plain text stays plain text, and a completion is cut up behind its prompt.

Three rules, for fine-tuning, for answers about pairs and for reward models alike:

1. **What a text spells is text.** "</s>" or "<pad>" inside a text becomes the tokens of those
   characters, never the special token. Two markers are no text, for chat templates write them: a
   BOS at the very beginning of a prompt, and an EOS at the very end of a completion that ended by
   itself (white space behind it goes with it). We put one of each there ourselves.
2. **The end is appended here, once**, behind completions that ended by themselves.
3. **A completion continues its prompt.** Its ids are those that the tokenizer gives it behind the
   prompt: sentencepiece tokenizers would begin each text with a space of their own. Where the two
   melt into one token at the boundary ("3+" and "4", with a token "+4"), a sampler could not have
   written that token behind the prompt, and the completion is cut up by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_gym.errors import DataError
from rlhf_gym.language.tokenizers import end_ids

__all__ = [
    "Continuations",
    "cut_left",
    "encode_continuations",
    "encode_texts",
    "list_rows",
    "tokens_needed",
]

_N_LISTED = 5
_LINE_END = "\n"
"""Behind it a text begins without the space that some tokenizers put before each text."""


@dataclass(frozen=True, eq=False)
class Continuations:
    """N prompts and their completions as token ids."""

    prompts: list[list[int]]
    """BOS in front where the tokenizer has one; empty for a row that is `bad`."""
    completions: list[list[int]]
    """EOS behind those that ended by themselves; empty for a row that is `bad`."""
    bad: dict[int, str]
    """The rows that cannot be used, and why: the field and what is wrong with it."""


def encode_continuations(
    tokenizer: Any,
    prompts: Sequence[str],
    completions: Sequence[str],
    finished: Sequence[bool],
) -> Continuations:
    """Tokenize N prompts and completions, see the rules above.

    Args:
        tokenizer: A transformers tokenizer with EOS.
        prompts: N texts; may be empty. Equal ones are tokenized once.
        completions: N texts, with the white space that follows their prompt; may be empty.
        finished: N flags: whether each ended by itself, and gets EOS.

    Returns:
        The ids; a row that holds what the tokenizer cannot write is listed as `bad`.
    """
    bos_id = tokenizer.bos_token_id
    heads = [_without_bos(tokenizer, prompt) for prompt in prompts]
    tails = [
        _without_end(tokenizer, text) if ended else text
        for text, ended in zip(completions, finished, strict=True)
    ]
    distinct = list(dict.fromkeys(heads))
    head_ids = dict(zip(distinct, _plain(tokenizer, distinct), strict=True))
    tail_ids = _behind(tokenizer, heads, tails, head_ids)
    found = Continuations([], [], {})
    for row, (head, tail, ended) in enumerate(zip(heads, tail_ids, finished, strict=True)):
        start = head_ids[head]
        if isinstance(start, str) or isinstance(tail, str):
            field, why = ("prompt", start) if isinstance(start, str) else ("completion", tail)
            found.bad[row] = f"its {field} {why}"
            start, tail, ended = [], [], False
        elif bos_id is not None:
            start = [int(bos_id), *start]
        found.prompts.append(list(start))
        found.completions.append([*tail, int(tokenizer.eos_token_id)] if ended else list(tail))
    return found


def encode_texts(
    tokenizer: Any, texts: Sequence[str], *, bos: bool, name: str = "text"
) -> list[list[int]]:
    """The token ids of whole texts, without special tokens but, on wish, BOS in front.

    Args:
        tokenizer: A transformers tokenizer.
        texts: N texts. One that already begins with BOS (from a chat template) does not get a
            second one.
        bos: Whether BOS is put in front, where the tokenizer has one.
        name: What a message calls them.

    Raises:
        DataError: a text holds what the tokenizer has no token for; the message names it.
    """
    bos_id = tokenizer.bos_token_id
    with_bos = bos and bos_id is not None
    plain = [_without_bos(tokenizer, text) for text in texts] if with_bos else list(texts)
    rows = []
    for index, ids in enumerate(_plain(tokenizer, plain)):
        if isinstance(ids, str):
            raise DataError(f"{name} {index} {ids}.")
        rows.append([int(bos_id), *ids] if with_bos else ids)
    return rows


def tokens_needed(tokenizer: Any, prompts: Sequence[str], completions: Sequence[str]) -> int:
    """The tokens of the longest of these completions, EOS included: what T must be at least.

    Raises:
        DataError: the tokenizer cannot write one of them.
    """
    found = encode_continuations(tokenizer, prompts, completions, [True] * len(prompts))
    for row, reason in found.bad.items():
        raise DataError(f"text {row} cannot be written by this tokenizer: {reason}.")
    return max(map(len, found.completions))


def cut_left(ids: list[int], max_tokens: int, bos_id: int | None) -> list[int]:
    """The last tokens, at most `max_tokens` of them; a BOS in front stays in front."""
    if len(ids) <= max_tokens:
        return ids
    head = ids[:1] if ids[0] == bos_id else []
    return head + ids[len(ids) - (max_tokens - len(head)) :]


def list_rows(reasons: Iterable[tuple[int, str]], *, row: str = "row") -> str:
    """Rows that were left out, by number and with the reason: the first few, and how many more."""
    every = list(reasons)
    shown = [f"{row} {number}: {why}" for number, why in every[:_N_LISTED]]
    more = [f"and {len(every) - _N_LISTED} more"] if len(every) > _N_LISTED else []
    return "; ".join([*shown, *more])


def _behind(
    tokenizer: Any,
    heads: Sequence[str],
    tails: Sequence[str],
    head_ids: dict[str, list[int] | str],
) -> list[list[int] | str]:
    """Each tail's ids behind its head, or what is wrong with it."""
    joined = [head + tail for head, tail in zip(heads, tails, strict=True)]
    found: list[list[int] | str] = []
    alone: list[int] = []
    for row, ids in enumerate(_plain(tokenizer, joined)):
        start = head_ids[heads[row]]
        continues = not isinstance(ids, str) and ids[: len(start)] == start
        if tails[row] and not continues:
            alone.append(row)
        found.append(ids[len(start) :] if tails[row] and continues else [])
    # A tokenizer of words may know both words and not what they make together.
    apart = _plain(tokenizer, [tails[row] for row in alone])
    lined = _plain(tokenizer, [_LINE_END + tails[row] for row in alone])
    line = _plain(tokenizer, [_LINE_END])[0] if alone else []
    for row, by_itself, behind in zip(alone, apart, lined, strict=True):
        usable = not isinstance(line, str) and not isinstance(behind, str) and bool(line)
        found[row] = behind[len(line) :] if usable and behind[: len(line)] == line else by_itself
    return found


def _plain(tokenizer: Any, texts: Sequence[str]) -> list[list[int] | str]:
    """Each text's ids, none of them special; or, of a text that has none, what is wrong."""
    if not texts:
        return []
    try:
        rows: list[list[int]] = tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
    except Exception as error:  # the tokenizers library raises plain Exception, and names no row
        if len(texts) > 1:
            half = len(texts) // 2
            return _plain(tokenizer, texts[:half]) + _plain(tokenizer, texts[half:])
        return [
            f"cannot be tokenized ({error}); a word-level tokenizer knows its own words only: take "
            "unknown words out, or use a byte-level tokenizer"
        ]
    special = _special_ids(tokenizer)
    return [ids if special.isdisjoint(ids) else _spelled(tokenizer, ids, special) for ids in rows]


def _special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that no text may hold. "Unknown" is not among them: it stands for text."""
    marks = {tokenizer.pad_token_id, tokenizer.bos_token_id, *end_ids(tokenizer)} - {None}
    unknown = {tokenizer.unk_token_id} - marks
    return frozenset(marks | set(tokenizer.all_special_ids) - unknown)


def _spelled(tokenizer: Any, ids: list[int], special: frozenset[int]) -> list[int] | str:
    """The ids with each special token as its characters; tokenizers without a switch need it.

    A Unigram model holds its special tokens as pieces like any other, and a slow tokenizer or one
    of words may look them up.
    """
    vocabulary = tokenizer.get_vocab()
    unknown = tokenizer.unk_token_id
    found: list[int] = []
    for token in ids:
        if token not in special:
            found.append(token)
            continue
        string = str(tokenizer.convert_ids_to_tokens(token))
        letters = [vocabulary.get(letter, unknown) for letter in string]
        if None in letters or not special.isdisjoint(letters):
            return (
                f"spells {string!r}, a special token that this tokenizer cannot write as plain "
                "text: take it out"
            )
        found += letters
    return found


def _without_bos(tokenizer: Any, text: str) -> str:
    bos = tokenizer.bos_token
    return text.removeprefix(bos) if bos else text


def _without_end(tokenizer: Any, text: str) -> str:
    """The text before its closing EOS, if it spells one, or several."""
    ends = tuple(str(tokenizer.convert_ids_to_tokens(token)) for token in end_ids(tokenizer))
    while (stripped := text.rstrip()).endswith(ends):
        end = max((end for end in ends if stripped.endswith(end)), key=len)
        text = stripped.removesuffix(end)
    return text
