"""What a model says of given completions: log-probabilities, values, entropies; differentiable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_gym.errors import ConfigError
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.serving import row_groups, without_dropout

__all__ = [
    "CompletionScores",
    "allowed_logits",
    "completion_scores",
    "entropy_of",
    "forward",
    "hidden_states",
]


@dataclass(frozen=True, eq=False)
class CompletionScores:
    """Per completion token; 0 where the completion's mask is False."""

    logprobs: Tensor
    """(B, T) float32, log-probability of each token given all before it, nats."""
    values: Tensor | None
    """(B, T) float32, the value head's value BEFORE each token, or None."""
    entropies: Tensor | None
    """(B, T) float32, entropy of the distribution each token came from, nats, or None."""


def completion_scores(
    lm: LanguageModel,
    batch: TokenBatch,
    *,
    temperature: float = 1.0,
    value_head: ValueHead | None = None,
    want_entropy: bool = False,
) -> CompletionScores:
    """Score completions under softmax(logits / temperature) over the ids that may be sampled.

    This is the sampler's own distribution: what `sample_completions` returns as log-probabilities
    is what comes out here for the same ids, to float precision.

    Args:
        lm: The model; gradients flow into what it trains.
        batch: B prompts and completions.
        temperature: Above 0; the one that the completions were sampled with.
        value_head: Reads the hidden state in front of each token.
        want_entropy: Whether to compute the entropies too.

    Raises:
        ConfigError: the temperature is not above 0.
    """
    n_tokens = batch.completion_ids.shape[1]
    if n_tokens == 0:
        empty = torch.zeros(len(batch), 0, device=lm.device)
        return CompletionScores(
            empty,
            empty if value_head is not None else None,
            empty if want_entropy else None,
        )
    # What is padded on the right comes after every real token, none of which sees it. Called real,
    # it leaves no mask where prompts are equally long, and attention without one is faster.
    seen = torch.cat([batch.prompt_mask, torch.ones_like(batch.completion_mask)], dim=1)
    # The last token predicts nothing that is scored: leave it out.
    logits, hidden = forward(
        lm,
        batch.input_ids[:, :-1],
        seen[:, :-1],
        batch.position_ids[:, :-1],
        n_tokens,
        want_hidden=value_head is not None,
    )
    logits = allowed_logits(lm, logits, temperature)  # (B, T, V)
    mask = batch.completion_mask
    entropies = None
    if want_entropy:
        everything = logits.log_softmax(-1)  # (B, T, V)
        entropies = entropy_of(everything, everything.exp()).masked_fill(~mask, 0.0)  # (B, T)
    logprobs: Tensor = _LogProbsOf.apply(logits, batch.completion_ids)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    values = None
    if value_head is not None:
        assert hidden is not None
        values = value_head(hidden).masked_fill(~mask, 0.0)  # (B, T)
    return CompletionScores(logprobs.masked_fill(~mask, 0.0), values, entropies)


class _LogProbsOf(torch.autograd.Function):
    """log softmax(logits)[ids], whose gradient takes one tensor of the logits' size.

    Autograd would fill three: one for the gather, one for the norm, and their sum. At a small
    model's width that takes longer than the multiplication that made the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        """(B, T, V) float32 and (B, T) int64 -> (B, T)."""
        logprobs = logits.log_softmax(-1)
        ctx.save_for_backward(logprobs, ids)
        return logprobs.gather(-1, ids[..., None])[..., 0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """(onehot(ids) - softmax(logits)) times the gradient of each log-probability."""
        logprobs, ids = ctx.saved_tensors
        gradient = logprobs.exp().mul_(-grad[..., None])
        return gradient.scatter_add_(-1, ids[..., None], grad[..., None]), None


def allowed_logits(lm: LanguageModel, logits: Tensor, temperature: float) -> Tensor:
    """Float32 logits / temperature, with the forbidden ids at the lowest finite number.

    Finite, because p * log p of a forbidden id must be 0 and not 0 * inf.

    Raises:
        ConfigError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise ConfigError(
            f"`temperature` is {temperature}; it must be above 0. For the most likely completion, "
            "sample with greedy=True."
        )
    scaled = logits.float() / temperature if temperature != 1.0 else logits.float()
    return torch.where(lm.forbidden, torch.finfo(torch.float32).min, scaled)


def entropy_of(logp: Tensor, probs: Tensor) -> Tensor:
    """(...,) nats of (..., V) distributions; a forbidden id has p = 0 and a finite log p."""
    return -(probs * logp).sum(-1)


def forward(
    lm: LanguageModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    n_last: int,
    *,
    want_hidden: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Logits (B, n, V) of the last n positions and, on wish, the hidden states (B, n, H) there.

    The hidden states are the head's own input, whatever the architecture does around it. What
    comes out in the padding is arbitrary.
    """
    if lm.serving.pads or len(input_ids) == 0:
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids}
        return _called(lm, input_ids, n_last, want_hidden, inputs)
    groups = row_groups(lm.serving, attention_mask)
    parts = [_called(lm, input_ids[rows, n:], n_last, want_hidden, {}) for rows, n in groups]
    logits = _joined(groups, [part for part, _ in parts], n_last)
    hidden = [part for _, part in parts if part is not None]
    return logits, _joined(groups, hidden, n_last) if want_hidden else None


def _called(
    lm: LanguageModel, ids: Tensor, n_last: int, want_hidden: bool, inputs: dict[str, Tensor]
) -> tuple[Tensor, Tensor | None]:
    caught: list[Tensor] = []
    head = lm.model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    try:
        options = {"logits_to_keep": n_last} if lm.keeps_logits else {}
        with without_dropout(lm.model):
            output = lm.model(input_ids=ids, use_cache=False, **inputs, **options)
    finally:
        hook.remove()
    return output.logits[:, -n_last:], caught[0][:, -n_last:] if want_hidden else None


def _joined(groups: list[tuple[Tensor, int]], parts: list[Tensor], width: int) -> Tensor:
    """(B, width, ...) in the rows' order, of the groups' (b, l, ...), l at most `width`."""
    padded = [nn.functional.pad(part, (0, 0, width - part.shape[1], 0)) for part in parts]
    return torch.cat(padded)[torch.cat([rows for rows, _ in groups]).argsort()]


def hidden_states(lm: LanguageModel, batch: TokenBatch) -> Tensor:
    """(B, P + T, H) last hidden states; position i has read tokens 0 to i. Padding's are arbitrary.

    For heads of one's own, such as a reward model's; the vocabulary's logits are not computed.
    """
    trunk = lm.model.base_model
    ids, mask = batch.input_ids, batch.attention_mask
    with without_dropout(trunk):
        if lm.serving.pads or len(batch) == 0:
            inputs = {"attention_mask": mask, "position_ids": batch.position_ids}
            states: Tensor = trunk(input_ids=ids, use_cache=False, **inputs).last_hidden_state
            return states
        groups = row_groups(lm.serving, mask)
        parts = [trunk(input_ids=ids[rows, n:], use_cache=False) for rows, n in groups]
    return _joined(groups, [part.last_hidden_state for part in parts], ids.shape[1])
