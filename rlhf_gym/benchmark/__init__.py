"""Tasks x settings x seeds: measured, resumable, with intervals. See docs/benchmark-command.md.

    from rlhf_gym.benchmark import load_spec, run_benchmark

    result = run_benchmark(load_spec(Path("spec.yml")), Path("results"))

Importing this loads nothing heavy; the names below are looked up on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_gym.benchmark.command import BenchmarkResult, run_benchmark
    from rlhf_gym.benchmark.spec import BenchmarkSpec, load_spec
    from rlhf_gym.benchmark.statistics import (
        Interval,
        aggregate_intervals,
        fraction_interval,
        interquartile_mean,
    )

__all__ = [
    "BenchmarkResult",
    "BenchmarkSpec",
    "Interval",
    "aggregate_intervals",
    "fraction_interval",
    "interquartile_mean",
    "load_spec",
    "run_benchmark",
]

_HOMES = {
    "BenchmarkResult": "command",
    "BenchmarkSpec": "spec",
    "Interval": "statistics",
    "aggregate_intervals": "statistics",
    "fraction_interval": "statistics",
    "interquartile_mean": "statistics",
    "load_spec": "spec",
    "run_benchmark": "command",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
