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

__all__ = ["load_causal_lm", "quiet", "refuse_kernels", "sampling_notes"]

_HEADS = ("ForCausalLM", "LMHeadModel", "LMHead")


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
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    found = {name: getattr(own, name, None) for name in neutral}
    # transformers leaves top_k at 50 where nobody chose it: that is its default, not the model's.
    chosen = {
        name: value
        for name, value in found.items()
        if value is not None and value != neutral[name] and (name, value) != ("top_k", 50)
    }
    if not chosen:
        return ()
    text = ", ".join(f"{name}={value}" for name, value in chosen.items())
    return (f"the model's generation_config ({text}) is ignored: only our settings count",)


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
