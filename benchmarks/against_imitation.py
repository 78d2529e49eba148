"""Ours against imitation 1.0.1: the same robots, labels and env steps; returns and wall time.

Per robot and seed, one run after the other, because all of them are timed:

- imitation-documented: the tutorial of preference comparisons. Pendulum with its 5 iterations; the
  MuJoCo robots with the 60 that it recommends. "agent" is the loop's own, "learner" the fresh one
  that the tutorial then trains on the finished reward.
- imitation-tuned: Pendulum with 60 iterations; the MuJoCo robots as imitation's named
  configurations seals_half_cheetah and seals_hopper, the nearest there are, resolve.
- imitation-true: PPO on the true reward with the documented settings.
- learned-L-S, true-S: `rlhf_gym.training.train` from L answers within S env steps, and on the true
  reward; plain-S: stock SB3 PPO for S steps with the same hyper-parameters, for its wall time.

imitation's steps are counted twice: those that trained its agent, and all that its envs took
(before each round of questions it plays fresh episodes). Ours never gets more than either.

    python benchmarks/against_imitation.py --peer-python ENV/bin/python

benchmarks/README.md says how to make that environment. Resumable: each run leaves one file.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from against_imitation_settings import ROBOTS, Job, Robot, jobs_of, peer_spec
from against_imitation_summary import summarise
from common import RESULTS, use_one_thread, write_result
from overhead import plain_learner

from rlhf_gym.agents.settings import AgentSettings
from rlhf_gym.config import to_yaml
from rlhf_gym.data import Array
from rlhf_gym.envs.make import make_env
from rlhf_gym.errors import ConfigError
from rlhf_gym.train_config import TrainConfig
from rlhf_gym.training import Prepared, prepare, train

__all__ = ["Options", "obtain", "record_reference"]

Record = dict[str, Any]
_PEER = Path(__file__).with_name("against_imitation_peer.py")
_TOLERANCE = 1e-6  # of rewards and states; the rest is rounding of the last bits


@dataclass(frozen=True)
class Options:
    """Compare with imitation 1.0.1."""

    peer_python: Path | None = None
    """The python of an environment that has imitation 1.0.1; without it the peer is skipped."""
    robots: tuple[str, ...] = tuple(ROBOTS)
    """halfcheetah, hopper, pendulum."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Root seeds."""
    smoke: bool = False
    """A tiny run that only shows that everything works; its files stand apart."""
    out: Path = RESULTS
    """Where the results go."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.robots if name not in ROBOTS]
        if unknown or not self.robots:
            raise ConfigError(f"`robots` has {unknown}; accepted are {list(ROBOTS)}.")
        for name, values in (("seeds", self.seeds), ("robots", self.robots)):
            if len(set(values)) != len(values):
                raise ConfigError(f"`{name}` is {values}; name each once.")

    @property
    def name(self) -> str:
        """The result's name, and that of the folder of single runs beside it."""
        return "against_imitation_smoke" if self.smoke else "against_imitation"

    @property
    def chosen(self) -> dict[str, Robot]:
        """The robots to measure, by name; tiny ones for a smoke run."""
        found = {name: ROBOTS[name] for name in self.robots}
        return {name: robot.tiny() for name, robot in found.items()} if self.smoke else found


def _prepare(robot: Robot, job: Job) -> Prepared:
    config = TrainConfig(
        env=robot.env,
        labels=job.labels or robot.labels,
        steps=job.steps,
        seed=job.seed,
        reward="learned" if job.kind == "learned" else "true",
        eval_episodes=1,
        final_episodes=robot.final_episodes,
    )
    return prepare(config)


def _run_ours(prepared: Prepared) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = train(prepared.config, Path(folder) / "run", quiet=True)
        seconds = time.perf_counter() - started
        summary = json.loads(run.summary_path.read_text())
    keys = ("true_return_mean", "true_return_std", "evaluation_returns", "env_steps", "n_labels")
    return {
        **{key: summary[key] for key in keys},
        "random_return_mean": summary["reference"]["random_return_mean"],
        "reward_accuracy_heldout": summary.get("reward_accuracy_heldout"),
        "seconds": seconds - summary["seconds"]["evaluate"],  # as on the peer's side
        "seconds_by_part": summary["seconds"],
    }


def _run_plain(robot: Robot, settings: AgentSettings, steps: int) -> Record:
    rollout = settings.algorithm["n_steps"] * settings.n_envs
    steps = max(steps // rollout, 1) * rollout
    started = time.perf_counter()
    plain_learner(robot.plain_env, settings)(steps)
    return {"env_steps": steps, "seconds": time.perf_counter() - started}


def _call_peer(python: Path, arguments: Sequence[str]) -> Record:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [str(python), str(_PEER), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{_PEER.name} failed under --peer-python:\n{done.stderr[-3000:]}")
    figures: Record = json.loads(done.stdout.splitlines()[-1])
    return figures


def _run_peer(spec: Record, python: Path) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.json"
        path.write_text(json.dumps(spec))
        return {**_call_peer(python, ["train", str(path)]), "spec": spec}


def _finished(path: Path, sha: str) -> Record | None:
    """The record of a run that need not be repeated."""
    if not path.exists():
        return None
    figures: Record = json.loads(path.read_text())["figures"]
    return figures if figures["sha256"] == sha else None


def obtain(options: Options, job: Job) -> Record | None:
    """The record of a run, made now if it is not there; None where the peer is missing."""
    robot, python = options.chosen[job.robot], options.peer_python
    spec, prepared = {}, None
    if job.kind == "imitation":
        spec = peer_spec(robot, job)
        asked = json.dumps(spec, sort_keys=True)
    else:
        prepared = _prepare(robot, job)
        asked = f"{job.kind}\n{to_yaml(prepared.config)}"
    sha = hashlib.sha256(asked.encode()).hexdigest()
    folder, name = options.out / options.name / job.robot, f"{job.setting}-seed{job.seed}"
    known = _finished(folder / f"{name}.json", sha)
    if known is not None or (job.kind == "imitation" and python is None):
        return known
    started = time.perf_counter()
    if prepared is None:
        assert python is not None
        record = _run_peer(spec, python)
    elif job.kind == "plain":
        record = _run_plain(robot, prepared.settings, job.steps)
    else:
        record = _run_ours(prepared)
    record = {**asdict(job), "sha256": sha, **record}
    write_result(name, _command(), record, [job.seed], folder=folder)
    print(f"{job.robot} {name}: {time.perf_counter() - started:.0f} s", flush=True)
    return record


def _command() -> list[str]:
    """This process's command, without where somebody keeps the peer."""
    words = [word.partition("=")[0] if "--peer-python" in word else word for word in sys.argv]
    if "--peer-python" not in words:
        return words
    flag = words.index("--peer-python")
    rest = words[flag + 1 :] if "=" in sys.argv[flag] else words[flag + 2 :]
    return [*words[: flag + 1], "ENV/bin/python", *rest]


def record_reference(env_id: str, n: int = 200) -> dict[str, Array]:
    """Transitions for the peer to repeat, from states that random actions visit.

    Returns:
        states and next_states (N, S) float64, positions before velocities; actions (N, A)
        float32; rewards (N,) float64.
    """
    env = make_env(env_id)
    robot: Any = env.unwrapped
    has_model = hasattr(robot, "model")

    def state() -> Array:
        if has_model:
            return np.concatenate([robot.data.qpos, robot.data.qvel])
        return np.array(robot.state)

    env.reset(seed=0)
    env.action_space.seed(0)
    states, actions = [], []
    while len(states) < n:
        states.append(state())
        actions.append(env.action_space.sample())
        _, _, terminated, truncated, _ = env.step(actions[-1])
        if terminated or truncated:
            env.reset()
    rewards, next_states = [], []
    for start, action in zip(states, actions, strict=True):
        env.reset(seed=0)  # forgets what the solver starts from, which moves the last digits
        if has_model:
            robot.set_state(start[: robot.model.nq], start[robot.model.nq :])
        else:
            robot.state = start.copy()
        rewards.append(float(env.step(action)[1]))
        next_states.append(state())
    env.close()
    arrays = {"states": states, "actions": actions, "rewards": rewards, "next_states": next_states}
    return {name: np.array(values) for name, values in arrays.items()}


def _check(options: Options) -> Record:
    """Make the peer repeat recorded transitions; ends the program where the tasks differ."""
    assert options.peer_python is not None
    results = {}
    for name, robot in options.chosen.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reference.npz"
            arrays: dict[str, Any] = record_reference(robot.env)
            np.savez(path, **arrays)
            found = _call_peer(options.peer_python, ["check", robot.peer_env, str(path)])
        results[name] = found
        worst = max(found["reward_difference"], found["state_difference"])
        if not worst <= _TOLERANCE:
            raise SystemExit(
                f"{robot.env} and the peer's {robot.peer_env} differ by {worst:.3g}, above "
                f"{_TOLERANCE}: {found}. Install the same MuJoCo on both sides (constraints.txt)."
            )
    return results


def main() -> None:
    options = tyro.cli(Options)
    use_one_thread()
    if options.smoke:
        options = replace(options, seeds=options.seeds[:1])
    checked = "skipped: --peer-python was not given"
    same_tasks: Any = _check(options) if options.peer_python else checked
    found = [obtain(options, job) for job in jobs_of(options.chosen, options.seeds)]
    records = [record for record in found if record is not None]
    peers = [record["versions"] for record in records if record["kind"] == "imitation"]
    figures = {
        "smoke": options.smoke,
        "imitation": peers[0] if peers else checked,
        "same_tasks": same_tasks,
        **summarise(options.chosen, records),
    }
    for target in figures["targets"]:
        print("met   " if target["met"] else "MISSED", target["target"], target["found"])
    print(write_result(options.name, _command(), figures, options.seeds, folder=options.out))


if __name__ == "__main__":
    main()
