"""The frozen model that a policy is held to, sharing with it what neither of them changes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rlhf_gym.errors import ConfigError
from rlhf_gym.language.agreement import ensure_agreement
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.scores import completion_scores

__all__ = ["ReferenceModel", "reference_of", "trained_blocks"]


class ReferenceModel:
    """A frozen copy of a language model.

    Args:
        lm: Its weights must not be those that are trained; `reference_of` makes one.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self._is_checked = False  # of itself: a head of zeros never says anything

    @torch.no_grad()
    def completion_logprobs(
        self, batch: TokenBatch, temperature: float = 1.0, *, micro_batch: int | None = None
    ) -> Tensor:
        """(B, T) float32 log-probabilities of the completions, 0 where the mask is False.

        Args:
            batch: B prompts and completions.
            temperature: The policy's: both are compared as they are sampled.
            micro_batch: Rows at a time; None takes all at once.

        Raises:
            ConfigError: a model that cannot be sampled as it is scored, see `ensure_agreement`.
        """
        if not self._is_checked and batch.completion_ids.shape[1]:
            n_new = batch.completion_ids.shape[1]
            ensure_agreement(self.lm, batch.prompt_ids, batch.prompt_mask, n_new)
            self._is_checked = True
        size = micro_batch or max(len(batch), 1)
        parts = [
            completion_scores(
                self.lm, batch.select(slice(start, start + size)), temperature=temperature
            ).logprobs
            for start in range(0, max(len(batch), 1), size)
        ]
        return torch.cat(parts)


def reference_of(lm: LanguageModel, num_layers_unfrozen: int | None = None) -> ReferenceModel:
    """The model as it is now, frozen; and the policy's own frozen part, where it has one.

    With `num_layers_unfrozen`, THIS CALL FREEZES THE POLICY except for its last blocks, the norm
    behind them and a head of its own; embeddings, and a head tied to them, stay as they are. The
    reference then holds a second copy of the trained part only (trlX calls this a hydra model).

    Args:
        lm: The policy. It keeps training in place.
        num_layers_unfrozen: Blocks that stay trainable, counted from the output; None trains all.

    Raises:
        ConfigError: not between 1 and the number of blocks, or blocks that cannot be found.
    """
    if num_layers_unfrozen is not None:
        _freeze_below(lm, num_layers_unfrozen)
    # deepcopy asks the memo first: a frozen tensor found there is shared instead of copied.
    tensors = [*lm.model.parameters(), *lm.model.buffers()]
    memo: dict[int, object] = {id(t): t for t in tensors if not t.requires_grad}
    model = copy.deepcopy(lm.model, memo)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    frozen = LanguageModel(model, lm.tokenizer)
    frozen.notes, frozen.serving, frozen.agreed = lm.notes, lm.serving, lm.agreed
    return ReferenceModel(frozen)


def trained_blocks(lm: LanguageModel, n_unfrozen: int) -> list[nn.Module]:
    """The last `n_unfrozen` blocks of a model; nothing is changed.

    Raises:
        ConfigError: not between 1 and the number of blocks, or blocks that cannot be found.
    """
    decoder = lm.model.base_model
    stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    n_layers = getattr(lm.model.config, "num_hidden_layers", None)
    blocks = next((stack for stack in stacks if len(stack) == n_layers), None)
    if blocks is None:
        raise ConfigError(
            f"the blocks of {type(decoder).__name__} cannot be told from its other parts; set "
            "`num_layers_unfrozen` to None (all layers train, the reference is a full copy)."
        )
    if not 1 <= n_unfrozen <= len(blocks):
        raise ConfigError(
            f"`num_layers_unfrozen` is {n_unfrozen}; this model has {len(blocks)} blocks, so it is "
            f"1 to {len(blocks)}, or None to train everything."
        )
    return list(blocks)[-n_unfrozen:]


def _freeze_below(lm: LanguageModel, n_unfrozen: int) -> None:
    blocks = trained_blocks(lm, n_unfrozen)
    decoder = lm.model.base_model
    after = [c for c in decoder.children() if not isinstance(c, nn.ModuleList | nn.Embedding)]
    head = lm.model.get_output_embeddings()
    embedded = {id(p) for p in lm.model.get_input_embeddings().parameters()}
    trained = [*blocks, *after, head]
    keep = {id(p) for part in trained for p in part.parameters()} - embedded
    for parameter in lm.model.parameters():
        parameter.requires_grad_(id(parameter) in keep)
