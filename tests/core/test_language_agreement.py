"""What is sampled is what is trained, or nothing is: on architectures of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.language.agreement import ensure_agreement, sample_prompts
from rlhf_gym.language.batches import EncodedPrompts, TokenBatch, encode_prompts
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.reference import ReferenceModel, reference_of
from rlhf_gym.language.sampler import sample_completions
from rlhf_gym.language.scores import completion_scores, hidden_states
from rlhf_gym.language.serving import SERVINGS, Serving
from rlhf_gym.language.tokenizers import word_tokenizer

LETTERS = word_tokenizer(list("abcd"), separator="")  # ids 3 to 6; PAD 0, BOS 1, EOS 2
PROMPTS = ["", "abcdabcd", "dd", "abc", "c", "ddddd"]
T = 8
IDS = {"vocab_size": 7, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    **IDS,
}
STATE = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, **IDS}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, **IDS}
PADDED, UNPADDED, PLAIN = SERVINGS


def wrap(model: Any) -> LanguageModel:
    """Random weights scaled up, so that the tokens before one matter to it."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                parameter.mul_(4)
    return LanguageModel(model, LETTERS)


def tiny(kind: str, **settings: Any) -> LanguageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return wrap(AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)))  # type: ignore[no-untyped-call]  # transformers leaves it so


def fake(base: Any, forward: Any) -> LanguageModel:
    """A stock model whose forward is replaced by one that calls it."""
    kind: Any = type(f"Strange{base.__name__}", (base,), {"forward": forward})
    name = "gpt2" if base is GPT2LMHeadModel else "llama"
    settings: Any = GPT2 if base is GPT2LMHeadModel else LLAMA
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return wrap(kind(AutoConfig.for_model(name, **settings)))


def prompts() -> EncodedPrompts:
    return encode_prompts(LETTERS, PROMPTS, 10)


def ensure(lm: LanguageModel) -> LanguageModel:
    found = prompts()
    ensure_agreement(lm, found.ids, found.mask, T)
    return lm


def sample(lm: LanguageModel, seed: int = 5, value_head: ValueHead | None = None) -> Any:
    found, generator = prompts(), torch.Generator().manual_seed(seed)
    return sample_completions(
        lm, found.ids, found.mask, T, generator=generator, value_head=value_head
    )


@torch.no_grad()
def alone(lm: LanguageModel, batch: TokenBatch) -> Tensor:
    """The slow reference: the stock model on one row's own tokens, nothing else given."""
    logprobs = torch.zeros(batch.completion_ids.shape)
    for row, completion in enumerate(batch.completion_lists()):
        prompt = batch.prompt_ids[row][batch.prompt_mask[row]].tolist()
        logits = lm.model(input_ids=torch.tensor([prompt + completion])).logits[0].double()
        every = logits.masked_fill(lm.forbidden, -torch.inf).log_softmax(-1)
        for t, token in enumerate(completion):
            logprobs[row, t] = every[len(prompt) - 1 + t, token]
    return logprobs


CASES = [
    ("gpt2", GPT2, PADDED),
    ("llama", LLAMA, PADDED),
    ("qwen2", LLAMA, PADDED),
    ("qwen3", {**LLAMA, "head_dim": 4}, PADDED),
    ("mistral", {**LLAMA, "sliding_window": 3}, PADDED),
    ("gemma2", {**LLAMA, "head_dim": 4, "sliding_window": 3}, PADDED),
    ("opt", {**LLAMA, "ffn_dim": 32, "word_embed_proj_dim": 16}, PADDED),
    ("bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 4, **IDS}, PADDED),
    ("mixtral", {**LLAMA, "num_local_experts": 2}, PADDED),
    ("mamba", STATE, UNPADDED),
    ("mamba2", {**STATE, "num_heads": 8, "head_dim": 4, "n_groups": 1, "chunk_size": 4}, PADDED),
    ("roberta", {**LLAMA, "is_decoder": True}, UNPADDED),
    ("rwkv", {**STATE, "attention_hidden_size": 16, "context_length": 32}, PLAIN),
    ("openai-gpt", GPT2, PLAIN),
]


@pytest.mark.filterwarnings("ignore:.*fast path is not available.*")
@pytest.mark.parametrize(("kind", "settings", "serving"), CASES, ids=[c[0] for c in CASES])
def test_whatever_the_architecture_samples_and_losses_are_those_of_a_row_alone(
    kind: str, settings: dict[str, Any], serving: Serving
) -> None:
    lm = ensure(tiny(kind, **settings))
    assert (lm.serving, lm.agreed) == (serving, True)
    head = ValueHead(16, seed=1)
    torch.nn.init.normal_(head.out.weight, generator=torch.Generator().manual_seed(2))
    found = sample(lm, value_head=head)
    with torch.no_grad():
        scores = completion_scores(lm, found.batch, value_head=head)
        states = hidden_states(lm, found.batch)
    exact = alone(lm, found.batch)
    assert torch.allclose(found.logprobs, exact, rtol=0, atol=1e-4 if kind == "mamba" else 1e-5)
    assert torch.allclose(scores.logprobs, exact, rtol=0, atol=1e-4 if kind == "mamba" else 1e-5)
    assert torch.allclose(found.values, scores.values, rtol=1e-3, atol=1e-4)
    assert states.shape == (len(PROMPTS), found.batch.input_ids.shape[1], 16)
    assert float(exact.min()) < -0.5  # there was something to say


def test_the_way_that_was_taken_is_told_where_it_is_not_the_usual_one() -> None:
    assert ensure(tiny("llama", **LLAMA)).notes == ()
    (note,) = ensure(tiny("mamba", **STATE)).notes
    assert note.startswith("MambaForCausalLM is computed without padding, with a cache (padded, ")
    assert "the sampler and a forward pass of each row alone by" in note


def test_a_copy_is_computed_as_its_original_is() -> None:
    lm = ensure(tiny("mamba", **STATE))
    reference = reference_of(lm)
    assert reference.lm.serving == lm.serving
    batch = sample(lm).batch
    assert torch.allclose(reference.completion_logprobs(batch), alone(lm, batch), atol=1e-4)


def test_a_reference_of_ones_own_finds_out_by_itself() -> None:
    policy, own = ensure(tiny("llama", **LLAMA)), tiny("roberta", **LLAMA, is_decoder=True)
    batch = sample(policy).batch
    found = ReferenceModel(own).completion_logprobs(batch)
    assert torch.allclose(found, alone(own, batch), rtol=0, atol=1e-5)


def test_gradients_without_padding_are_those_of_each_row_alone() -> None:
    lm = ensure(tiny("mamba", **STATE))
    batch = sample(lm).batch
    completion_scores(lm, batch).logprobs.sum().backward()
    together = {name: p.grad.clone() for name, p in lm.model.named_parameters()}
    lm.model.zero_grad()
    for row in range(len(batch)):
        completion_scores(lm, batch.select([row]).trimmed()).logprobs.sum().backward()
    for name, parameter in lm.model.named_parameters():
        scale = float(parameter.grad.abs().max())
        assert torch.allclose(together[name], parameter.grad, rtol=0, atol=1e-4 * scale), name


def no_mask(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
    return super(type(self), self).forward(*args, **kwargs)


def forgets(self: Any, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
    """As if every step were the first, though it accepts a cache."""
    return super(type(self), self).forward(*args, **{**kwargs, "use_cache": False})


def drifts(self: Any, *args: Any, **kwargs: Any) -> Any:
    """A little further off each time that it is asked."""
    output = super(type(self), self).forward(*args, **kwargs)
    self.asked = getattr(self, "asked", 0) + 1
    output.logits = output.logits * (1 + 0.02 * self.asked)
    return output


def looks_ahead(self: Any, input_ids: Tensor, **kwargs: Any) -> Any:
    output = super(type(self), self).forward(input_ids, **kwargs)
    output.logits = output.logits + output.logits.mean(1, keepdim=True)
    return output


@pytest.mark.parametrize(
    ("base", "forward", "serving"),
    [(LlamaForCausalLM, no_mask, UNPADDED), (GPT2LMHeadModel, forgets, PLAIN)],
)
def test_what_a_forward_ignores_is_not_asked_of_it(
    base: Any, forward: Any, serving: Serving
) -> None:
    lm = ensure(fake(base, forward))
    assert lm.serving == serving
    batch = sample(lm).batch
    found = completion_scores(lm, batch).logprobs
    assert torch.allclose(found, alone(lm, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("forward", [drifts, looks_ahead])
def test_a_model_without_any_right_way_is_refused_with_names_and_figures(forward: Any) -> None:
    lm = fake(LlamaForCausalLM, forward)
    with pytest.raises(ConfigError) as caught:
        ensure(lm)
    text = str(caught.value)
    assert text.startswith("StrangeLlamaForCausalLM would be trained on another distribution")
    assert "at most 0.001 nats, max over their tokens" in text
    for serving in SERVINGS:
        assert str(serving) in text.lower()
    assert "the sampler and the scorer that losses use by " in text
    assert not lm.agreed


def test_half_precision_is_judged_by_the_mean() -> None:
    # Rounds by far more than 0.001 for some token, and is right.
    lm = tiny("llama", **LLAMA)
    lm.model.to(torch.bfloat16)
    assert ensure(lm).serving == PADDED
    strange = fake(LlamaForCausalLM, looks_ahead)
    strange.model.to(torch.bfloat16)
    with pytest.raises(ConfigError, match=r"at most 0\.05 nats, mean over"):
        ensure(strange)
    mamba = tiny("mamba", **STATE)
    mamba.model.to(torch.bfloat16)
    assert ensure(mamba).serving == UNPADDED


def test_nothing_random_is_drawn_and_nothing_is_changed() -> None:
    lm = tiny("gpt2", **GPT2, resid_pdrop=0.5)
    lm.model.train()
    before = torch.random.get_rng_state()
    weights = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    forbidden = lm.forbidden.clone()
    ensure(lm)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(weights[n], p) for n, p in lm.model.named_parameters())
    assert all(p.grad is None for p in lm.model.parameters())
    assert torch.equal(lm.forbidden, forbidden)


def test_it_is_asked_once_and_a_head_of_zeros_again() -> None:
    lm = ensure(tiny("llama", **LLAMA))
    calls: list[int] = []
    lm.model.register_forward_pre_hook(lambda *_: calls.append(1))
    assert ensure(lm).agreed and calls == []
    blind = fake(LlamaForCausalLM, no_mask)
    nn.init.zeros_(blind.model.get_output_embeddings().weight)
    assert not ensure(blind).agreed
    nn.init.normal_(blind.model.get_output_embeddings().weight)
    assert ensure(blind).agreed and blind.serving == UNPADDED


def test_a_prompt_that_fills_all_positions_but_some_is_compared_on_these() -> None:
    lm = tiny("gpt2", **{**GPT2, "n_positions": 11})
    assert ensure(lm).agreed  # the longest prompt has 9 tokens
    with pytest.raises(DataError, match="the model has 8 positions"):
        ensure(tiny("gpt2", **{**GPT2, "n_positions": 8}))


def test_prompts_of_ones_own_where_there_are_none() -> None:
    lm = tiny("llama", **LLAMA)
    ids, mask = sample_prompts(lm)
    assert mask.sum(1).tolist() == [1, 2, 3, 4] and bool(mask[:, -1].all())
    assert not bool(lm.forbidden[ids[mask]].any())
    assert bool((ids[~mask] == lm.pad_id).all())
