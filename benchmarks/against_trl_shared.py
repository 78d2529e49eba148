"""What both sides of against_trl.py share: sizes, the files between them, clock and memory.

The standard library only: it is imported in the project's environment and in the peer's.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

__all__ = ["Job", "Meter", "Pairs", "Sizes", "resident_mib", "versions"]

_PEAK, _NOW = "VmHWM", "VmRSS"


@dataclass(frozen=True)
class Sizes:
    """How much is trained on, alike on both sides."""

    batch_size: int
    """Pairs, or completions, per optimiser step."""
    n_warm: int
    """Steps before the clock starts."""
    n_steps: int
    """Steps that are timed."""
    n_epochs: int = 1
    """Passes over each rollout of PPO and RLOO; DPO and reward models see each pair once."""
    n_prompt: int = 16
    """Tokens of every prompt."""
    n_completion: tuple[int, int] = (16, 64)
    """Least and most tokens of given completions, EOS included; PPO and RLOO write the most."""
    n_per_prompt: int = 4
    """Completions of a prompt that RLOO compares."""
    learning_rate: float = 1e-5

    @property
    def n_samples(self) -> int:
        """Pairs or completions of the whole run, warm-up included."""
        return self.batch_size * (self.n_warm + self.n_steps)

    def tiny(self) -> Sizes:
        """A run that only shows that everything works."""
        return replace(
            self, batch_size=4, n_warm=1, n_steps=2, n_prompt=4, n_completion=(2, 6), n_per_prompt=2
        )


@dataclass(frozen=True)
class Job:
    """One measurement, made in a process of its own."""

    side: str
    """What is measured: "dpo", "reward", ..., see the two sides' tables."""
    folder: Path
    """Holds the model in `model`, and `pairs.json`."""
    sizes: Sizes

    def write(self, path: Path) -> None:
        """As JSON, for the process that does it."""
        path.write_text(json.dumps({**asdict(self), "folder": str(self.folder)}))

    @classmethod
    def read(cls, path: Path) -> Job:
        """What `write` wrote."""
        found = json.loads(path.read_text())
        sizes = found["sizes"]
        sizes["n_completion"] = tuple(sizes["n_completion"])
        return cls(found["side"], Path(found["folder"]), Sizes(**sizes))


@dataclass(frozen=True)
class Pairs:
    """N prompts, each with a chosen and a rejected completion; token ids without padding."""

    prompts: list[list[int]]
    chosen: list[list[int]]
    rejected: list[list[int]]

    def write(self, folder: Path) -> None:
        """Into `pairs.json`."""
        (folder / "pairs.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Pairs:
        """What `write` wrote."""
        return cls(**json.loads((folder / "pairs.json").read_text()))


class Meter:
    """Times the steps behind the warm-up, and watches the memory of this process.

    Make it once everything is imported and nothing is loaded: what is resident then is what the
    libraries take.

    Args:
        sizes: When the clock starts and stops.
    """

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._n_done = 0
        self._started = self._stopped = (0.0, 0.0)
        _forget_peak()
        self._libraries_mib = resident_mib(_NOW)

    def step(self) -> None:
        """Call at the end of each optimiser step."""
        self._n_done += 1
        if self._n_done == self._sizes.n_warm:
            self.start()
        elif self._n_done == self._sizes.n_warm + self._sizes.n_steps:
            self.stop()

    def start(self) -> None:
        """The warm-up is over."""
        self._started = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """The last step is done."""
        self._stopped = (time.perf_counter(), time.process_time())

    def figures(self, **more: Any) -> dict[str, Any]:
        """Samples, seconds and memory; `more` is added."""
        seconds, cpu_seconds = (b - a for a, b in zip(self._started, self._stopped, strict=True))
        if seconds <= 0:
            raise RuntimeError("the clock was not started and stopped: steps are missing.")
        peak = resident_mib(_PEAK)
        return {
            "n_samples": self._sizes.batch_size * self._sizes.n_steps,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "peak_mib": peak,
            "libraries_mib": self._libraries_mib,
            **more,
        }


def resident_mib(field: str = _PEAK) -> float:
    """Resident memory of this process in MiB: "VmHWM" its peak, "VmRSS" as it is now (Linux).

    Not `ru_maxrss`: a child inherits its parent's at the start.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}; memory is measured on Linux only.")


def versions(*packages: str) -> dict[str, str]:
    """Python's version and the packages'."""
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": sys.version.split()[0], **found}


def _forget_peak() -> None:
    """Start the peak anew, where the kernel lets a process do so for itself."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # imports peak below what training needs, so that little is lost
