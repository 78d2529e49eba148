"""The sampler writes from exactly the distribution that is trained, however it gets there."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_gym.errors import ConfigError, DataError, NumericalError
from rlhf_gym.language.batches import EncodedPrompts, encode_prompts
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.sampler import SamplingSettings, _invert, sample_completions
from rlhf_gym.language.scores import completion_scores
from rlhf_gym.language.tokenizers import word_tokenizer

LETTERS = word_tokenizer(list("abcd"), separator="")  # ids 3 to 6; PAD 0, BOS 1, EOS 2
PROMPTS = ["", "abcdabcd", "dd", "abc", "c", "ddddd"]
T = 12


def loud(architecture: str = "llama") -> LanguageModel:
    """A tiny model whose random weights are scaled up, so that its choices differ."""
    lm = LanguageModel.tiny(
        LETTERS,
        n_layers=2,
        d_model=16,
        n_heads=2,
        max_length=32,
        architecture=architecture,  # type: ignore[arg-type]  # both are tried
        seed=1,
    )
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                parameter.mul_(1.5)
    return lm


def encoded(texts: list[str] = PROMPTS) -> EncodedPrompts:
    return encode_prompts(LETTERS, texts, 10)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample_without_cache(lm: LanguageModel, prompts: EncodedPrompts, temperature: float) -> Tensor:
    """The slow reference: each prompt by itself, whole prefixes, the same uniform numbers."""
    uniforms = torch.rand((len(prompts.ids), T), dtype=torch.float64, generator=seeded())
    rows = []
    for prompt, mask, numbers in zip(prompts.ids, prompts.mask, uniforms, strict=True):
        ids = prompt[mask].tolist()
        start = len(ids)
        for number in numbers.tolist():
            with torch.no_grad():
                logits = lm.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
            p = (logits / temperature).softmax(-1).masked_fill(lm.forbidden, 0.0)
            cdf = np.cumsum(p.numpy() / p.sum().item())
            ids.append(int(np.searchsorted(cdf, number, side="right")))
            if ids[-1] == lm.eos_id:
                break
        rows.append(ids[start:] + [lm.pad_id] * (start + T - len(ids)))
    return torch.tensor(rows)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_cache_padding_and_ended_rows_change_no_token(
    architecture: str, temperature: float
) -> None:
    lm, prompts = loud(architecture), encoded()
    found = sample_completions(
        lm, prompts.ids, prompts.mask, T, generator=seeded(), temperature=temperature
    ).batch
    assert torch.equal(found.completion_ids, sample_without_cache(lm, prompts, temperature))
    # The case is worth something only if some rows end early and others do not.
    assert {True, False} == set(found.finished.tolist())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_log_probabilities_and_values_are_those_of_training(
    architecture: str, temperature: float
) -> None:
    lm, prompts = loud(architecture), encoded()
    head = ValueHead(16, seed=1)
    torch.nn.init.normal_(head.out.weight, std=0.1, generator=seeded(2))
    found = sample_completions(
        lm,
        prompts.ids,
        prompts.mask,
        T,
        generator=seeded(),
        temperature=temperature,
        value_head=head,
    )
    with torch.no_grad():
        again = completion_scores(lm, found.batch, temperature=temperature, value_head=head)
    assert found.values is not None
    assert again.values is not None
    assert torch.allclose(found.logprobs, again.logprobs, rtol=0, atol=1e-5)
    assert torch.allclose(found.values, again.values, rtol=0, atol=1e-5)
    assert float(found.values.abs().max()) > 0.1


def test_frequencies_are_the_softmax_within_four_standard_errors() -> None:
    lm = loud()
    n = 20_000
    prompts = encode_prompts(LETTERS, ["ab"] * n, 3)
    found = sample_completions(lm, prompts.ids, prompts.mask, 1, generator=seeded(3)).batch
    with torch.no_grad():
        logits = lm.model(input_ids=prompts.ids[:1]).logits[0, -1, 2:]  # all that is allowed
    p = logits.double().softmax(-1).numpy()
    counts = np.bincount(found.completion_ids[:, 0], minlength=7)
    assert counts[:2].tolist() == [0, 0]  # PAD and BOS
    assert np.all(np.abs(counts[2:] / n - p) <= 4 * np.sqrt(p * (1 - p) / n))
    assert p.max() < 0.9  # a choice there is


def test_no_uniform_number_reaches_an_id_without_probability() -> None:
    # Forbidden at both ends; 0 and the largest number below 1 must stay inside.
    probs = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0])
    uniforms = torch.tensor([0.0, 0.2499, 0.2501, 1 - 2.0**-53], dtype=torch.float64)
    assert _invert(probs.expand(4, 5), uniforms).tolist() == [1, 1, 3, 3]


def test_nothing_is_written_after_the_end_and_the_limit_is_no_end() -> None:
    lm, prompts = loud(), encoded(PROMPTS * 5)
    batch = sample_completions(lm, prompts.ids, prompts.mask, T, generator=seeded()).batch
    for ids, mask, finished in zip(
        batch.completion_ids.tolist(),
        batch.completion_mask.tolist(),
        batch.finished.tolist(),
        strict=True,
    ):
        length = ids.index(lm.eos_id) + 1 if lm.eos_id in ids else T
        assert mask == [True] * length + [False] * (T - length)
        assert ids[length:] == [lm.pad_id] * (T - length)
        assert finished == (lm.eos_id in ids)


def test_a_row_does_not_depend_on_the_others() -> None:
    lm, prompts = loud(), encoded()
    together = sample_completions(lm, prompts.ids, prompts.mask, T, generator=seeded())
    # One row at a time draws the same numbers if the generator is consumed row by row.
    generator = seeded()
    for row in range(len(PROMPTS)):
        alone = sample_completions(
            lm, prompts.ids[row : row + 1], prompts.mask[row : row + 1], T, generator=generator
        )
        assert torch.equal(alone.batch.completion_ids[0], together.batch.completion_ids[row])
        assert torch.allclose(alone.logprobs[0], together.logprobs[row], rtol=0, atol=1e-5)


def test_greedy_takes_the_most_likely_token_each_time() -> None:
    lm, prompts = loud(), encoded(["ab"])
    found = sample_completions(
        lm, prompts.ids, prompts.mask, 4, generator=seeded(), greedy=True
    ).batch
    ids = prompts.ids[prompts.mask].tolist()
    for token in found.completion_lists()[0]:
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
        assert token == int(logits.masked_fill(lm.forbidden, -torch.inf).argmax())
        ids.append(token)


def test_sampling_leaves_the_global_generator_alone() -> None:
    prompts = encoded()
    before = torch.random.get_rng_state()
    sample_completions(loud(), prompts.ids, prompts.mask, 2, generator=seeded())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_prompts_give_no_completions() -> None:
    empty = torch.zeros(0, 3, dtype=torch.int64)
    found = sample_completions(loud(), empty, empty.bool(), 4, generator=seeded())
    assert found.batch.completion_ids.shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", 50), ("top_p", 0.9), ("min_length", 5), ("repetition_penalty", 1.2)],
)
def test_options_that_bias_the_gradient_are_refused_with_the_reason(
    name: str, value: float
) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` is {value}; it must stay .* because"):
        SamplingSettings(**{name: value})  # type: ignore[arg-type]  # one name of several
    assert name in {field.name for field in fields(SamplingSettings)}


def test_a_temperature_is_accepted_if_it_is_above_zero() -> None:
    assert SamplingSettings(temperature=0.7).temperature == 0.7
    with pytest.raises(ConfigError, match="`temperature` is 0"):
        SamplingSettings(temperature=0)


def test_prompts_that_cannot_be_continued_are_refused() -> None:
    lm, prompts = loud(), encoded(["ab"])

    def sample(ids: Tensor, mask: Tensor, n_new: int = 3) -> None:
        sample_completions(lm, ids, mask, n_new, generator=seeded())

    with pytest.raises(DataError, match="prompt 0 has no token"):
        sample(prompts.ids, torch.zeros_like(prompts.mask))
    with pytest.raises(DataError, match="padded on the right"):
        sample(prompts.ids.flip(1), prompts.mask.flip(1))
    with pytest.raises(DataError, match="make 43 tokens; the model has 32 positions"):
        sample(prompts.ids, prompts.mask, 40)
    with pytest.raises(ConfigError, match="`max_new_tokens` is 0"):
        sample(prompts.ids, prompts.mask, 0)


def test_a_diverged_policy_is_named() -> None:
    lm, prompts = loud(), encoded()
    with torch.no_grad():
        lm.model.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(NumericalError, match="the policy's logits are NaN"):
        sample_completions(lm, prompts.ids, prompts.mask, 3, generator=seeded())


def test_every_end_of_the_generation_config_ends_a_completion() -> None:
    plain, several = loud(), loud()
    several.model.generation_config.eos_token_id = [2, 5]  # EOS, and the letter c
    several = LanguageModel(several.model, LETTERS)
    assert (several.eos_id, several.also_ends) == (2, (5,))
    prompts = encoded(["abc"] * 40)
    written = [
        sample_completions(lm, prompts.ids, prompts.mask, T, generator=seeded()).batch
        for lm in (plain, several)
    ]
    rows = zip(*(batch.completion_lists() for batch in written), strict=True)
    n_by_other = 0
    for row, (ours, theirs) in enumerate(rows):
        until = next((i + 1 for i, token in enumerate(ours) if token in (2, 5)), len(ours))
        assert theirs == ours[:until], "the same tokens, up to the first of both ends"
        assert bool(written[1].finished[row]) == (theirs[-1] in (2, 5))
        n_by_other += theirs[-1] == 5
    assert 0 < n_by_other < 40
    # Scored, the other end is a token like any other: nothing is masked or renamed.
    scores = completion_scores(several, written[1]).logprobs
    again = sample_completions(several, prompts.ids, prompts.mask, T, generator=seeded())
    torch.testing.assert_close(scores, again.logprobs, atol=1e-4, rtol=0)
