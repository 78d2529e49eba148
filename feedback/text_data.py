"""Texts as rows of token ids whose last index is known, and preferences as pairs of such rows.

A score is read at the last real token. Where that is must never be guessed from padding: with PAD
equal to EOS, or PAD in the text, the guess is another token, and the model looks untrained
(TRL issue 937, transformers issue 35352). Rows keep their lengths instead.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from rlhf_gym.data import Array, Clip
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.language.batches import TokenBatch, pad_right
from rlhf_gym.language.encoding import cut_left, encode_continuations, list_rows
from rlhf_gym.text_clips import clip_finished, clip_text

__all__ = [
    "EncodedTexts",
    "PairTable",
    "TextLimits",
    "clip_texts",
    "encode_texts",
    "losses_note",
    "pack_right",
    "pair_table",
]

_log = logging.getLogger(__name__)


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
    bad: dict[int, str] = field(default_factory=dict)
    """Texts that cannot be written in tokens, their rows empty, and why."""

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, which: Array) -> EncodedTexts:
        """Some of the texts, in the order given; what is counted, and `bad`, is of all."""
        rows = [self.rows[index] for index in which]
        return replace(self, rows=rows, completion_lengths=self.completion_lengths[which])

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
    *,
    on_bad: Literal["refuse", "mark"] = "refuse",
) -> EncodedTexts:
    """Tokenize M prompts, and completions behind them, as a sampler has them.

    What a text spells is text, special tokens too; see `rlhf_gym.language.encoding`.

    Args:
        tokenizer: A transformers tokenizer with EOS.
        prompts: M texts; BOS is put in front where the tokenizer has one. May be empty.
        completions: M texts; may be empty.
        finished: M flags: EOS is put behind those that ended by themselves.
        limits: What is too long. A completion that is cut loses its EOS too: it did not end there.
        on_bad: What becomes of a text that cannot be used: an error, or a note in `bad`.

    Raises:
        DataError: other counts; a text that is too long where that is to be refused; unless they
            are to be marked, one without any token, or that the tokenizer cannot write.
    """
    if not len(prompts) == len(completions) == len(finished):
        raise DataError(
            f"{len(prompts)} prompts, {len(completions)} completions and {len(finished)} flags; "
            "each text needs one of each."
        )
    found = encode_continuations(tokenizer, prompts, completions, finished)
    rows, lengths = list[list[int]](), list[int]()
    bad = {row: f"cannot be used: {reason}" for row, reason in found.bad.items()}
    n_prompts = n_completions = 0
    for index, (head, tail) in enumerate(zip(found.prompts, found.completions, strict=True)):
        too_long = len(head) > limits.prompt, len(tail) > limits.completion
        if any(too_long) and limits.on_too_long == "refuse":
            raise DataError(
                f"text {index} has {len(head)} prompt and {len(tail)} completion tokens, more than "
                f"{limits.prompt} and {limits.completion}; raise the limits, shorten it, or choose "
                "to truncate."
            )
        if not head and not tail:
            bad.setdefault(
                index,
                "has no token: prompt and completion are empty and the tokenizer has no BOS; omit "
                "it, or use a tokenizer with BOS",
            )
        n_prompts += too_long[0]
        n_completions += too_long[1]
        tail = tail[: limits.completion]
        rows.append([*cut_left(head, limits.prompt, tokenizer.bos_token_id), *tail])
        lengths.append(len(tail))
    if bad and on_bad == "refuse":
        raise DataError(f"text {min(bad)} {bad[min(bad)]}.")
    return EncodedTexts(rows, np.array(lengths, np.int64), n_prompts, n_completions, bad)


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
    left_out: Sequence[tuple[int, str]] = ()
    """Answers left out because a text cannot be used, by their number, and why."""

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
    texts = encode_texts(tokenizer, *clip_texts(clips), limits, on_bad="mark")
    kept_texts = np.array([row for row in range(len(texts)) if row not in texts.bad], np.int64)
    left_out = {
        number: f"{side} text {texts.bad[text]}"
        for number, pair in enumerate(pairs.tolist())
        for side, text in (("second", pair[1]), ("first", pair[0]))
        if text in texts.bad
    }
    alike = {n for n, (a, b) in enumerate(pairs) if texts.rows[a] == texts.rows[b]} - set(left_out)
    kept = np.array(
        [n for n in range(len(pairs)) if n not in alike and n not in left_out], np.int64
    )
    note = losses_note(texts, left_out, len(pairs))
    if not len(kept):
        raise DataError(
            f"none of {len(pairs)} answers has two different texts within {limits.prompt} prompt "
            f"and {limits.completion} completion tokens; raise the limits. {note}".rstrip()
        )
    if note:
        _log.warning(note)
    numbers: dict[str, int] = {}
    contexts = [clips[row].context_id for row in kept_texts]
    groups = [numbers.setdefault(context, len(numbers)) for context in contexts]
    return PairTable(
        texts=texts.select(kept_texts),
        groups=np.array(groups, np.int64),
        pairs=np.searchsorted(kept_texts, pairs[kept]),
        probs=np.asarray(preferences.probs, np.float32)[kept],
        margins=_margins(preferences)[kept],
        query_ids=[preferences.query_ids[row] for row in kept],
        context_ids=[clips[pairs[row, 0]].context_id for row in kept],
        n_identical=len(alike),
        left_out=sorted(left_out.items()),
    )


def losses_note(
    texts: EncodedTexts, left_out: Mapping[int, str] | None = None, n_answers: int = 0
) -> str:
    """What was cut of texts, and which answers were left out, in one line; empty where nothing."""
    parts = []
    if texts.n_completions_truncated:
        parts.append(f"{texts.n_completions_truncated} completions lost their end")
    if texts.n_prompts_truncated:
        parts.append(f"{texts.n_prompts_truncated} prompts lost their beginning")
    if left_out:
        listed = list_rows(sorted(left_out.items()), row="answer")
        parts.append(f"{len(left_out)} of {n_answers} answers left out ({listed})")
    return f"reward model, of {len(texts)} texts: {'; '.join(parts)}" if parts else ""


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
