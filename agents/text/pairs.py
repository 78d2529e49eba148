"""Pairs of completions for DPO, over a table that holds each completion once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_gym.errors import DataError
from rlhf_gym.language.batches import TokenBatch

__all__ = ["CompletionPairs"]


@dataclass(frozen=True, eq=False)
class CompletionPairs:
    """N comparisons of M completions; where k completions were ranked, each is computed once."""

    completions: TokenBatch
    """M completions with their prompts."""
    chosen: Tensor
    """(N,) int64, rows of `completions`."""
    rejected: Tensor
    """(N,) int64, rows of `completions`."""
    prob: Tensor
    """(N,) float32 within [0, 1]: the probability that the chosen is the better one; 0.5 a tie."""
    weights: Tensor
    """(N,) float32 >= 0: how often a pair counts."""

    def __post_init__(self) -> None:
        shapes = {name: tuple(getattr(self, name).shape) for name in _PAIR_FIELDS}
        if len(self.chosen) == 0 or set(shapes.values()) != {(len(self.chosen),)}:
            raise DataError(f"pairs of the shapes {shapes}; all must be (N,) with N at least 1.")
        for name in ("chosen", "rejected"):
            rows = getattr(self, name)
            if int(rows.min()) < 0 or int(rows.max()) >= len(self.completions):
                raise DataError(
                    f"`{name}` names the rows {int(rows.min())} to {int(rows.max())} of "
                    f"{len(self.completions)} completions; count from 0."
                )
        self._check(~((self.prob >= 0) & (self.prob <= 1)), "prob", "a number within [0, 1]")
        finite = torch.isfinite(self.weights)
        self._check(~finite | (self.weights < 0), "weights", "a number of at least 0")
        lengths = self.completions.lengths
        both = torch.stack([self.chosen, self.rejected])  # (2, N)
        self._check_pairs((lengths[both] == 0).any(0), "has an empty completion")
        self._check_pairs(self._equal(), "compares a completion with itself")

    def _check(self, wrong: Tensor, name: str, accepted: str) -> None:
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise DataError(
                f"`{name}` of pair {row} is {float(getattr(self, name)[row])}; {accepted} is "
                "needed."
            )

    def _check_pairs(self, wrong: Tensor, what: str) -> None:
        if bool(wrong.any()):
            rows = wrong.nonzero()[:, 0].tolist()
            raise DataError(
                f"pair {rows[0]} {what} ({len(rows)} of {len(self)} pairs); it teaches nothing, "
                "leave such pairs out and report how many they were."
            )

    def _equal(self) -> Tensor:
        """(N,) bool, pairs whose two completions have the same tokens."""
        ids, mask = self.completions.completion_ids, self.completions.completion_mask
        real = torch.where(mask, ids, torch.full_like(ids, -1))  # (M, T)
        if real.shape[1] == 0:
            return torch.ones_like(self.chosen, dtype=torch.bool)
        _, text = torch.unique(real, dim=0, return_inverse=True)  # (M,)
        equal: Tensor = text[self.chosen] == text[self.rejected]
        return equal

    def __len__(self) -> int:
        return len(self.chosen)

    def to(self, device: torch.device | str) -> CompletionPairs:
        """The same pairs on another device."""
        tensors = {name: getattr(self, name).to(device) for name in _PAIR_FIELDS}
        return CompletionPairs(self.completions.to(device), **tensors)

    @classmethod
    def from_batches(
        cls,
        chosen: TokenBatch,
        rejected: TokenBatch,
        *,
        prob: Tensor | Sequence[float] | None = None,
        weights: Tensor | Sequence[float] | None = None,
    ) -> CompletionPairs:
        """Pairs from two batches of one width, row by row.

        Args:
            chosen: N completions with their prompts.
            rejected: N completions with the same prompts.
            prob: (N,), None for 1: the labels are certain.
            weights: (N,), None for 1.

        Raises:
            DataError: batches of other lengths or prompts, an empty completion, equal ones, or a
                number out of its range; the message names the pair.
        """
        n = len(chosen)
        if len(rejected) != n:
            raise DataError(f"{n} chosen and {len(rejected)} rejected completions; give as many.")
        if _marks(chosen) != _marks(rejected):
            raise DataError("chosen and rejected come from different tokenizers; use one for both.")
        merged = _stacked(chosen, rejected)
        differing = (merged.prompt_ids[:n] != merged.prompt_ids[n:]).any(1)
        if bool(differing.any()):
            row = int(differing.nonzero()[0])
            raise DataError(
                f"pair {row} has two different prompts; DPO compares completions of one prompt."
            )
        rows = torch.arange(n, device=chosen.prompt_ids.device)
        ones = torch.ones(n, device=rows.device)
        return cls(
            merged,
            rows,
            rows + n,
            ones if prob is None else torch.as_tensor(prob, dtype=torch.float32).to(rows.device),
            ones
            if weights is None
            else torch.as_tensor(weights, dtype=torch.float32).to(rows.device),
        )


_PAIR_FIELDS = ("chosen", "rejected", "prob", "weights")


def _marks(batch: TokenBatch) -> tuple[int, ...]:
    return batch.pad_id, batch.eos_id, *batch.also_ends


def _stacked(first: TokenBatch, second: TokenBatch) -> TokenBatch:
    """Both batches, one below the other; prompts are padded on the left, completions right."""

    def widened(name: str, left: bool) -> Tensor:
        tensors = [getattr(first, name), getattr(second, name)]
        width = max(tensor.shape[1] for tensor in tensors)
        fill = False if tensors[0].dtype == torch.bool else first.pad_id
        pads = [
            torch.nn.functional.pad(
                t, (width - t.shape[1], 0) if left else (0, width - t.shape[1]), value=fill
            )
            for t in tensors
        ]
        return torch.cat(pads)

    return TokenBatch(
        prompt_ids=widened("prompt_ids", left=True),
        prompt_mask=widened("prompt_mask", left=True),
        completion_ids=widened("completion_ids", left=False),
        completion_mask=widened("completion_mask", left=False),
        pad_id=first.pad_id,
        eos_id=first.eos_id,
        also_ends=first.also_ends,
    )
