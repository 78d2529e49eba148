r"""A robot with one leg learns backflips from 900 answers (Christiano et al. 2017, 3.2).

Per seed one run of `rlhf_gym.training.train` on `rlhf_gym/HopperBackflip-v0`, its budget and PPO
settings those of agents/ppo.yml, then 20 deterministic episodes of 300 steps, in which backflips
landed are counted. The same agent on the true reward stands beside it.

Both train on episodes of 100 steps, so that less of them is lying on the floor after a fall; asked
about are pairs that the reward networks disagree on. docs/benchmarks.md says what else was tried.

    python benchmarks/backflip.py --runs build/backflip
    python benchmarks/backflip.py --runs build/backflip --figure docs/figures/backflip.png \
        --film docs/images/backflip.gif

Runs of the same options that are in the folder already are not made again; interrupted ones go on.
With `--kinds` the figures of the other kind stay as they are in the result.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, use_one_thread, write_result

from rlhf_gym.benchmark.worker import trained
from rlhf_gym.data import Array
from rlhf_gym.envs.make import make_env
from rlhf_gym.gl import choose_gl
from rlhf_gym.offline import load_agent
from rlhf_gym.provenance import commit_of
from rlhf_gym.runs import Run
from rlhf_gym.seeding import stream
from rlhf_gym.train_config import TrainConfig
from rlhf_gym.training import prepare
from rlhf_gym.watch import watch_policy

N_EPISODES = 20
TASK = TrainConfig(
    env="rlhf_gym/HopperBackflip-v0", labels=900, horizon=100, acquisition="disagreement"
)
KINDS = {"learned": TASK, "true": replace(TASK, reward="true")}
_STEP_SECONDS = 0.008


def obtain(kind: str, seed: int, folder: Path, steps: int | None) -> Run:
    """The finished run of this seed: as it is there, continued, or made now."""
    config = prepare(replace(KINDS[kind], seed=seed, steps=steps)).config
    return trained(config, folder / f"{kind}-seed{seed}")


@dataclass(frozen=True)
class Episode:
    """What one deterministic episode showed."""

    n_backflips: int
    true_return: float
    turns: Array
    """(T + 1,) turns of the torso since upright, positive backward."""


def play(run: Run, seed: int) -> list[Episode]:
    """Episodes that neither training nor its last evaluation has seen."""
    agent = load_agent(run.folder)
    env = make_env(TASK.env)
    starts = stream(seed, "backflips").generate_state(N_EPISODES).tolist()
    try:
        return [_play_one(env, agent.act, start) for start in starts]
    finally:
        env.close()
        agent.close()


def _play_one(env: Any, act: Callable[[Array], Array], start: int) -> Episode:
    obs, info = env.reset(seed=start)
    angles, total, done = [_torso_angle(info)], 0.0, False
    while not done:
        obs, reward, terminated, truncated, info = env.step(act(obs[None])[0])
        angles.append(_torso_angle(info))
        total, done = total + float(reward), terminated or truncated
    return Episode(info["backflips"], total, -np.array(angles) / (2 * np.pi))


def _torso_angle(info: dict[str, Any]) -> float:
    return float(
        info["rlhf_gym.sim_state"][3]
    )  # after the time: x, z and the angle, positive forward


def measure(
    kind: str, seed: int, folder: Path, steps: int | None
) -> tuple[dict[str, Any], list[Episode]]:
    """One seed's figures, and its episodes."""
    run = obtain(kind, seed, folder, steps)
    summary = json.loads(run.summary_path.read_text())
    episodes = play(run, seed)
    counts = [episode.n_backflips for episode in episodes]
    figures = {
        "kind": kind,
        "seed": seed,
        "backflips": counts,
        "backflips_mean": float(np.mean(counts)),
        "episodes_with_a_backflip": int(np.count_nonzero(counts)),
        "true_returns": [episode.true_return for episode in episodes],
        "env_steps": summary["env_steps"],
        "labels": summary["n_labels"],
        "seconds": summary["seconds"],
        "commit": commit_of(json.loads((run.folder / "provenance.json").read_text())["git"]),
    }
    return figures, episodes


def film(run: Run, path: Path, seed: int) -> None:
    """One episode of the length that is counted in."""
    size = {"width": 240, "height": 240}
    env = make_env(TASK.env, render_mode="rgb_array", env_kwargs=size)
    agent = load_agent(run.folder)
    try:
        watch_policy(env, lambda obs: agent.act(obs[None])[0], 1, path, seed=seed)
    finally:
        env.close()
        agent.close()


def draw(episodes: dict[tuple[str, int], list[Episode]], path: Path) -> None:
    """The torso's turns over all episodes, a panel per seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(episodes), 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(episodes), sharey=True, squeeze=False)[0]
    for panel, ((kind, seed), of_seed) in zip(panels, episodes.items(), strict=True):
        for episode in of_seed:
            seconds = np.arange(len(episode.turns)) * _STEP_SECONDS
            panel.plot(seconds, episode.turns, lw=0.8, alpha=0.6)
        mean = np.mean([episode.n_backflips for episode in of_seed])
        panel.set_title(f"{kind} reward, seed {seed}\n{mean:.1f} backflips an episode", fontsize=9)
        panel.set_xlabel("s")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("turns of the torso, backward")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def others(path: Path, kinds: list[str]) -> list[dict[str, Any]]:
    """The figures of the kinds that are not asked for, each with the commit it was made by."""
    if not path.exists():
        return []
    there = json.loads(path.read_text())
    earlier = {"commit": commit_of(there["git"])}
    return [earlier | row for row in there["figures"]["runs"] if row["kind"] not in kinds]


def main() -> None:
    """Train, count, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--steps", type=int, help="env steps of a run; default the task's budget")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--figure", type=Path, help="draw the torso's angle, learned runs")
    parser.add_argument("--film", type=Path, help="film the learned run nearest to the median")
    parser.add_argument("--out", default="backflip")
    options = parser.parse_args()
    use_one_thread()
    if options.film:
        choose_gl()  # before any env is made: MuJoCo reads the choice when it is imported
    rows, drawn = others(RESULTS / f"{options.out}.json", options.kinds), {}
    for seed in options.seeds:
        for kind in options.kinds:
            figures, episodes = measure(kind, seed, options.runs, options.steps)
            rows.append(figures)
            print(json.dumps(figures), flush=True)
            if kind == "learned":
                drawn[kind, seed] = episodes
    print(write_result(options.out, None, {"runs": rows}, options.seeds))
    learned = sorted((r for r in rows if r["kind"] == "learned"), key=lambda r: r["backflips_mean"])
    if options.figure and learned:
        draw(drawn, options.figure)
    if options.film and learned:
        median = learned[len(learned) // 2]["seed"]
        film(Run.open(options.runs / f"learned-seed{median}"), options.film, median)


if __name__ == "__main__":
    main()
