"""Whether what is sampled is what is trained: three ways to the same log-probabilities compared.

The sampler reads a padded prompt and then one token at a time from a cache; losses read a padded
batch; the model by itself reads a row alone. A model whose forward pass does not honour masks,
positions or a cache gives each of them another distribution, and says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_gym.errors import ConfigError, NumericalError, RlhfGymError
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.sampler import sample_completions
from rlhf_gym.language.scores import allowed_logits, completion_scores
from rlhf_gym.language.serving import SERVINGS, without_dropout

__all__ = ["Gap", "ensure_agreement", "gaps_of", "sample_prompts"]

_MOST = {"max": 1e-3, "mean": 0.05}
"""Nats. Below float32 the mean counts: bfloat16 rounds by 0.01, a single token by much more."""
_N_ROWS, _N_TOKENS = 8, 256
_BLIND = 1e-6  # nats: a head of zeros says the same of every token, whatever went wrong below it
_NAMES = ("the sampler", "the scorer that losses use", "a forward pass of each row alone")


@dataclass(frozen=True)
class Gap:
    """How far two of the three are apart, over the tokens of the completions compared."""

    first: str
    second: str
    max: float
    """Nats."""
    mean: float
    """Nats, of the absolute differences."""

    def within(self, measure: str) -> bool:
        """Whether the "max" or the "mean" is small enough; NaN is not."""
        return bool(getattr(self, measure) <= _MOST[measure])


@torch.no_grad()
def ensure_agreement(
    lm: LanguageModel, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int
) -> None:
    """Find a way to compute this model in which sampler, scorer and a plain forward pass agree.

    Once per model: later calls return at once. First everything is padded and cached; where that
    does not agree (a recurrent model, one without a mask), rows of one length are computed together
    without padding; then without a cache as well, which is slow. What was found stands in
    `lm.serving`, and in `lm.notes` where it is not the first.

    Up to 8 prompts, the shortest and the longest among them, are completed by up to 256 tokens. No
    generator but one made here is drawn from. A model whose head is zero says nothing; it is
    looked at again by the next call.

    Args:
        lm: The model; its weights are not changed.
        prompt_ids: (B, P) int64, left-padded.
        prompt_mask: (B, P) bool.
        max_new_tokens: T, at least 1.

    Raises:
        ConfigError: in no way do the three agree, within 0.001 nats for every token in float32, or
            0.05 nats on average below it.
        DataError: prompts that the model cannot continue.
    """
    if lm.agreed or len(prompt_ids) == 0:
        return
    rows = _some_rows(prompt_mask)
    ids, mask = prompt_ids[rows].to(lm.device), prompt_mask[rows].to(lm.device)
    n_new = min(max_new_tokens, _N_TOKENS)
    if lm.max_length is not None:  # the longest prompt need not be the longest text's
        n_new = max(min(n_new, lm.max_length - int(mask.sum(1).max())), 1)
    measure = "mean" if _is_half(lm) else "max"
    failures, errors = list[str](), list[Exception]()
    for serving in SERVINGS:
        lm.serving = serving
        try:
            gaps, is_blind = gaps_of(lm, ids, mask, n_new)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a stranger's forward pass raises what it likes
            errors.append(error)
            failures.append(f"{serving}: {type(error).__name__} ({str(error)[:120]})")
            continue
        if all(gap.within(measure) for gap in gaps):
            lm.agreed = not is_blind
            if failures:
                lm.notes = (*lm.notes, _note(lm, failures))
            return
        failures.append(f"{serving}: {_told(gaps, measure)}")
    lm.serving = SERVINGS[0]
    if len(errors) == len(SERVINGS) and isinstance(errors[-1], NumericalError):
        return  # weights that diverged are for the caller to name
    if len(errors) == len(SERVINGS) and isinstance(errors[-1], RlhfGymError):
        raise errors[-1]
    raise ConfigError(
        f"{type(lm.model).__name__} would be trained on another distribution than it is sampled "
        "from. These disagree on the log-probabilities of the same completions (differences of at "
        f"most {_MOST[measure]} nats, {measure} over their tokens, are accepted). "
        f"{'. '.join(failures).capitalize()}. Use a decoder whose forward pass honours "
        "`attention_mask` and `position_ids`, or, without them, depends on nothing but a row's own "
        "tokens so far."
    ) from (errors[-1] if errors else None)


def gaps_of(
    lm: LanguageModel, prompt_ids: Tensor, prompt_mask: Tensor, n_new: int
) -> tuple[list[Gap], bool]:
    """The three pairs' differences as the model is served now, and whether they say anything.

    Rows of 1 to `n_new` tokens are written, none ended by EOS: whole lengths are seen, and rows
    that leave the batch.

    Args:
        lm: The model.
        prompt_ids: (B, P) int64, left-padded.
        prompt_mask: (B, P) bool.
        n_new: T.
    """
    n_rows = len(prompt_ids)
    limits = [max(n_new * i // n_rows, 1) for i in range(n_rows)]
    limits[0] = limits[-1] = n_new  # the longest prompt and the one with most padding
    with _endless(lm):
        sampled = sample_completions(
            lm,
            prompt_ids,
            prompt_mask,
            n_new,
            generator=torch.Generator(device=lm.device).manual_seed(0),
            row_limits=torch.tensor(limits, device=lm.device),
        )
        scored = completion_scores(lm, sampled.batch.trimmed()).logprobs
        alone = _alone(lm, sampled.batch)
    mask = sampled.batch.completion_mask
    three = [logprobs[mask].double() for logprobs in (sampled.logprobs, scored, alone)]
    gaps = []
    for one, two in ((0, 2), (1, 2), (0, 1)):
        difference = (three[one] - three[two]).abs()
        most, mean = float(difference.max()), float(difference.mean())
        gaps.append(Gap(_NAMES[one], _NAMES[two], most, mean))
    is_blind = all(float(each.max() - each.min()) < _BLIND for each in three)
    return gaps, is_blind


def sample_prompts(lm: LanguageModel) -> tuple[Tensor, Tensor]:
    """Four prompts of 1 to 4 tokens, (4, 4) int64 ids and (4, 4) bool mask, where no others are."""
    allowed = (~lm.forbidden).nonzero()[:, 0]
    ids = allowed[torch.arange(16, device=allowed.device) % len(allowed)].view(4, 4)
    mask = torch.ones(4, 4, dtype=torch.bool, device=lm.device).tril().flip(1)
    return torch.where(mask, ids, lm.pad_id), mask


def _alone(lm: LanguageModel, batch: TokenBatch) -> Tensor:
    """(B, T) log-probabilities by the model's own defaults: no mask, no positions, no cache."""
    logprobs = torch.zeros(batch.completion_ids.shape, device=lm.device)
    for row in range(len(batch)):
        prompt = batch.prompt_ids[row][batch.prompt_mask[row]]
        completion = batch.completion_ids[row][batch.completion_mask[row]]  # (t,)
        n = len(completion)
        ids = torch.cat([prompt, completion])[None, :-1]
        with without_dropout(lm.model):
            logits = lm.model(input_ids=ids, use_cache=False).logits[0, -n:]  # (t, V)
        every = allowed_logits(lm, logits, 1.0).log_softmax(-1)
        logprobs[row, :n] = every.gather(-1, completion[:, None])[:, 0]
    return logprobs


@contextmanager
def _endless(lm: LanguageModel) -> Iterator[None]:
    """Without EOS among what is written."""
    forbidden = lm.forbidden
    lm.forbidden = forbidden.clone()
    lm.forbidden[[lm.eos_id, *lm.also_ends]] = True
    try:
        yield
    finally:
        lm.forbidden = forbidden


def _some_rows(mask: Tensor) -> Tensor:
    """Rows from the longest to the shortest prompt, both of them among them."""
    order = mask.sum(1).argsort(descending=True, stable=True)
    n = min(_N_ROWS, len(order))
    places = torch.linspace(0, len(order) - 1, n).round().long()
    return order[places.to(order.device)]


def _is_half(lm: LanguageModel) -> bool:
    return any(p.dtype.itemsize < 4 for p in lm.model.parameters() if p.is_floating_point())


def _told(gaps: list[Gap], measure: str) -> str:
    wrong = [gap for gap in gaps if not gap.within(measure)]
    told = (f"{gap.first} and {gap.second} by {getattr(gap, measure):.3g}" for gap in wrong)
    return f"{', '.join(told)} nats"


def _note(lm: LanguageModel, failures: list[str]) -> str:
    slow = "" if lm.serving.caches else ", which is slow"
    return f"{type(lm.model).__name__} is computed {lm.serving}{slow} ({'; '.join(failures)})"
