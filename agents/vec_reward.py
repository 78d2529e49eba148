"""Reward substitution step by step: slower, but for algorithms of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from rlhf_gym.agents.relabel import check_hidden
from rlhf_gym.data import Array, RewardBatch
from rlhf_gym.envs.float_observation import check_observation
from rlhf_gym.envs.horizon import EarlyEnds
from rlhf_gym.envs.reward_substitution import checked_rewards, executed_action
from rlhf_gym.envs.stale_rewards import ReplaceableReward
from rlhf_gym.protocols import RewardFunction

__all__ = ["VecLearnedReward"]


class VecLearnedReward(ReplaceableReward, VecEnvWrapper):
    """Replace each step's reward by `reward_function`, in one forward for all envs.

    Stands on the raw vectorised env, under `scale_actions` and VecNormalize: the reward function
    sees raw observations and executed actions. At an episode's end the reward is that of the
    terminal observation, not of the next episode's first.

    A replay buffer keeps each step's reward from the day it was taken, whatever the reward function
    becomes later; where that happens there is one `StaleRewardWarning`.

    Of observations that are whole numbers SB3's rollout buffer keeps no fractions: under
    VecNormalize pass each env through `make_preference_ready` first, which makes them float32.

    Args:
        venv: A vectorised env, each env hidden (`hide_reward`), which keeps its true reward and
            what its last step returned.
        reward_function: (n_envs, 1) batch -> rewards.
        horizon: Steps of a full episode; shorter ones get one `HorizonWarning`. None warns about
            episodes that no time limit ended.
        allow_variable_horizon: Whether episodes that end early pass without it.

    Raises:
        NotHiddenError: an env is not hidden.
    """

    def __init__(
        self,
        venv: VecEnv,
        reward_function: RewardFunction,
        *,
        horizon: int | None = None,
        allow_variable_horizon: bool = False,
    ) -> None:
        super().__init__(venv)
        check_hidden(venv)
        self._begin(reward_function)
        self.early_ends = EarlyEnds("this env", horizon, allowed=allow_variable_horizon)
        self._episode_steps = np.zeros(venv.num_envs, np.int64)
        self._n_steps = 0

    def reset(self) -> Any:
        """Reset all envs."""
        self._stale.reset()
        obs = self.venv.reset()
        assert isinstance(obs, np.ndarray)
        check_observation(obs, "this env", "at its reset")
        self._obs: Array = obs
        self._episode_steps[:] = 0
        return obs

    def step_async(self, actions: Array) -> None:
        """Note the actions as the env will execute them: within the box."""
        self._actions = executed_action(actions, self.action_space)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Step, and score the transition.

        Raises:
            DataError: the reward function returned a shape other than (n_envs, 1).
            NumericalError: it returned NaN or infinity, or the env an observation that float32
                does not hold.
        """
        obs, _, dones, infos = self.venv.step_wait()
        assert isinstance(obs, np.ndarray)
        next_obs = obs.copy()
        self._episode_steps += 1
        for env in np.flatnonzero(dones):
            next_obs[env] = infos[env]["terminal_observation"]
            truncated = infos[env].get("TimeLimit.truncated", False)
            self.early_ends.note(int(self._episode_steps[env]), truncated)
            self._episode_steps[env] = 0
        for observed in (obs, next_obs):  # the next episode's first one, and this episode's last
            check_observation(observed, "this env", f"at step {self._n_steps}")
        self._n_steps += 1
        batch = RewardBatch.from_steps(
            self._obs[:, None], self._actions[:, None], next_obs[:, None]
        )
        learned = checked_rewards(self._reward_function(batch), batch)
        self._has_rewarded = True
        self._obs = obs
        return obs, learned[:, 0], dones, infos
