"""Reading foreign language models safely: safetensors only, no code, one clear error each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from rlhf_gym.errors import ConfigError, UnknownNameError

__all__ = [
    "load_causal_lm",
    "quiet",
    "refuse_adapters_and_quantised",
    "refuse_kernels",
    "sampling_notes",
]

_HEADS = ("ForCausalLM", "LMHeadModel", "LMHead")
_WITHOUT_EFFECT: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "top_h": None,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": None,
    "num_beams": 1,
    "penalty_alpha": 0.0,
    "stop_strings": None,
    "watermarking_config": None,
}
"""Of a generation config, what changes what `generate` writes, and the value that does not."""


def load_causal_lm(name_or_path: str, dtype: torch.dtype | Literal["auto"]) -> Any:
    """The model of a folder, of the local cache or of the hub.

    Raises:
        UnknownNameError: neither a folder nor a model that can be reached.
        ConfigError: code of its own, no causal head, weights that would have to be unpickled, or
            missing weights.
    """
    config = _read_config(name_or_path)
    refuse_kernels(config, name_or_path)
    architectures = list(getattr(config, "architectures", None) or [])
    if getattr(config, "is_encoder_decoder", False) or (
        architectures and not any(name.endswith(_HEADS) for name in architectures)
    ):
        raise ConfigError(
            f"`{name_or_path}` is a {', '.join(architectures) or config.model_type}, which has no "
            "causal head; use a decoder such as GPT-2, Llama or Qwen (`...ForCausalLM`)."
        )
    _refuse_pickles(Path(name_or_path))
    loaded: Any
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            name_or_path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"`{name_or_path}` has no readable safetensors weights ({_first_line(error)}); other "
            "formats are unpickled and could run code. Convert it: load it with transformers where "
            "you trust it, and `save_pretrained` it."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"`{name_or_path}` cannot be built as a causal language model: {_first_line(error)}"
        ) from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise ConfigError(
            f"`{name_or_path}` lacks {len(missing)} weights, for example `{missing[0]}`, which "
            "would stay random; use a complete checkpoint of a causal language model."
        )
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, which a library call of a second does not need."""
    settings: Any = logging  # untyped in transformers
    shown = settings.is_progress_bar_enabled()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            settings.enable_progress_bar()


def sampling_notes(model: Any) -> tuple[str, ...]:
    """What a model's own generation settings would have changed, had we listened to them."""
    own = getattr(model, "generation_config", None)
    if own is None:
        return ()
    # transformers leaves top_k at 50 where nobody chose it: that is its default, not the model's.
    chosen = {
        name: value
        for name, neutral in _WITHOUT_EFFECT.items()
        if (value := getattr(own, name, None)) not in (None, neutral)
        and (name, value) != ("top_k", 50)
    }
    if not chosen:
        return ()
    text = ", ".join(f"{name}={value}" for name, value in chosen.items())
    return (f"the model's generation_config ({text}) is ignored: only our settings count",)


def refuse_adapters_and_quantised(model: Any) -> None:
    """Weights that a gradient or a checkpoint would pass by.

    Raises:
        ConfigError: the model has adapters, or weights that are no floating-point numbers.
    """
    if getattr(model, "_hf_peft_config_loaded", False) or getattr(model, "peft_config", None):
        raise ConfigError(
            f"{type(model).__name__} has adapters (PEFT), which are not trained or saved here: "
            "merge them first (`model = model.merge_and_unload()`), and train a few blocks by "
            "`num_layers_unfrozen` where memory is short."
        )
    whole = [n for n, p in model.named_parameters() if not p.is_floating_point()]
    if getattr(model, "hf_quantizer", None) is not None or whole:
        raise ConfigError(
            f"{type(model).__name__} is quantised"
            f"{f' (`{whole[0]}` holds whole numbers)' if whole else ''}, and such weights take no "
            "gradient; load it without a `quantization_config`, or call `model.dequantize()`."
        )


def _read_config(name_or_path: str) -> Any:
    folder = Path(name_or_path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"`{name_or_path}` has no config.json; give the folder that `save_pretrained` or "
            "`LanguageModel.save` wrote."
        )
    try:
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except OSError as error:
        raise UnknownNameError(
            f"`{name_or_path}` is no folder here and no model in the local cache, and the hub did "
            f"not give it ({_first_line(error)}). Without a network, download it elsewhere "
            f"(`hf download {name_or_path} --local-dir FOLDER`) and give the folder, or leave the "
            "model out: a tiny one is then built and trained here."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"`{name_or_path}` cannot be read: {_first_line(error)} Models that bring their own "
            "code are not run."
        ) from error


def refuse_kernels(config: Any, source: object) -> None:
    """Refuse a model whose config.json has code for its attention fetched from the hub.

    Raises:
        ConfigError: naming it. transformers would download and import it, where the package
            `kernels` is installed.
    """
    parts = [config, *(part for part in vars(config).values() if hasattr(part, "model_type"))]
    for part in parts:
        kernel = str(getattr(part, "_attn_implementation", None) or "")
        if "/" in kernel:
            raise ConfigError(
                f"`{source}` names {kernel!r} as its attention, which is code on the hub; models "
                "that bring their own code are not run. Take `attn_implementation` out of its "
                "config.json."
            )


def _refuse_pickles(folder: Path) -> None:
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        found = sorted(path.name for path in folder.glob("*.bin"))
        what = f"only {found[0]}, which is a pickle" if found else "no weights"
        raise ConfigError(
            f"`{folder}` holds {what}; only safetensors are read, because a pickle can run code. "
            "Load it with transformers where you trust it, and `save_pretrained` it."
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
