"""Dropout stays off and checkpointing stays on, whatever mode a model was left in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.text_reward_training import TextRewardNet
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.scores import completion_scores
from rlhf_gym.language.tokenizers import word_tokenizer

LETTERS = word_tokenizer(list("abcd"), separator="")
IDS = {"vocab_size": 7, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    **IDS,
}
GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 16, "resid_pdrop": 0.5, **IDS}
# OPT's layers call dropout as a function: there is no `nn.Dropout` to switch off.
OPT = {**LLAMA, "ffn_dim": 16, "word_embed_proj_dim": 16, "dropout": 0.5, "layerdrop": 0.5}
BATCH = TokenBatch.from_lists([[1], [1, 3, 4]], [[3, 5, 2], [6, 2]], 0, 2)


def model_of(kind: str, settings: dict[str, Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))  # type: ignore[no-untyped-call]  # transformers leaves it so


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def count_layers(model: torch.nn.Module) -> list[int]:
    """Grows by one each time that a first block's MLP or feed-forward layer is computed."""
    calls: list[int] = []
    names = ("mlp", "fc1", "mixer")
    first = next(m for name, m in model.named_modules() if name.split(".")[-1] in names)
    first.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.filterwarnings("ignore:.*fast path is not available.*")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [("llama", LLAMA), ("gpt2", GPT2), ("opt", OPT)],
    ids=["llama", "gpt2", "opt"],
)
def test_checkpointing_computes_blocks_again_and_changes_no_gradient(
    kind: str, settings: dict[str, Any]
) -> None:
    lm = LanguageModel(model_of(kind, settings), LETTERS)
    calls = count_layers(lm.model)
    plain = gradients(lm.model, completion_scores(lm, BATCH).logprobs.sum())
    assert len(calls) == 1
    lm.model.activation_checkpointing_enable()
    before = torch.random.get_rng_state()
    checkpointed = gradients(lm.model, completion_scores(lm, BATCH).logprobs.sum())
    assert len(calls) == 3  # forward, and once more for the backward pass
    assert checkpointed.keys() == plain.keys()
    for name, gradient in plain.items():
        assert torch.allclose(checkpointed[name], gradient, rtol=0, atol=1e-6), name
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(module.training for module in lm.model.modules())
    with torch.no_grad():
        completion_scores(lm, BATCH)
    assert len(calls) == 4  # nothing to save, nothing to compute again


def test_a_frozen_part_does_not_stop_checkpointing() -> None:
    lm = LanguageModel(model_of("llama", LLAMA), LETTERS)
    for parameter in lm.model.model.layers[0].parameters():
        parameter.requires_grad_(False)
    plain = gradients(lm.model, completion_scores(lm, BATCH).logprobs.sum())
    lm.model.activation_checkpointing_enable()
    checkpointed = gradients(lm.model, completion_scores(lm, BATCH).logprobs.sum())
    assert checkpointed.keys() == plain.keys()
    for name, gradient in plain.items():
        assert torch.allclose(checkpointed[name], gradient, rtol=0, atol=1e-6), name


def test_a_reward_models_trunk_checkpoints_too() -> None:
    trunk = model_of("llama", LLAMA).base_model
    net = TextRewardNet(trunk, 16, 2, seed=0)
    calls = count_layers(trunk)
    ids, last = torch.tensor([[1, 3, 2], [1, 4, 0]]), torch.tensor([2, 1])
    plain = gradients(net, net(ids, last).sum())
    trunk.activation_checkpointing_enable()
    checkpointed = gradients(net, net(ids, last).sum())
    assert len(calls) == 3
    for name, gradient in plain.items():
        assert torch.allclose(checkpointed[name], gradient, rtol=0, atol=1e-6), name


def test_dropout_that_is_called_as_a_function_is_off_in_training_mode_too() -> None:
    lm = LanguageModel(model_of("opt", OPT), LETTERS)
    lm.model.train()  # as a foreign training loop might leave it
    first, second = (completion_scores(lm, BATCH).logprobs for _ in range(2))
    assert torch.equal(first, second)


def test_use_cache_in_a_config_is_not_asked() -> None:
    from rlhf_gym.language.sampler import sample_completions

    found = []
    for use_cache in (True, False):
        lm = LanguageModel(model_of("llama", {**LLAMA, "use_cache": use_cache}), LETTERS)
        generator = torch.Generator().manual_seed(0)
        mask = torch.ones(2, 1, dtype=torch.bool)
        found.append(
            sample_completions(lm, torch.ones(2, 1).long(), mask, 6, generator=generator).batch
        )
    assert torch.equal(found[0].completion_ids, found[1].completion_ids)


def test_adapters_and_quantised_weights_are_refused() -> None:
    adapted = model_of("llama", LLAMA)
    adapted._hf_peft_config_loaded = True
    with pytest.raises(ConfigError, match=r"has adapters .*merge_and_unload"):
        LanguageModel(adapted, LETTERS)
    quantised = model_of("llama", LLAMA)
    weight = torch.zeros(16, 16, dtype=torch.int8)
    quantised.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(weight, requires_grad=False)
    with pytest.raises(ConfigError, match=r"quantised \(`.*up_proj\.weight` holds whole numbers"):
        LanguageModel(quantised, LETTERS)


def test_all_that_a_generation_config_would_change_is_named() -> None:
    model = model_of("llama", LLAMA)
    assert LanguageModel(model, LETTERS).notes == ()
    model.generation_config.suppress_tokens = [3]
    model.generation_config.repetition_penalty = 1.2
    model.generation_config.num_beams = 1
    (note,) = LanguageModel(model, LETTERS).notes
    assert "(repetition_penalty=1.2, suppress_tokens=[3]) is ignored" in note
