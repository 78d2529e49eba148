"""Where the time of `make train` goes: physics, policy, update, recording, fit, evaluation.

A training run with timers around its parts. At any instant exactly one section is open, the
innermost: an env step that the recorder waits for is not recording time. Evaluation, fit, asking
and saving count with everything inside them. "other" is what no section names.

    python benchmarks/time_split.py

Target: the named sections explain at least 95 % of the wall time.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import tyro
from common import RESULTS, use_one_thread, write_result
from gymnasium.envs.mujoco import MujocoEnv
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize

from rlhf_gym import loop, training
from rlhf_gym.agents.ppo import PPOAgent
from rlhf_gym.agents.recorder import Recorder
from rlhf_gym.agents.relabel import SubstituteReward
from rlhf_gym.agents.vec_env import SerialVecEnv
from rlhf_gym.feedback.reward_model import EnsembleRewardModel
from rlhf_gym.report import write_report
from rlhf_gym.runs import Run
from rlhf_gym.train_config import TrainConfig

__all__ = ["Options", "Stopwatch"]

# (owner, attribute, section, whether everything inside counts as this section)
_SECTIONS: tuple[tuple[Any, str, str, bool], ...] = (
    (MujocoEnv, "do_simulation", "physics", False),
    (SerialVecEnv, "step_wait", "env step around the physics", False),
    (SerialVecEnv, "reset", "env step around the physics", False),
    (VecNormalize, "step_wait", "observation normalisation", False),
    (ActorCriticPolicy, "forward", "policy forward", False),
    (ActorCriticPolicy, "predict_values", "policy forward", False),
    (PPO, "collect_rollouts", "rollout loop of SB3", False),
    (PPO, "train", "policy update", True),
    (Recorder, "step_async", "recording", False),
    (Recorder, "step_wait", "recording", False),
    (SubstituteReward, "_rewards", "relabelling", True),
    (PPOAgent, "warm_up", "warm-up loop", False),
    (loop, "_ask", "clips, queries, store, teacher", True),
    (EnsembleRewardModel, "fit", "reward model fit", True),
    (PPOAgent, "evaluate", "evaluation", True),
    (loop, "evaluate_trajectories", "evaluation", True),
    (loop, "reward_correlation", "evaluation", True),
    (training, "write_summary", "evaluation", True),
    (Run, "save_checkpoint", "saving", True),
    (training, "prepare", "setup", True),
    (training, "build_agent", "setup", True),
    (training, "build_reward_model", "setup", True),
)


@dataclass(frozen=True)
class Options:
    """Measure where the time of a training run goes."""

    env: str = "rlhf_gym/HalfCheetah-v0"
    """A MuJoCo task."""
    labels: int = 700
    """Answers."""
    steps: int | None = None
    """Env steps; default: the task's own."""
    seed: int = 0
    """Root seed."""
    smoke: bool = False
    """A tiny run that only shows that everything works."""
    out: Path = RESULTS
    """Where the result goes."""


class Stopwatch:
    """Seconds per section, each instant charged to the innermost open one.

    Args:
        clock: Returns seconds.
        base: Is charged where no section is open.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, base: str = "other") -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)
        self._clock = clock
        self._open = [base]
        self._opaque = 0
        self._since = clock()

    def _charge(self) -> None:
        now = self._clock()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def section(self, name: str, opaque: bool = False) -> Iterator[None]:
        """Charge what happens inside to `name`; inside an opaque section, no other one opens."""
        if self._opaque:
            yield
            return
        self._charge()
        self.calls[name] += 1
        self._open.append(name)
        self._opaque += opaque
        try:
            yield
        finally:
            self._charge()
            self._opaque -= opaque
            self._open.pop()

    def stop(self) -> dict[str, float]:
        """The seconds of all sections, the longest first."""
        self._charge()
        return dict(sorted(self.seconds.items(), key=lambda item: -item[1]))


@contextlib.contextmanager
def timed_sections(watch: Stopwatch) -> Iterator[None]:
    """Patch timers around the parts of a training run, for as long as the context is open."""

    def timed(function: Callable[..., Any], name: str, opaque: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with watch.section(name, opaque):
                return function(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for owner, attribute, name, opaque in _SECTIONS:
            wrapper = timed(getattr(owner, attribute), name, opaque)
            stack.enter_context(mock.patch.object(owner, attribute, wrapper))
        yield


def _seconds_per_section_call(n: int = 20_000) -> float:
    watch = Stopwatch()
    started = time.perf_counter()
    for _ in range(n):
        with watch.section("empty"):
            pass
    return (time.perf_counter() - started) / n


def _measure(config: TrainConfig) -> dict[str, Any]:
    watch = Stopwatch()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, timed_sections(watch):
        run = training.train(config, Path(folder) / "run", quiet=True)
        with watch.section("report", opaque=True):
            write_report(run.folder)
    seconds = watch.stop()
    wall = time.perf_counter() - started
    return {
        "seconds_wall": wall,
        "seconds": seconds,
        "share": {name: spent / wall for name, spent in seconds.items()},
        "share_named": 1 - seconds["other"] / wall,
        "share_of_the_timers_estimated": sum(watch.calls.values())
        * _seconds_per_section_call()
        / wall,
        "calls": dict(watch.calls),
    }


def main() -> None:
    options = tyro.cli(Options)
    use_one_thread()
    labels, steps = (20, 9_000) if options.smoke else (options.labels, options.steps)
    config = TrainConfig(env=options.env, labels=labels, steps=steps, seed=options.seed)
    figures = _measure(config)
    figures = {
        "env": options.env,
        "labels": labels,
        "steps": training.prepare(config).config.steps,
        "smoke": options.smoke,
        "target_share_named": 0.95,
        **figures,
    }
    for name, spent in figures["seconds"].items():
        print(f"{name:32} {spent:9.2f} s {figures['share'][name]:7.1%}")
    print(f"{'wall':32} {figures['seconds_wall']:9.2f} s, named {figures['share_named']:.1%}")
    print(write_result("time_split", None, figures, [options.seed], folder=options.out))


if __name__ == "__main__":
    main()
