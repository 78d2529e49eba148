"""Ours against TRL 1.16: DPO, reward model, and PPO beside RLOO; samples per second and memory.

A llama of 128 dimensions, 4 layers, 1.3 million parameters and a vocabulary of 2,048 with random
weights, on one thread, in float32. Each measurement is a process of its own, ours in this
environment, TRL's in its own; they take turns: A B A B. Both read the same weights and the same
token ids from files.

Equal on both sides: model, data, batch size (pairs or completions per optimiser step), number of
passes, Adam with a linear decay of the learning rate, gradients shortened to norm 1, sdpa
attention, no dropout, no gradient checkpointing, nothing logged, saved or evaluated. The clock runs
from the end of the warm-up steps to the end of the last.

Not equal, each side doing as it does for a user:

- Padding: TRL and the plain loop pad a batch to its longest text. Ours does so in PPO; DPO and
  reward model compute a batch's texts in groups of like length, with the same gradient.
- DPO: ours computes the reference's log-probabilities once, before the first step; that time is
  added to ours. TRL by default computes them in each step (`trl`, which the target is about);
  `trl_precomputed` is TRL told to do as ours, its time added too.
- Reward model: the steps of a fit. Ours then scores all texts once to normalise, which TRL has
  not: `normalisation_seconds`. `plain` is a loop in torch alone, padded as TRL pads.
- PPO: TRL has no PPO any more; RLOO is the nearest it has. Per completion both sample, compute the
  reference's log-probabilities and learn; ours also computes values, old log-probabilities,
  entropies and advantages per token. RLOO compares 4 completions of each prompt. The weights are
  random, so that nearly every completion has the full 64 tokens. `ppo_4_epochs` goes over each
  rollout four times, PPO's default, and RLOO's `num_iterations` 4.
- Adam: TRL uses torch's fused version by default, ours and the plain loop the default one.

Memory is the highest resident set of each process, and what of it is above the imported libraries.

    python benchmarks/against_trl.py --peer-python ENV/bin/python [--only dpo reward ppo]

benchmarks/README.md says how to make that environment. Each part leaves one file. Targets: DPO
and PPO at least 1.5 times TRL, reward model at least TRL and 0.95 of the plain loop, peak memory
no higher.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from against_trl_shared import Job, Pairs, Sizes
from common import RESULTS, spread, write_result

from rlhf_gym.errors import ConfigError
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import word_tokenizer

__all__ = ["PARTS", "Options", "Part", "make_inputs", "summarise"]

Record = dict[str, Any]
_OURS, _PEER = (Path(__file__).with_name(f"against_trl_{name}.py") for name in ("ours", "peer"))
_SKIPPED = "skipped: --peer-python was not given"


@dataclass(frozen=True)
class Part:
    """One comparison."""

    sizes: Sizes
    sides: Mapping[str, str]
    """Name in the result -> what the process is asked for; names with "trl" run in the peer's."""
    targets: Mapping[str, float]
    """Side -> how many times its samples per second ours must reach."""


PARTS = {
    "dpo": Part(
        Sizes(batch_size=16, n_warm=2, n_steps=20),
        {"ours": "dpo", "trl": "dpo", "trl_precomputed": "dpo_precomputed"},
        {"trl": 1.5},
    ),
    "reward": Part(
        Sizes(batch_size=16, n_warm=2, n_steps=40),
        {"ours": "reward", "plain": "reward_plain", "trl": "reward"},
        {"trl": 1.0, "plain": 0.95},
    ),
    "ppo": Part(
        Sizes(batch_size=32, n_warm=1, n_steps=8),
        {"ours": "ppo", "trl": "ppo"},
        {"trl": 1.5},
    ),
    "ppo_4_epochs": Part(
        Sizes(batch_size=32, n_warm=1, n_steps=4, n_epochs=4),
        {"ours": "ppo_4_epochs", "trl": "ppo_4_epochs"},
        {},
    ),
}


@dataclass(frozen=True)
class Options:
    """Compare with TRL 1.16."""

    peer_python: Path | None = None
    """The python of an environment that has TRL 1.16; without it the peer is skipped."""
    only: tuple[str, ...] = tuple(PARTS)
    """dpo, reward, ppo, ppo_4_epochs."""
    repetitions: int = 5
    """Measurements of each side, in turn."""
    smoke: bool = False
    """A tiny run that only shows that everything works; its files stand apart."""
    out: Path = RESULTS
    """Where the results go."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.only if name not in PARTS]
        if unknown or not self.only:
            raise ConfigError(f"`only` has {unknown}; accepted are {list(PARTS)}.")
        if self.repetitions < 1:
            raise ConfigError(f"`repetitions` is {self.repetitions}; at least 1 is needed.")


def make_inputs(folder: Path, sizes: Sizes, *, tiny: bool = False) -> int:
    """Write the model and the pairs that both sides read; the number of parameters.

    Prompts are of equal length, completions of drawn length, so that padding right (TRL) and
    padding prompts left (ours) make batches of one size.
    """
    n_words, d_model, n_layers = (61, 16, 1) if tiny else (2045, 128, 4)
    tokenizer = word_tokenizer([f"w{index}" for index in range(n_words)])
    lm = LanguageModel.tiny(tokenizer, n_layers=n_layers, d_model=d_model, n_heads=4)
    lm.save(folder / "model")
    rng = np.random.default_rng(0)

    def words(n: int) -> list[int]:
        ids: list[int] = rng.integers(3, lm.vocab_size, n).tolist()
        return ids

    def completion() -> list[int]:
        return [*words(int(rng.integers(*sizes.n_completion, endpoint=True)) - 1), lm.eos_id]

    rows = range(sizes.n_samples)
    Pairs(
        [words(sizes.n_prompt) for _ in rows],
        [completion() for _ in rows],
        [completion() for _ in rows],
    ).write(folder)
    return sum(parameter.numel() for parameter in lm.model.parameters())


def _measure(python: Path, script: Path, job: Job) -> Record:
    """Run one side in a process of its own, on one thread and without a network."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)
    path = job.folder / "job.json"
    job.write(path)
    done = subprocess.run(
        [str(python), str(script), str(path)], capture_output=True, text=True, env=environment
    )
    if done.returncode != 0:
        raise SystemExit(f"{script.name} failed at {job.side}:\n{done.stderr[-3000:]}")
    figures: Record = json.loads(done.stdout.splitlines()[-1])
    return figures


def _take_turns(part: Part, options: Options, folder: Path) -> dict[str, list[Record]]:
    """Every repetition of each side."""
    found: dict[str, list[Record]] = {}
    for repetition in range(options.repetitions):
        for name, side in part.sides.items():
            job = Job(side, folder, part.sizes)
            if not name.startswith("trl"):
                record = _measure(Path(sys.executable), _OURS, job)
            elif options.peer_python is not None:
                record = _measure(options.peer_python, _PEER, job)
            else:
                continue
            found.setdefault(name, []).append(record)
        line = "  ".join(f"{name} {_rate(runs[-1]):.1f}" for name, runs in found.items())
        print(f"  {repetition + 1}/{options.repetitions}: {line} samples/s", flush=True)
    return found


def _rate(record: Record, clock: str = "seconds") -> float:
    """Samples per second; the reference's share of the time counts where it is apart."""
    rate: float = record["n_samples"] / (record[clock] + record.get(f"reference_{clock}", 0.0))
    return rate


def summarise(part: Part, found: Mapping[str, list[Record]]) -> Record:
    """Rates, ratios of medians, memory and targets of one part.

    Args:
        part: What was measured.
        found: Side -> its records in order of time.
    """
    figures: Record = {"n_samples_per_run": part.sizes.batch_size * part.sizes.n_steps}
    for clock in ("seconds", "cpu_seconds"):
        rates = {n: spread([_rate(run, clock) for run in runs]) for n, runs in found.items()}
        ours = rates["ours"]["median"]
        figures[f"samples_per_{clock[:-1]}"] = rates
        figures[f"ratios_by_{clock}"] = {
            name: ours / rate["median"] for name, rate in rates.items() if name != "ours"
        }
    for kind in ("peak_mib", "libraries_mib"):
        figures[kind] = {n: spread([run[kind] for run in runs]) for n, runs in found.items()}
    figures["peak_above_libraries_mib"] = {
        n: spread([run["peak_mib"] - run["libraries_mib"] for run in runs])
        for n, runs in found.items()
    }
    figures["targets"] = _targets(part, figures)
    figures["versions"] = {name: runs[0]["versions"] for name, runs in found.items()}
    figures["runs"] = {
        name: [{k: v for k, v in run.items() if k != "versions"} for run in runs]
        for name, runs in found.items()
    }
    return figures


def _targets(part: Part, figures: Record) -> list[Record]:
    ratios = figures["ratios_by_seconds"]
    targets = [
        {"target": f"at least {least} times {name}", "found": ratios[name]}
        | {"met": ratios[name] >= least}
        for name, least in part.targets.items()
        if name in ratios
    ]
    if "trl" in ratios:
        for kind in ("peak_mib", "peak_above_libraries_mib"):
            ours, theirs = (figures[kind][name]["median"] for name in ("ours", "trl"))
            target = f"{kind} at most trl's {theirs:.0f}"
            targets.append({"target": target, "found": ours, "met": ours <= theirs})
    return targets


def measure_part(name: str, options: Options) -> Path:
    """Measure one part and write its file."""
    part = PARTS[name]
    if options.smoke:
        part = replace(part, sizes=part.sizes.tiny())
    print(name, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        n_parameters = make_inputs(folder, part.sizes, tiny=options.smoke)
        found = _take_turns(part, options, folder)
    figures = {
        "smoke": options.smoke,
        "sizes": asdict(part.sizes),
        "n_parameters": n_parameters,
        "trl": "measured" if "trl" in found else _SKIPPED,
        **summarise(part, found),
    }
    for target in figures["targets"]:
        met = "met   " if target["met"] else "MISSED"
        print(f"  {met} {target['target']}: {target['found']:.2f}")
    stem = f"against_trl_smoke_{name}" if options.smoke else f"against_trl_{name}"
    return write_result(stem, _command(), figures, folder=options.out)


def _command() -> list[str]:
    """This process's command, without where somebody keeps the peer."""
    words = [word.partition("=")[0] if "--peer-python" in word else word for word in sys.argv]
    if "--peer-python" not in words:
        return words
    flag = words.index("--peer-python")
    rest = words[flag + 1 :] if "=" in sys.argv[flag] else words[flag + 2 :]
    return [*words[: flag + 1], "ENV/bin/python", *rest]


def main() -> None:
    options = tyro.cli(Options)
    if options.smoke:
        options = replace(options, repetitions=1)
    for name in options.only:
        print(measure_part(name, options))


if __name__ == "__main__":
    main()
