"""What all measurements share: where results go, what they say of their making, statistics."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_gym.errors import DataError
from rlhf_gym.files import write_json
from rlhf_gym.provenance import provenance

__all__ = [
    "RESULTS",
    "ROOT",
    "spread",
    "use_one_thread",
    "write_result",
]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(os.environ.get("BENCH_RESULTS", ROOT / "benchmarks" / "results"))
"""Where results go; `run_all.sh` names another folder than that of the results on file."""


def use_one_thread() -> None:
    """Keep torch on one thread, as training has it; call before anything is measured."""
    import torch

    torch.set_num_threads(1)


def write_result(
    name: str,
    command: Sequence[str] | None,
    figures: Mapping[str, Any],
    seeds: Sequence[int] | None = None,
    *,
    folder: Path = RESULTS,
) -> Path:
    """Write `<folder>/<name>.json`: the figures, and what they were made with.

    Args:
        name: The file's stem.
        command: The command line, program first; None takes this process's own.
        figures: What was measured; NaN becomes null.
        seeds: The root seeds, where runs were seeded.
        folder: Where to write.

    Returns:
        The file: machine, versions, commit, command, UTC time, load average, seeds and figures.
    """
    made_with = provenance(None if command is None else list(command))
    made_with["machine"]["os_release"] = platform.release()
    # What else runs on the machine slows every figure: a reader must be able to see it.
    made_with["load_average_1min"] = os.getloadavg()[0]
    content = {**made_with, "seeds": None if seeds is None else list(seeds), "figures": figures}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_json(path, content)
    return path


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Minimum, median and maximum of repeated measurements, and all of them in order of time.

    Raises:
        DataError: there is no value.
    """
    if not values:
        raise DataError("`values` is empty; measure at least once.")
    array = np.asarray(values, np.float64)
    return {
        "min": float(array.min()),
        "median": float(np.median(array)),
        "max": float(array.max()),
        "all": array.tolist(),
    }
