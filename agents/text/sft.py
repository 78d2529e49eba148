"""Supervised fine-tuning: a language model learns to write the completions it is shown.

Only completions are learned, never prompts, and their EOS with them: a model that has not seen
texts end does not end its own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from rlhf_gym.agents.text.losses import sft_loss
from rlhf_gym.agents.text.optimiser import Optimiser, require_finite
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.language.agreement import ensure_agreement
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.encoding import cut_left, encode_continuations, list_rows
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.scores import completion_scores

__all__ = ["SFTData", "SFTReport", "SFTSettings", "SFTTrainer", "encode_examples"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SFTSettings:
    """How a language model is fine-tuned on texts."""

    n_epochs: int = 1
    """Passes over the data."""
    batch_size: int = 32
    """Examples per optimiser step."""
    micro_batch_size: int | None = None
    """Examples per forward pass; changes memory and nothing else. None takes the whole batch."""
    learning_rate: float = 3e-4
    """The highest one."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls, to 0 behind the last step."""
    warmup_fraction: float = 0.03
    """The share of steps over which it rises from 0; within [0, 1)."""
    adam_eps: float = 1e-8
    max_grad_norm: float = 1.0
    """Longer gradients are shortened to it."""

    def __post_init__(self) -> None:
        for name in ("n_epochs", "batch_size", "micro_batch_size"):
            count = getattr(self, name)
            if count is not None and (not isinstance(count, int) or count < 1):
                raise ConfigError(f"`{name}` is {count!r}; a whole number of at least 1 is needed.")
        for name in ("learning_rate", "adam_eps", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"`{name}` is {getattr(self, name)!r}; it must be above 0.")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"`warmup_fraction` is {self.warmup_fraction}; 0 <= f < 1 is needed.")
        if self.schedule not in {"cosine", "linear", "constant"}:
            raise ConfigError(
                f"`schedule` is {self.schedule!r}; it is 'cosine', 'linear' or 'constant'."
            )

    def remaining(self, step: int, n_steps: int) -> float:
        """The factor of the learning rate at a step, counted from 0 of `n_steps`."""
        n_warmup = self.warmup_fraction * n_steps
        if step < n_warmup:
            return (step + 1) / (n_warmup + 1)
        if self.schedule == "constant":
            return 1.0
        done = (step - n_warmup) / max(n_steps - n_warmup, 1)
        return 1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, eq=False)
class SFTData:
    """N tokenized examples. What was cut off is counted; report it."""

    prompts: Sequence[Sequence[int]]
    """Token ids, BOS in front where there is one."""
    completions: Sequence[Sequence[int]]
    """Token ids, EOS at the end unless the completion was cut."""
    n_truncated_prompts: int = 0
    """Prompts that lost their beginning."""
    n_truncated_completions: int = 0
    """Completions that lost their end, and EOS with it."""
    left_out: Sequence[tuple[int, str]] = ()
    """The rows that could not be used, by their number in what was given, and why."""

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.completions) or not self.prompts:
            raise DataError(
                f"{len(self.prompts)} prompts and {len(self.completions)} completions; give as "
                "many of each, and at least one."
            )

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, lm: LanguageModel, rows: Sequence[int]) -> TokenBatch:
        """Some examples as a padded batch on the model's device.

        Raises:
            DataError: the model could not have written them, see `LanguageModel.check`.
        """
        prompts = [self.prompts[row] for row in rows]
        completions = [self.completions[row] for row in rows]
        batch = TokenBatch.from_lists(
            prompts, completions, lm.pad_id, lm.eos_id, also_ends=lm.also_ends
        )
        return lm.check(batch.to(lm.device))


def encode_examples(
    lm: LanguageModel,
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    max_prompt_tokens: int,
    max_completion_tokens: int,
) -> SFTData:
    """Tokenize prompts, and completions behind them, as a sampler will see them.

    What a text spells is text, special tokens too; see `rlhf_gym.language.encoding`. A prompt that
    is too long loses its beginning (BOS stays), a completion its end; a completion that was cut
    gets no EOS, because its text did not end there. Rows that cannot be used are left out. Both are
    counted, and logged in one line.

    Args:
        lm: Whose tokenizer is used.
        prompts: N texts; empty ones (a plain corpus) need a tokenizer with BOS.
        completions: N texts, with the white space that follows their prompt.
        max_prompt_tokens: BOS included, at least 1.
        max_completion_tokens: EOS included, at least 1.

    Raises:
        ConfigError: a limit below 1.
        DataError: other counts of texts, or none that can be used.
    """
    if min(max_prompt_tokens, max_completion_tokens) < 1:
        raise ConfigError(
            f"`max_prompt_tokens` is {max_prompt_tokens}, `max_completion_tokens` "
            f"{max_completion_tokens}; both must be at least 1."
        )
    if len(prompts) != len(completions) or not prompts:
        raise DataError(
            f"{len(prompts)} prompts and {len(completions)} completions; give as many of each, and "
            "at least one."
        )
    found = encode_continuations(lm.tokenizer, prompts, completions, [True] * len(prompts))
    left_out = dict(found.bad)
    n_cut_prompts = n_cut_completions = 0
    prompt_rows, completion_rows = list[list[int]](), list[list[int]]()
    for row, (head, tail) in enumerate(zip(found.prompts, found.completions, strict=True)):
        if row in left_out:
            continue
        if len(tail) == 1 or not head:
            field = "completion" if len(tail) == 1 else "prompt"
            left_out[row] = f"its {field} is empty"
            continue
        n_cut_prompts += len(head) > max_prompt_tokens
        prompt_rows.append(cut_left(head, max_prompt_tokens, lm.bos_id))
        n_cut_completions += len(tail) > max_completion_tokens
        completion_rows.append(tail[:max_completion_tokens])
    reasons = sorted(left_out.items())
    if not prompt_rows:
        raise DataError(f"none of {len(prompts)} examples can be used: {list_rows(reasons)}.")
    data = SFTData(prompt_rows, completion_rows, n_cut_prompts, n_cut_completions, reasons)
    if note := _note(data, max_prompt_tokens, max_completion_tokens):
        _log.warning(note)
    return data


def _note(data: SFTData, max_prompt_tokens: int, max_completion_tokens: int) -> str:
    """What was cut and left out, in one line; empty where nothing was."""
    parts = []
    if data.n_truncated_completions:
        parts.append(
            f"{data.n_truncated_completions} completions lost their end and EOS at "
            f"{max_completion_tokens} tokens (--max-new-tokens)"
        )
    if data.n_truncated_prompts:
        parts.append(
            f"{data.n_truncated_prompts} prompts lost their beginning at {max_prompt_tokens} tokens"
        )
    if data.left_out:
        parts.append(f"{len(data.left_out)} left out ({list_rows(data.left_out)})")
    n = len(data) + len(data.left_out)
    return f"fine-tuning, of {n} examples: {'; '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class SFTReport:
    """What one call of `SFTTrainer.train` did."""

    n_steps: int
    """Optimiser steps."""
    n_tokens: int
    """Completion tokens learned from, over all epochs."""
    nats_per_token_first: float
    """Loss of the first step, before anything was learned."""
    nats_per_token_last: float
    """Loss over the last tenth of the steps, each before its update."""
    n_truncated_prompts: int
    n_truncated_completions: int
    seconds: float
    tokens_per_second: float
    """Completion tokens per second of wall time."""


class SFTTrainer:
    """Trains a language model in place.

    Args:
        lm: What is trained; its frozen parameters stay as they are.
        settings: How.
    """

    def __init__(self, lm: LanguageModel, settings: SFTSettings | None = None) -> None:
        self.lm = lm
        self.settings = settings or SFTSettings()
        self.optimiser = Optimiser(
            [lm.model],
            self.settings.learning_rate,
            self.settings.adam_eps,
            self.settings.max_grad_norm,
        )

    def train(self, data: SFTData, rng: np.random.Generator) -> SFTReport:
        """Go through the data `n_epochs` times, in a new order each time.

        Raises:
            DataError: an example that this model could not have written.
            ConfigError: a model that cannot be sampled as it is trained, see `ensure_agreement`.
            NumericalError: the loss or the gradient is not finite; the message says which.
        """
        size = self.settings.batch_size
        n_steps = self.settings.n_epochs * math.ceil(len(data) / size)
        losses, counts = list[float](), list[int]()
        started = time.perf_counter()
        for _ in range(self.settings.n_epochs):
            order = rng.permutation(len(data)).tolist()
            for start in range(0, len(data), size):
                batch = data.batch(self.lm, order[start : start + size])
                n_columns = max(batch.completion_ids.shape[1], 1)
                ensure_agreement(self.lm, batch.prompt_ids, batch.prompt_mask, n_columns)
                self.optimiser.zero_grad()
                losses.append(self.backward(batch))
                counts.append(int(batch.lengths.sum()))
                self.optimiser.step(self.settings.remaining(len(losses) - 1, n_steps))
        self.optimiser.zero_grad()
        seconds = time.perf_counter() - started
        tail = slice(-max(n_steps // 10, 1), None)
        return SFTReport(
            n_steps=n_steps,
            n_tokens=sum(counts),
            nats_per_token_first=losses[0],
            nats_per_token_last=float(np.average(losses[tail], weights=counts[tail])),
            n_truncated_prompts=data.n_truncated_prompts,
            n_truncated_completions=data.n_truncated_completions,
            seconds=seconds,
            tokens_per_second=sum(counts) / seconds,
        )

    def backward(self, batch: TokenBatch) -> float:
        """Add a batch's gradient to the parameters', and return its loss in nats per token.

        Each micro-batch is divided by the tokens of the whole batch, so that the gradient does not
        depend on how the batch is cut.
        """
        n_tokens = int(batch.lengths.sum())
        size = self.settings.micro_batch_size or len(batch)
        total = 0.0
        for start in range(0, len(batch), size):
            part = batch.select(slice(start, start + size)).trimmed()
            scores = completion_scores(self.lm, part)
            loss = sft_loss(scores.logprobs, part.completion_mask, n_tokens)
            require_finite("the SFT loss", loss.detach())
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            total += float(loss.detach())
        return total

    @torch.no_grad()
    def evaluate(self, data: SFTData) -> float:
        """The loss on data that is not trained on, in nats per completion token."""
        total, n_tokens = 0.0, 0
        for start in range(0, len(data), self.settings.batch_size):
            rows = range(start, min(start + self.settings.batch_size, len(data)))
            batch = data.batch(self.lm, rows)
            total -= float(completion_scores(self.lm, batch).logprobs.double().sum())
            n_tokens += int(batch.lengths.sum())
        return total / n_tokens
