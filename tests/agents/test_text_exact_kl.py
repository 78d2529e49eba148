"""KL along completions against sums over the vocabulary, one prefix at a time."""

from __future__ import annotations

import pytest
import torch

from rlhf_gym.agents.text.exact_kl import completion_kl
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.sampler import sample_completions
from rlhf_gym.language.scores import completion_scores
from rlhf_gym.language.tokenizers import word_tokenizer

LETTERS = word_tokenizer(list("abc"), separator="")  # ids 3 to 5; PAD 0, BOS 1, EOS 2
ALLOWED = [2, 3, 4, 5]
PROMPTS, COMPLETIONS = [[1, 3], [1, 4, 5, 3]], [[4, 5, 2], [3]]


def loud(seed: int) -> LanguageModel:
    """A tiny model whose weights are scaled up, so that two of them differ clearly."""
    lm = LanguageModel.tiny(LETTERS, n_layers=1, d_model=16, n_heads=2, max_length=16, seed=seed)
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                parameter.mul_(3.0)
    return lm


@torch.no_grad()
def next_token(lm: LanguageModel, prefix: list[int]) -> torch.Tensor:
    logits = lm.model(input_ids=torch.tensor([prefix])).logits[0, -1, ALLOWED]
    return logits.double().log_softmax(-1)


def test_it_is_the_sum_over_positions_of_sums_over_the_vocabulary() -> None:
    policy, reference = loud(0), loud(1)
    expected = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        total = 0.0
        for t in range(len(completion)):
            p, q = (next_token(lm, prompt + completion[:t]) for lm in (policy, reference))
            total += float((p.exp() * (p - q)).sum())
        expected.append(total)
    batch = TokenBatch.from_lists(PROMPTS, COMPLETIONS, 0, 2)
    for micro_batch in (1, 32):
        found = completion_kl(policy, reference, batch, micro_batch=micro_batch)
        assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert min(expected) > 0.1


def test_a_model_is_at_no_distance_from_itself() -> None:
    batch = TokenBatch.from_lists(PROMPTS, COMPLETIONS, 0, 2)
    assert completion_kl(loud(0), loud(0), batch).tolist() == [0.0, 0.0]


def test_its_mean_is_that_of_the_log_ratios_with_less_noise() -> None:
    policy, reference = loud(0), loud(1)
    prompts = torch.tensor([[1, 3]]).repeat(2000, 1)
    batch = sample_completions(
        policy,
        prompts,
        torch.ones_like(prompts, dtype=torch.bool),
        4,
        generator=torch.Generator().manual_seed(0),
    ).batch
    with torch.no_grad():
        ours, theirs = (completion_scores(lm, batch).logprobs for lm in (policy, reference))
    ratios = (ours - theirs).sum(1).double()  # (B,)
    exact = completion_kl(policy, reference, batch).double()
    standard_error = float((ratios - exact).std()) / 2000**0.5
    assert abs(float(ratios.mean() - exact.mean())) < 4 * standard_error
    assert float(exact.std()) < float(ratios.std())
