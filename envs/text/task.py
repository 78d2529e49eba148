"""What a text task is: prompts, a reward, and when a text ends; nothing of learning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rlhf_gym.data import Array
from rlhf_gym.envs.text.prompts import PromptTable
from rlhf_gym.envs.text.rewards import TextReward, TextRewards
from rlhf_gym.errors import ConfigError, DataError

__all__ = ["FinishReason", "TaskScores", "TextTask", "completion_mask"]

FinishReason = Literal["eos", "length"]
Corpus = Callable[[np.random.Generator, int], tuple[list[str], list[str]]]
"""(rng, n) -> n prompts and n completions."""
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TaskScores:
    """What a task says of B completions."""

    total: npt.NDArray[np.float64]
    """(B,) the true reward: the weighted sum of the components."""
    components: dict[str, npt.NDArray[np.float64]]
    """(B,) each, by name, unweighted."""
    texts: list[str]
    """The completions, without special tokens."""
    finish_reasons: list[FinishReason]
    """ "eos" where the completion ended by itself, "length" where the limit cut it."""


class TextTask:
    """Prompts to be continued, and rewards for the continuations.

    A completion is at most `max_new_tokens` token ids, EOS included; it ends at its first EOS, or
    at that limit. Its text is what the tokenizer makes of the ids, special tokens left out. The
    empty completion (EOS at once) is legal and is scored like any other.

    Args:
        name: A short name, for messages and reports.
        tokenizer: A transformers tokenizer; it has EOS, and a PAD that is not EOS
            (`rlhf_gym.language.tokenizers.ready_tokenizer` makes one so).
        prompts: N texts, or a `PromptTable` (`read_prompts` reads one from a file).
        rewards: `reward(prompts, completions, **columns) -> list[float]`, or several by name, each
            a function or a `TextReward` with its weight. See `TextRewards` for the columns.
        max_new_tokens: T, at least 1; EOS counts. `rlhf_gym.language.encoding.tokens_needed` says
            what the longest of some completions takes.
        columns: N values each, by name; only with a list of prompts.
        max_prompt_tokens: P, BOS included; None takes the longest prompt's.
        on_too_long: What to do with prompts of more than P tokens: "refuse" them by an error, or
            "truncate" them on the left, which warns and counts (`n_truncated`). Rewards are given
            the whole prompt in any case.
        vocab_size: V, where the model's embedding has more rows than the tokenizer has tokens.
        forbidden_tokens: Tokens besides PAD and BOS that are never to be sampled.
        allow_empty_prompts: Whether a prompt may be "", which the tokenizer's BOS then stands for.
        corpus: `corpus(rng, n)` gives n prompts and n completions to fine-tune on before anything
            is learned from rewards or preferences; None: there is nothing to imitate.

    Raises:
        ConfigError: a setting that cannot work, a tokenizer without EOS or PAD, a reward that asks
            for a column that is not there.
        DataError: an empty or too long prompt, or columns that do not fit.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        prompts: Sequence[str] | PromptTable,
        rewards: Callable[..., Sequence[float]]
        | Mapping[str, Callable[..., Sequence[float]] | TextReward],
        *,
        max_new_tokens: int,
        columns: Mapping[str, Sequence[Any]] | None = None,
        max_prompt_tokens: int | None = None,
        on_too_long: Literal["refuse", "truncate"] = "refuse",
        vocab_size: int | None = None,
        forbidden_tokens: Sequence[str] = (),
        allow_empty_prompts: bool = False,
        corpus: Corpus | None = None,
    ) -> None:
        if isinstance(prompts, PromptTable) and columns is not None:
            raise ConfigError("`columns` come with the PromptTable; leave the argument out.")
        table = prompts if isinstance(prompts, PromptTable) else PromptTable(prompts, columns or {})
        _check_settings(max_new_tokens, max_prompt_tokens, on_too_long)
        _check_tokenizer(tokenizer)
        if not allow_empty_prompts:
            _refuse_empty(table.prompts)
        self.name = name
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.prompts = list(table.prompts)
        self.columns = {key: list(values) for key, values in table.columns.items()}
        self.rewards = TextRewards(rewards, list(self.columns))
        self.max_new_tokens = max_new_tokens
        self.pad_id: int = tokenizer.pad_token_id
        self.eos_id: int = tokenizer.eos_token_id
        self.eos_ids = _ends(tokenizer)
        self.vocab_size = _vocabulary(tokenizer, vocab_size)
        self.forbidden = self._forbidden(forbidden_tokens)
        self.prompt_ids, self.prompt_mask, self.n_truncated = self._encode(
            max_prompt_tokens, on_too_long
        )
        self.max_prompt_tokens: int = self.prompt_ids.shape[1]
        self._heads: dict[int, str] = {}  # the prompts as they decode, once asked for

    eos_ids: tuple[int, ...]
    """Every id that ends a completion; `eos_id`, the first, is the one written behind texts."""
    prompt_ids: npt.NDArray[np.int32]
    """(N, P) the prompts' token ids, padded on the left; read-only."""
    prompt_mask: Mask
    """(N, P) True where a prompt token is real; read-only."""
    forbidden: Mask
    """(V,) True for ids that are never to be sampled: PAD, BOS, ids without a token, and
    `forbidden_tokens`; read-only."""
    n_truncated: int
    """Prompts whose beginning was cut off."""

    def __len__(self) -> int:
        return len(self.prompts)

    def __repr__(self) -> str:
        return (
            f"TextTask({self.name!r}, {len(self)} prompts, P={self.max_prompt_tokens}, "
            f"T={self.max_new_tokens}, V={self.vocab_size}, "
            f"rewards={list(self.rewards.components)})"
        )

    def score(
        self, prompt_indices: Sequence[int] | Array, completion_ids: Array, mask: Array
    ) -> TaskScores:
        """Score completions given as token ids, with one call of each reward function.

        Args:
            prompt_indices: (B,) which prompt each completion belongs to.
            completion_ids: (B, T) integers in [0, V); shorter batches are fine.
            mask: (B, T) True where a token is real, EOS included.

        Raises:
            DataError: the shapes disagree, an id or an index is out of range, or a reward function
                returned something else than B numbers.
            NumericalError: a reward function returned NaN or infinity.
        """
        ids, real = np.asarray(completion_ids), np.asarray(mask, np.bool_)
        if ids.ndim != 2 or ids.shape != real.shape or len(ids) != len(prompt_indices):
            raise DataError(
                f"{len(prompt_indices)} prompt indices, ids of shape {ids.shape} and a mask of "
                f"shape {real.shape}; expected (B,), (B, T) and (B, T)."
            )
        if ids.size and not (0 <= ids.min() and ids.max() < self.vocab_size):
            raise DataError(
                f"token ids range from {ids.min()} to {ids.max()}, expected 0 to "
                f"{self.vocab_size - 1}; sample them with this task's tokenizer."
            )
        rows = [row[keep].tolist() for row, keep in zip(ids, real, strict=True)]
        finished = [bool(row) and row[-1] in self.eos_ids for row in rows]
        return self.score_texts(
            prompt_indices, self.completion_texts(prompt_indices, rows), finished
        )

    def score_texts(
        self, prompt_indices: Sequence[int] | Array, texts: Sequence[str], finished: Sequence[bool]
    ) -> TaskScores:
        """Score completions given as text: B prompt indices, B texts, B times whether it ended.

        Raises:
            DataError: the lengths disagree, an index is out of range, or as `score`.
            NumericalError: a reward function returned NaN or infinity.
        """
        if not len(prompt_indices) == len(texts) == len(finished):
            raise DataError(
                f"{len(prompt_indices)} prompt indices, {len(texts)} texts and {len(finished)} "
                "entries of `finished`; each completion needs one of each."
            )
        indices = [self.checked_index(index) for index in prompt_indices]
        ended = [bool(value) for value in finished]
        total, components = self.rewards(
            [self.prompts[index] for index in indices],
            list(texts),
            ended,
            {key: [values[index] for index in indices] for key, values in self.columns.items()},
        )
        reasons: list[FinishReason] = ["eos" if value else "length" for value in ended]
        return TaskScores(total, components, list(texts), reasons)

    def completion_texts(
        self, prompt_indices: Sequence[int] | Array, rows: Sequence[Sequence[int]]
    ) -> list[str]:
        """What B completions, given as real token ids, add to the texts of their prompts.

        Decoded behind the prompt: by itself, a completion would lose the space that it begins with
        under tokenizers that write it between tokens (one token per word) or take it off the
        beginning of each text (sentencepiece).

        Raises:
            DataError: there is no such prompt.
        """
        indices = [self.checked_index(index) for index in prompt_indices]
        for index in dict.fromkeys(indices):
            if index not in self._heads:
                self._heads[index] = self.whole_text(index, [])
        written = [self._without_end([int(token) for token in row]) for row in rows]
        wholes = self._decode_rows(
            [[*self._prompt(index), *ids] for index, ids in zip(indices, written, strict=True)]
        )
        # A completion may change how its prompt's last bytes decode; then it is read by itself.
        return [
            whole[len(self._heads[index]) :]
            if whole.startswith(self._heads[index])
            else self.decode(ids)
            for index, whole, ids in zip(indices, wholes, written, strict=True)
        ]

    def whole_text(self, prompt_index: int, completion_ids: Sequence[int] | Array) -> str:
        """A prompt and a completion as one text, decoded together: no space too many or few."""
        ids = self._without_end([int(token) for token in completion_ids])
        return self.decode([*self._prompt(prompt_index), *ids])

    def decode(self, ids: Sequence[int] | Array) -> str:
        """The text of one row of token ids, special tokens left out."""
        return self._decode_rows([[int(token) for token in ids]])[0]

    def checked_index(self, index: Any) -> int:
        """A prompt's index as int.

        Raises:
            DataError: it is no integer in [0, N).
        """
        if isinstance(index, int | np.integer) and 0 <= index < len(self):
            return int(index)
        raise DataError(
            f"prompt index {index!r} is not one of 0 to {len(self) - 1}, the prompts of "
            f"{self.name}."
        )

    def _prompt(self, index: int) -> list[int]:
        real: list[int] = self.prompt_ids[index][self.prompt_mask[index]].tolist()
        return real

    def _without_end(self, ids: list[int]) -> list[int]:
        # Not every model's other ends are special tokens, which decoding leaves out.
        return ids[:-1] if ids and ids[-1] in self.eos_ids else ids

    def _decode_rows(self, rows: list[list[int]]) -> list[str]:
        # Spaces are left as they are: a reward must see what was generated.
        texts: list[str] = self.tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts

    def _forbidden(self, tokens: Sequence[str]) -> Mask:
        known = self.tokenizer.get_vocab()
        unknown = [token for token in tokens if token not in known]
        if unknown:
            raise ConfigError(
                f"`forbidden_tokens` names {unknown[0]!r}, which is not in the vocabulary."
            )
        forbidden = np.arange(self.vocab_size) >= len(self.tokenizer)
        forbidden[[self.pad_id, *(known[token] for token in tokens)]] = True
        bos_id = self.tokenizer.bos_token_id
        # GPT-2 begins and ends its texts with one token; what ends them must stay allowed.
        if bos_id is not None and bos_id not in self.eos_ids:
            forbidden[bos_id] = True
        if forbidden.all():
            raise ConfigError("`forbidden_tokens` leaves nothing that may be sampled.")
        forbidden.flags.writeable = False
        return forbidden

    def _encode(
        self, max_tokens: int | None, on_too_long: Literal["refuse", "truncate"]
    ) -> tuple[npt.NDArray[np.int32], Mask, int]:
        from rlhf_gym.language.batches import encode_prompts  # loads torch

        limit = np.iinfo(np.int32).max if max_tokens is None else max_tokens
        encoded = encode_prompts(
            self.tokenizer,
            self.prompts,
            limit,
            on_too_long=on_too_long,
            fixed_width=max_tokens is not None,
        )
        if encoded.n_truncated:
            warnings.warn(
                f"{encoded.n_truncated} of {len(self)} prompts of {self.name} have more than "
                f"{max_tokens} tokens; their beginnings were cut off.",
                stacklevel=3,
            )
        ids = encoded.ids.numpy().astype(np.int32)
        mask = encoded.mask.numpy()
        ids.flags.writeable = mask.flags.writeable = False
        return ids, mask, encoded.n_truncated


def completion_mask(ids: Array, eos_ids: int | Sequence[int]) -> Mask:
    """(B, T) ids -> (B, T), True up to and including each row's first end."""
    is_eos = np.isin(ids, eos_ids)
    return np.asarray(np.cumsum(is_eos, axis=1) - is_eos == 0, np.bool_)


def _check_settings(max_new_tokens: int, max_prompt_tokens: int | None, on_too_long: str) -> None:
    for name, value in (
        ("max_new_tokens", max_new_tokens),
        ("max_prompt_tokens", max_prompt_tokens),
    ):
        if value is not None and value < 1:
            raise ConfigError(f"`{name}` is {value}, expected at least 1 token.")
    if on_too_long not in ("refuse", "truncate"):
        raise ConfigError(f"`on_too_long` is {on_too_long!r}, expected 'refuse' or 'truncate'.")


def _ends(tokenizer: Any) -> tuple[int, ...]:
    from rlhf_gym.language.tokenizers import end_ids  # loads transformers

    return end_ids(tokenizer)


def _check_tokenizer(tokenizer: Any) -> None:
    pad_id = getattr(tokenizer, "pad_token_id", None)
    eos_id = getattr(tokenizer, "eos_token_id", None)
    if pad_id is None or eos_id is None or pad_id in _ends(tokenizer):
        raise ConfigError(
            f"the tokenizer's PAD is {pad_id} and its EOS {eos_id}; both must exist and differ, or "
            "an ended text could not be told from a padded one. "
            "`rlhf_gym.language.tokenizers.ready_tokenizer(tokenizer)` adds a PAD."
        )


def _vocabulary(tokenizer: Any, vocab_size: int | None) -> int:
    if vocab_size is not None and vocab_size < len(tokenizer):
        raise ConfigError(
            f"`vocab_size` is {vocab_size}, but the tokenizer has {len(tokenizer)} tokens; pass "
            "the rows of the model's embedding, at least one for each token."
        )
    return len(tokenizer) if vocab_size is None else vocab_size


def _refuse_empty(prompts: Sequence[str]) -> None:
    empty = [row for row, prompt in enumerate(prompts) if not prompt.strip()]
    if empty:
        raise DataError(
            f"prompt {empty[0]} is empty ({len(empty)} of {len(prompts)}); remove it, or pass "
            "`allow_empty_prompts=True` to start those completions from BOS alone."
        )
