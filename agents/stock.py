"""Stock Stable-Baselines3 on the true reward: the yardstick that owes nothing to this project."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlhf_gym.agents.rollouts import play_episodes
from rlhf_gym.agents.sb3_ppo import make_ppo
from rlhf_gym.agents.settings import AgentSettings
from rlhf_gym.data import Array
from rlhf_gym.envs.make import make_env
from rlhf_gym.errors import ConfigError
from rlhf_gym.seeding import stream, torch_seed

__all__ = ["StockAgent", "StockResult", "train_stock"]

_MAX_EVALUATION_ENVS = 10


@dataclass(frozen=True)
class StockResult:
    """What a run of stock SB3 ended with."""

    env_steps: int
    """Steps trained; evaluation is not counted."""
    returns: list[float]
    """True returns of the final evaluation's episodes, which are those of our own runs."""
    curve: list[dict[str, float]]
    """`env_steps` and `true_return_mean` of each evaluation on the way."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By part: setup, improve, evaluate."""


class StockAgent:
    """Plain SB3 PPO under VecNormalize(norm_reward=True), with a task's hyper-parameters.

    Nothing of this project stands between SB3 and the env's own reward: no recorder, no hidden
    reward, SB3's own vectorised env, and SB3's usual scaling of rewards. Nor are actions scaled:
    on a box other than [-1, 1], as Pendulum's [-2, 2], its policy acts in the env's units, as plain
    SB3 does, which is part of what it is compared for. What it observes is what `make_env` returns,
    whole numbers as float32.

    Args:
        env_id: Any Gymnasium id, or `module:id`.
        settings: Hyper-parameters; `reward_scale`, `center_rewards` and `restart_at` are not used.
        env_kwargs: Passed to `make_env`.
        seed: SB3's seed: weights, envs, minibatches.
        device: "auto", "cpu" or a CUDA device.

    Raises:
        UnknownNameError: nobody registered the id.
        ConfigError: hyper-parameters that PPO does not take.
    """

    def __init__(
        self,
        env_id: str,
        *,
        settings: AgentSettings,
        env_kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        def make() -> Any:
            return make_env(env_id, env_kwargs=env_kwargs)

        self.env_id = env_id
        self._evaluation_envs = [make() for _ in range(_MAX_EVALUATION_ENVS)]
        self.normaliser = VecNormalize(
            DummyVecEnv([lambda: Monitor(make())] * settings.n_envs),
            norm_obs=settings.normalize_obs,
            norm_reward=True,
            gamma=settings.algorithm.get("gamma", 0.99),
        )
        self.model = make_ppo(env_id, self.normaliser, settings, seed, device)

    def act(self, obs: Array) -> Array:
        """(n, ...) raw observations -> (n, ...) deterministic actions within the action space."""
        normalised = self.normaliser.normalize_obs(obs)
        assert isinstance(normalised, np.ndarray)
        return self.model.predict(normalised, deterministic=True)[0]

    def evaluate(self, n_episodes: int, seed: np.random.SeedSequence) -> list[float]:
        """True returns of deterministic episodes on separate envs."""
        episodes = play_episodes(self._evaluation_envs, self.act, n_episodes, seed, self.env_id)
        return [episode.true_return for episode in episodes]

    def close(self) -> None:
        """Close all envs."""
        self.normaliser.close()
        for env in self._evaluation_envs:
            env.close()


def train_stock(
    env_id: str,
    *,
    settings: AgentSettings,
    n_steps: int,
    n_points: int,
    seed: int,
    eval_episodes: int = 2,
    final_episodes: int = 20,
    env_kwargs: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> StockResult:
    """Train stock PPO, and evaluate it on the episodes that a run of ours is evaluated on.

    Args:
        env_id: The task.
        settings: Its hyper-parameters.
        n_steps: Env steps, rounded down to whole rollouts so that they are never exceeded.
        n_points: Evaluations on the way, spread evenly.
        seed: The root seed, as of `TrainConfig`; draws other weights than our agent's, for SB3
            draws them in its own order.
        eval_episodes: Episodes of each evaluation on the way.
        final_episodes: Episodes of the final one.
        env_kwargs: Passed to `make_env`.
        device: "auto", "cpu" or a CUDA device.

    Raises:
        ConfigError: fewer steps than one rollout, or hyper-parameters that PPO does not take.
    """
    started = time.perf_counter()
    rollout = settings.algorithm["n_steps"] * settings.n_envs
    steps = n_steps // rollout * rollout
    if not steps:
        raise ConfigError(f"`steps` is {n_steps}, less than one rollout of {rollout} steps.")
    agent = StockAgent(
        env_id,
        settings=settings,
        env_kwargs=env_kwargs,
        seed=torch_seed(stream(seed, "agent")),
        device=device,
    )
    seconds = {"setup": time.perf_counter() - started}
    curve = _Curve(agent, every=-(-steps // n_points), n_episodes=eval_episodes, root=seed)
    try:
        agent.model.learn(steps, callback=curve)
        curve.record()
        began = time.perf_counter()
        returns = agent.evaluate(final_episodes, stream(seed, "final evaluation"))
        seconds["evaluate"] = curve.seconds + time.perf_counter() - began
    finally:
        agent.close()
    seconds["improve"] = time.perf_counter() - started - sum(seconds.values())
    return StockResult(agent.model.num_timesteps, returns, curve.points, seconds)


class _Curve(BaseCallback):
    """Evaluates the agent as often as ours is, without disturbing it."""

    def __init__(self, agent: StockAgent, every: int, n_episodes: int, root: int) -> None:
        super().__init__()
        self.points: list[dict[str, float]] = []
        self.seconds = 0.0
        self._agent = agent
        self._every = every
        self._n_episodes = n_episodes
        self._root = root

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # The update on the last rollout is done by now, unlike at the rollout's end.
        if self.num_timesteps >= (len(self.points) + 1) * self._every:
            self.record()

    def record(self) -> None:
        """Evaluate now."""
        started = time.perf_counter()
        seed = stream(self._root, "evaluation", len(self.points))
        returns = self._agent.evaluate(self._n_episodes, seed)
        steps = self._agent.model.num_timesteps
        self.points.append({"env_steps": steps, "true_return_mean": float(np.mean(returns))})
        self.seconds += time.perf_counter() - started
