"""Texts as rows of token ids whose last index is known, and preferences as pairs of such rows.

A score is read at the last real token. Where that is must never be guessed from padding: with PAD
equal to EOS, or PAD in the text, the guess is another token, and the model looks untrained
(TRL issue 937, transformers issue 35352). Rows keep their lengths instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from rlhf_gym.data import Array, Clip
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.language.batches import TokenBatch, pad_right
from rlhf_gym.text_clips import clip_finished, clip_text

__all__ = [
    "EncodedTexts",
    "PairTable",
    "TextLimits",
    "clip_texts",
    "encode_texts",
    "pack_right",
    "pair_table",
]


@dataclass(frozen=True)
class TextLimits:
    """How long a text may be, in tokens."""

    prompt: int
    """BOS included."""
    completion: int
    """EOS included."""
    on_too_long: Literal["truncate", "refuse"] = "truncate"
    """What becomes of longer ones."""


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """M texts, each prompt and completion in one row."""

    rows: list[list[int]]
    """Token ids without padding: BOS, prompt, completion, and EOS where it ended by itself."""
    completion_lengths: Array
    """(M,) int64, tokens of each completion, EOS included."""
    n_prompts_truncated: int
    """Texts whose prompt lost its beginning."""
    n_completions_truncated: int
    """Texts whose completion lost its end."""

    def __len__(self) -> int:
        return len(self.rows)

    def padded(self, which: Sequence[int], pad_id: int) -> tuple[Tensor, Tensor]:
        """Some of the texts: (b, L) int64 ids padded on the right, and (b,) last indices."""
        chosen = [self.rows[index] for index in which]
        ids, mask = pad_right(chosen, pad_id)
        return ids, mask.sum(1) - 1


def encode_texts(
    tokenizer: Any,
    prompts: Sequence[str],
    completions: Sequence[str],
    finished: Sequence[bool],
    limits: TextLimits,
) -> EncodedTexts:
    """Tokenize M prompts and completions, apart, as a sampler has them.

    Args:
        tokenizer: A transformers tokenizer with EOS.
        prompts: M texts; BOS is put in front where the tokenizer has one. May be empty.
        completions: M texts; may be empty.
        finished: M flags: EOS is put behind those that ended by themselves.
        limits: What is too long. A completion that is cut loses its EOS too: it did not end there.

    Raises:
        DataError: other counts, a text without any token, or a text that is too long where that is
            to be refused.
    """
    if not len(prompts) == len(completions) == len(finished):
        raise DataError(
            f"{len(prompts)} prompts, {len(completions)} completions and {len(finished)} flags; "
            "each text needs one of each."
        )
    heads = _prompt_tokens(tokenizer, prompts)
    tails = _tokens(tokenizer, completions)
    rows, lengths = [], []
    n_prompts = n_completions = 0
    for index, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        end = [int(tokenizer.eos_token_id)] if finished[index] else []
        row = [*tail, *end]
        too_long = len(head) > limits.prompt, len(row) > limits.completion
        if any(too_long) and limits.on_too_long == "refuse":
            raise DataError(
                f"text {index} has {len(head)} prompt and {len(row)} completion tokens, more than "
                f"{limits.prompt} and {limits.completion}; raise the limits, shorten it, or choose "
                "to truncate."
            )
        n_prompts += too_long[0]
        n_completions += too_long[1]
        kept = _cut_left(head, limits.prompt, tokenizer.bos_token_id)
        row = row[: limits.completion]
        if not kept and not row:
            raise DataError(
                f"text {index} has no token: prompt and completion are empty and the tokenizer has "
                "no BOS; leave it out, or use a tokenizer with BOS."
            )
        rows.append([*kept, *row])
        lengths.append(len(row))
    return EncodedTexts(rows, np.array(lengths, np.int64), n_prompts, n_completions)


def clip_texts(clips: Sequence[Clip]) -> tuple[list[str], list[str], list[bool]]:
    """Prompts, completions and whether they ended by themselves, of text clips.

    Raises:
        DataError: a clip that holds no text.
    """
    texts = [clip_text(clip) for clip in clips]
    return [t[0] for t in texts], [t[1] for t in texts], [clip_finished(clip) for clip in clips]


@dataclass(frozen=True, eq=False)
class PairTable:
    """N answers to pairs of M texts."""

    texts: EncodedTexts
    """M distinct texts, each once, in however many pairs it is."""
    groups: Array
    """(M,) int64, the number of each text's prompt."""
    pairs: Array
    """(N, 2) int64, rows of `texts`: first and second."""
    probs: Array
    """(N,) float32, P(first preferred)."""
    margins: Array
    """(N,) float32, by how much the better one's score is to lead, at least 0."""
    query_ids: list[str]
    """What decides who is held out and resampled."""
    context_ids: list[str]
    """The prompt of each answer."""
    n_identical: int = 0
    """Answers left out because cutting made their two texts equal."""

    def __len__(self) -> int:
        return len(self.pairs)


def pair_table(preferences: PreferenceSet, tokenizer: Any, limits: TextLimits) -> PairTable:
    """Stored answers to text pairs, SKIP left out before, as rows of token ids.

    Raises:
        DataError: a clip that is no text, a bad margin, or no answer with two different texts.
    """
    used, flat = np.unique(preferences.pairs, return_inverse=True)
    pairs = flat.reshape(-1, 2)  # (N, 2)
    clips = [preferences.clips.clip(int(row)) for row in used]
    texts = encode_texts(tokenizer, *clip_texts(clips), limits)
    differ = np.array([texts.rows[a] != texts.rows[b] for a, b in pairs], bool)
    if not differ.any():
        raise DataError(
            f"none of {len(pairs)} answers has two different texts within {limits.prompt} prompt "
            f"and {limits.completion} completion tokens; raise the limits."
        )
    kept = np.flatnonzero(differ)
    numbers: dict[str, int] = {}
    contexts = [clip.context_id for clip in clips]
    groups = [numbers.setdefault(context, len(numbers)) for context in contexts]
    return PairTable(
        texts=texts,
        groups=np.array(groups, np.int64),
        pairs=pairs[kept],
        probs=np.asarray(preferences.probs, np.float32)[kept],
        margins=_margins(preferences)[kept],
        query_ids=[preferences.query_ids[row] for row in kept],
        context_ids=[contexts[pairs[row, 0]] for row in kept],
        n_identical=int((~differ).sum()),
    )


def pack_right(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """A batch as (B, L) ids with all padding on the right, and (B,) last indices.

    The prompts' padding moves behind the completion, so that rows are read exactly as in a fit.
    """
    mask = batch.attention_mask  # (B, P + T)
    last = mask.sum(1) - 1  # (B,)
    width = int(last.max()) + 1 if len(batch) else 0
    order = (~mask).int().argsort(dim=1, stable=True)[:, :width]  # real tokens first, in order
    return batch.input_ids.gather(1, order), last


def _margins(preferences: PreferenceSet) -> Array:
    """(N,) float32; a tie has none, whatever was noted beside it."""
    margins = np.zeros(len(preferences), np.float32)
    for row, details in enumerate(preferences.answers.details):
        value = details.get("margin")
        if value is None or preferences.probs[row] == 0.5:
            continue
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise DataError(
                f"answer {row} (query {preferences.query_ids[row][:12]}) has the margin {value!r}; "
                "a finite number of at least 0 is expected."
            )
        margins[row] = value
    return margins


def _prompt_tokens(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """BOS and the tokens of each prompt; equal prompts are tokenized once."""
    distinct = list(dict.fromkeys(prompts))
    bos = tokenizer.bos_token_id
    found = {}
    for prompt, ids in zip(distinct, _tokens(tokenizer, distinct), strict=True):
        # A text from a chat template may begin with BOS already.
        found[prompt] = ids if bos is None or ids[:1] == [bos] else [bos, *ids]
    return [found[prompt] for prompt in prompts]


def _tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
    )["input_ids"]
    return ids


def _cut_left(ids: list[int], length: int, bos_id: int | None) -> list[int]:
    if len(ids) <= length:
        return ids
    head = ids[:1] if ids[0] == bos_id else []
    return head + ids[len(ids) - (length - len(head)) :]
