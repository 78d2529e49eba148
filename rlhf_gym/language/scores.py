"""What a model says of given completions: log-probabilities, values, entropies; differentiable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_gym.errors import ConfigError
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel, ValueHead

__all__ = ["CompletionScores", "allowed_logits", "completion_scores", "forward", "hidden_states"]


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
    # The last token predicts nothing that is scored: leave it out.
    logits, hidden = forward(
        lm,
        batch.input_ids[:, :-1],
        batch.attention_mask[:, :-1],
        batch.position_ids[:, :-1],
        n_tokens,
        want_hidden=value_head is not None,
    )
    logits = allowed_logits(lm, logits, temperature)  # (B, T, V)
    log_norm = logits.logsumexp(-1)  # (B, T)
    picked = logits.gather(-1, batch.completion_ids[..., None])[..., 0]  # (B, T)
    mask = batch.completion_mask
    entropies = None
    if want_entropy:
        # H = log Z - sum p * logit; a forbidden id has p = 0 and a finite logit.
        mean_logit = ((logits - log_norm[..., None]).exp() * logits).sum(-1)  # (B, T)
        entropies = (log_norm - mean_logit).masked_fill(~mask, 0.0)
    values = None
    if value_head is not None:
        assert hidden is not None
        values = value_head(hidden).masked_fill(~mask, 0.0)  # (B, T)
    return CompletionScores((picked - log_norm).masked_fill(~mask, 0.0), values, entropies)


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
    return scaled.masked_fill(lm.forbidden, torch.finfo(torch.float32).min)


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

    The hidden states are the head's own input, whatever the architecture does around it.
    """
    caught: list[Tensor] = []
    head = lm.model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    try:
        options = {"logits_to_keep": n_last} if lm.keeps_logits else {}
        output = lm.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            **options,
        )
    finally:
        hook.remove()
    return output.logits[:, -n_last:], caught[0][:, -n_last:] if want_hidden else None


def hidden_states(lm: LanguageModel, batch: TokenBatch) -> Tensor:
    """(B, P + T, H) last hidden states; position i has read tokens 0 to i. Padding's are arbitrary.

    For heads of one's own, such as a reward model's; the vocabulary's logits are not computed.
    """
    output = lm.model.base_model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    )
    states: Tensor = output.last_hidden_state
    return states
