"""How fast a reward model is fitted: preference pairs per second and epoch, against imitation.

700 preferences between clips of HalfCheetah's shape (50 steps, 17 observations, 6 actions; drawn
numbers, labelled by a linear reward: the arithmetic does not depend on them). An ensemble of 3
with bootstrap counts a pair once, however many members see it: pairs/s = pairs x epochs / seconds.

- ours_2x32: `EnsembleRewardModel.fit` through its public API, batch 32, nothing held out; the
  whole call is timed, normalisation and the closing report included.
- imitation_2x32: imitation 1.0.1's `EnsembleTrainer` on a `RewardEnsemble` of 3 `BasicRewardNet`s
  (32, 32), batch 32, on the same pairs; `train` is timed, after a first epoch.
- ours_2x64: our preset's network, with the preset's batch of 64.

    python benchmarks/reward_fit.py --imitation-python ENV/bin/python

benchmarks/README.md says how to make that environment. Target: at least 20 times imitation.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import RESULTS, spread, use_one_thread, write_result
from gymnasium import spaces

from rlhf_gym.data import Array, Choice, Clip, Preference, Query
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.feedback.reward_model import EnsembleRewardModel
from rlhf_gym.feedback.settings import FitSettings, RewardModelSettings
from rlhf_gym.protocols import SpaceInfo

__all__ = ["Options", "make_arrays", "make_preferences", "measure_ours"]

N_STEPS, N_OBS, N_ACTIONS, N_MEMBERS = 50, 17, 6, 3
_BY_CLOCK = ("pairs_per_second", "pairs_per_cpu_second")
Rates = dict[str, list[tuple[float, float]]]
_PEER = Path(__file__).with_name("reward_fit_imitation.py")


@dataclass(frozen=True)
class Options:
    """Measure how fast reward models are fitted."""

    imitation_python: Path | None = None
    """The python of an environment that has imitation 1.0.1; without it the peer is skipped."""
    repetitions: int = 5
    """Measurements of each side, in turn."""
    preferences: int = 700
    """Pairs to fit."""
    epochs: int = 50
    """Epochs of ours per measurement."""
    imitation_epochs: int = 3
    """Epochs of imitation per measurement."""
    smoke: bool = False
    """A tiny run that only shows that everything works."""
    out: Path = RESULTS
    """Where the result goes."""


def make_arrays(n_pairs: int) -> dict[str, Array]:
    """Pairs of clips and their labels.

    Returns:
        obs (N, 2, T + 1, D) float32, actions (N, 2, T, A) float32 within [-1, 1], and
        preferences (N,) float32, 1 where the first clip has the higher linear return.
    """
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((n_pairs, 2, N_STEPS + 1, N_OBS), np.float32)
    actions = rng.uniform(-1, 1, (n_pairs, 2, N_STEPS, N_ACTIONS)).astype(np.float32)
    weights = rng.standard_normal(N_OBS).astype(np.float32)
    returns = (obs[:, :, :-1] @ weights).sum(-1)  # (N, 2)
    preferences = (returns[:, 0] > returns[:, 1]).astype(np.float32)
    return {"obs": obs, "actions": actions, "preferences": preferences}


def make_preferences(arrays: dict[str, Array]) -> PreferenceSet:
    """The same pairs as the preferences that a reward model is fitted to."""
    preferences = []
    for index, label in enumerate(arrays["preferences"]):
        first, second = (
            Clip(arrays["obs"][index, side], arrays["actions"][index, side], "HalfCheetah")
            for side in (0, 1)
        )
        choice = Choice.FIRST if label == 1 else Choice.SECOND
        preferences.append(Preference(Query((first, second), 0, 0, index), choice, "synthetic"))
    return PreferenceSet.from_preferences(preferences)


def measure_ours(
    preferences: PreferenceSet, hidden: tuple[int, ...], batch_size: int, epochs: int
) -> tuple[float, float]:
    """Pairs per second of wall time, and of processor time, of one fit of a fresh ensemble."""
    info = SpaceInfo(
        "HalfCheetah",
        spaces.Box(-np.inf, np.inf, (N_OBS,)),
        spaces.Box(-1, 1, (N_ACTIONS,)),
        1000,
    )
    fit = FitSettings(
        batch_size=batch_size,
        heldout_fraction=0.0,
        bootstrap=True,
        max_epochs=epochs,
        max_updates=10**9,
        patience=10**9,
    )
    model = EnsembleRewardModel(
        info, RewardModelSettings(n_members=N_MEMBERS, hidden=hidden, fit=fit)
    )
    started, started_cpu = time.perf_counter(), time.process_time()
    report = model.fit(preferences, np.random.default_rng(0))
    seconds, seconds_cpu = time.perf_counter() - started, time.process_time() - started_cpu
    assert (report.n_train, report.n_epochs) == (len(preferences), epochs)
    n_seen = report.n_train * report.n_epochs
    return n_seen / seconds, n_seen / seconds_cpu


def _measure_imitation(python: Path, data: Path, epochs: int) -> dict[str, Any]:
    command = [str(python), str(_PEER), str(data), "--epochs", str(epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{_PEER.name} failed under --imitation-python:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _measure_in_turn(options: Options, data: Path) -> tuple[Rates, dict[str, Any]]:
    """Rates of each side per repetition, and what the peer says of itself."""
    arrays = make_arrays(options.preferences)
    np.savez(data, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the flag for an array
    preferences = make_preferences(arrays)
    ours = {"ours_2x32": ((32, 32), 32), "ours_2x64": ((64, 64), 64)}
    for hidden, batch_size in ours.values():
        measure_ours(preferences, hidden, batch_size, 1)  # first-call costs
    rates: Rates = {name: [] for name in ours}
    peer: dict[str, Any] = {}
    for repetition in range(options.repetitions):
        for name, (hidden, batch_size) in ours.items():
            rates[name].append(measure_ours(preferences, hidden, batch_size, options.epochs))
        if options.imitation_python is not None:
            peer = _measure_imitation(options.imitation_python, data, options.imitation_epochs)
            rate = (peer.pop("pairs_per_second"), peer.pop("pairs_per_cpu_second"))
            rates.setdefault("imitation_2x32", []).append(rate)
        line = "  ".join(f"{name} {values[-1][0]:,.0f}" for name, values in rates.items())
        print(f"repetition {repetition + 1}/{options.repetitions}: {line} pairs/s", flush=True)
    return rates, peer


def _figures(rates: Rates, clock: int) -> dict[str, Any]:
    """Spread of each side's rates by wall time (0) or processor time (1), and their ratio."""
    figures = {name: spread([pair[clock] for pair in pairs]) for name, pairs in rates.items()}
    if "imitation_2x32" not in figures:
        return figures
    ratio = figures["ours_2x32"]["median"] / figures["imitation_2x32"]["median"]
    return {**figures, "ratio_of_medians": ratio}


def main() -> None:
    options = tyro.cli(Options)
    use_one_thread()
    if options.smoke:
        options = replace(options, repetitions=2, preferences=70, epochs=2, imitation_epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        rates, peer = _measure_in_turn(options, Path(folder) / "preferences.npz")
    figures: dict[str, Any] = {
        "n_preferences": options.preferences,
        "n_members": N_MEMBERS,
        "clip_steps": N_STEPS,
        "epochs": {"ours": options.epochs, "imitation": options.imitation_epochs},
        "smoke": options.smoke,
        "pairs_per_second": _figures(rates, 0),
        # Processor time is what remains comparable while other work shares the machine.
        "pairs_per_cpu_second": _figures(rates, 1),
        "imitation": peer or "skipped: --imitation-python was not given",
        "target_ratio": 20,
    }
    if peer:
        wall, cpu = (figures[key]["ratio_of_medians"] for key in _BY_CLOCK)
        print(f"2x32, batch 32: {wall:.1f} times imitation ({cpu:.1f} by processor time)")
    else:
        print("imitation was not measured; name its python with --imitation-python")
    print(write_result("reward_fit", None, figures, folder=options.out))


if __name__ == "__main__":
    main()
