"""Writing completions: batched, with a key-value cache, from exactly the policy's distribution.

A policy gradient is unbiased only if completions come from the distribution whose log-probability
is trained. Cutting its tail (top-k, top-p) or forbidding an early end (min length) breaks that and
shows as a negative KL (TRL issues 235, 6789); such options are refused here, and a model's own
`generation_config` is never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_gym.errors import ConfigError, DataError, NumericalError
from rlhf_gym.language.batches import TokenBatch, positions_of
from rlhf_gym.language.cache import make_cache, select_rows
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.scores import allowed_logits, entropy_of
from rlhf_gym.language.serving import row_groups, without_dropout

__all__ = ["Sampled", "SamplingSettings", "sample_completions"]

# A uniform number never reaches 1, or rounding could step past the last token of the cdf.
_BELOW_ONE = 1.0 - 2.0**-40
# Taking a row out copies the cache: worth it once this share of the rows is left.
_COMPACT_BELOW = 0.75
_BIASED = {
    "top_k": (0, "cutting the tail trains a distribution that was never sampled"),
    "top_p": (1.0, "cutting the tail trains a distribution that was never sampled"),
    "min_length": (0, "an end that was not allowed looks like an end that was not wanted"),
    "repetition_penalty": (1.0, "the sampled distribution then depends on more than the policy"),
}


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are sampled. What would bias a policy gradient can be named, not set."""

    temperature: float = 1.0
    """Divides the logits, in sampling and in training alike; above 0."""
    top_k: int = 0
    """Must stay 0: all tokens."""
    top_p: float = 1.0
    """Must stay 1: the whole distribution."""
    min_length: int = 0
    """Must stay 0."""
    repetition_penalty: float = 1.0
    """Must stay 1."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"`temperature` is {self.temperature}; it must be above 0.")
        for name, (neutral, reason) in _BIASED.items():
            value = getattr(self, name)
            if value not in (neutral, None):
                raise ConfigError(
                    f"`{name}` is {value}; it must stay {neutral}, because {reason}: the ratio "
                    "and the KL to the reference would be wrong. Use the temperature, a KL "
                    "penalty, or a reward for what you want instead."
                )


@dataclass(frozen=True, eq=False)
class Sampled:
    """Completions and what the model said while it wrote them; 0 where the mask is False."""

    batch: TokenBatch
    """B prompts and completions; T is `max_new_tokens`, whatever the longest completion."""
    logprobs: Tensor
    """(B, T) float32 log-probabilities under the sampling distribution, nats."""
    values: Tensor | None
    """(B, T) float32, the value head's value before each token, or None."""
    entropies: Tensor | None
    """(B, T) float32, entropy of the distribution each token came from, nats, or None."""


@torch.no_grad()
def sample_completions(
    lm: LanguageModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    max_new_tokens: int,
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
    value_head: ValueHead | None = None,
    want_entropy: bool = False,
    greedy: bool = False,
    row_limits: Tensor | None = None,
) -> Sampled:
    """Write one completion per prompt; a row ends with an end or after `max_new_tokens`.

    One uniform number per row and token is drawn in advance and turned into a token by inverting
    the cumulative distribution, so that a row's completion depends on its own prompt and numbers
    and not on when other rows end. Rows that have ended are taken out of the computation.

    Args:
        lm: The policy.
        prompt_ids: (B, P) int64, left-padded.
        prompt_mask: (B, P) bool.
        max_new_tokens: T.
        generator: Draws B * T uniform numbers, on the generator's own device.
        temperature: Divides the logits; above 0.
        value_head: Values are returned where it is given.
        want_entropy: Whether to return the entropies too.
        greedy: Take the most likely token. For evaluation only: nothing may be trained on it.
        row_limits: (B,) int64, at least 1: tokens after which a row ends even before T.

    Raises:
        ConfigError: the temperature is not above 0, or T below 1.
        DataError: a prompt without a token, or too long for the model's positions.
        NumericalError: the model's logits are not finite.
    """
    _check(lm, prompt_mask, max_new_tokens)
    n_rows, device = len(prompt_ids), lm.device
    prompt_ids, prompt_mask = prompt_ids.to(device), prompt_mask.to(device)
    uniforms = torch.rand(
        (n_rows, max_new_tokens), dtype=torch.float64, generator=generator, device=generator.device
    ).to(device)
    pages = _Pages(lm, uniforms, row_limits, temperature, value_head, want_entropy, greedy)
    for rows, n_padding in row_groups(lm.serving, prompt_mask) if n_rows else []:
        ids, mask = prompt_ids[rows, n_padding:], prompt_mask[rows, n_padding:]
        pages.write(rows, _Stepper(lm, ids, mask, max_new_tokens, value_head is not None))
    _require_finite(pages.logprobs)
    batch = TokenBatch(
        prompt_ids, prompt_mask, pages.ids, pages.written, lm.pad_id, lm.eos_id, lm.also_ends
    )
    return Sampled(
        batch,
        pages.logprobs,
        pages.values if value_head is not None else None,
        pages.entropies if want_entropy else None,
    )


class _Pages:
    """What is being written: all rows' tokens, and what the model said of them."""

    def __init__(
        self,
        lm: LanguageModel,
        uniforms: Tensor,
        row_limits: Tensor | None,
        temperature: float,
        value_head: ValueHead | None,
        want_entropy: bool,
        greedy: bool,
    ) -> None:
        self._lm, self._uniforms, self._limits = lm, uniforms, row_limits
        self._temperature, self._greedy = temperature, greedy
        self._value_head, self._want_entropy = value_head, want_entropy
        shape, device = uniforms.shape, lm.device
        self._ends = torch.tensor((lm.eos_id, *lm.also_ends), device=device)
        self.ids = torch.full(shape, lm.pad_id, dtype=torch.int64, device=device)
        self.logprobs, self.values, self.entropies = (
            torch.zeros(shape, device=device) for _ in range(3)
        )
        self.written = torch.zeros(shape, dtype=torch.bool, device=device)

    def write(self, rows: Tensor, stepper: _Stepper) -> None:
        """Complete some rows, (b,) int64, whose prompts the stepper was given."""
        alive = torch.ones_like(rows, dtype=torch.bool)  # (b,) what is still written
        for t in range(self.ids.shape[1]):
            token = self._write_column(rows, alive, t, *stepper.logits())
            alive = alive & ~torch.isin(token, self._ends)
            if self._limits is not None:
                alive = alive & (t + 1 < self._limits[rows])
            n_alive = int(alive.sum())
            if n_alive == 0:
                break
            if n_alive <= _COMPACT_BELOW * len(rows):
                rows, token = rows[alive], token[alive]
                stepper.keep(alive)
                alive = alive[alive]
            stepper.append(token)

    def _write_column(
        self, rows: Tensor, alive: Tensor, t: int, logits: Tensor, hidden: Tensor
    ) -> Tensor:
        """The (b,) tokens chosen; noted where the row still lives."""
        logits = allowed_logits(self._lm, logits, self._temperature)  # (b, V)
        logp = logits.log_softmax(-1)
        probs = logp.exp()
        token = logits.argmax(-1) if self._greedy else _invert(probs, self._uniforms[rows, t])
        here = rows[alive]
        self.ids[here, t] = token[alive]
        self.written[here, t] = True
        self.logprobs[here, t] = logp.gather(-1, token[:, None])[alive, 0]
        if self._value_head is not None:
            self.values[here, t] = self._value_head(hidden)[alive]
        if self._want_entropy:
            self.entropies[here, t] = entropy_of(logp, probs)[alive]
        return token


class _Stepper:
    """Feeds a model one column at a time, and forgets rows that have ended."""

    def __init__(
        self, lm: LanguageModel, ids: Tensor, mask: Tensor, n_new: int, want_hidden: bool
    ) -> None:
        n_rows, n_prompt = ids.shape
        self._lm = lm
        self._cache = make_cache(lm.model, n_prompt + n_new) if lm.serving.caches else None
        self._input, self._n_seen = ids, n_prompt
        # What is written is real: the mask is known in advance, and cut to what has been seen.
        self._mask = torch.cat([mask, mask.new_ones(n_rows, n_new)], dim=1)  # (b, P + T)
        self._positions = positions_of(self._mask)  # (b, P + T)
        self._want_hidden = want_hidden

    def logits(self) -> tuple[Tensor, Tensor]:
        """(b, V) logits of the next token, and the (b, H) hidden states they come from."""
        caught: list[Tensor] = []
        hook = None
        if self._want_hidden:
            head = self._lm.model.get_output_embeddings()
            hook = head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            with without_dropout(self._lm.model):
                output = self._lm.model(input_ids=self._input, **self._options())
        finally:
            if hook is not None:
                hook.remove()
        logits: Tensor = output.logits[:, -1]
        return logits, caught[0][:, -1] if caught else logits

    def _options(self) -> dict[str, Any]:
        lm = self._lm
        options: dict[str, Any] = {"use_cache": lm.serving.caches}
        if lm.serving.pads:
            first = self._n_seen - self._input.shape[1]
            options["attention_mask"] = self._mask[:, : self._n_seen]
            options["position_ids"] = self._positions[:, first : self._n_seen]
        if self._cache is not None:
            options[lm.cache_argument] = self._cache
        if lm.keeps_logits:
            options["logits_to_keep"] = 1
        return options

    def keep(self, rows: Tensor) -> None:
        """Go on with the rows where the (b,) bool is True only."""
        self._mask, self._positions = self._mask[rows], self._positions[rows]
        if self._cache is None:
            self._input = self._input[rows]
        else:
            select_rows(self._cache, rows)

    def append(self, token: Tensor) -> None:
        """The (b,) tokens that the next step reads."""
        column = token[:, None]
        self._input = column if self._cache is not None else torch.cat([self._input, column], 1)
        self._n_seen += 1


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """The tokens at which the cumulative probability first exceeds a uniform number.

    Added up in float64: single precision would round away tokens less likely than about 1e-7, and
    with them a part of a large vocabulary's tail.
    """
    cdf = probs.cumsum(-1, dtype=torch.float64)  # (b, V)
    target = uniform.clamp(max=_BELOW_ONE)[:, None] * cdf[:, -1:]  # (b, 1)
    token: Tensor = torch.searchsorted(cdf, target, right=True)[:, 0]
    # Only NaN gets past the end; it is reported once the loop is over.
    return token.clamp(max=probs.shape[1] - 1)


def _require_finite(logprobs: Tensor) -> None:
    if not bool(torch.isfinite(logprobs).all()):
        raise NumericalError(
            "the policy's logits are NaN or infinite while sampling; its weights diverged. Lower "
            "the learning rate, or go back to the last checkpoint."
        )


def _check(lm: LanguageModel, prompt_mask: Tensor, max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise ConfigError(f"`max_new_tokens` is {max_new_tokens}; it must be at least 1.")
    lengths = prompt_mask.sum(1)
    if len(lengths) and int(lengths.min()) < 1:
        raise DataError(
            f"prompt {int(lengths.argmin())} has no token; begin it with BOS or a word."
        )
    if len(lengths) and not bool(prompt_mask[:, -1].all()):
        raise DataError(
            "the prompts are padded on the right; a completion continues the last column, so pad "
            "on the left (`encode_prompts`)."
        )
    longest = (int(lengths.max()) if len(lengths) else 0) + max_new_tokens
    if lm.max_length is not None and longest > lm.max_length:
        raise DataError(
            f"the longest prompt and `max_new_tokens` {max_new_tokens} make {longest} tokens; the "
            f"model has {lm.max_length} positions. Shorten one of them."
        )
