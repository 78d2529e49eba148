"""Env-steps/s of our PPO agent and of stock SB3, on the true reward, turn by turn in one process.

- zoo: stock SB3 PPO with rl-baselines3-zoo's settings for HalfCheetah, in a DummyVecEnv under
  VecNormalize: what users of SB3 start from to reach returns of 4,000 to 5,000.
- stock: stock SB3 PPO with our table's settings, Adam not fused.
- ours: `PPOAgent` as `rlhf-gym train --reward true` uses it, recorder and all.

Speed without learning means nothing: what each reaches is in the results of
`rlhf-gym benchmark benchmarks/specs/speed.yml`.

    python benchmarks/speed.py

Target: ours at least 2 times zoo.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from common import RESULTS, spread, use_one_thread, write_result
from overhead import plain_learner, take_turns

from rlhf_gym.agents.ppo import PPOAgent
from rlhf_gym.agents.settings import AgentSettings, align, load_settings
from rlhf_gym.envs.make import make_env, space_info
from rlhf_gym.protocols import Signal
from rlhf_gym.seeding import stream

__all__ = ["Options", "zoo_settings"]

_RUN_STEPS = 10**9  # schedules are constant; no budget is to end a turn early


@dataclass(frozen=True)
class Options:
    """Measure training speed on the true reward."""

    env: str = "rlhf_gym/HalfCheetah-v0"
    """The task that our agent trains on."""
    plain_env: str = "HalfCheetah-v5"
    """The Gymnasium id that stock SB3 trains on."""
    rounds: int = 6
    """Rounds of turns."""
    steps: int = 16_000
    """Env steps per turn of ours and stock, rounded up to whole rollouts; zoo takes a quarter."""
    smoke: bool = False
    """A tiny run that only shows that everything works."""
    out: Path = RESULTS
    """Where the result goes."""


def zoo_settings() -> AgentSettings:
    """rl-baselines3-zoo, hyperparams/ppo.yml, HalfCheetah-v4: one env, batch 64, 20 epochs."""
    return load_settings(
        "ppo",
        "default",
        {
            "n_envs": 1,
            "n_steps": 512,
            "batch_size": 64,
            "n_epochs": 20,
            "gamma": 0.98,
            "gae_lambda": 0.92,
            "learning_rate": 2.0633e-05,
            "ent_coef": 0.000401762,
            "clip_range": 0.1,
            "max_grad_norm": 0.8,
            "vf_coef": 0.58096,
            "policy_kwargs": {
                "net_arch": [256, 256],
                "activation_fn": "ReLU",
                "log_std_init": -2.0,
                "ortho_init": False,
            },
        },
    )


def _not_fused(settings: AgentSettings) -> AgentSettings:
    policy_kwargs = dict(settings.algorithm["policy_kwargs"])
    optimizer = dict(policy_kwargs.get("optimizer_kwargs", {}))
    policy_kwargs["optimizer_kwargs"] = {k: v for k, v in optimizer.items() if k != "fused"}
    return replace(settings, algorithm={**settings.algorithm, "policy_kwargs": policy_kwargs})


def _measure(options: Options) -> dict[str, Any]:
    env = make_env(options.env)
    settings = align(load_settings("ppo", options.env), space_info(env).horizon)
    env.close()
    agent = PPOAgent(options.env, n_run_steps=_RUN_STEPS, settings=settings, device="cpu")
    agent.begin_round(stream(0, "speed"))
    zoo = zoo_settings()
    ways = {
        "zoo": plain_learner(options.plain_env, zoo),
        "stock": plain_learner(options.plain_env, _not_fused(settings)),
        "ours": lambda steps: agent.improve(Signal(source="true"), steps),
    }
    rollout = settings.algorithm["n_steps"] * settings.n_envs
    zoo_rollout = zoo.algorithm["n_steps"]
    first = {"zoo": zoo_rollout, "stock": rollout, "ours": rollout}
    turn = -(-options.steps // rollout) * rollout
    steps = {"zoo": max(turn // 4 // zoo_rollout, 1) * zoo_rollout, "stock": turn, "ours": turn}
    wall, cpu = take_turns(ways, first, steps, options.rounds)
    agent.close()
    return {
        "settings": {"ours": settings.as_mapping(), "zoo": zoo.as_mapping()},
        "steps_per_second": {way: spread(rates) for way, rates in wall.items()},
        "ours_over": {
            way: spread([own / other for own, other in zip(wall["ours"], wall[way], strict=True)])
            for way in ("zoo", "stock")
        },
        "ours_over_cpu_time": {
            way: spread([own / other for own, other in zip(cpu["ours"], cpu[way], strict=True)])
            for way in ("zoo", "stock")
        },
    }


def main() -> None:
    options = tyro.cli(Options)
    use_one_thread()
    if options.smoke:
        options = replace(options, rounds=2, steps=1)
    figures = {
        "env": options.env,
        "plain_env": options.plain_env,
        "target": {"ours_over_zoo": 2.0},
        "smoke": options.smoke,
        **_measure(options),
    }
    for way, ratio in figures["ours_over"].items():
        print(f"ours / {way}: {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    print(write_result("speed", None, figures, [0], folder=options.out))


if __name__ == "__main__":
    main()
