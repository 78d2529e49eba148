"""Log-probabilities, values and entropies of completions against plain computations."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_gym.errors import ConfigError
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.scores import completion_scores, hidden_states
from rlhf_gym.language.tokenizers import word_tokenizer

LETTERS = word_tokenizer(list("abcd"), separator="")  # ids 3 to 6; PAD 0, BOS 1, EOS 2
ALLOWED = [2, 3, 4, 5, 6]


def loud(architecture: str = "llama", factor: float = 2.0) -> LanguageModel:
    """A tiny model whose random weights are scaled up, so that its choices differ."""
    lm = LanguageModel.tiny(
        LETTERS,
        n_layers=2,
        d_model=16,
        n_heads=2,
        max_length=32,
        architecture=architecture,  # type: ignore[arg-type]  # both are tried
    )
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                parameter.mul_(factor)
    return lm


def some_value_head() -> ValueHead:
    head = ValueHead(16, seed=1)
    torch.nn.init.normal_(head.out.weight, generator=torch.Generator().manual_seed(2))
    return head


BATCH = TokenBatch.from_lists([[1, 3], [1, 4, 5, 6, 3]], [[4, 5, 2], [6, 6]], 0, 2)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_are_what_a_loop_over_single_tokens_gives(
    architecture: str, temperature: float
) -> None:
    lm, head = loud(architecture), some_value_head()
    found = completion_scores(
        lm, BATCH, temperature=temperature, value_head=head, want_entropy=True
    )
    assert found.values is not None
    assert found.entropies is not None
    for row, (prompt, completion) in enumerate([([1, 3], [4, 5, 2]), ([1, 4, 5, 6, 3], [6, 6])]):
        for t, token in enumerate(completion):
            # The plainest way: no padding, no cache, the whole prefix, the last position.
            prefix = torch.tensor([prompt + completion[:t]])
            output = lm.model(input_ids=prefix, output_hidden_states=True)
            logits = output.logits[0, -1, ALLOWED] / temperature
            p = logits.softmax(-1)
            assert float(found.logprobs[row, t]) == pytest.approx(
                math.log(float(p[ALLOWED.index(token)])), abs=1e-5
            )
            assert float(found.entropies[row, t]) == pytest.approx(
                float(-(p * p.log()).sum()), abs=1e-5
            )
            # Values are of magnitude 10 here, hence the relative bound.
            value = float(head(output.hidden_states[-1][:, -1:])[0, 0])
            assert float(found.values[row, t]) == pytest.approx(value, rel=1e-5, abs=1e-5)


def test_padding_scores_zero() -> None:
    found = completion_scores(loud(), BATCH, value_head=some_value_head(), want_entropy=True)
    for tensor in (found.logprobs, found.values, found.entropies):
        assert tensor is not None
        assert tensor.dtype == torch.float32
        assert (tensor != 0).tolist() == BATCH.completion_mask.tolist()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_prompt_scores_the_same_alone_and_among_longer_ones(architecture: str) -> None:
    lm = loud(architecture)
    alone = TokenBatch.from_lists([[1, 3]], [[4, 5, 2]], 0, 2)
    long = [[1, *([4, 5, 6] * 5)], [1, 3], [1, 6, 6, 6]]
    among = TokenBatch.from_lists(long, [[3] * 9, [4, 5, 2], []], 0, 2)
    assert torch.allclose(
        completion_scores(lm, alone).logprobs[0],
        completion_scores(lm, among).logprobs[1, :3],
        rtol=0,
        atol=1e-5,
    )


def test_hidden_states_are_those_that_predict_the_next_token() -> None:
    lm, head = loud(), some_value_head()
    hidden = hidden_states(lm, BATCH)  # (B, P + T, H)
    n_prompt, n_tokens = BATCH.prompt_ids.shape[1], BATCH.completion_ids.shape[1]
    before = hidden[:, n_prompt - 1 : n_prompt - 1 + n_tokens]
    values = completion_scores(lm, BATCH, value_head=head).values
    assert values is not None
    mask = BATCH.completion_mask
    assert torch.allclose(values[mask], head(before)[mask], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_probabilities_of_all_that_may_be_written_add_up_to_one() -> None:
    lm = loud()
    batch = TokenBatch.from_lists([[1, 3]] * 5, [[token] for token in ALLOWED], 0, 2)
    total = completion_scores(lm, batch, temperature=0.5).logprobs.exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-6)


def test_empty_completions_have_no_scores() -> None:
    batch = TokenBatch.from_lists([[1], [1]], [[], []], 0, 2)
    found = completion_scores(loud(), batch, want_entropy=True)
    assert found.logprobs.shape == (2, 0)
    assert found.values is None


def test_gradients_are_finite_although_some_ids_are_forbidden() -> None:
    lm = loud()
    found = completion_scores(lm, BATCH, want_entropy=True)
    assert found.entropies is not None
    (found.logprobs.sum() + found.entropies.sum()).backward()
    gradients = [p.grad for p in lm.trainable_parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="greedy=True"):
        completion_scores(loud(), BATCH, temperature=temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradients_are_those_of_a_plain_log_softmax(temperature: float) -> None:
    lm = loud()
    batch = TokenBatch.from_lists([[1, 3], [1]], [[4, 5, 2], [6]], lm.pad_id, lm.eos_id)
    weights = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, 0.0]])
    plain = torch.zeros(())
    for row, (prompt, completion) in enumerate((([1, 3], [4, 5, 2]), ([1], [6]))):
        ids = torch.tensor([[*prompt, *completion]])
        logits = lm.model(input_ids=ids).logits[0] / temperature  # (L, V)
        for t, token in enumerate(completion):
            allowed = logits[len(prompt) + t - 1][ALLOWED]
            plain = plain + weights[row, t] * allowed.log_softmax(-1)[ALLOWED.index(token)]
    expected = torch.autograd.grad(plain, lm.trainable_parameters())
    loss = (completion_scores(lm, batch, temperature=temperature).logprobs * weights).sum()
    found = torch.autograd.grad(loss, lm.trainable_parameters())
    assert loss.item() == pytest.approx(plain.item(), abs=1e-5)
    for one, other in zip(found, expected, strict=True):
        # Single precision, sums over tokens in another order; gradients here are of order 1.
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
