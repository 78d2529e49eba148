"""An SB3 model's weights, optimiser and normaliser as tensors and JSON: never a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from rlhf_gym.array_files import read_npz, read_tensors
from rlhf_gym.data import Array
from rlhf_gym.errors import CorruptDataError
from rlhf_gym.links import create_file

__all__ = ["load_arrays", "load_model", "save_arrays", "save_model"]


def save_model(model: BaseAlgorithm, path: Path) -> None:
    """Write policy and optimiser tensors as safetensors."""
    tensors = {f"policy.{name}": t for name, t in model.policy.state_dict().items()}
    optimizer = model.policy.optimizer.state_dict()
    for index, entries in optimizer["state"].items():
        for name, value in entries.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, path)


def load_model(model: BaseAlgorithm, path: Path) -> None:
    """Restore what `save_model` wrote into a model built with the same settings.

    Raises:
        CorruptDataError: the file is damaged, or of another network.
    """
    try:
        tensors = read_tensors(path)
        policy = {
            n.removeprefix("policy."): t for n, t in tensors.items() if n.startswith("policy.")
        }
        model.policy.load_state_dict(policy)
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = tensor
        optimizer = model.policy.optimizer.state_dict()
        model.policy.optimizer.load_state_dict({**optimizer, "state": state})
    except Exception as error:
        raise CorruptDataError(
            f"{path} does not hold this agent's weights ({error}); restore the file, or use the "
            "settings it was saved with."
        ) from error


def normaliser_arrays(normaliser: VecNormalize) -> dict[str, Array]:
    """The running statistics of observations."""
    rms: Any = normaliser.obs_rms
    return {"mean": rms.mean, "var": rms.var, "count": np.asarray(rms.count, dtype=np.float64)}


def restore_normaliser(normaliser: VecNormalize, arrays: dict[str, Array]) -> None:
    """Put statistics back that `normaliser_arrays` took."""
    rms: Any = normaliser.obs_rms
    rms.mean, rms.var = arrays["mean"].copy(), arrays["var"].copy()
    rms.count = float(arrays["count"])


def save_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """Write named arrays as an uncompressed npz."""
    with create_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle first


def load_arrays(path: Path) -> dict[str, Array]:
    """Read what `save_arrays` wrote.

    Raises:
        CorruptDataError: the file is damaged.
    """
    try:
        return read_npz(path)
    except OSError as error:
        raise CorruptDataError(f"{path} is damaged ({error}); restore it from a backup.") from error
