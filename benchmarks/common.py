"""What all measurements share: where results go, what they say of their making, statistics."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf_gym.data import Array
from rlhf_gym.errors import DataError
from rlhf_gym.files import write_json
from rlhf_gym.provenance import provenance

__all__ = [
    "RESULTS",
    "ROOT",
    "fraction_interval",
    "slug",
    "spread",
    "use_one_thread",
    "write_result",
]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

_RESAMPLES_AT_ONCE = 100_000


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


def slug(env_id: str) -> str:
    """The short name of a task's files: "rlhf_gym/HalfCheetah-v0" -> "halfcheetah"."""
    task = env_id.rpartition(":")[2].rpartition("/")[2]
    return re.sub(r"-v\d+$", "", task).lower()


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


def fraction_interval(
    learned: Sequence[float],
    true: Sequence[float],
    random: float,
    n_boot: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """How much of the true reward's gain over random actions the learned reward brings.

    (mean learned - random) / (mean true - random), with a 95 % percentile bootstrap interval
    (Efron 1979): the seeds of either side are resampled with replacement, independently of each
    other; `random` is taken as known.

    Args:
        learned: Final true return of each seed trained on the learned reward.
        true: The same of each seed trained on the true reward; the number may differ.
        random: Mean return of random actions.
        n_boot: Resamples.
        seed: Of the resampling, so that the interval is reproducible.

    Returns:
        The fraction, and the low and high end of its interval.

    Raises:
        DataError: a side is empty, a number is not finite, or a seed trained on the true reward
            is no better than random, so that the fraction means nothing.
    """
    own, best = np.asarray(learned, np.float64), np.asarray(true, np.float64)
    if own.size == 0 or best.size == 0 or not np.isfinite([*own, *best, random]).all():
        raise DataError(
            f"`learned` {own.tolist()}, `true` {best.tolist()} and `random` {random} must hold at "
            "least one finite return each; finish the runs first."
        )
    if best.min() <= random:
        raise DataError(
            f"`true` has a seed at {best.min():.4g}, not above `random` ({random:.4g}): nothing "
            "was learned there, and a fraction of it means nothing; train longer."
        )
    rng = np.random.default_rng(seed)
    gain = _resampled_means(own, n_boot, rng) - random  # (n_boot,)
    fractions = gain / (_resampled_means(best, n_boot, rng) - random)
    low, high = np.percentile(fractions, [2.5, 97.5])
    point = (own.mean() - random) / (best.mean() - random)
    return float(point), float(low), float(high)


def _resampled_means(
    values: npt.NDArray[np.float64], n_boot: int, rng: np.random.Generator
) -> Array:
    """(n_boot,) means of resamples with replacement; in chunks, to bound memory."""
    chunks = [
        values[
            rng.integers(len(values), size=(min(_RESAMPLES_AT_ONCE, n_boot - start), len(values)))
        ]
        for start in range(0, n_boot, _RESAMPLES_AT_ONCE)
    ]
    return np.concatenate([chunk.mean(axis=1) for chunk in chunks])
