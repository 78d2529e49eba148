"""A key-value cache that is written in place: one allocation instead of a copy per token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

__all__ = ["make_cache", "select_rows"]


class PreallocatedLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers' hook
    """One layer's keys and values in buffers of full length; what is handed out are views.

    transformers' own growing layer concatenates, which copies the whole cache at each token.

    Args:
        capacity: Tokens there will be, prompt and completion.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it so
        self._capacity = capacity
        self._length = 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B, heads, n, d) keys and values; return all there are so far."""
        if self._buffers is None:
            self.dtype, self.device = key_states.dtype, key_states.device
            self._buffers = self._allocate(key_states), self._allocate(value_states)
            self.is_initialized = True
        assert self._buffers is not None
        end = self._length + key_states.shape[-2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = states
        self._length = end
        return self._expose()

    def _allocate(self, states: Tensor) -> Tensor:
        return states.new_empty(*states.shape[:2], self._capacity, states.shape[-1])

    def get_seq_length(self) -> int:
        """Tokens held so far."""
        return self._length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the given rows."""
        if self._buffers is not None:
            keys, values = self._buffers
            self._buffers = keys[beam_idx], values[beam_idx]
            self._expose()

    def _expose(self) -> tuple[Tensor, Tensor]:
        assert self._buffers is not None
        keys, values = (buffer[:, :, : self._length] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values


def make_cache(model: Any, capacity: int) -> DynamicCache:
    """A cache for `capacity` tokens; layers with sliding windows or states keep their own kind."""
    cache = DynamicCache(config=model.config)
    cache.layers = [
        PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer
        for layer in cache.layers
    ]
    return cache


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keep the rows where the (b,) bool is True of every layer, in place.

    By reordering, since that is what every kind of layer can do: `batch_select_indices` lacks in
    layers with a recurrent state, and in those with attention beside it forgets the state.
    """
    cache.reorder_cache(rows.nonzero()[:, 0])  # type: ignore[arg-type]  # annotated as LongTensor
