"""Building, loading and refusing language models."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from rlhf_gym.errors import ConfigError, DataError, UnknownNameError
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.scores import completion_scores
from rlhf_gym.language.tokenizers import word_tokenizer

LETTERS = word_tokenizer(list("abcd"), separator="")  # ids 3 to 6, 7 tokens


def tiny(architecture: str = "llama", seed: int = 0) -> LanguageModel:
    return LanguageModel.tiny(
        LETTERS,
        n_layers=2,
        d_model=16,
        n_heads=2,
        max_length=16,
        architecture=architecture,  # type: ignore[arg-type]  # both are tried
        seed=seed,
    )


def gpt2(**changes: object) -> GPT2LMHeadModel:
    settings = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 8, "vocab_size": 7}
    return GPT2LMHeadModel(GPT2Config(**{**settings, **changes}))


def tokens_of(text: str, batch_size: int = 1) -> TokenBatch:
    rows = LETTERS([text] * batch_size)["input_ids"]
    return TokenBatch.from_lists([[1]] * batch_size, [[*ids, 2] for ids in rows], 0, 2)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_saved_model_comes_back_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    lm = tiny(architecture)
    lm.save(tmp_path)
    back = LanguageModel.from_folder(tmp_path)
    batch = tokens_of("abca")
    assert torch.equal(
        completion_scores(lm, batch).logprobs, completion_scores(back, batch).logprobs
    )
    assert back.tokenizer.get_vocab() == lm.tokenizer.get_vocab()
    assert (back.pad_id, back.bos_id, back.eos_id) == (0, 1, 2)
    assert back.notes == ()
    assert not list(tmp_path.glob("*.bin"))


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    first, same, other = (tiny(seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_uniform_start_is_exactly_uniform_and_survives_saving(
    architecture: str, tmp_path: Path
) -> None:
    lm = LanguageModel.tiny(
        LETTERS,
        d_model=16,
        max_length=16,
        architecture=architecture,  # type: ignore[arg-type]  # both are tried
        uniform=True,
    )
    lm.save(tmp_path)
    for model in (lm, LanguageModel.from_folder(tmp_path)):
        logprobs = completion_scores(model, tokens_of("abca")).logprobs
        # Four letters and the end may be written.
        assert torch.allclose(logprobs, torch.full_like(logprobs, -math.log(5)), rtol=0, atol=1e-6)


def test_moving_a_model_moves_its_forbidden_ids_too() -> None:
    lm = tiny()
    assert lm.to("meta") is lm  # a device every machine has
    assert lm.device.type == lm.forbidden.device.type == "meta"


def test_only_pad_bos_and_ids_without_a_token_are_forbidden() -> None:
    assert tiny().forbidden.nonzero()[:, 0].tolist() == [0, 1]
    roomy = LanguageModel(gpt2(vocab_size=10), LETTERS)
    assert roomy.vocab_size == 10
    assert roomy.forbidden.nonzero()[:, 0].tolist() == [0, 1, 7, 8, 9]


def test_a_bos_that_is_also_the_end_may_be_written() -> None:
    vocabulary = {"<|end|>": 0, "a": 1, "<pad>": 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary)),
        eos_token="<|end|>",
        bos_token="<|end|>",
        pad_token="<pad>",
    )
    lm = LanguageModel(gpt2(vocab_size=3), tokenizer)
    assert lm.forbidden.tolist() == [False, False, True]


def test_a_gpt2_like_tokenizer_gets_a_pad_and_the_model_a_row_for_it() -> None:
    vocabulary = {"<|end|>": 0, "a": 1, "b": 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary)), eos_token="<|end|>", bos_token="<|end|>"
    )
    model = gpt2(vocab_size=3)
    before = model.transformer.wte.weight.detach().clone()
    lm = LanguageModel(model, tokenizer)
    assert (lm.pad_id, lm.vocab_size) == (3, 4)
    assert torch.equal(lm.model.get_input_embeddings().weight[:3], before)
    assert lm.model.lm_head.weight is lm.model.transformer.wte.weight  # still tied
    assert "no PAD of its own" in lm.notes[0]
    # A padded batch runs, and PAD is never predicted.
    batch = TokenBatch.from_lists([[0], [1, 2]], [[1, 0], [2]], 3, 0)
    scores = completion_scores(lm, batch, want_entropy=True)
    assert bool(torch.isfinite(scores.logprobs).all())


def test_dropout_is_off_in_a_model_that_came_with_it() -> None:
    lm = LanguageModel(gpt2(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5), LETTERS)
    lm.model.train()  # as a foreign training loop might leave it
    batch = tokens_of("abca")
    first, second = (completion_scores(lm, batch).logprobs for _ in range(2))
    assert torch.equal(first, second)


def test_what_is_no_causal_language_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="GPT2Model is no causal language model"):
        LanguageModel(GPT2Model(gpt2().config), LETTERS)
    sizes = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_layers": 1, "num_heads": 2, "vocab_size": 7}
    with pytest.raises(ConfigError, match="T5ForConditionalGeneration is no causal"):
        LanguageModel(T5ForConditionalGeneration(T5Config(**sizes)), LETTERS)


def test_more_tokens_than_embeddings_are_refused() -> None:
    with pytest.raises(ConfigError, match="7 tokens, the model's embedding 5 rows"):
        LanguageModel(gpt2(vocab_size=5), LETTERS)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of n_heads"):
        LanguageModel.tiny(LETTERS, d_model=10, n_heads=4)
    with pytest.raises(ConfigError, match="'mamba'"):
        LanguageModel.tiny(LETTERS, architecture="mamba")  # type: ignore[arg-type]  # refused


def test_a_batch_the_model_could_not_have_written_is_refused() -> None:
    lm = tiny()
    assert lm.check(tokens_of("ab", 2)).completion_ids.shape == (2, 3)
    for prompts, completions, message in (
        ([[1]], [[99]], "ids range from 1 to 99; this model knows 0 to 6"),
        ([[1], [1]], [[3], [3, 1]], "completion 1 holds id 1 at token 1"),
        ([[3] * 10], [[3] * 7], "17 tokens; the model has 16 positions"),
    ):
        with pytest.raises(DataError, match=message):
            lm.check(TokenBatch.from_lists(prompts, completions, 0, 2))


def test_a_name_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnknownNameError, match=r"hf download no/such-model .* give the folder"):
        LanguageModel.load("no/such-model")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        LanguageModel.load(str(tmp_path))
    gpt2().config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="holds no weights"):
        LanguageModel.load(str(tmp_path))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_model_whose_attention_is_code_on_the_hub_is_refused(tmp_path: Path, key: str) -> None:
    tiny().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: "somebody/kernel"}))
    with pytest.raises(ConfigError, match="'somebody/kernel' as its attention"):
        LanguageModel.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, key: "eager"}))
    LanguageModel.from_folder(tmp_path)


def test_weights_that_would_be_unpickled_are_refused(tmp_path: Path) -> None:
    gpt2().config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ConfigError, match=r"only pytorch_model\.bin, which is a pickle"):
        LanguageModel.load(str(tmp_path))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    lm = tiny()
    lm.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="safetensors"):
        LanguageModel.load(str(tmp_path))


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    tiny().save(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 weights, for example `model\.norm\.weight`"):
        LanguageModel.load(str(tmp_path))


def test_a_masked_language_model_has_no_causal_head(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 7}
    BertForMaskedLM(BertConfig(num_attention_heads=1, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="BertForMaskedLM, which has no causal head"):
        LanguageModel.load(str(tmp_path))


def test_a_models_own_sampling_settings_are_told_once_and_ignored(tmp_path: Path) -> None:
    tiny().save(tmp_path)
    file = tmp_path / "generation_config.json"
    own = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.9}
    file.write_text(json.dumps(own))
    (note,) = LanguageModel.load(str(tmp_path)).notes
    assert "temperature=0.6, top_k=20, top_p=0.9" in note
    assert "ignored" in note


def test_progress_bars_are_left_as_they_were(tmp_path: Path) -> None:
    tiny().save(tmp_path)
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_a_fresh_value_head_says_zero_and_can_learn() -> None:
    head = ValueHead(8, seed=3)
    hidden = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(head(hidden), torch.zeros(2, 5))
    head(hidden).sum().backward()
    assert head.out.weight.grad is not None
    assert float(head.out.weight.grad.abs().sum()) > 0
    again = ValueHead(8, seed=3)
    assert torch.equal(head.hidden.weight, again.hidden.weight)


def test_other_ends_and_a_padding_that_is_one_of_them_survive_saving(tmp_path: Path) -> None:
    # As Qwen's chat models come: PAD is <|endoftext|>, and generation stops there as well.
    raw = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<|endoftext|>": 0, "<|im_end|>": 1, "a": 2})),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [1, 0, 7]  # 7 is no token of the tokenizer
    model.generation_config.pad_token_id = 0
    lm = LanguageModel(model, raw)
    assert (lm.eos_id, lm.also_ends) == (1, (0,))
    assert lm.pad_id not in (0, 1) and not bool(lm.forbidden[[0, 1]].any())
    lm.save(tmp_path)
    back = LanguageModel.from_folder(tmp_path)
    assert (back.eos_id, back.also_ends, back.pad_id) == (lm.eos_id, lm.also_ends, lm.pad_id)
