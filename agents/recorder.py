"""What really happened: raw observations and executed actions, kept under VecNormalize.

SB3's own buffers hold normalised, limited observations and actions before the box's bounds were
applied; neither can be shown to a person or a reward model. The recorder stands directly on the
vectorised env and keeps a ring of recent steps with a stated bound in bytes.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from rlhf_gym.agents.picture_ring import PictureRing
from rlhf_gym.data import Array, Clip, RewardBatch
from rlhf_gym.envs.float_observation import check_observation
from rlhf_gym.envs.hide_reward import HideReward
from rlhf_gym.envs.horizon import EarlyEnds
from rlhf_gym.envs.info_keys import PICTURE, SIM_STATE, TRUE_REWARD
from rlhf_gym.envs.moving_scales import UnstableScaleWarning
from rlhf_gym.envs.reward_substitution import executed_action
from rlhf_gym.errors import ConfigError, DataError, NotHiddenError

__all__ = ["Recorder", "find_recorder"]


class Recorder(VecEnvWrapper):
    """Keeps the last steps of a vectorised env: the source of clips and of relabelling.

    Simulator states and pictures are kept with them where the envs put them into their infos
    (`SimStateInfo`, `PictureInfo`). The pictures have a bound of their own, 1 GiB.

    Under VecNormalize observations must be float32 or float64, as `make_preference_ready` makes
    them: SB3's rollout buffer has the space's dtype. `SubstituteReward` refuses others.

    Args:
        venv: The vectorised env, hidden (`hide_reward`), not yet normalised, with the env's own
            box of actions (`scale_actions` goes above).
        context_id: Written into every clip; the env id.
        n_steps: Steps per env to keep, fewer where the bound does not allow them.
        min_steps: The fewest to keep, at least one rollout; None insists on `n_steps`.
        max_bytes: Bound on the memory of the ring.
        horizon: Steps of a full episode; shorter ones get the one warning. None warns about
            terminations only.
        allow_variable_horizon: Whether episodes that end early pass without the one warning.

    Raises:
        ConfigError: observation or action spaces it cannot record, a ring above its bound, or a
            VecNormalize below it.
    """

    def __init__(
        self,
        venv: VecEnv,
        *,
        context_id: str,
        n_steps: int,
        min_steps: int | None = None,
        max_bytes: int = 512 * 2**20,
        horizon: int | None = None,
        allow_variable_horizon: bool = False,
    ) -> None:
        super().__init__(venv)
        _require_raw(venv)
        # Of an env that is not hidden, `true_reward` would be a word of its own.
        self._is_hidden = all(venv.env_is_wrapped(HideReward))
        for text in venv.get_attr("scale_warnings", 0)[0] if self._is_hidden else ():
            warnings.warn(f"{context_id}: {text}", UnstableScaleWarning, stacklevel=2)
        self.context_id = context_id
        self.max_bytes = max_bytes
        self.early_ends = EarlyEnds(context_id, horizon, allowed=allow_variable_horizon)
        self._min_steps = n_steps if min_steps is None else min_steps
        self._episode_steps = np.zeros(venv.num_envs, dtype=np.int64)
        self._saw_reward = False
        self.capacity = 0
        self.n_recorded = 0
        self._ring: dict[str, Array] = {}
        self._n_state = 0
        self._pictures: PictureRing | None = None
        self._keep(n_steps)

    def _keep(self, n_steps: int) -> None:
        """Allocate the ring for `n_steps` per env; what was recorded before is dropped."""
        obs_space, action_space = self.observation_space, self.action_space
        if not isinstance(obs_space, spaces.Box):
            raise ConfigError(
                f"the recorder does not take the observation space {obs_space}; it takes Box. "
                "Pass the env through `make_preference_ready`, which flattens others."
            )
        discrete = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
        if not isinstance(action_space, (spaces.Box, *discrete)):
            raise ConfigError(
                f"the recorder does not take the action space {action_space}; it takes Box, "
                "Discrete, MultiDiscrete and MultiBinary."
            )
        obs_dtype = np.float32 if np.dtype(obs_space.dtype).kind == "f" else obs_space.dtype
        action_dtype = np.float32 if isinstance(action_space, spaces.Box) else np.int64
        columns: dict[str, tuple[tuple[int, ...], Any]] = {
            "obs": (obs_space.shape, obs_dtype),
            "next_obs": (obs_space.shape, obs_dtype),
            "actions": (action_space.shape or (), action_dtype),
            "true_rewards": ((), np.float32),
            "ends": ((), bool),  # whether the episode, or its recording, stops after this step
            "state": ((self._n_state,), np.float32),
            "next_state": ((self._n_state,), np.float32),
        }
        step_bytes = sum(int(np.prod(s)) * np.dtype(d).itemsize for s, d in columns.values())
        affordable = self.max_bytes // (step_bytes * self.num_envs)
        if affordable < self._min_steps:
            raise ConfigError(
                f"recording {self._min_steps} steps of {self.num_envs} envs takes "
                f"{step_bytes * self.num_envs * self._min_steps:,} bytes, above the bound of "
                f"{self.max_bytes:,}; use fewer envs, shorter rollouts or smaller observations."
            )
        n_steps = min(n_steps, affordable)
        self.capacity, self.n_recorded = n_steps, 0
        self._ring = {
            name: np.zeros((n_steps, self.num_envs, *shape), dtype)
            for name, (shape, dtype) in columns.items()
        }

    def reset(self) -> Any:
        """Reset all envs; no clip will cross this point."""
        obs = self.venv.reset()
        self._check(obs)
        self.break_episodes()
        self._episode_steps[:] = 0
        infos = self.venv.unwrapped.reset_infos
        states = [info.get(SIM_STATE) for info in infos]
        if states[0] is not None and len(states[0]) != self._n_state:
            self._n_state = len(states[0])
            self._keep(self.capacity)
        if PICTURE not in infos[0]:
            self._pictures = None
        elif self._pictures is None:
            self._pictures = PictureRing(infos, self.capacity)
        else:
            self._pictures.begin(infos)
        self._obs = obs
        self._states = states
        return obs

    def break_episodes(self) -> None:
        """Mark that the next recorded step does not continue the last one."""
        if self.n_recorded:
            self._ring["ends"][(self.n_recorded - 1) % self.capacity] = True

    def step_async(self, actions: Array) -> None:
        """Note the actions as the env will execute them: within the box."""
        self._actions = executed_action(actions, self.action_space)
        # A copy: the learner keeps `actions`, and an env may write into what it is given.
        self.venv.step_async(np.array(actions))

    def step_wait(self) -> VecEnvStepReturn:
        """Step, and record what happened."""
        obs, rewards, dones, infos = self.venv.step_wait()
        self._check(obs)
        self._saw_reward = self._saw_reward or bool(rewards.any())
        self._episode_steps += 1
        row = self.n_recorded % self.capacity
        ring = self._ring
        ring["obs"][row] = self._obs
        ring["next_obs"][row] = obs
        ring["actions"][row] = self._actions
        ring["ends"][row] = dones
        truths = [info[TRUE_REWARD] for info in infos] if self._is_hidden else np.nan
        ring["true_rewards"][row] = truths
        if self._n_state:
            states = [info[SIM_STATE] for info in infos]
            ring["state"][row] = self._states
            ring["next_state"][row] = states
            self._states = states
        if self._pictures is not None:
            self._pictures.record(row, infos)
        if dones.any():
            self._record_ends(row, dones, infos)
        self._obs = obs
        self.n_recorded += 1
        return obs, rewards, dones, infos

    def _record_ends(self, row: int, dones: Array, infos: list[dict[str, Any]]) -> None:
        for env in np.flatnonzero(dones):
            self._check(infos[env]["terminal_observation"], int(env))
            self._ring["next_obs"][row, env] = infos[env]["terminal_observation"]
            if self._n_state:
                self._states[env] = self.venv.unwrapped.reset_infos[env][SIM_STATE]
            if self._pictures is not None:
                self._pictures.begin_one(int(env), self.venv.unwrapped.reset_infos[env])
            truncated = infos[env].get("TimeLimit.truncated", False)
            self.early_ends.note(int(self._episode_steps[env]), truncated)
            self._episode_steps[env] = 0

    def _check(self, obs: Any, env: int | None = None) -> None:
        check_observation(obs, self.context_id, f"at recorded step {self.n_recorded}", env)

    def rollout(self, n_steps: int) -> tuple[RewardBatch, Array, Array]:
        """The last `n_steps` of every env.

        Returns:
            A batch of (n_envs, n_steps), the true rewards (n_envs, n_steps) float32 (NaN where the
            env gave none), and whether an episode ended after each step (n_envs, n_steps).

        Raises:
            NotHiddenError: an env returned a reward other than 0.0.
        """
        if self._saw_reward:
            raise NotHiddenError(
                f"{self.context_id} returned rewards other than 0.0 although it is to be hidden; "
                "a wrapper that substitutes rewards must not stand below the recorder."
            )
        columns = self._columns(n_steps)
        obs, actions, next_obs = columns["obs"], columns["actions"], columns["next_obs"]
        return (
            RewardBatch.from_steps(obs, actions, next_obs),
            columns["true_rewards"],
            columns["ends"],
        )

    def true_reward_deviation(self) -> float:
        """Standard deviation of the kept true rewards; 1 where there is none to speak of."""
        rewards = self._columns(min(self.n_recorded, self.capacity))["true_rewards"]
        deviation = float(np.std(rewards)) if rewards.size else 0.0
        return deviation if deviation > 1e-8 else 1.0

    def _columns(self, n_steps: int) -> dict[str, Array]:
        """The last `n_steps` in order of time, each (n_envs, n_steps, ...)."""
        available = min(self.n_recorded, self.capacity)
        if n_steps > available:
            raise DataError(
                f"{n_steps} steps per env were asked for but {available} are kept; raise the "
                "recorder's `n_steps`."
            )
        rows = self._rows(n_steps)
        return {name: column[rows].swapaxes(0, 1) for name, column in self._ring.items()}

    def _rows(self, n_steps: int) -> Array:
        """Where in the ring the last `n_steps` lie, in order of time."""
        return np.arange(self.n_recorded - n_steps, self.n_recorded) % self.capacity

    def clips(self, n: int, length: int, rng: np.random.Generator) -> list[Clip]:
        """Up to n distinct clips, drawn evenly from all kept windows that cross no episode end.

        Where pictures are taken, only from windows of which all are kept. The arrays are copies:
        no clip pins the ring.

        Raises:
            DataError: no window of this length lies within an episode, or a number is not finite.
        """
        available = min(self.n_recorded, self.capacity)
        columns = self._columns(available)
        breaks = np.cumsum(np.pad(columns["ends"], ((0, 0), (1, 0))), axis=1)  # (n_envs, steps + 1)
        # A window may end on an episode's last step, but no end may lie before that.
        n_windows = max(available - length + 1, 0)
        inner = breaks[:, length - 1 : available] - breaks[:, :n_windows]
        rows = self._rows(available)
        allowed = inner == 0
        if self._pictures is not None:  # those of the oldest steps may be gone
            allowed &= self._pictures.has(rows)[:n_windows]
        valid = np.argwhere(allowed)  # (windows, 2): env, first step
        if len(valid) == 0:
            raise DataError(
                f"`clip_length` is {length} but no recorded episode has that many steps "
                f"({available} per env are kept); lower `clip_length` or collect longer episodes."
            )
        chosen = valid[rng.permutation(len(valid))[:n]]
        return [self._cut(columns, rows, int(env), int(start), length) for env, start in chosen]

    def _cut(
        self, columns: dict[str, Array], rows: Array, env: int, start: int, length: int
    ) -> Clip:
        window = slice(start, start + length)

        def with_last(name: str) -> Array:
            before, after = columns[name][env, window], columns[f"next_{name}"][env, window]
            return np.concatenate([before, after[-1:]])  # (T + 1, ...)

        rewards = columns["true_rewards"][env, window].copy()
        return Clip(
            obs=with_last("obs"),
            actions=columns["actions"][env, window].copy(),
            context_id=self.context_id,
            true_rewards=None if np.isnan(rewards).all() else rewards,
            sim_states=with_last("state") if self._n_state else None,
            pictures=self._pictures.cut(rows[window], env) if self._pictures else None,
        )

    def state(self) -> dict[str, Array]:
        """Everything that was recorded, in order of time, for a checkpoint."""
        available = min(self.n_recorded, self.capacity)
        columns = {n: column.swapaxes(0, 1) for n, column in self._columns(available).items()}
        return columns | (self._pictures.state(self._rows(available)) if self._pictures else {})

    def set_state(self, state: dict[str, Array]) -> None:
        """Restore what `state` returned; the next step begins a new episode."""
        n_steps, n_state = len(state["ends"]), state["state"].shape[-1]
        if n_state != self._n_state:
            self._n_state = n_state
            self._keep(self.capacity)
        for name, column in self._ring.items():
            column[:n_steps] = state[name]
        if "pictures" in state:
            self._pictures = PictureRing.from_state(state, self.capacity)
        self.n_recorded = n_steps


def _require_raw(venv: VecEnv) -> None:
    """Refuse a VecNormalize between the env and the recorder, which keeps what it is given."""
    layer: VecEnv = venv
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize):
            raise ConfigError(
                "a VecNormalize stands below the Recorder, which would keep observations on its "
                "moving scale; put it outside: `VecNormalize(Recorder(venv, ...), "
                "norm_reward=False)`."
            )
        layer = layer.venv


def find_recorder(venv: VecEnv | None) -> Recorder:
    """The recorder among the wrappers of a vectorised env.

    Raises:
        ConfigError: there is none.
    """
    layer = venv
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, Recorder):
            return layer
        layer = layer.venv
    raise ConfigError(
        "the vectorised env has no Recorder; wrap it before VecNormalize: "
        "`VecNormalize(Recorder(venv, context_id=..., n_steps=...), norm_reward=False)`."
    )
