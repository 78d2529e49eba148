"""Stable-Baselines3's PPO behind the `Agent` protocol; `agent.model` stays the stock object."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from rlhf_gym.agents.model_state import (
    load_arrays,
    load_model,
    normaliser_arrays,
    restore_normaliser,
    save_arrays,
    save_model,
)
from rlhf_gym.agents.recorder import Recorder
from rlhf_gym.agents.relabel import SubstituteReward
from rlhf_gym.agents.rollouts import play_episodes
from rlhf_gym.agents.sb3_export import export_sb3, rescale_policy
from rlhf_gym.agents.sb3_ppo import make_ppo
from rlhf_gym.agents.scaled_actions import action_scale, scale_actions
from rlhf_gym.agents.settings import AgentSettings, align, load_settings
from rlhf_gym.agents.vec_env import SerialVecEnv
from rlhf_gym.data import Array, Clip, Trajectory
from rlhf_gym.documents import read_json
from rlhf_gym.envs.array_spaces import sample_actions
from rlhf_gym.envs.hide_reward import hide_reward
from rlhf_gym.envs.make import make_env, plain_spaces, space_info
from rlhf_gym.envs.picture_info import has_sim_states, make_pictured_env
from rlhf_gym.envs.sim_state import SimStateReader
from rlhf_gym.errors import ConfigError, CorruptDataError
from rlhf_gym.protocols import Signal, SpaceInfo
from rlhf_gym.seeding import torch_seed

__all__ = ["PPOAgent"]

_MAX_EVALUATION_ENVS = 10


class PPOAgent:
    """PPO on an env whose reward it never sees, acting within [-1, 1] whatever the env's box.

    Args:
        env_id: Any Gymnasium id, or `module:id`.
        n_run_steps: Env steps of the whole run; SB3's schedules run over them.
        settings: Hyper-parameters; None takes the task's from the shipped table.
        env_kwargs: Passed to `make_env`.
        n_record_steps: Steps per env that clips are drawn from; None keeps one episode.
        seed: Draws the initial weights.
        device: "auto", "cpu" or a CUDA device.
        allow_variable_horizon: Whether episodes that end early pass without a warning.
        record_pictures: Whether clips carry pictures taken while the env acted, for people to see.
            An env with a simulator state takes none: its clips are drawn later.

    Raises:
        UnknownNameError: nobody registered the id.
        ConfigError: spaces or settings that cannot work, or pictures that cannot be taken.
    """

    def __init__(
        self,
        env_id: str,
        *,
        n_run_steps: int,
        settings: AgentSettings | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        n_record_steps: int | None = None,
        seed: int = 0,
        device: str = "auto",
        allow_variable_horizon: bool = False,
        record_pictures: bool = False,
    ) -> None:
        self.env_id = env_id
        self._env_kwargs = dict(env_kwargs or {})
        self._make_env: Callable[[], Any] = lambda: make_env(env_id, env_kwargs=env_kwargs)
        self._evaluation_envs = [self._make_env()]
        self.info: SpaceInfo = space_info(self._evaluation_envs[0])
        self.settings = settings or align(load_settings("ppo", env_id), self.info.horizon)
        self.n_run_steps = n_run_steps
        self.on_steps: Callable[[int], None] | None = None
        n_steps = self.settings.algorithm["n_steps"]
        make_training_env = self._make_env
        if record_pictures and not has_sim_states(self._evaluation_envs[0]):
            make_training_env = lambda: make_pictured_env(env_id, env_kwargs)  # noqa: E731
        elif record_pictures and not SimStateReader(self._evaluation_envs[0]).has_physics:
            make_pictured_env(env_id, env_kwargs).close()  # it draws its states itself: can it?
        self.venv = SerialVecEnv(
            [lambda: hide_reward(Monitor(make_training_env()))] * self.settings.n_envs
        )
        self.recorder = Recorder(
            self.venv,
            context_id=env_id,
            n_steps=max(n_steps, n_record_steps or self.info.horizon or n_steps),
            min_steps=n_steps,
            horizon=self.info.horizon,
            allow_variable_horizon=allow_variable_horizon,
        )
        self._scale = action_scale(self.info.action_space)
        venv = scale_actions(self.recorder)  # above: the recorder keeps the env's own units
        self.normaliser = (
            VecNormalize(venv, norm_reward=False) if self.settings.normalize_obs else None
        )
        set_random_seed(seed)  # SB3 draws weights from the global generators
        self.model = make_ppo(env_id, self.normaliser or venv, self.settings, seed, device)
        self._restarted = False
        self.model.set_logger(Logger(None, []))

    def log_to(self, folder: Path) -> None:
        """Write SB3's figures as TensorBoard files from now on."""
        self.model.set_logger(configure(str(folder), ["tensorboard"]))

    @property
    def n_steps_done(self) -> int:
        """Env steps so far, warm-up included."""
        return int(self.model.num_timesteps)

    @property
    def counts(self) -> Literal["env_steps", "completions"]:
        """Env steps."""
        return "env_steps"

    @property
    def clips_per_query(self) -> int:
        """Twenty, for ten candidate pairs (Christiano et al. 2017, 2.2.4)."""
        return 20

    @property
    def steps_unit(self) -> int:
        """Env steps of whole rollouts and, where they fit, of whole episodes."""
        return self.settings.steps_unit(self.info.horizon)

    def begin_round(self, seed: np.random.SeedSequence) -> None:
        """Reseed torch, numpy, the envs and the warm-up's actions; drop running episodes."""
        set_random_seed(torch_seed(seed))
        self.venv.seed(torch_seed(seed.spawn(1)[0]))
        self._rng = np.random.default_rng(seed)
        self.recorder.early_ends.n = 0
        self._drop_episodes()

    def _drop_episodes(self) -> None:
        """Make the next `learn` reset the envs and start its episode statistics anew."""
        model: Any = self.model
        model._last_obs = None
        model.ep_info_buffer = None
        model.ep_success_buffer = None
        self.recorder.break_episodes()

    def warm_up(self, n_steps: int) -> None:
        """Act uniformly at random within the bounds of the actions for `n_steps` env steps."""
        env = self.model.get_env()
        assert env is not None
        env.reset()
        space, n_envs = env.action_space, self.settings.n_envs  # the policy's: [-1, 1]
        for _ in range(n_steps // n_envs):
            env.step(sample_actions(space, n_envs, self._rng))
            self.model.num_timesteps += n_envs
        self._drop_episodes()

    def clips(self, n: int, length: int, rng: np.random.Generator) -> list[Clip]:
        """Up to n distinct clips of the recorded steps."""
        return self.recorder.clips(n, length, rng)

    def improve(self, signal: Signal, n_steps: int) -> dict[str, float]:
        """Train PPO for exactly `n_steps` env steps on the learned (or the true) reward.

        Returns:
            `learned_rollout_return`, the mean return of the episodes on the reward trained on, and
            `early_ends`, the episodes of this round, warm-up included, that ended early.

        Raises:
            ConfigError: `n_steps` is no multiple of the rollout, or there is no reward model.
        """
        rollout = self.model.n_steps * self.settings.n_envs
        if n_steps % rollout:
            raise ConfigError(
                f"`n_steps` is {n_steps}, no multiple of the rollout's {rollout} steps; round it."
            )
        substitute = self._substitution(signal)
        if signal.source == "learned" and self._is_restart_due():
            self._draw_networks_anew()
        callbacks: list[BaseCallback] = [substitute, _ReportSteps(self)]
        try:
            self.model.learn(n_steps, callback=callbacks, reset_num_timesteps=False)
        finally:
            substitute.restore()
        returns = substitute.episode_returns
        return {
            "learned_rollout_return": float(np.mean(returns)) if returns else float("nan"),
            "early_ends": self.recorder.early_ends.n,
        }

    def _is_restart_due(self) -> bool:
        at = self.settings.restart_at
        if at is None or self._restarted or not self.model._n_updates:  # nothing is learned yet
            return False
        return self.n_steps_done >= at * self.n_run_steps

    def _draw_networks_anew(self) -> None:
        """As `PPO._setup_model` draws them; optimiser state goes, observation statistics stay."""
        model: Any = self.model  # SB3's annotations call the class of the policy a BasePolicy
        model.policy = model.policy_class(
            model.observation_space,
            model.action_space,
            model.lr_schedule,
            use_sde=model.use_sde,
            **model.policy_kwargs,
        ).to(model.device)
        self._restarted = True

    def _substitution(self, signal: Signal) -> SubstituteReward:
        scale, rewards = self.settings.reward_scale, None
        if signal.source == "true":
            # Once per round, like the learned reward, whose scale each fit renews.
            scale /= self.recorder.true_reward_deviation()
        elif signal.reward_model is None:
            raise ConfigError("PPO needs a reward model in its signal; fit one first.")
        else:
            rewards = signal.reward_model.rewards
        return SubstituteReward(
            rewards,
            scale=scale,
            centered=self.settings.center_rewards,
            run_steps=self.n_run_steps,
        )

    def act(self, obs: Array) -> Array:
        """(n, ...) raw observations -> (n, ...) deterministic actions in the env's units."""
        normalised = self.normaliser.normalize_obs(obs) if self.normaliser else obs
        actions: Array = self.model.predict(normalised, deterministic=True)[0]
        return actions if self._scale is None else self._scale.to_env(actions)

    def evaluate(
        self, n_episodes: int, seed: np.random.SeedSequence, *, random: bool = False
    ) -> list[Trajectory]:
        """Deterministic episodes on separate envs; with `random`, uniformly random actions."""
        envs = self._evaluation_envs
        while len(envs) < min(n_episodes, _MAX_EVALUATION_ENVS):
            envs.append(self._make_env())
        act = self.act
        if random:
            self.info.action_space.seed(torch_seed(seed))
            act = lambda obs: np.stack([self.info.action_space.sample() for _ in obs])  # noqa: E731
        return play_episodes(envs, act, n_episodes, seed, self.env_id)

    def save(self, folder: Path) -> None:
        """Write weights, optimiser, normaliser, recorded steps and counters."""
        save_model(self.model, folder / "agent.safetensors")
        save_arrays(folder / "recorder.npz", self.recorder.state())
        if self.normaliser:
            save_arrays(folder / "normaliser.npz", normaliser_arrays(self.normaliser))
        counters = {
            "num_timesteps": self.model.num_timesteps,
            "n_updates": self.model._n_updates,
            "restarted": self._restarted,
            "acts_within": [-1, 1] if self._scale else None,  # None: the env's own units
        }
        (folder / "agent.json").write_text(json.dumps(counters))

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, bit for bit.

        Raises:
            CorruptDataError: a file is damaged.
        """
        load_model(self.model, folder / "agent.safetensors")
        self.recorder.set_state(load_arrays(folder / "recorder.npz"))
        if self.normaliser:
            restore_normaliser(self.normaliser, load_arrays(folder / "normaliser.npz"))
        try:
            counters = read_json(folder / "agent.json")
            self.model.num_timesteps = counters["num_timesteps"]
            self.model._n_updates = counters["n_updates"]
            self._restarted = counters.get("restarted", False)  # runs of earlier versions lack it
            scaled = counters.get("acts_within") is not None
        except (OSError, ValueError, KeyError) as error:
            raise CorruptDataError(f"{folder / 'agent.json'} is damaged ({error}).") from error
        if self._scale is not None and not scaled:  # an earlier version's, in the env's units
            rescale_policy(self.model.policy, *self._scale.inverse())

    def export_sb3(self, path: Path) -> list[Path]:
        """Write stock SB3 files: `path` (a zip) and `<stem>_vecnormalize.pkl` beside it.

        They act alike on the env that `gymnasium.make` makes, whose spaces they carry, unless
        `export_note` says otherwise.

        Raises:
            ConfigError: gSDE whose noise cannot be written in the units of the env's actions.
        """
        observation_space, action_space = plain_spaces(self.env_id, self._env_kwargs)
        if not self._is_stock(observation_space):
            observation_space = self.info.observation_space
        return export_sb3(
            self.model,
            self.normaliser,
            path,
            observation_space=observation_space,
            action_space=action_space,
            scale=self._scale,
        )

    def _is_stock(self, observation_space: spaces.Space[Any]) -> bool:
        """Whether the plain env observes what the agent does, but for the dtype."""
        is_box = isinstance(observation_space, spaces.Box)
        return is_box and observation_space.shape == self.info.observation_space.shape

    @property
    def export_note(self) -> str | None:
        """What whoever loads the export must do first, in one line; None where nothing is."""
        observation_space, _ = plain_spaces(self.env_id, self._env_kwargs)
        if self._is_stock(observation_space):
            return None
        keys = f", obs_keys={list(chosen)}" if (chosen := self._env_kwargs.get("obs_keys")) else ""
        return (
            f"The agent observes {self.env_id} as one vector: load it over "
            f"`rlhf_gym.envs.make_preference_ready(gymnasium.make(...){keys})`."
        )

    def close(self) -> None:
        """Close all envs and the TensorBoard writer."""
        self.recorder.close()
        for env in self._evaluation_envs:
            env.close()
        self.model.logger.close()


class _ReportSteps(BaseCallback):
    """Tells whoever listens how many env steps have been taken, once per rollout."""

    def __init__(self, agent: PPOAgent) -> None:
        super().__init__()
        self._agent = agent

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self._agent.on_steps is not None:
            self._agent.on_steps(self._agent.n_steps_done)
