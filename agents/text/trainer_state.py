"""A text trainer's state on disk: tensors as safetensors, the rest as JSON, nothing pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from rlhf_gym.array_files import read_tensors
from rlhf_gym.documents import read_json
from rlhf_gym.errors import CorruptDataError, SchemaError
from rlhf_gym.files import write_bytes, write_json

__all__ = ["TrainerState", "read_state", "restore_module", "write_state"]

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class TrainerState:
    """Everything that a trainer needs to go on as if it had never stopped."""

    modules: Mapping[str, Mapping[str, Tensor]]
    """Name -> parameters and buffers of each module."""
    optimiser: Mapping[str, Tensor]
    generator: Tensor
    """uint8, the state of the torch generator."""
    numbers: Mapping[str, Any]
    """Settings and counters, as JSON holds them."""

    def restore_generator(self, generator: torch.Generator) -> None:
        """Put the generator's state back, where it is of the same kind of device.

        A state of CUDA's means nothing to the CPU's generator, nor the other way round: then the
        generator keeps its seed, and what is drawn next differs from what the saved run would draw.
        """
        if self.generator.shape == generator.get_state().shape:
            generator.set_state(self.generator)


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers, tied ones once (safetensors refuses shared memory)."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}


@torch.no_grad()
def restore_module(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy saved values into a module in place, so that what shares its weights sees them.

    Raises:
        CorruptDataError: the names or a shape differ.
    """
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    differing = sorted(
        name
        for name in own.keys() | tensors.keys()
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    )
    if differing:
        raise CorruptDataError(
            f"the saved weights do not fit this model: {differing[0]} and {len(differing) - 1} "
            "more differ; build the model with the settings it was saved with."
        )
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def write_state(
    folder: Path,
    name: str,
    modules: Mapping[str, nn.Module],
    optimiser: Mapping[str, Tensor],
    generator: torch.Generator,
    numbers: Mapping[str, Any],
) -> None:
    """Write `<name>.safetensors` and `<name>.json` into a folder, which is made where needed.

    The JSON file comes last: without it there is no state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"generator": generator.get_state()}
    for part, module in modules.items():
        tensors |= {f"{part}/{key}": value for key, value in module_tensors(module).items()}
    tensors |= {f"optimiser/{key}": value for key, value in optimiser.items()}
    cpu = {key: value.cpu().contiguous() for key, value in tensors.items()}
    write_bytes(folder / f"{name}.safetensors", save(cpu))
    write_json(folder / f"{name}.json", {"format": _FORMAT, **numbers})


def read_state(folder: Path, name: str, settings: Mapping[str, Any]) -> TrainerState:
    """Read what `write_state` wrote.

    Args:
        folder: Where it lies.
        name: The files' stem.
        settings: Must equal the saved ones: a resumed run is the same run.

    Raises:
        CorruptDataError: a file is missing, damaged, or not ours.
        SchemaError: another version wrote it, or it was saved under other settings.
    """
    try:
        numbers = read_json(folder / f"{name}.json")
        tensors = read_tensors(folder / f"{name}.safetensors")
        version, saved = numbers["format"], numbers["settings"]
        generator = tensors.pop("generator")
    except Exception as error:
        raise CorruptDataError(
            f"{folder} holds no readable {name}.json and {name}.safetensors ({error}); give the "
            "folder that `save` wrote."
        ) from error
    if version != _FORMAT:
        raise SchemaError(f"{folder / name}.json has format {version!r}; {_FORMAT} is read here.")
    absent = "no such setting"  # of an earlier or later version, whose default may differ
    both = {k: (saved.get(k, absent), settings.get(k, absent)) for k in saved.keys() | settings}
    wrong = sorted(k for k, (theirs, ours) in both.items() if theirs != ours)
    if wrong:
        theirs, ours = both[wrong[0]]
        raise SchemaError(
            f"the state in {folder} was saved with {wrong[0]} = {theirs!r}, this trainer has "
            f"{ours!r}; build the trainer with the saved settings, by the version that wrote them."
        )
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        part, _, inner = key.partition("/")
        parts.setdefault(part, {})[inner] = value
    optimiser = parts.pop("optimiser", {})
    return TrainerState(parts, optimiser, generator, numbers)
