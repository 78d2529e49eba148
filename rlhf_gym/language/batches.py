"""Token ids as tensors: prompts padded on the left, completions on the right.

The boundary between the two stands at one column for all rows, so that the first completion token
of every row is predicted at the same place, and a KV cache grows by one column per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.language.encoding import cut_left, encode_texts

__all__ = [
    "EncodedPrompts",
    "TokenBatch",
    "by_length",
    "encode_prompts",
    "pad_left",
    "pad_right",
    "positions_of",
]


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """B prompts and their completions, on one device."""

    prompt_ids: Tensor
    """(B, P) int64, left-padded with `pad_id`; every row has at least one real token."""
    prompt_mask: Tensor
    """(B, P) bool, True where the token is real."""
    completion_ids: Tensor
    """(B, T) int64, right-padded with `pad_id`; an EOS, where there is one, is the last real."""
    completion_mask: Tensor
    """(B, T) bool, EOS included; a row may be all False: the empty completion."""
    pad_id: int
    """What stands where the masks are False."""
    eos_id: int
    """Ends a completion; never equal to `pad_id`."""
    also_ends: tuple[int, ...] = ()
    """Other ids that end one too, as chat models have them; PAD is none of them."""

    def __post_init__(self) -> None:
        for ids_name, mask_name in (
            ("prompt_ids", "prompt_mask"),
            ("completion_ids", "completion_mask"),
        ):
            ids, mask = getattr(self, ids_name), getattr(self, mask_name)
            if ids.ndim != 2 or ids.shape != mask.shape or len(ids) != len(self.prompt_ids):
                raise DataError(
                    f"`{ids_name}` {tuple(ids.shape)} and `{mask_name}` {tuple(mask.shape)} must "
                    f"be matrices of one shape with {len(self.prompt_ids)} rows."
                )
            if ids.dtype != torch.int64 or mask.dtype != torch.bool:
                raise DataError(
                    f"`{ids_name}` is {ids.dtype} and `{mask_name}` {mask.dtype}; they must be "
                    "torch.int64 and torch.bool."
                )
        if self.pad_id in (self.eos_id, *self.also_ends):
            raise DataError(
                f"`pad_id` and an end are both {self.pad_id}; a padded row could not be told "
                "from an ended one. Give the tokenizer a PAD token of its own."
            )

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @property
    def input_ids(self) -> Tensor:
        """(B, P + T) int64, prompts and completions side by side."""
        return torch.cat([self.prompt_ids, self.completion_ids], dim=1)

    @property
    def attention_mask(self) -> Tensor:
        """(B, P + T) bool, True where `input_ids` is real."""
        return torch.cat([self.prompt_mask, self.completion_mask], dim=1)

    @property
    def position_ids(self) -> Tensor:
        """(B, P + T) int64: a real token's index among the real ones; padding adds nothing."""
        return positions_of(self.attention_mask)

    @property
    def lengths(self) -> Tensor:
        """(B,) int64, tokens of each completion, EOS included."""
        return self.completion_mask.sum(1)

    @property
    def finished(self) -> Tensor:
        """(B,) bool, whether the completion ended by EOS and not by the limit."""
        if self.completion_ids.shape[1] == 0:
            return torch.zeros(len(self), dtype=torch.bool, device=self.completion_ids.device)
        last = (self.lengths - 1).clamp(min=0)[:, None]  # (B, 1)
        token = self.completion_ids.gather(1, last)[:, 0]  # (B,)
        return torch.isin(token, self.ends) & (self.lengths > 0)

    @property
    def ends(self) -> Tensor:
        """(n,) int64, every id that ends a completion, on the batch's device."""
        ids = (self.eos_id, *self.also_ends)
        return torch.tensor(ids, device=self.completion_ids.device)

    def select(self, rows: Tensor | Sequence[int] | slice) -> TokenBatch:
        """The given rows, in the order given."""
        index: Any = rows if isinstance(rows, slice | Tensor) else torch.as_tensor(list(rows))
        return replace(self, **{name: getattr(self, name)[index] for name in _TENSORS})

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def trimmed(self) -> TokenBatch:
        """The same batch without the columns that are padding in every row.

        Less to compute, the same log-probabilities. At least one prompt column stays.
        """
        if len(self) == 0:
            return self
        n_prompt = max(int(self.prompt_mask.sum(1).max()), 1)
        n_completion = int(self.lengths.max())
        return replace(
            self,
            prompt_ids=self.prompt_ids[:, -n_prompt:],
            prompt_mask=self.prompt_mask[:, -n_prompt:],
            completion_ids=self.completion_ids[:, :n_completion],
            completion_mask=self.completion_mask[:, :n_completion],
        )

    def completion_lists(self) -> list[list[int]]:
        """The completions' real tokens, EOS included, as plain lists."""
        pairs = zip(self.completion_ids.tolist(), self.lengths.tolist(), strict=True)
        return [ids[:length] for ids, length in pairs]

    @classmethod
    def from_lists(
        cls,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        pad_id: int,
        eos_id: int,
        *,
        also_ends: tuple[int, ...] = (),
        prompt_length: int | None = None,
        completion_length: int | None = None,
        device: torch.device | str = "cpu",
    ) -> TokenBatch:
        """Pad plain lists of token ids.

        Args:
            prompts: B lists, none empty (a model that has no BOS needs some token to start from).
            completions: B lists; those that ended by themselves end in `eos_id`, or another end.
            pad_id: The padding.
            eos_id: The end.
            also_ends: Other ids that end a completion.
            prompt_length: P; None takes the longest prompt's.
            completion_length: T; None takes the longest completion's.
            device: Where the tensors go.

        Raises:
            DataError: other counts of rows, an empty prompt, a row that is longer than its limit,
                PAD among the real tokens, or an end before the end of a completion.
        """
        if len(prompts) != len(completions):
            raise DataError(
                f"{len(prompts)} prompts and {len(completions)} completions; each prompt needs one."
            )
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            if pad_id in prompt or pad_id in completion:
                raise DataError(
                    f"row {row} holds the PAD id {pad_id} as a real token; pad ids are added here."
                )
            ends = {eos_id, *also_ends}
            early = next((at for at, token in enumerate(completion[:-1]) if token in ends), None)
            if early is not None:
                raise DataError(
                    f"completion {row} goes on after EOS ({completion[early]}) at token {early}; "
                    "cut it there."
                )
        prompt_ids, prompt_mask = pad_left(prompts, pad_id, prompt_length)
        ids, mask = pad_right(completions, pad_id, completion_length)
        return cls(prompt_ids, prompt_mask, ids, mask, pad_id, eos_id, also_ends).to(device)


_TENSORS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


def positions_of(mask: Tensor) -> Tensor:
    """(B, L) bool -> (B, L) int64 positions that do not count padding; 0 before the first token."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


# Few enough to stay in a processor's cache, enough to keep its multiplications efficient.
_TOKENS_AT_ONCE = {"cpu": 1024}
_TOKENS_ELSEWHERE = 32_768


def by_length(lengths: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """Rows in groups of like length: computed group by group, little of it is padding.

    Args:
        lengths: (B,) int64, tokens of each row.
        device: Where they are computed; it decides how many tokens a group has.

    Returns:
        Groups of row indices, each (b,) int64, every row in one of them; the shortest come first.
    """
    most = _TOKENS_AT_ONCE.get(device.type, _TOKENS_ELSEWHERE)
    order = lengths.argsort(stable=True)
    sizes: list[int] = []
    for length in lengths[order].tolist():
        if sizes and (sizes[-1] + 1) * length <= most:
            sizes[-1] += 1
        else:
            sizes.append(1)
    return torch.split(order, sizes) if sizes else ()


def pad_right(
    rows: Sequence[Sequence[int]], pad_id: int, length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Lists of ids -> (B, L) int64 ids and (B, L) bool mask, padded on the right.

    Raises:
        DataError: a row has more than `length` tokens.
    """
    width = max((len(row) for row in rows), default=0) if length is None else length
    ids = np.full((len(rows), width), pad_id, np.int64)
    mask = np.zeros((len(rows), width), np.bool_)
    for index, row in enumerate(rows):
        if len(row) > width:
            raise DataError(f"row {index} has {len(row)} tokens, more than the limit of {width}.")
        ids[index, : len(row)] = row
        mask[index, : len(row)] = True
    return torch.from_numpy(ids), torch.from_numpy(mask)


def pad_left(
    rows: Sequence[Sequence[int]], pad_id: int, length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Lists of ids -> (B, L) int64 ids and (B, L) bool mask, padded on the left.

    Raises:
        DataError: a row is empty or has more than `length` tokens.
    """
    empty = [index for index, row in enumerate(rows) if len(row) == 0]
    if empty:
        raise DataError(
            f"prompt {empty[0]} has no token ({len(empty)} such rows); a completion starts from at "
            "least one, for example BOS."
        )
    ids, mask = pad_right([row[::-1] for row in rows], pad_id, length)
    return ids.flip(1), mask.flip(1)


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """Prompts as a sampler takes them."""

    ids: Tensor
    """(B, P) int64, left-padded."""
    mask: Tensor
    """(B, P) bool."""
    n_truncated: int
    """Prompts whose beginning was cut off; report it, never drop it silently."""


def encode_prompts(
    tokenizer: Any,
    texts: Sequence[str],
    max_tokens: int,
    *,
    on_too_long: Literal["refuse", "truncate"] = "refuse",
    fixed_width: bool = True,
) -> EncodedPrompts:
    """Tokenize prompts: BOS in front where the tokenizer has one, padded on the left.

    Args:
        tokenizer: A transformers tokenizer with PAD, see `ready_tokenizer`.
        texts: B prompts; an empty one is legal where the tokenizer has a BOS.
        max_tokens: P, BOS included.
        on_too_long: "refuse" raises; "truncate" keeps BOS and the last tokens, and counts.
        fixed_width: Whether P is `max_tokens`, or only as wide as the longest prompt.

    Raises:
        DataError: a prompt has no token, or too many; the message names the row.
        ConfigError: `max_tokens` is below 1.
    """
    if max_tokens < 1:
        raise ConfigError(f"`max_tokens` is {max_tokens}; a prompt has at least 1 token.")
    rows = encode_texts(tokenizer, texts, bos=True, name="prompt")
    too_long = [index for index, row in enumerate(rows) if len(row) > max_tokens]
    if too_long and on_too_long == "refuse":
        first = too_long[0]
        raise DataError(
            f"prompt {first} has {len(rows[first])} tokens, more than {max_tokens} "
            f"({len(too_long)} of {len(rows)} prompts are too long); raise the limit, shorten the "
            "prompts, or choose to truncate them on the left."
        )
    rows = [cut_left(row, max_tokens, tokenizer.bos_token_id) for row in rows]
    ids, mask = pad_left(rows, tokenizer.pad_token_id, max_tokens if fixed_width else None)
    return EncodedPrompts(ids, mask, len(too_long))
