"""Hide the true reward from the learner: what it never receives it cannot train on."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from rlhf_gym.envs.info_keys import TRUE_REWARD
from rlhf_gym.envs.moving_scales import scale_warnings
from rlhf_gym.envs.preference_ready import wrapper_layers

__all__ = ["HideReward", "RewardReplacer", "copied", "hide_reward", "is_hidden"]


class RewardReplacer(gym.Wrapper[Any, Any, Any, Any]):
    """Base of the wrappers that return another reward and keep the true one in `info`.

    Of several such wrappers on one env, the innermost sees the task's reward and writes
    `info["true_reward"]`; the others leave it as it is.

    Args:
        env: The env whose reward is replaced.
    """

    hides: ClassVar[bool] = False
    """Whether the replacement is the constant 0.0."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._truth_below = any(isinstance(layer, RewardReplacer) for layer in wrapper_layers(env))

    def _keep_true_reward(self, reward: Any, info: dict[str, Any]) -> None:
        if not self._truth_below:
            info[TRUE_REWARD] = float(reward)


def copied(value: Any) -> Any:
    """Arrays, and containers of them, as copies that nobody else writes into.

    SB3's vectorised envs keep what the last step of an episode returned by reference, and reset the
    env before anybody sees it; the reset may write into the very arrays and dicts.
    """
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(copied, value))
    return value


class HideReward(RewardReplacer, RecordConstructorArgs):
    """Returns exactly 0.0 as reward and puts the true one into `info["true_reward"]` (float).

    It stands outside Monitor, which therefore still logs the true return. What the last step of
    an episode returns is a copy, so that an env may reuse its arrays and infos. Use `hide_reward`,
    which does not wrap twice.

    Args:
        env: The env whose reward is hidden.

    Attributes:
        scale_warnings: What wrappers inside the env would do to training; a `Recorder` tells it.

    Raises:
        ConfigError: the env holds a Monitor that its first reset would stop at.
    """

    hides: ClassVar[bool] = True

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        RewardReplacer.__init__(self, env)
        self.scale_warnings = scale_warnings(env)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the env; the reward is 0.0."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._keep_true_reward(reward, info)
        if terminated or truncated:
            obs, info = copied(obs), copied(info)
        return obs, 0.0, terminated, truncated, info


def hide_reward(env: gym.Env[Any, Any]) -> HideReward:
    """Hide the reward of an env; one whose outermost wrapper is `HideReward` is returned as it is.

    Args:
        env: Any Gymnasium env. Wrap it in Monitor first, so that its log shows the true return.
    """
    return env if isinstance(env, HideReward) else HideReward(env)


def is_hidden(env: gym.Env[Any, Any]) -> bool:
    """Whether the env returns 0.0 in place of a reward.

    False for an env whose hidden reward was replaced by a learned one further out.
    """
    for layer in wrapper_layers(env):
        if isinstance(layer, RewardReplacer):
            return layer.hides
    return False
