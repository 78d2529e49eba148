"""A causal language model with its tokenizer: built tiny, or loaded from a folder or the hub."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig

from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.loading import (
    load_causal_lm,
    quiet,
    refuse_adapters_and_quantised,
    sampling_notes,
)
from rlhf_gym.language.serving import SERVINGS, Serving
from rlhf_gym.language.tokenizers import end_ids, ready_tokenizer

__all__ = ["LanguageModel", "ValueHead"]


class LanguageModel:
    """A transformers causal LM and its tokenizer; always in eval mode, without dropout.

    Args:
        model: A decoder with a language-model head.
        tokenizer: Its tokenizer; one without PAD, or with PAD equal to EOS, is given a PAD, and
            the model an embedding row for it where it has none to spare.
        notes: What the one who loaded it should tell, once.

    Raises:
        ConfigError: not a causal LM, one with adapters or quantised weights, a tokenizer without
            EOS, or more tokens than embeddings.
    """

    model: Any
    """The stock transformers model; its methods are decorated beyond what types can follow."""
    notes: tuple[str, ...]
    """What was repaired, or is ignored, about a foreign model; for the caller to log once."""
    forbidden: Tensor
    """(V,) bool: ids that are never sampled: PAD, BOS, and ids without a token."""
    serving: Serving
    """How the forward pass is called; `ensure_agreement` finds what this model can be trusted with.
    A copy of the model inherits it."""
    agreed: bool
    """Whether `ensure_agreement` has compared sampler, scorer and a plain forward pass."""

    def __init__(self, model: Any, tokenizer: Any, *, notes: tuple[str, ...] = ()) -> None:
        refuse_adapters_and_quantised(model)
        if getattr(model.config, "is_encoder_decoder", False) or not _has_head(model):
            raise ConfigError(
                f"{type(model).__name__} is no causal language model with a head; use a decoder "
                "such as GPT-2, Llama or Qwen (`...ForCausalLM`, `...LMHeadModel`)."
            )
        ready = ready_tokenizer(tokenizer, _ends_of(model))
        rows = len(model.get_input_embeddings().weight)
        if len(ready) > len(tokenizer):
            notes = (*notes, f"the tokenizer had no PAD of its own: {ready.pad_token!r} was added")
            if len(ready) == rows + 1:
                _add_row(model)
                rows += 1
        if len(ready) > rows:
            raise ConfigError(
                f"the tokenizer has {len(ready)} tokens, the model's embedding {rows} rows; use "
                "the model's own tokenizer, or call "
                "`model.resize_token_embeddings(len(tokenizer))` and train."
            )
        self.model = _without_dropout(model)
        self.tokenizer: Any = ready
        self.notes = (*notes, *sampling_notes(model))
        forbidden = torch.arange(rows) >= len(ready)
        forbidden[self.pad_id] = True
        if self.bos_id is not None and self.bos_id not in (self.eos_id, *self.also_ends):
            forbidden[self.bos_id] = True
        self.forbidden = forbidden.to(self.device)
        arguments = inspect.signature(model.forward).parameters
        self.keeps_logits = "logits_to_keep" in arguments
        has_state = "cache_params" in arguments and "past_key_values" not in arguments
        self.cache_argument = "cache_params" if has_state else "past_key_values"
        self.serving, self.agreed = SERVINGS[0], False

    @property
    def pad_id(self) -> int:
        """The padding's id; never EOS."""
        return int(self.tokenizer.pad_token_id)

    @property
    def eos_id(self) -> int:
        """What ends a completion, and is written behind texts."""
        return int(self.tokenizer.eos_token_id)

    @property
    def also_ends(self) -> tuple[int, ...]:
        """Other ids that end one: the rest of `generation_config.eos_token_id`."""
        return end_ids(self.tokenizer)[1:]

    @property
    def bos_id(self) -> int | None:
        """What a prompt begins with, or None where the tokenizer has none."""
        bos_id = self.tokenizer.bos_token_id
        return None if bos_id is None else int(bos_id)

    @property
    def vocab_size(self) -> int:
        """V, rows of the embedding; may exceed the tokenizer's tokens."""
        return len(self.model.get_input_embeddings().weight)

    @property
    def hidden_size(self) -> int:
        """H, what a value or reward head reads."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def max_length(self) -> int | None:
        """Positions the model knows, prompt and completion together; None: no limit stated."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return None if limit is None or limit < 1 else int(limit)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    def to(self, device: torch.device | str) -> LanguageModel:
        """Move the weights, in place; returns itself."""
        self.model.to(device)
        self.forbidden = self.forbidden.to(device)
        return self

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What an optimiser may change; a shared, frozen trunk is left out."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def check(self, batch: TokenBatch) -> TokenBatch:
        """The batch itself, if the model could have produced its completions.

        Raises:
            DataError: an id outside the vocabulary, a forbidden id in a completion, or rows longer
                than the model's positions.
        """
        ids = batch.input_ids
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.vocab_size):
            raise DataError(
                f"token ids range from {int(ids.min())} to {int(ids.max())}; this model knows 0 to "
                f"{self.vocab_size - 1}. The batch comes from another tokenizer: encode its text."
            )
        bad = self.forbidden[batch.completion_ids] & batch.completion_mask  # (B, T)
        if bool(bad.any()):
            row, column = (int(i) for i in bad.nonzero()[0])
            raise DataError(
                f"completion {row} holds id {int(batch.completion_ids[row, column])} at token "
                f"{column}: PAD, BOS or no token at all, never written by this model; take it out."
            )
        longest = int(batch.attention_mask.sum(1).max()) if len(batch) else 0
        if self.max_length is not None and longest > self.max_length:
            raise DataError(
                f"a prompt with its completion has {longest} tokens; the model has "
                f"{self.max_length} positions. Shorten them, and report how many were cut."
            )
        return batch

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer into a folder."""
        with quiet():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def from_folder(cls, folder: Path, *, device: str = "cpu") -> LanguageModel:
        """What `save` wrote, bit for bit, in the precision it was saved in."""
        return cls.load(str(folder), device=device, dtype="auto")

    @classmethod
    def load(
        cls,
        name_or_path: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | Literal["auto"] = torch.float32,
    ) -> LanguageModel:
        """A causal LM from a folder, the local cache, or (with a network) the hub.

        Only safetensors weights are read and no code that comes with a model is ever run. The
        model's own generation settings are ignored; where they would change the sampling, `notes`
        says so.

        Args:
            name_or_path: For example "gpt2", or a folder.
            device: Where the weights go.
            dtype: Their precision; "auto" keeps the file's.

        Raises:
            UnknownNameError: neither a folder nor a model that can be reached.
            ConfigError: no causal head, no safetensors, no EOS, or more tokens than embeddings.
        """
        with quiet():
            model = load_causal_lm(name_or_path, dtype)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        return cls(model.to(device), tokenizer)

    @classmethod
    def tiny(
        cls,
        tokenizer: Any,
        *,
        n_layers: int = 2,
        d_model: int = 128,
        n_heads: int = 4,
        max_length: int = 256,
        architecture: Literal["llama", "gpt2"] = "llama",
        uniform: bool = False,
        seed: int = 0,
    ) -> LanguageModel:
        """A small transformer with random weights of deviation 0.5 / sqrt(d_model).

        That is GPT-2's 0.02 at its own width of 768; 0.02 in a narrow model makes attention so
        flat that it takes thousands of steps before anything is looked up in the text.

        Args:
            tokenizer: Decides the vocabulary.
            n_layers: Blocks.
            d_model: H, a multiple of `n_heads`.
            n_heads: Attention heads.
            max_length: Positions.
            architecture: "llama" (rotary positions, gated MLP) or "gpt2" (learned positions).
            uniform: Start from a head of zeros: exactly equal probabilities for all that may be
                written, as exact toys ask of their reference. Otherwise head and embedding share
                their weights.
            seed: Draws the weights; the global generator is left as it was.

        Raises:
            ConfigError: a size that does not fit, or another architecture.
        """
        ready = ready_tokenizer(tokenizer)
        if d_model % n_heads or min(n_layers, d_model, n_heads, max_length) < 1:
            raise ConfigError(
                f"`d_model` is {d_model}, `n_heads` {n_heads}, `n_layers` {n_layers}, `max_length` "
                f"{max_length}; all are at least 1, and d_model is a multiple of n_heads."
            )
        ids = {
            "vocab_size": len(ready),
            "pad_token_id": ready.pad_token_id,
            "bos_token_id": ready.bos_token_id,
            "eos_token_id": ready.eos_token_id,
            "tie_word_embeddings": not uniform,
            "initializer_range": 0.5 * d_model**-0.5,
        }
        config: LlamaConfig | GPT2Config
        if architecture == "llama":
            config = LlamaConfig(
                hidden_size=d_model,
                intermediate_size=4 * d_model,
                num_hidden_layers=n_layers,
                num_attention_heads=n_heads,
                max_position_embeddings=max_length,
                **ids,
            )
        elif architecture == "gpt2":
            config = GPT2Config(
                n_embd=d_model, n_layer=n_layers, n_head=n_heads, n_positions=max_length, **ids
            )
        else:
            raise ConfigError(f"`architecture` is {architecture!r}; it is 'llama' or 'gpt2'.")
        # transformers draws from the global generator; the fork puts that one back.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        if uniform:
            torch.nn.init.zeros_(model.get_output_embeddings().weight)
        return cls(model, ready)


class ValueHead(nn.Module):
    """From hidden states to values: a hidden layer of the same width, then one number.

    The last layer starts at zero, so that the first values are exactly 0 and the first advantages
    the returns themselves (as in AlpacaFarm), whatever the language model's scale.

    Args:
        hidden_size: H.
        seed: Draws the hidden layer's weights.
    """

    def __init__(self, hidden_size: int, *, seed: int = 0) -> None:
        super().__init__()
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, 1)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.hidden.weight, std=hidden_size**-0.5, generator=generator)
        for tensor in (self.hidden.bias, self.out.weight, self.out.bias):
            nn.init.zeros_(tensor)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, H) hidden states -> (B, L) float32 values."""
        x = nn.functional.gelu(self.hidden(hidden.to(self.hidden.weight.dtype)))
        values: Tensor = self.out(x).squeeze(-1).float()  # (B, L)
        return values


def _ends_of(model: Any) -> list[int]:
    """What the model's own generation would stop at: None, one id or several."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return [] if ends is None else [int(i) for i in (ends if isinstance(ends, list) else [ends])]


def _has_head(model: Any) -> bool:
    return bool(
        model.get_output_embeddings() is not None
        and type(model) is not type(model.base_model)
        and model.can_generate()
    )


def _without_dropout(model: Any) -> Any:
    """Switched off for good: with it, sampled and trained log-probabilities would differ."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    return model.eval()


def _add_row(model: Any) -> None:
    """One embedding row for PAD. It is masked wherever it stands, so zero is as good as any."""
    with torch.random.fork_rng(devices=[]):  # resizing draws the new row
        model.resize_token_embeddings(
            len(model.get_input_embeddings().weight) + 1, mean_resizing=False
        )
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        with torch.no_grad():
            layer.weight[-1] = 0.0
