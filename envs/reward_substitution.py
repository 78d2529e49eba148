"""Return a learned reward in place of the true one, step by step, for any learner whatsoever.

On-policy agents relabel whole rollouts at once, which is faster; this wrapper returns the same
numbers and asks nothing of the learner but the Gymnasium interface.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rlhf_gym.data import Array, RewardBatch
from rlhf_gym.envs.float_observation import check_observation
from rlhf_gym.envs.hide_reward import RewardReplacer, copied
from rlhf_gym.envs.horizon import EarlyEnds
from rlhf_gym.envs.make import space_info
from rlhf_gym.envs.stale_rewards import ReplaceableReward
from rlhf_gym.errors import ConfigError, DataError, NumericalError
from rlhf_gym.protocols import RewardFunction

__all__ = ["LearnedRewardWrapper", "checked_rewards", "executed_action"]


def executed_action(action: Any, space: gym.Space[Any]) -> Array:
    """The action as the env executes it: within a Box's bounds, as float32.

    Args:
        action: One action, shape (A...).
        space: The env's action space.

    Returns:
        float32 (A...) for a Box; for any other space the action as an array of its own dtype.
    """
    if not isinstance(space, gym.spaces.Box):
        return np.array(action)  # a copy: the env may write into what it is given
    within: Array = np.clip(action, space.low, space.high)
    return within.astype(np.float32)


def checked_rewards(rewards: Any, batch: RewardBatch) -> Array:
    """What a reward function returned for a batch, if a learner can use it.

    Args:
        rewards: (B, T) is wanted.
        batch: (B, T), what it was asked about.

    Returns:
        float32 (B, T).

    Raises:
        DataError: another shape.
        NumericalError: NaN or infinity, also where float32 holds no more.
    """
    with np.errstate(over="ignore"):
        found: Array = np.asarray(rewards).astype(np.float32)
    if found.shape != batch.mask.shape:
        raise DataError(
            f"the reward function returned shape {found.shape} for a batch of shape "
            f"{batch.mask.shape}; return one reward per step, e.g. sum over the last axis of the "
            "observations."
        )
    finite = np.isfinite(found)
    if not finite.all():
        raise NumericalError(
            f"{int((~finite).sum())} of {found.size} rewards are not finite, the first is "
            f"{found[~finite][0]}; check the reward function's weights and its inputs."
        )
    return found


class LearnedRewardWrapper(ReplaceableReward, RewardReplacer):
    """Returns `reward_function`'s reward; the true one is in `info["true_reward"]` (float).

    The reward function sees raw float32 observations and executed actions, as a batch of one step
    (B = T = 1). The env itself receives the action unchanged. A learner with a replay buffer keeps
    old rewards when `reward_function` changes: there is one `StaleRewardWarning`.

    Args:
        env: An env with array observations and actions; hidden (`hide_reward`) or not.
        reward_function: Maps a `RewardBatch` (B, T) to rewards (B, T): a reward model's
            `rewards`, or a lambda.
        allow_variable_horizon: Whether episodes that end before the env's time limit pass without
            the one `HorizonWarning`.

    Raises:
        ConfigError: a space is not an array space (Dict, Tuple, Text, ...).
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        reward_function: RewardFunction,
        *,
        allow_variable_horizon: bool = False,
    ) -> None:
        super().__init__(env)
        for name in ("observation_space", "action_space"):
            space = getattr(env, name)
            if space.shape is None:
                raise ConfigError(
                    f"the {name} of {env} is {space}; a reward function takes arrays (Box, "
                    "Discrete, MultiDiscrete, MultiBinary): pass the env through "
                    "`make_preference_ready` first, which flattens observations."
                )
        self._begin(reward_function)
        info = space_info(env)
        self.early_ends = EarlyEnds(info.env_id, info.horizon, allowed=allow_variable_horizon)
        self._n_steps = 0
        self._obs: Array | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the env and remember its first observation."""
        self._stale.reset()
        obs, info = self.env.reset(seed=seed, options=options)
        self._n_steps = 0
        self._obs = self._as_floats(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the env and reward the step.

        Raises:
            DataError: the reward function returned a shape other than (1, 1).
            NumericalError: it returned NaN or infinity, or the env an observation that float32
                does not hold.
        """
        if self._obs is None:
            raise gym.error.ResetNeeded("call `reset` before the first `step`.")
        executed = executed_action(action, self.env.action_space)
        next_obs, true_reward, terminated, truncated, info = self.env.step(action)
        self._keep_true_reward(true_reward, info)
        after = self._as_floats(next_obs)
        reward = self._reward(self._obs, executed, after)
        self._has_rewarded = True
        self._obs = after
        self._n_steps += 1
        if terminated or truncated:
            self.early_ends.note(self._n_steps, truncated=not terminated)
            next_obs, info = copied(next_obs), copied(info)
        return next_obs, reward, terminated, truncated, info

    def _as_floats(self, obs: Any) -> Array:
        """A copy: some envs write their next observation into the array they returned."""
        check_observation(obs, self.early_ends.env_id, f"at step {self._n_steps}", 0)
        return np.array(obs, dtype=np.float32)

    def _reward(self, obs: Array, action: Array, next_obs: Array) -> float:
        batch = RewardBatch.from_steps(obs[None, None], action[None, None], next_obs[None, None])
        return float(checked_rewards(self._reward_function(batch), batch)[0, 0])
