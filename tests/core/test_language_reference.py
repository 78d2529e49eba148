"""The reference model: equal at the start, unmoved by training, and no second copy of the trunk."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from rlhf_gym.errors import ConfigError
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.reference import reference_of
from rlhf_gym.language.scores import completion_scores
from rlhf_gym.language.tokenizers import word_tokenizer

LETTERS = word_tokenizer(list("abcd"), separator="")
BATCH = TokenBatch.from_lists([[1, 3], [1, 4, 5], [1]], [[4, 5, 2], [6, 6], [2]], 0, 2)
# Blocks of either architecture, from the input: those below stay frozen with 1 of 3 unfrozen.
BLOCKS = {"llama": "model.layers.", "gpt2": "transformer.h."}


def make(architecture: str = "llama") -> LanguageModel:
    return LanguageModel.tiny(
        LETTERS,
        n_layers=3,
        d_model=16,
        n_heads=2,
        max_length=16,
        architecture=architecture,  # type: ignore[arg-type]  # both are tried
    )


def named(lm: LanguageModel) -> Mapping[str, Tensor]:
    return dict(lm.model.named_parameters())


def train(lm: LanguageModel) -> None:
    optimiser = torch.optim.Adam(lm.trainable_parameters(), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        (-completion_scores(lm, BATCH).logprobs.sum()).backward()
        optimiser.step()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("n_unfrozen", [None, 1, 3])
def test_the_reference_is_the_policys_start_and_stays_there(
    architecture: str, n_unfrozen: int | None
) -> None:
    lm = make(architecture)
    reference = reference_of(lm, n_unfrozen)
    start = reference.completion_logprobs(BATCH, 0.7)
    with torch.no_grad():
        policy = completion_scores(lm, BATCH, temperature=0.7).logprobs
    assert torch.allclose(start, policy, rtol=0, atol=1e-6)
    train(lm)
    assert torch.equal(reference.completion_logprobs(BATCH, 0.7), start)
    with torch.no_grad():
        moved = completion_scores(lm, BATCH, temperature=0.7).logprobs
    assert float((moved - start).abs().max()) > 0.05


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_only_the_last_blocks_and_the_norm_behind_them_get_a_gradient(architecture: str) -> None:
    lm = make(architecture)
    reference_of(lm, 1)
    completion_scores(lm, BATCH).logprobs.sum().backward()
    with_gradient = {name for name, p in named(lm).items() if p.grad is not None}
    last_norm = {"llama": "model.norm.", "gpt2": "transformer.ln_f."}[architecture]
    assert with_gradient == {
        name for name in named(lm) if name.startswith((BLOCKS[architecture] + "2.", last_norm))
    }
    assert with_gradient


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_what_is_frozen_exists_once_and_what_is_trained_twice(architecture: str) -> None:
    lm = make(architecture)
    own = named(reference_of(lm, 1).lm)
    for name, parameter in named(lm).items():
        shared = own[name].data_ptr() == parameter.data_ptr()
        assert shared == (not parameter.requires_grad), name
    assert not any(p.requires_grad for p in own.values())


def test_without_a_number_everything_trains_and_nothing_is_shared() -> None:
    lm = make()
    own = named(reference_of(lm).lm)
    for name, parameter in named(lm).items():
        assert parameter.requires_grad
        assert own[name].data_ptr() != parameter.data_ptr()


def test_a_head_of_its_own_is_trained() -> None:
    lm = make()
    head = torch.nn.Linear(16, lm.vocab_size, bias=False)
    lm.model.set_output_embeddings(head)
    reference = reference_of(lm, 1)
    assert head.weight.requires_grad
    assert not lm.model.get_input_embeddings().weight.requires_grad
    assert reference.lm.model.lm_head.weight.data_ptr() != head.weight.data_ptr()


def test_micro_batches_change_nothing() -> None:
    reference = reference_of(make())
    whole = reference.completion_logprobs(BATCH)
    assert torch.allclose(
        reference.completion_logprobs(BATCH, micro_batch=2), whole, rtol=0, atol=1e-6
    )
    assert not whole.requires_grad


@pytest.mark.parametrize("n_unfrozen", [0, 4, -1])
def test_a_number_of_blocks_that_there_is_not_is_refused(n_unfrozen: int) -> None:
    with pytest.raises(ConfigError, match="this model has 3 blocks, so it is 1 to 3"):
        reference_of(make(), n_unfrozen)
