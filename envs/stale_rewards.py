"""Replay buffers keep the rewards of the day: said once, where learned rewards go into one."""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Any

from rlhf_gym.protocols import RewardFunction

__all__ = ["ReplaceableReward", "StaleRewardWarning", "StaleRewards"]


class StaleRewardWarning(UserWarning):
    """Learned rewards are kept in a replay buffer, where a refit does not reach them."""


class StaleRewards:
    """Watches, for a wrapper that rewards step by step, whether its rewards will be replayed.

    Args:
        wrapper: The wrapper's class, named in the warning.
    """

    def __init__(self, wrapper: str) -> None:
        self._wrapper = wrapper
        self._settled = False

    def reset(self) -> None:
        """The env is reset; whose `learn` asks for it says whether it keeps a replay buffer."""
        if self._settled:
            return
        learner = _learner()
        if learner is None:  # not SB3, or in another process
            return
        self._settled = True
        if "replay_buffer" in vars(learner):
            self._warn(f"{type(learner).__name__} learns from a replay buffer")

    def changed(self) -> None:
        """Steps were rewarded, and now the reward function is another one."""
        if not self._settled:
            self._settled = True
            self._warn("the reward function was replaced after steps had been rewarded by it")

    def _warn(self, why: str) -> None:
        warnings.warn(
            f"{self._wrapper}: {why}. A replay buffer keeps the reward that each step had when it "
            "was taken: when the reward model is fitted again, the agent learns from old and new "
            "rewards alike. Fit the reward model before `learn` and leave it, empty the buffer "
            "after each fit, or train an on-policy agent (PPO with `SubstituteReward`), whose "
            "rollouts are always rewarded by the last fit. There is no off-policy agent here yet.",
            StaleRewardWarning,
            stacklevel=4,
        )


class ReplaceableReward:
    """For wrappers that reward step by step: a `reward_function` that may be replaced.

    A wrapper calls `_begin` with its first one, and sets `_has_rewarded` once it has used it.
    """

    def _begin(self, reward_function: RewardFunction) -> None:
        self._reward_function = reward_function
        self._stale = StaleRewards(type(self).__name__)
        self._has_rewarded = False

    @property
    def reward_function(self) -> RewardFunction:
        """What rewards the steps from now on; may be replaced."""
        return self._reward_function

    @reward_function.setter
    def reward_function(self, new: RewardFunction) -> None:
        self._reward_function = new
        if self._has_rewarded:
            self._stale.changed()


def _learner() -> Any | None:
    """The SB3 model whose `learn` is on the stack; None under any other learner."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = getattr(frame.f_locals.get("self"), "__dict__", {})
        if "replay_buffer" in owner or "rollout_buffer" in owner:
            return frame.f_locals["self"]
        frame = frame.f_back
    return None
