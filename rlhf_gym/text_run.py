"""What is different about a run on texts: how it is prepared, and its players."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_gym.agents.text.agent_settings import TextAgentSettings, load_text_settings
from rlhf_gym.config import from_mapping
from rlhf_gym.control_run import labels_of_rounds, refuse_disagreement_of_one, with_label_noise
from rlhf_gym.data import Preference
from rlhf_gym.device import resolve_device
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.schedules import steps_per_round
from rlhf_gym.feedback.settings import RewardModelSettings
from rlhf_gym.feedback.text_reward_model import TextFitReport, TextRewardModel
from rlhf_gym.feedback.text_settings import TextRewardSettings
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.loop import Plan
from rlhf_gym.prepared import Prepared
from rlhf_gym.protocols import RewardModel, SpaceInfo
from rlhf_gym.registry import resolve
from rlhf_gym.seeding import stream, torch_seed
from rlhf_gym.train_config import TrainConfig

__all__ = ["build_text_agent", "build_text_reward_model", "prepare_text"]

_EVALUATED, _FINALLY_EVALUATED = 64, 256  # a completion costs nothing beside an episode
_DIRECT = ("dpo",)
"""Algorithms that learn from the preferences themselves and need no reward model."""


def prepare_text(config: TrainConfig, info: SpaceInfo) -> Prepared:
    """Resolve everything that depends on a text env, and refuse what cannot work."""
    settings = load_text_settings(config.env, config.hyperparameters)
    _check(config, settings)
    config = dataclasses.replace(
        config,
        eval_episodes=max(config.eval_episodes, _EVALUATED),
        final_episodes=max(config.final_episodes, _FINALLY_EVALUATED),
    )
    plan = _plan(config, settings)
    resolved = dataclasses.replace(
        config,
        steps=config.steps or settings.n_completions,
        clip_length=1,
        hyperparameters=settings.as_mapping(),
        ensemble=with_label_noise(config),
    )
    return Prepared(resolved, settings, info, plan, is_text=True)


def _check(config: TrainConfig, settings: TextAgentSettings) -> None:
    """Refuse now what would fail only after fine-tuning, or have no effect."""
    refuse_disagreement_of_one(config, _reward_settings(config, settings).n_members)
    fit = dataclasses.replace(config.ensemble.fit, label_noise=None)
    given = {
        "--horizon": config.horizon is not None,
        "--obs-keys": bool(config.obs_keys),
        "--clip-length": config.clip_length not in (None, 1),
        "--record-pictures": config.record_pictures,
        "--ensemble (but for its label noise)": dataclasses.replace(config.ensemble, fit=fit)
        != RewardModelSettings(),
    }
    if without_effect := [name for name, is_given in given.items() if is_given]:
        raise ConfigError(
            f"{', '.join(without_effect)}: of no effect on {config.env}, where a clip is a whole "
            "text; omit it. Settings of a text's reward model stand under `reward_model` in "
            "the hyper-parameters."
        )
    if config.algo in _DIRECT and config.reward == "true":
        raise ConfigError(
            f"`--algo {config.algo}` learns from answers, and with `--reward true` nobody is "
            "asked; take `--algo ppo` for the yardstick, or omit `--reward`."
        )
    if config.algo in _DIRECT and config.acquisition in ("disagreement", "entropy"):
        raise ConfigError(
            f"`--acquisition {config.acquisition}` asks a reward model, and `--algo {config.algo}` "
            "learns without one; use `uniform`."
        )


def _reward_settings(config: TrainConfig, settings: TextAgentSettings) -> TextRewardSettings:
    """The text reward model's settings, but for its limits, which are the task's."""
    limits = {"max_prompt_tokens", "max_completion_tokens"} & set(settings.reward_model)
    if limits:
        raise ConfigError(
            f"`reward_model` of {config.env} names {', '.join(sorted(limits))}, which follow from "
            "the task; omit them."
        )
    options = {"label_noise": config.ensemble.fit.label_noise, **settings.reward_model}
    return from_mapping(TextRewardSettings, options, f"`reward_model` of {config.env}")


def _plan(config: TrainConfig, settings: TextAgentSettings) -> Plan:
    """What each round may spend: completions for steps, and no warm-up beside SFT.

    Raises:
        ConfigError: too few steps for one rollout, or one batch of pairs.
    """
    is_dpo = config.algo == "dpo"
    unit = settings.dpo.batch_size if is_dpo else settings.ppo.batch_size
    steps = config.steps or settings.n_completions
    if steps < unit:
        what = "pairs, fewer than one batch" if is_dpo else "completions, fewer than one rollout"
        raise ConfigError(f"`steps` is {steps} {what} of {unit}; pass `--steps {unit}` or more.")
    rounds = max(min(config.rounds, settings.max_rounds, steps // unit), 1)
    return Plan(
        seed=config.seed,
        labels=labels_of_rounds(config, rounds, config.initial_labels),
        steps=steps_per_round(steps, rounds, unit),
        warm_up=0,
        clip_length=1,
        eval_episodes=config.eval_episodes,
        answers_per_query=config.answers_per_query,
        pooling=config.pooling,
        source=config.reward,
        warm_up_as=("sft", "fine-tuning"),
    )


def build_text_agent(prepared: Prepared) -> Any:
    """The language-model agent of a configuration, untrained.

    Raises:
        UnknownNameError: an algorithm that is neither `ppo`, `dpo` nor `module:attribute`.
    """
    config = prepared.config
    return resolve("text_agent", config.algo)(
        config.env,
        n_run_steps=config.steps,
        settings=prepared.settings,
        env_kwargs=config.make_env_kwargs(),
        seed=torch_seed(stream(config.seed, "agent")),
        device=_device(config),
        model=config.model,
    )


def build_text_reward_model(prepared: Prepared, agent: Any) -> RewardModel | None:
    """The reward model of a configuration; None for algorithms that need none."""
    config = prepared.config
    if config.algo in _DIRECT:
        return None
    seed = torch_seed(stream(config.seed, "reward model"))
    if config.reward_model != "ensemble":
        own: RewardModel = resolve("reward_model", config.reward_model)(
            prepared.info, seed=seed, device=_device(config)
        )
        return own
    settings = dataclasses.replace(
        _reward_settings(config, prepared.settings),
        max_prompt_tokens=agent.task.max_prompt_tokens,
        max_completion_tokens=agent.task.max_new_tokens,
    )
    sft = agent.lm if agent.reference is None else agent.reference.lm
    return _FromPolicy(sft, settings, seed=seed)


class _FromPolicy(TextRewardModel):
    """Starts from what SFT made of the policy, not from what it was when this was built.

    Args:
        lm: The policy, if its fine-tuning is still to come; else what came out of that.
        settings: See `TextRewardModel`, as for `seed`.
    """

    def __init__(self, lm: LanguageModel, settings: TextRewardSettings, *, seed: int) -> None:
        super().__init__(lm, settings, seed=seed)
        self._policy, self._knows_text = lm, False

    def fit(self, preferences: Sequence[Preference], rng: np.random.Generator) -> TextFitReport:
        if not self._knows_text:
            self.net.trunk.load_state_dict(self._policy.model.base_model.state_dict())
            self._knows_text = True
        return super().fit(preferences, rng)

    def load(self, folder: Path) -> None:
        super().load(folder)
        self._knows_text = True


def _device(config: TrainConfig) -> str:
    return resolve_device(config.device, "large")
