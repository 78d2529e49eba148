"""From a configuration to a trained agent: everything `rlhf-gym train` does, as a function."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_gym.config import is_whole, to_yaml
from rlhf_gym.control_run import (
    build_control_agent,
    build_control_reward_model,
    prepare_control,
)
from rlhf_gym.envs.contract import try_env
from rlhf_gym.envs.make import is_text_env, make_env, space_info
from rlhf_gym.errors import CorruptDataError
from rlhf_gym.feedback.answer_sources import AnswerSource, AtOnce, People, Replay
from rlhf_gym.feedback.given import Given, add_given, count_asked, has_given, read_given
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.teachers import PRESETS, make_teacher
from rlhf_gym.loop import Parts, Plan, Progress, run_rounds
from rlhf_gym.prepared import Prepared
from rlhf_gym.printing import Screen
from rlhf_gym.progress import make_progress
from rlhf_gym.protocols import Acquisition, RewardModel, Teacher
from rlhf_gym.provenance import provenance
from rlhf_gym.registry import resolve
from rlhf_gym.runs import Run
from rlhf_gym.seeding import stream, torch_seed
from rlhf_gym.summary import write_summary
from rlhf_gym.train_config import TrainConfig, read_run_config
from rlhf_gym.trust import remember_made_here, search_current_folder

__all__ = [
    "Prepared",
    "build_agent",
    "build_and_close",
    "build_reward_model",
    "prepare",
    "resume",
    "train",
]


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
    # First, so that a mistake leaves no folder behind.
    players = _build_players(prepared, _read_given(prepared))
    files = {
        "config.yaml": to_yaml(prepared.config),
        "provenance.json": json.dumps(provenance(sys.argv), indent=2),
    }
    run = Run.create(out or _fresh_folder(prepared.config), files)
    _remember(run, prepared.config, quiet)
    _train_on(run, prepared, players, started, quiet)
    return run


def _remember(run: Run, config: TrainConfig, quiet: bool) -> None:
    """Later commands run the modules that this run names without asking: its maker named them."""
    if not config.named_modules():
        return
    try:
        remember_made_here(run)
    except OSError as error:
        Screen(stderr=True, quiet=quiet).print(
            f"This run cannot be remembered as made here ({error}); later commands on it will ask "
            "for `--trust`.",
            highlight=False,
            soft_wrap=True,
        )


def resume(
    folder: Path,
    *,
    quiet: bool = False,
    trust: bool = False,
    wait: bool | None = None,
    label_slack: float | None = None,
) -> Run:
    """Continue a run from its last checkpoint, to the same weights as if it had never stopped.

    Args:
        folder: The run folder.
        quiet: Print nothing.
        trust: Run the modules that its config.yaml names, though it was not made here.
        wait: From now on, in place of what the run was begun with: False goes on without the
            answers of people who have left. The plan of the run stays what it is.
        label_slack: Likewise.

    Raises:
        ConfigError: there is no run.
        UntrustedError: it names modules, was not made here, and `trust` is False.
        CorruptDataError: its checkpoint or store is damaged.
        RunLockedError: another process trains on it.
    """
    started = time.perf_counter()
    run = Run.open(folder)
    prepared = prepare(read_run_config(run, trust=trust))
    players = _build_players(prepared, None)
    if isinstance(people := players.answers, People):
        people.wait = people.wait if wait is None else wait
        people.slack = people.slack if label_slack is None else label_slack
    _train_on(run, prepared, players, started, quiet)
    return run


def prepare(config: TrainConfig) -> Prepared:
    """Resolve everything that depends on the env, and refuse what cannot work.

    Modules that the configuration names are looked for where Python looks, and then in the current
    folder.
    """
    search_current_folder(config.named_modules())
    env = make_env(config.env, env_kwargs=config.make_env_kwargs())
    info, is_text = space_info(env), is_text_env(env)
    try:
        if not is_text:
            try_env(env)
    finally:
        env.close()
    if not is_text:
        return prepare_control(config, info)
    from rlhf_gym.text_run import prepare_text

    return prepare_text(config, info)


def build_agent(prepared: Prepared) -> Any:
    """The agent of a configuration, untrained."""
    if not prepared.is_text:
        return build_control_agent(prepared)
    from rlhf_gym.text_run import build_text_agent

    return build_text_agent(prepared)


def build_reward_model(prepared: Prepared, agent: Any) -> RewardModel | None:
    """The reward model of a configuration, not yet fitted; None where the agent needs none."""
    if not prepared.is_text:
        return build_control_reward_model(prepared)
    from rlhf_gym.text_run import build_text_reward_model

    return build_text_reward_model(prepared, agent)


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
    given: Given | None


def _build_players(prepared: Prepared, given: Given | None) -> _Players:
    config = prepared.config
    torch.set_num_threads(config.threads)
    agent = build_agent(prepared)
    is_learned = config.reward == "learned"
    return _Players(
        agent=agent,
        answers=_build_answers(config),
        acquisition=resolve("acquisition", config.acquisition),
        reward_model=build_reward_model(prepared, agent) if is_learned else None,
        given=given,
    )


def _read_given(prepared: Prepared) -> Given | None:
    if (source := prepared.config.preferences) is None:
        return None
    return read_given(Path(source), prepared.config.env, prepared.info, is_text=prepared.is_text)


def build_and_close(prepared: Prepared) -> None:
    """Build everything that a run would train with, to see whether it can be.

    Raises:
        RlhfGymError: what `train` would raise before its first step.
    """
    players = _build_players(prepared, _read_given(prepared))
    players.agent.close()


def _train_on(run: Run, prepared: Prepared, players: _Players, started: float, quiet: bool) -> None:
    """Train a run to its end, from its last checkpoint if it has one."""
    config, plan, agent = prepared.config, prepared.plan, players.agent
    console = Screen(quiet=quiet)
    with contextlib.ExitStack() as stack:
        stack.callback(agent.close)
        stack.enter_context(run.lock())
        store = stack.enter_context(PreferenceStore(run.store_folder))
        # Given once: after a kill the source may have changed, or moved.
        if config.preferences is not None and not has_given(store):
            given = players.given or _read_given(prepared)
            assert given is not None
            add_given(store, given)
        parts = Parts(agent, store, players.answers, players.acquisition, players.reward_model)
        first_round, done = _restore(run, parts, plan)
        agent.log_to(run.tb_folder)  # what cannot be resumed leaves no trace there
        console.print(f"run folder: {run.folder}", soft_wrap=True, highlight=False)
        for note in getattr(agent, "notes", ()):  # text agents'
            console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
        labels = sum(plan.labels) if plan.source == "learned" else 0
        progress = make_progress(config.steps or 0, labels, console)
        agent.on_steps = progress.steps
        if isinstance(players.answers, People):
            players.answers.notify, players.answers.say = progress.phase, progress.note
            players.answers.go_on = f"rlhf-gym train --resume {run.folder} --no-wait"
            console.print(
                f"label the clips in another terminal: rlhf-gym label {run.folder}",
                soft_wrap=True,
                highlight=False,
            )
        setup = time.perf_counter() - started
        try:
            with progress:
                run_rounds(parts, plan, run, progress, first_round, done)
                progress.phase("final evaluation")
                write_summary(run, config, plan, parts, setup)
        except Exception as error:  # what the env's own code raised, say, ends no run for good
            error.add_note(f"Continue with: rlhf-gym train --resume {run.folder}")
            raise
        except KeyboardInterrupt:
            # A round's metrics are written before its checkpoint, without which it is played again.
            checkpoint = run.latest_checkpoint()
            n_saved = 0 if checkpoint is None else checkpoint.round + 1
            console.print(
                f"Stopped after {n_saved} of {plan.n_rounds} rounds; these are saved. Continue "
                f"with\n  rlhf-gym train --resume {run.folder}",
                soft_wrap=True,
                highlight=False,
            )
            raise


def _restore(run: Run, parts: Parts, plan: Plan) -> tuple[int, Progress]:
    """Load the last checkpoint and forget what came after it.

    Returns:
        The next round, and what the rounds before it left.
    """
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        run.trim_metrics(0)
        return 0, Progress()
    for name in ("last_sequence", "n_labels", "n_asked"):
        value = checkpoint.state.get(name)
        if value is not None and not is_whole(value, 0):
            raise CorruptDataError(
                f"{checkpoint.folder / 'state.json'} says that {name} is {value!r}, a whole number "
                f"is expected; delete {checkpoint.folder} to resume from the one before it."
            )
    parts.agent.load(checkpoint.folder)
    if parts.reward_model is not None:
        parts.reward_model.load(checkpoint.folder)
    run.trim_metrics(checkpoint.round + 1)
    next_round, state = checkpoint.round + 1, checkpoint.state
    # Runs of earlier versions, whose stores may hold imported questions.
    scheduled = sum(plan.labels[:next_round]) // plan.answers_per_query
    n_asked = min(scheduled, count_asked(parts.store, next_round))
    return next_round, Progress(
        state.get("last_sequence"), state.get("n_labels"), state.get("n_asked", n_asked)
    )
