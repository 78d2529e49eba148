"""From a configuration to a trained agent: everything `rlhf-gym train` does, as a function."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rlhf_gym.agents.settings import AgentSettings, align, load_settings
from rlhf_gym.config import from_yaml, to_yaml
from rlhf_gym.envs.make import make_env, space_info
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.answer_sources import AnswerSource, AtOnce, People, Replay
from rlhf_gym.feedback.given import add_given
from rlhf_gym.feedback.schedules import labels_per_round, steps_per_round
from rlhf_gym.feedback.settings import RewardModelSettings
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.teachers import PRESETS, make_teacher
from rlhf_gym.loop import Parts, Plan, run_rounds
from rlhf_gym.progress import make_progress
from rlhf_gym.protocols import Acquisition, RewardModel, SpaceInfo, Teacher
from rlhf_gym.provenance import provenance
from rlhf_gym.registry import names, resolve
from rlhf_gym.runs import Run
from rlhf_gym.seeding import stream, torch_seed
from rlhf_gym.summary import write_summary
from rlhf_gym.train_config import TrainConfig

__all__ = ["Prepared", "build_agent", "build_reward_model", "prepare", "resume", "train"]


def train(config: TrainConfig, out: Path | None = None, *, quiet: bool = False) -> Run:
    """Train from a configuration in a new run folder.

    Args:
        config: Every option.
        out: The run folder; None chooses a fresh one under `runs/`.
        quiet: Print nothing.

    Raises:
        RunExistsError: the folder is already there.
        ConfigError, UnknownNameError: an option that cannot work; nothing was written.
    """
    started = time.perf_counter()
    prepared = prepare(config)
    players = _build_players(prepared)  # first, so that a mistake leaves no folder behind
    files = {
        "config.yaml": to_yaml(prepared.config),
        "provenance.json": json.dumps(provenance(sys.argv), indent=2),
    }
    run = Run.create(out or _fresh_folder(prepared.config), files)
    _train_on(run, prepared, players, started, quiet)
    return run


def resume(folder: Path, *, quiet: bool = False) -> Run:
    """Continue a run from its last checkpoint, to the same weights as if it had never stopped.

    Raises:
        ConfigError: there is no run.
        CorruptDataError: its checkpoint or store is damaged.
        RunLockedError: another process trains on it.
    """
    started = time.perf_counter()
    run = Run.open(folder)
    prepared = prepare(from_yaml(TrainConfig, run.config_path))
    _train_on(run, prepared, _build_players(prepared), started, quiet)
    return run


@dataclass(frozen=True)
class Prepared:
    """A configuration that was checked against its env: complete, with the plan it leads to."""

    config: TrainConfig
    settings: AgentSettings
    info: SpaceInfo
    plan: Plan


def prepare(config: TrainConfig) -> Prepared:
    """Resolve everything that depends on the env, and refuse what cannot work."""
    env = make_env(config.env, env_kwargs=config.make_env_kwargs())
    info = space_info(env)
    env.close()
    clip_length = config.clip_length or _usual_clip_length(info.horizon)
    if info.horizon is not None and clip_length > info.horizon:
        raise ConfigError(
            f"`clip_length` is {clip_length} but an episode of {config.env} has {info.horizon} "
            f"steps; pass `--clip-length {_usual_clip_length(info.horizon)}`, or leave it away."
        )
    table = config.algo if config.algo in names("agent") else "ppo"
    settings = load_settings(table, config.env, config.hyperparameters)
    settings = align(settings, info.horizon, fixed=config.hyperparameters)
    steps = config.steps or settings.n_timesteps
    config = dataclasses.replace(config, clip_length=clip_length)
    plan = _plan(config, settings, info, steps)
    resolved = dataclasses.replace(
        config,
        steps=steps,
        rounds=plan.n_rounds,
        hyperparameters=settings.as_mapping(),
        ensemble=_with_label_noise(config),
    )
    return Prepared(resolved, settings, info, plan)


def _usual_clip_length(horizon: int | None) -> int:
    """50 steps, but a part of the episode: whole episodes tell little about single steps."""
    return 50 if horizon is None else max(min(50, horizon * 2 // 5), 1)


def _with_label_noise(config: TrainConfig) -> RewardModelSettings:
    """Assume no errors of the oracle, and Christiano's 10 % of anyone else, unless told."""
    ensemble = config.ensemble
    if ensemble.fit.label_noise is not None:
        return ensemble
    # A recording is fitted like what was recorded: by the configuration that goes with it.
    noise = 0.0 if config.teacher in ("synthetic", "oracle") else 0.1
    return dataclasses.replace(ensemble, fit=dataclasses.replace(ensemble.fit, label_noise=noise))


def _plan(config: TrainConfig, settings: AgentSettings, info: SpaceInfo, steps: int) -> Plan:
    assert config.clip_length is not None, "resolved by now"
    unit = settings.steps_unit(info.horizon)
    initial = config.initial_labels
    n_warm_up = _warm_up_steps(config, settings, info, steps, initial)
    if (steps - n_warm_up) // unit == 1:  # a single round asks everything at once
        initial = 1.0
        n_warm_up = _warm_up_steps(config, settings, info, steps, initial)
    if n_warm_up + unit > steps:
        raise ConfigError(
            f"`steps` is {steps}, too few for {n_warm_up} steps of warm-up and one update of "
            f"{unit} steps; pass `--steps {n_warm_up + unit}` or more, or fewer `--labels`."
        )
    rounds = min(config.rounds, (steps - n_warm_up) // unit)
    return Plan(
        seed=config.seed,
        labels=_labels(config, rounds, initial),
        steps=steps_per_round(steps, rounds, unit, warm_up=n_warm_up),
        warm_up=n_warm_up,
        clip_length=config.clip_length,
        eval_episodes=config.eval_episodes,
        answers_per_query=config.answers_per_query,
        pooling=config.pooling,
        source=config.reward,
    )


def _labels(config: TrainConfig, rounds: int, initial: float) -> list[int]:
    """Answers per round, whole queries each."""
    if config.labels == 0:
        return [0] * rounds
    queries = labels_per_round(
        config.labels // config.answers_per_query,
        rounds,
        initial_fraction=initial if rounds > 1 else 1.0,
        kind=config.label_schedule,
    )
    return [n * config.answers_per_query for n in queries]


def _warm_up_steps(
    config: TrainConfig, settings: AgentSettings, info: SpaceInfo, steps: int, initial: float
) -> int:
    """The share asked for, but `clip_length` steps per first question if half the budget allows."""
    assert config.clip_length is not None
    needed = math.ceil(config.labels * initial) * config.clip_length
    per_env = max(steps * config.warm_up, min(needed, steps / 2)) / settings.n_envs
    # Whole episodes where the budget allows them, so that the first clips show all of one.
    whole = info.horizon if info.horizon and per_env > info.horizon / 2 else 1
    return max(round(per_env / whole) * whole, config.clip_length) * settings.n_envs


def build_agent(prepared: Prepared) -> Any:
    """The agent of a configuration, untrained."""
    config, plan = prepared.config, prepared.plan
    longest = max(plan.warm_up, *plan.steps)
    return resolve("agent", config.algo)(
        config.env,
        n_run_steps=config.steps,
        settings=prepared.settings,
        env_kwargs=config.make_env_kwargs(),
        n_record_steps=-(-longest // prepared.settings.n_envs),
        seed=torch_seed(stream(config.seed, "agent")),
        device=config.device,
        allow_variable_horizon=config.allow_variable_horizon,
    )


def build_reward_model(config: TrainConfig, info: SpaceInfo) -> RewardModel:
    """The reward model of a configuration, not yet fitted."""
    from rlhf_gym.device import resolve_device

    factory: Callable[..., RewardModel] = resolve("reward_model", config.reward_model)
    arguments: dict[str, Any] = {
        "seed": torch_seed(stream(config.seed, "reward model")),
        "device": resolve_device(config.device, "mlp"),
    }
    if config.reward_model == "ensemble":
        arguments["settings"] = config.ensemble
    return factory(info, **arguments)


def _build_answers(config: TrainConfig) -> AnswerSource:
    name = "oracle" if config.teacher == "synthetic" else config.teacher
    if name == "human":
        return People(slack=config.label_slack, wait=config.wait)
    if name.startswith("replay:"):
        return Replay(Path(name.removeprefix("replay:")))
    if name in PRESETS or ":" not in name:
        return AtOnce(make_teacher(name, torch_seed(stream(config.seed, "teacher"))))
    part: Any = resolve("teacher", name)
    teacher: Teacher = part() if isinstance(part, type) else part
    return AtOnce(teacher)


def _fresh_folder(config: TrainConfig) -> Path:
    task = config.env.rpartition("/")[2].rpartition(":")[2]
    stem = f"{task}-{config.algo}-{config.reward}-seed{config.seed}"
    number = 1
    while (folder := Path("runs") / f"{stem}-{number:03d}").exists():
        number += 1
    return folder


@dataclass(frozen=True)
class _Players:
    """Everything of a run that needs no folder."""

    agent: Any
    answers: AnswerSource
    acquisition: Acquisition
    reward_model: RewardModel | None


def _build_players(prepared: Prepared) -> _Players:
    config = prepared.config
    torch.set_num_threads(config.threads)
    return _Players(
        answers=_build_answers(config),
        acquisition=resolve("acquisition", config.acquisition),
        reward_model=(
            build_reward_model(config, prepared.info) if config.reward == "learned" else None
        ),
        agent=build_agent(prepared),
    )


def _train_on(run: Run, prepared: Prepared, players: _Players, started: float, quiet: bool) -> None:
    """Train a run to its end, from its last checkpoint if it has one."""
    config, plan, agent = prepared.config, prepared.plan, players.agent
    console = Console(quiet=quiet)
    with contextlib.ExitStack() as stack:
        stack.callback(agent.close)
        stack.enter_context(run.lock())
        store = stack.enter_context(PreferenceStore(run.store_folder))
        if config.preferences is not None:
            n_given = add_given(store, Path(config.preferences), config.env)
            plan = dataclasses.replace(plan, n_given=n_given)
        agent.log_to(run.tb_folder)
        parts = Parts(agent, store, players.answers, players.acquisition, players.reward_model)
        first_round = _restore(run, parts)
        console.print(f"run folder: {run.folder}", soft_wrap=True, highlight=False)
        labels = sum(plan.labels) if plan.source == "learned" else 0
        progress = make_progress(config.steps or 0, labels, console)
        agent.on_steps = progress.steps
        if isinstance(players.answers, People):
            players.answers.notify = progress.phase
            console.print(
                f"label the clips in another terminal: rlhf-gym label {run.folder}",
                soft_wrap=True,
                highlight=False,
            )
        setup = time.perf_counter() - started
        try:
            with progress:
                run_rounds(parts, plan, run, progress, first_round)
                progress.phase("final evaluation")
                write_summary(run, config, parts, setup)
        except KeyboardInterrupt:
            done = len(run.metrics())
            console.print(
                f"Stopped after {done} of {plan.n_rounds} rounds; these are saved. Continue with\n"
                f"  rlhf-gym train --resume {run.folder}",
                soft_wrap=True,
                highlight=False,
            )
            raise


def _restore(run: Run, parts: Parts) -> int:
    """Load the last checkpoint and forget what came after it; returns the next round."""
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        run.trim_metrics(0)
        return 0
    parts.agent.load(checkpoint.folder)
    if parts.reward_model is not None:
        parts.reward_model.load(checkpoint.folder)
    run.trim_metrics(checkpoint.round + 1)
    return checkpoint.round + 1
