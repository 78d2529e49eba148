"""What reward substitution costs: env-steps/s of three ways to train PPO, turn by turn.

- plain: stock SB3 PPO on `Monitor(gym.make(...))` in a DummyVecEnv under VecNormalize, the task's
  own reward. For the shipped HalfCheetah the env is Gymnasium's HalfCheetah-v5: same dynamics,
  without the simulator states that ours records.
- relabelled: `PPOAgent` as `rlhf-gym train` uses it: hidden reward, recorder, and one batched
  forward of a 3-member 2x64 reward model per rollout.
- wrapped: `VecLearnedReward`, the same reward model asked at every step, for comparison.

The reward model is fitted once before; fitting is not counted. All three run in one process with
the same hyper-parameters and take turns of a few rollouts; each round's order is reversed in the
next, so that a drift of the machine cancels. The ratio is taken within each round.

    python benchmarks/overhead.py

Target: median of relabelled / plain at least 0.95.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from common import RESULTS, spread, use_one_thread, write_result
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from rlhf_gym.agents.ppo import PPOAgent
from rlhf_gym.agents.settings import AgentSettings, align, load_settings
from rlhf_gym.agents.vec_reward import VecLearnedReward
from rlhf_gym.data import Choice, Preference, Query
from rlhf_gym.envs.hide_reward import hide_reward
from rlhf_gym.envs.make import make_env
from rlhf_gym.feedback.reward_model import EnsembleRewardModel
from rlhf_gym.feedback.settings import FitSettings, RewardModelSettings
from rlhf_gym.protocols import Signal
from rlhf_gym.seeding import stream

__all__ = ["Learn", "Options", "generic_settings", "measure", "plain_learner", "take_turns"]

_RUN_STEPS = 10**9  # schedules are constant; no budget is to end a turn early
_N_PREFERENCES, _CLIP_LENGTH = 100, 50
Learn = Callable[[int], Any]


@dataclass(frozen=True)
class Options:
    """Measure the overhead of reward substitution."""

    env: str = "rlhf_gym/HalfCheetah-v0"
    """The task that the reward is learned on."""
    plain_env: str = "HalfCheetah-v5"
    """The Gymnasium id that plain SB3 trains on."""
    pairs: int = 8
    """Rounds of turns, each giving one ratio."""
    steps: int = 16_000
    """Env steps per turn, rounded up to whole rollouts."""
    smoke: bool = False
    """A tiny run that only shows that everything works."""
    out: Path = RESULTS
    """Where the result goes."""


def generic_settings() -> AgentSettings:
    """8 envs x 256 steps, batch 64, 10 epochs, 2x64 tanh: what SB3 users start from."""
    algorithm = {"n_steps": 256, "batch_size": 64, "n_epochs": 10, "policy_kwargs": {}}
    return replace(load_settings("ppo", "default"), n_envs=8, algorithm=algorithm)


def _ppo(venv: VecEnv, settings: AgentSettings) -> PPO:
    env = VecNormalize(venv, norm_reward=False) if settings.normalize_obs else venv
    return PPO(settings.policy, env, seed=0, device="cpu", **settings.algorithm)


def plain_learner(env_id: str, settings: AgentSettings) -> Learn:
    venv = DummyVecEnv([lambda: Monitor(gym.make(env_id))] * settings.n_envs)
    model = _ppo(venv, settings)
    return lambda steps: model.learn(steps, reset_num_timesteps=False)


def _wrapped(env_id: str, settings: AgentSettings, reward_model: EnsembleRewardModel) -> Learn:
    venv = DummyVecEnv([lambda: hide_reward(Monitor(make_env(env_id)))] * settings.n_envs)
    model = _ppo(VecLearnedReward(venv, reward_model.rewards), settings)
    return lambda steps: model.learn(steps, reset_num_timesteps=False)


def _relabelled(agent: PPOAgent, reward_model: EnsembleRewardModel) -> Learn:
    signal = Signal(reward_model=reward_model)
    return lambda steps: agent.improve(signal, steps)


def _fitted_reward_model(agent: PPOAgent) -> EnsembleRewardModel:
    """The preset's reward model, fitted to a few oracle answers on random behaviour."""
    rng = np.random.default_rng(0)
    agent.begin_round(stream(0, "overhead"))
    agent.warm_up(agent.settings.n_envs * 4 * _CLIP_LENGTH)
    clips = agent.clips(2 * _N_PREFERENCES, _CLIP_LENGTH, rng)
    preferences = []
    for index, pair in enumerate(zip(clips[::2], clips[1::2], strict=True)):
        better = pair[0].true_return > pair[1].true_return
        choice = Choice.FIRST if better else Choice.SECOND
        preferences.append(Preference(Query(pair, 0, 0, index), choice, "synthetic"))
    # The preset's network; how long it is fitted does not change what a forward costs.
    settings = RewardModelSettings(fit=FitSettings(max_epochs=10))
    reward_model = EnsembleRewardModel(agent.info, settings)
    reward_model.fit(preferences, rng)
    return reward_model


def measure(settings: AgentSettings, options: Options) -> dict[str, Any]:
    """Steps/s of each way and the ratios to plain SB3, by wall time and by processor time."""
    agent = PPOAgent(options.env, n_run_steps=_RUN_STEPS, settings=settings, device="cpu")
    reward_model = _fitted_reward_model(agent)
    ways = {
        "plain": plain_learner(options.plain_env, settings),
        "relabelled": _relabelled(agent, reward_model),
        "wrapped": _wrapped(options.env, settings, reward_model),
    }
    rollout = settings.algorithm["n_steps"] * settings.n_envs
    steps = -(-options.steps // rollout) * rollout
    wall, cpu = take_turns(
        ways, dict.fromkeys(ways, rollout), dict.fromkeys(ways, steps), options.pairs
    )
    agent.close()
    return {
        "settings": settings.as_mapping(),
        "steps_per_turn": steps,
        "steps_per_second": {way: spread(rates) for way, rates in wall.items()},
        "ratio_to_plain": _ratios(wall),
        # Processor time is what remains comparable while other work shares the machine.
        "ratio_to_plain_cpu_time": _ratios(cpu),
    }


Rates = dict[str, list[float]]


def take_turns(
    ways: Mapping[str, Learn], first: Mapping[str, int], steps: Mapping[str, int], rounds: int
) -> tuple[Rates, Rates]:
    """Steps/s of each way in each round, by wall time and by processor time.

    Args:
        ways: Train for a number of steps when called.
        first: Untimed steps of each way before the first round: first-call costs are nobody's.
        steps: Of each way per turn.
        rounds: Every other one runs in reverse order.
    """
    for way, learn in ways.items():
        learn(first[way])
    wall: Rates = {way: [] for way in ways}
    cpu: Rates = {way: [] for way in ways}
    for round_ in range(rounds):
        for way in list(ways)[:: 1 if round_ % 2 == 0 else -1]:
            started, started_cpu = time.perf_counter(), time.process_time()
            ways[way](steps[way])
            wall[way].append(steps[way] / (time.perf_counter() - started))
            cpu[way].append(steps[way] / (time.process_time() - started_cpu))
        rates = "  ".join(f"{way} {rate[-1]:,.0f}" for way, rate in wall.items())
        print(f"round {round_ + 1}/{rounds}: {rates} steps/s", flush=True)
    return wall, cpu


def _ratios(rates: dict[str, list[float]]) -> dict[str, Any]:
    return {
        way: spread([own / base for own, base in zip(rates[way], rates["plain"], strict=True)])
        for way in rates
        if way != "plain"
    }


def main() -> None:
    options = tyro.cli(Options)
    use_one_thread()
    if options.smoke:
        options = replace(options, pairs=2, steps=1)
    env = make_env(options.env)
    horizon = env.spec.max_episode_steps if env.spec else None
    env.close()
    figures: dict[str, Any] = {
        "env": options.env,
        "plain_env": options.plain_env,
        "target_median": 0.95,
        "smoke": options.smoke,
    }
    settings = {
        "task": align(load_settings("ppo", options.env), horizon),
        "generic": generic_settings(),
    }
    for name, chosen in settings.items():
        figures[name] = measure(chosen, options)
        ratio = figures[name]["ratio_to_plain"]["relabelled"]
        print(f"{name}: {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})")
    print(write_result("overhead", None, figures, [0], folder=options.out))


if __name__ == "__main__":
    main()
