"""How much of the true reward's gain a few hundred preferences bring.

Settings, for every seed, all with the task's hyper-parameters and budget:

- learned-N: `rlhf_gym.training.train` from N synthetic (oracle) answers.
- true: the same code on the true reward.
- stock: plain SB3 PPO on the true reward under VecNormalize(norm_obs=True, norm_reward=True); it
  takes no warm-up, and its budget is rounded down to whole rollouts.

All are evaluated on the same deterministic episodes: those of a run's final evaluation.

    python benchmarks/label_efficiency.py --seeds 20 21 22 23 24 --labels 700 350

Resumable: each run leaves one file, and a run whose file was made from an equal configuration is
not repeated. When all are there the summary, the yardstick beside which `rlhf-gym train` shows its
result, and the figure are written. Targets: see benchmarks/README.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import RESULTS, ROOT, fraction_interval, slug, use_one_thread, write_result
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlhf_gym.agents.rollouts import play_episodes
from rlhf_gym.config import to_yaml
from rlhf_gym.data import Array
from rlhf_gym.envs.make import make_env
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.files import write_json
from rlhf_gym.seeding import stream, torch_seed
from rlhf_gym.train_config import TrainConfig
from rlhf_gym.training import Prepared, prepare, train

__all__ = ["Options", "config_for", "fingerprint", "settings_of", "summarise"]

Record = dict[str, Any]

_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9")  # Okabe and Ito's, for learned settings
_TRUE_COLOURS = {"true": "#D55E00", "stock": "#000000"}


@dataclass(frozen=True)
class Options:
    """Measure the return reached from preferences against that of the true reward."""

    env: str = "rlhf_gym/HalfCheetah-v0"
    """The task."""
    seeds: tuple[int, ...] = (20, 21, 22, 23, 24)
    """Root seeds; settings were chosen on others."""
    labels: tuple[int, ...] = (700, 350)
    """Answers per run, one setting each; the first is the headline."""
    steps: int | None = None
    """Env steps per run; default: the task's own."""
    workers: int = 2
    """Runs at once, each in a process of its own; 0 runs here and writes no summary."""
    only: str | None = None
    """One setting: learned-N, true or stock."""
    publish: bool = True
    """Whether the summary goes into yardsticks.json and the figure into docs/figures."""
    out: Path = RESULTS
    """Where the results go."""

    @property
    def runs_folder(self) -> Path:
        """One file per run."""
        return self.out / "label_efficiency" / slug(self.env)


def settings_of(options: Options) -> list[str]:
    """The names of the settings to measure.

    Raises:
        ConfigError: `only` is none of them.
    """
    names = [*(f"learned-{n}" for n in options.labels), "true", "stock"]
    if options.only is None:
        return names
    if options.only not in names:
        raise ConfigError(f"`only` is {options.only!r}; accepted are {names} (see --labels).")
    return [options.only]


def config_for(options: Options, setting: str, seed: int) -> TrainConfig:
    """The run that a setting stands for; stock PPO takes its budget and hyper-parameters."""
    kind, _, labels = setting.partition("-")
    config = TrainConfig(env=options.env, steps=options.steps, seed=seed)
    if kind == "learned":
        return replace(config, labels=int(labels))
    return replace(config, reward="true")


def fingerprint(setting: str, prepared: Prepared) -> str:
    """sha256 of everything a run was asked to do, defaults and hyper-parameters included."""
    return hashlib.sha256(f"{setting}\n{to_yaml(prepared.config)}".encode()).hexdigest()


def _path(options: Options, setting: str, seed: int) -> Path:
    return options.runs_folder / f"{setting}-seed{seed}.json"


def _finished(options: Options, setting: str, seed: int) -> Record | None:
    """The record of a run that need not be repeated."""
    path = _path(options, setting, seed)
    if not path.exists():
        return None
    figures: Record = json.loads(path.read_text())["figures"]
    wanted = fingerprint(setting, prepare(config_for(options, setting, seed)))
    return figures if figures["config_sha256"] == wanted else None


def _run_ours(prepared: Prepared) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        run = train(prepared.config, Path(folder) / "run", quiet=True)
        summary, metrics = json.loads(run.summary_path.read_text()), run.metrics()
    keys = ("env_steps", "true_return_mean", "reward_correlation", "reward_accuracy_heldout")
    return {
        **{key: summary[key] for key in ("true_return_mean", "true_return_std", "env_steps")},
        "evaluation_returns": summary["evaluation_returns"],
        "random_return_mean": summary["reference"]["random_return_mean"],
        "n_labels": summary["n_labels"],
        "reward_accuracy_heldout": summary.get("reward_accuracy_heldout"),
        "reward_correlation": summary.get("reward_correlation"),
        "seconds": summary["seconds_total"],
        "seconds_by_part": summary["seconds"],
        "curve": [{key: row[key] for key in keys if key in row} for row in metrics],
    }


class _Curve(BaseCallback):
    """Evaluates stock PPO as often as ours is, without disturbing it."""

    def __init__(self, stock: _Stock, every: int) -> None:
        super().__init__()
        self.points: list[dict[str, float]] = []
        self._stock = stock
        self._every = every

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # The update on the last rollout is done by now, unlike at the rollout's end.
        if self.num_timesteps >= (len(self.points) + 1) * self._every:
            self.record(len(self.points))

    def record(self, round_: int) -> None:
        config = self._stock.prepared.config
        seed = stream(config.seed, "evaluation", round_)
        returns = self._stock.evaluate(config.eval_episodes, seed)
        mean = float(np.mean(returns))
        self.points.append({"env_steps": self.num_timesteps, "true_return_mean": mean})


class _Stock:
    """Plain SB3 PPO with the task's hyper-parameters."""

    def __init__(self, prepared: Prepared) -> None:
        config, settings = prepared.config, prepared.settings
        self.prepared = prepared
        self._evaluation_envs = [make_env(config.env) for _ in range(10)]
        venv = DummyVecEnv([lambda: Monitor(make_env(config.env))] * settings.n_envs)
        gamma = settings.algorithm.get("gamma", 0.99)
        self.normaliser = VecNormalize(venv, norm_obs=True, norm_reward=True, gamma=gamma)
        self.model = PPO(
            settings.policy,
            self.normaliser,
            seed=torch_seed(stream(config.seed, "agent")),
            device="cpu",
            **settings.algorithm,
        )

    def evaluate(self, n_episodes: int, seed: np.random.SeedSequence) -> list[float]:
        """True returns of deterministic episodes."""

        def act(obs: Array) -> Array:
            normalised = self.normaliser.normalize_obs(obs)
            assert isinstance(normalised, np.ndarray)
            return self.model.predict(normalised, deterministic=True)[0]

        context = self.prepared.config.env
        episodes = play_episodes(self._evaluation_envs, act, n_episodes, seed, context)
        return [episode.true_return for episode in episodes]


def _run_stock(prepared: Prepared) -> Record:
    started = time.perf_counter()
    config = prepared.config
    stock = _Stock(prepared)
    rollout = prepared.settings.algorithm["n_steps"] * prepared.settings.n_envs
    steps = (config.steps or 0) // rollout * rollout
    curve = _Curve(stock, every=-(-steps // config.rounds))
    stock.model.learn(steps, callback=curve)
    curve.record(config.rounds - 1)
    returns = stock.evaluate(config.final_episodes, stream(config.seed, "final evaluation"))
    return {
        "true_return_mean": float(np.mean(returns)),
        "true_return_std": float(np.std(returns)),
        "env_steps": stock.model.num_timesteps,
        "evaluation_returns": returns,
        "random_return_mean": None,
        "n_labels": 0,
        "reward_accuracy_heldout": None,
        "reward_correlation": None,
        "seconds": time.perf_counter() - started,
        "curve": curve.points,
    }


def _run_here(options: Options, setting: str, seed: int) -> None:
    """Make one run, and write its file."""
    prepared = prepare(config_for(options, setting, seed))
    record = (_run_stock if setting == "stock" else _run_ours)(prepared)
    record = {
        "setting": setting,
        "env": options.env,
        "seed": seed,
        "steps": prepared.config.steps,
        "config_sha256": fingerprint(setting, prepared),
        **record,
    }
    path = _path(options, setting, seed)
    write_result(path.stem, None, record, [seed], folder=path.parent)


def _run_apart(options: Options, setting: str, seed: int) -> str | None:
    """Make one run in a process of its own; returns what went wrong, if anything did."""
    command = [sys.executable, __file__, "--env", options.env, "--only", setting]
    command += ["--seeds", str(seed), "--labels", *map(str, options.labels)]
    command += ["--steps", "None" if options.steps is None else str(options.steps)]
    command += ["--workers", "0", "--out", str(options.out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        return f"{setting}, seed {seed}:\n{done.stderr[-3000:]}"
    record = _finished(options, setting, seed)
    assert record is not None
    seconds = time.perf_counter() - started
    print(
        f"{setting}, seed {seed}: {record['true_return_mean']:,.0f} ({seconds:.0f} s)", flush=True
    )
    return None


def summarise(records: Mapping[str, Sequence[Record]]) -> Record:
    """All seeds, mean and worst of each setting, and the fractions of the true reward's gain.

    Args:
        records: Of each setting, one per seed. The denominator is the better mean of "true" and
            "stock"; `random` is the mean over all runs that measured it.
    """
    returns = {name: [r["true_return_mean"] for r in rows] for name, rows in records.items()}
    randoms = [r["random_return_mean"] for rows in records.values() for r in rows]
    random = float(np.mean([value for value in randoms if value is not None]))
    best = max(("true", "stock"), key=lambda name: np.mean(returns[name]))
    summary: Record = {"random_return_mean": random, "denominator": best, "settings": {}}
    for name, values in returns.items():
        figures: Record = {
            "seeds": [r["seed"] for r in records[name]],
            "returns": values,
            "mean": float(np.mean(values)),
            "worst": min(values),
            "seconds": [r["seconds"] for r in records[name]],
            "env_steps": [r["env_steps"] for r in records[name]],
        }
        if name.startswith("learned"):
            figures.update(_fractions(values, returns[best], random))
            for key in ("n_labels", "reward_accuracy_heldout", "reward_correlation"):
                figures[key] = [r[key] for r in records[name]]
        summary["settings"][name] = figures
    return summary


def _fractions(learned: list[float], true: list[float], random: float) -> Record:
    try:
        point, low, high = fraction_interval(learned, true, random)
    except DataError as error:  # runs too short to learn: the returns are worth keeping
        return {"fraction": None, "why_not": str(error)}
    worst = (min(learned) - random) / (float(np.mean(true)) - random)
    return {"fraction": point, "interval_95": [low, high], "worst_seed_fraction": worst}


def _publish(options: Options, summary: Record, records: Mapping[str, Sequence[Record]]) -> None:
    """Put the yardstick beside which training shows its result, and the figure."""
    path = ROOT / "rlhf_gym" / "yardsticks.json"
    best = summary["settings"][summary["denominator"]]
    yardsticks = json.loads(path.read_text())
    yardsticks[options.env] = {
        "steps": records["true"][0]["steps"],
        "return_mean": best["mean"],
        "seeds": best["seeds"],
        "setting": summary["denominator"],
        "source": f"benchmarks/results/{slug(options.env)}.json",
    }
    write_json(path, dict(sorted(yardsticks.items())))
    _draw(options, records, ROOT / "docs" / "figures" / f"{slug(options.env)}.png")


def _draw(options: Options, records: Mapping[str, Sequence[Record]], path: Path) -> None:
    """Learning curves: every seed thin, their mean thick."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    learned = [name for name in records if name.startswith("learned")]
    colours = {**dict(zip(learned, _COLOURS, strict=False)), **_TRUE_COLOURS}
    titles = {"true": "true reward, same code", "stock": "true reward, stock SB3 PPO"}
    for name, rows in records.items():
        label = titles.get(name, f"{name.partition('-')[2]} preferences")
        steps = np.array([point["env_steps"] for point in rows[0]["curve"]])
        curves = np.array([
            np.interp(
                steps,
                [p["env_steps"] for p in row["curve"]],
                [p["true_return_mean"] for p in row["curve"]],
            )
            for row in rows
        ])  # (seeds, points)  # fmt: skip
        axes.plot(steps / 1000, curves.T, color=colours[name], linewidth=0.7, alpha=0.4)
        axes.plot(steps / 1000, curves.mean(0), color=colours[name], linewidth=2.2, label=label)
    axes.set_xlabel("env steps / 1000")
    axes.set_ylabel("true return")
    axes.set_title(f"{options.env}: {len(options.seeds)} seeds (thin), mean (thick)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _run_all(options: Options) -> None:
    """Make the runs that are not there yet, seed by seed, so that every setting progresses."""
    jobs = [
        (setting, seed)
        for seed in options.seeds
        for setting in settings_of(options)
        if _finished(options, setting, seed) is None
    ]
    print(f"{len(jobs)} runs to make, {options.workers} at once", flush=True)
    with ThreadPoolExecutor(options.workers) as pool:
        failures = list(pool.map(lambda job: _run_apart(options, *job), jobs))
    if any(failures):
        raise SystemExit("\n".join(["some runs failed:", *filter(None, failures)]))


def main() -> None:
    options = tyro.cli(Options)
    use_one_thread()
    if options.workers == 0:
        for seed in options.seeds:
            for setting in settings_of(options):
                _run_here(options, setting, seed)
        return
    _run_all(options)
    if options.only is not None:
        return
    records = {
        setting: [r for seed in options.seeds if (r := _finished(options, setting, seed))]
        for setting in settings_of(options)
    }
    summary = {"options": {**asdict(options), "out": None}, **summarise(records)}
    print(json.dumps(summary["settings"], indent=1))
    if options.publish:
        _publish(options, summary, records)
    print(write_result(slug(options.env), None, summary, options.seeds, folder=options.out))


if __name__ == "__main__":
    main()
