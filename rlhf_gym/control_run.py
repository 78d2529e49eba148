"""What is different about a run on a control env: its plan, its agent, its reward model."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

from rlhf_gym.agents.settings import AgentSettings, align, load_settings
from rlhf_gym.device import resolve_device
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.schedules import labels_per_round, steps_per_round
from rlhf_gym.feedback.settings import RewardModelSettings
from rlhf_gym.loop import Plan
from rlhf_gym.prepared import Prepared
from rlhf_gym.protocols import RewardModel, SpaceInfo
from rlhf_gym.registry import names, resolve
from rlhf_gym.seeding import stream, torch_seed
from rlhf_gym.train_config import TrainConfig

__all__ = [
    "build_control_agent",
    "build_control_reward_model",
    "labels_of_rounds",
    "prepare_control",
    "refuse_disagreement_of_one",
    "with_label_noise",
]


def prepare_control(config: TrainConfig, info: SpaceInfo) -> Prepared:
    """Resolve everything that depends on a control env, and refuse what cannot work."""
    if config.model is not None:
        raise ConfigError(
            f"`model` is {config.model}, a language model, and {config.env} is no text env; "
            "omit it."
        )
    clip_length = config.clip_length or _usual_clip_length(info.horizon)
    if info.horizon is not None and clip_length > info.horizon:
        raise ConfigError(
            f"`clip_length` is {clip_length} but an episode of {config.env} has {info.horizon} "
            f"steps; pass `--clip-length {_usual_clip_length(info.horizon)}`, or omit it."
        )
    table = config.algo if config.algo in names("agent") else "ppo"
    settings = load_settings(table, config.env, config.hyperparameters)
    settings = align(settings, info.horizon, fixed=config.hyperparameters)
    steps = config.steps or settings.n_timesteps
    config = dataclasses.replace(config, clip_length=clip_length)
    if config.reward_model == "ensemble":
        refuse_disagreement_of_one(config, config.ensemble.n_members)
    plan = _plan(config, settings, info, steps)
    resolved = dataclasses.replace(
        config,
        steps=steps,
        hyperparameters=settings.as_mapping(),
        ensemble=with_label_noise(config),
    )
    return Prepared(resolved, settings, info, plan)


def _usual_clip_length(horizon: int | None) -> int:
    """50 steps, but a part of the episode: whole episodes tell little about single steps."""
    return 50 if horizon is None else max(min(50, horizon * 2 // 5), 1)


def refuse_disagreement_of_one(config: TrainConfig, n_members: int) -> None:
    """Asked for before the run: the first round, which asks at random, would not notice."""
    if config.acquisition == "disagreement" and n_members < 2:
        raise ConfigError(
            f"`--acquisition disagreement` needs a reward model of at least 2 members, found "
            f"{n_members}; raise `n_members`, or use `entropy` or `uniform`."
        )


def with_label_noise(config: TrainConfig) -> RewardModelSettings:
    """Assume no errors of the oracle, and Christiano's 10 % of anyone else, unless told.

    Answers that are given (`preferences`) are anyone's: whoever gave them may have erred.
    """
    ensemble = config.ensemble
    if ensemble.fit.label_noise is not None:
        return ensemble
    # A recording is fitted like what was recorded: by the configuration that goes with it.
    is_oracle = config.teacher in ("synthetic", "oracle") and config.preferences is None
    noise = 0.0 if is_oracle else 0.1
    return dataclasses.replace(ensemble, fit=dataclasses.replace(ensemble.fit, label_noise=noise))


def _plan(config: TrainConfig, settings: AgentSettings, info: SpaceInfo, steps: int) -> Plan:
    assert config.clip_length is not None, "resolved by now"
    unit = settings.steps_unit(info.horizon)
    n_warm_up, initial = _warm_up(config, settings, info, steps)
    if n_warm_up + unit > steps:
        enough = steps
        while (needed := _warm_up(config, settings, info, enough)[0] + unit) > enough:
            enough = needed
        raise ConfigError(
            f"`steps` is {steps}, too few for {n_warm_up} steps of warm-up and one update of "
            f"{unit} steps; pass `--steps {enough}`, or fewer `--labels`."
        )
    rounds = min(config.rounds, (steps - n_warm_up) // unit)
    return Plan(
        seed=config.seed,
        labels=labels_of_rounds(config, rounds, initial),
        steps=steps_per_round(steps, rounds, unit, warm_up=n_warm_up),
        warm_up=n_warm_up,
        clip_length=config.clip_length,
        eval_episodes=config.eval_episodes,
        answers_per_query=config.answers_per_query,
        pooling=config.pooling,
        source=config.reward,
    )


def labels_of_rounds(config: TrainConfig, rounds: int, initial: float) -> list[int]:
    """Answers per round, whole queries each; without waiting, the last round asks nothing."""
    if config.labels == 0:
        return [0] * rounds
    n_asking = asking_rounds(config, rounds)
    queries = labels_per_round(
        config.labels // config.answers_per_query,
        n_asking,
        initial_fraction=initial if n_asking > 1 else 1.0,
        kind=config.label_schedule,
    )
    return [n * config.answers_per_query for n in queries] + [0] * (rounds - n_asking)


def asking_rounds(config: TrainConfig, rounds: int) -> int:
    """How many of the rounds ask: all of them, since the last one waits for its answers.

    With `--no-wait` the last one is there for what comes late: a closing fit, and the agent's last
    improvement on it.
    """
    return rounds if config.wait or rounds == 1 else rounds - 1


def _warm_up(
    config: TrainConfig, settings: AgentSettings, info: SpaceInfo, steps: int
) -> tuple[int, float]:
    """Steps of warm-up, and the share of all answers that is asked for behind it."""
    initial = 1.0 if asking_rounds(config, config.rounds) == 1 else config.initial_labels
    n_steps = _warm_up_steps(config, settings, info, steps, initial)
    rounds = min(config.rounds, (steps - n_steps) // settings.steps_unit(info.horizon))
    if asking_rounds(config, rounds) != 1:
        return n_steps, initial
    # A single round asks everything at once.
    return _warm_up_steps(config, settings, info, steps, 1.0), 1.0


def _warm_up_steps(
    config: TrainConfig, settings: AgentSettings, info: SpaceInfo, steps: int, initial: float
) -> int:
    """The share asked for, but `clip_length` steps per first question if half the budget allows."""
    assert config.clip_length is not None
    n_questions = math.ceil(config.labels // config.answers_per_query * initial)
    needed = n_questions * config.clip_length
    per_env = max(steps * config.warm_up, min(needed, steps / 2)) / settings.n_envs
    # Whole episodes where the budget allows them, so that the first clips show all of one.
    whole = info.horizon if info.horizon and per_env > info.horizon / 2 else 1
    # A question needs two clips: of two envs, or of one that goes on for another step or episode.
    least = config.clip_length
    if settings.n_envs == 1:
        least = 2 * least if least == info.horizon else least + 1
    n_steps = max(round(per_env / whole) * whole, least) * settings.n_envs
    if n_steps + settings.steps_unit(info.horizon) <= steps:
        return n_steps
    return max(int(per_env), least) * settings.n_envs


def build_control_agent(prepared: Prepared) -> Any:
    """The agent of a configuration, untrained."""
    config, plan = prepared.config, prepared.plan
    longest = max(plan.warm_up, *plan.steps)
    factory: Callable[..., Any] = resolve("agent", config.algo)
    return factory(
        config.env,
        n_run_steps=config.steps,
        settings=prepared.settings,
        env_kwargs=config.make_env_kwargs(),
        n_record_steps=-(-longest // prepared.settings.n_envs),
        seed=torch_seed(stream(config.seed, "agent")),
        device=config.device,
        allow_variable_horizon=config.allow_variable_horizon,
        **_picture_arguments(config, factory),
    )


def _picture_arguments(config: TrainConfig, factory: Callable[..., Any]) -> dict[str, bool]:
    """Whether the agent is to take pictures: nothing is paid for them where nobody looks."""
    for_people = config.teacher == "human" and config.reward == "learned" and config.labels > 0
    if not (for_people or config.record_pictures):
        return {}
    if "record_pictures" in inspect.signature(factory).parameters:
        return {"record_pictures": True}
    if config.record_pictures:
        raise ConfigError(
            f"`record_pictures` is set, but the agent {config.algo} takes no argument of that "
            "name; leave the option out, or have the agent wrap its envs in `PictureInfo`."
        )
    return {}  # an agent of the user's own: its envs may have states, or pictures all the same


def build_control_reward_model(prepared: Prepared) -> RewardModel:
    """The reward model of a configuration, not yet fitted."""
    config = prepared.config
    factory: Callable[..., RewardModel] = resolve("reward_model", config.reward_model)
    arguments: dict[str, Any] = {
        "seed": torch_seed(stream(config.seed, "reward model")),
        "device": resolve_device(config.device, "mlp"),
    }
    if config.reward_model == "ensemble":
        arguments["settings"] = config.ensemble
    return factory(prepared.info, **arguments)
