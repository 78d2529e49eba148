"""Where tensors live: a rule instead of a reflex."""

from __future__ import annotations

from typing import Literal

from rlhf_gym.errors import ConfigError

__all__ = ["resolve_device"]

Kind = Literal["mlp", "large"]


def resolve_device(device: str, kind: Kind) -> str:
    """The torch device that "auto" stands for, or the one asked for if it exists.

    Small MLP policies and reward networks ("mlp") stay on the CPU: a rollout step moves a few
    kilobytes, and the transfer costs more than the multiplication. Image encoders and language
    models ("large") go to the GPU where there is one.

    Raises:
        ConfigError: neither the CPU nor CUDA, or a GPU that is not there.
    """
    import torch

    if device == "auto":
        return "cuda" if kind == "large" and torch.cuda.is_available() else "cpu"
    try:
        parsed = torch.device(device)
    except RuntimeError:
        parsed = None
    if parsed is None or parsed.type not in ("cpu", "cuda") or device.startswith("cpu:"):
        raise ConfigError(f"`device` is {device!r}; accepted are auto, cpu, cuda, cuda:N.")
    if parsed.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"`device` is {device!r} but torch {torch.__version__} finds no GPU; use `--device "
            "cpu`, or install a CUDA build of torch and check `rlhf-gym doctor`."
        )
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"`device` is {device!r} but there are {torch.cuda.device_count()} GPUs, counted from "
            "cuda:0; name one of them."
        )
    return str(parsed)
