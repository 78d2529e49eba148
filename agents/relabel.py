"""Reward substitution for on-policy SB3 algorithms: one batched forward per rollout.

Because hidden rewards are exactly 0.0, SB3's buffer holds nothing but the value bootstraps of
truncated episodes when a rollout ends. Adding the learned rewards of the recorded transitions just
before the buffer computes its advantages is therefore exact, for any algorithm whose buffer has
`compute_returns_and_advantage` (PPO, A2C, RecurrentPPO, MaskablePPO).
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from rlhf_gym.agents.recorder import Recorder, find_recorder
from rlhf_gym.agents.scaled_actions import UnscaledActionsWarning, action_scale
from rlhf_gym.data import Array
from rlhf_gym.envs.float_observation import holds_fractions
from rlhf_gym.envs.hide_reward import HideReward
from rlhf_gym.envs.reward_substitution import checked_rewards
from rlhf_gym.errors import ConfigError, NotHiddenError
from rlhf_gym.protocols import RewardFunction

__all__ = ["SubstituteReward", "check_hidden"]

_PATCHED = ("_update_current_progress_remaining", "_excluded_save_params")


def check_hidden(venv: VecEnv) -> None:
    """Refuse a vectorised env whose true reward would reach the learner.

    Raises:
        NotHiddenError: an env is not wrapped by `hide_reward`.
        ConfigError: VecNormalize would normalise rewards, or its fractions would become whole
            numbers in SB3's rollout buffer.
    """
    layer: VecEnv = venv
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize):
            _check_normaliser(layer)
        layer = layer.venv
    if not all(venv.env_is_wrapped(HideReward)):
        raise NotHiddenError(
            "the env returns its true reward to the learner; build it as "
            "`hide_reward(Monitor(make_env(...)))` before vectorising it."
        )


def _check_normaliser(normaliser: VecNormalize) -> None:
    if normaliser.norm_reward:
        raise ConfigError(
            "VecNormalize has `norm_reward=True`, which would rescale the learned reward as "
            "training goes on; pass `norm_reward=False`: the reward model scales it once per fit."
        )
    space = normaliser.observation_space
    if normaliser.norm_obs and isinstance(space, spaces.Box) and not holds_fractions(space):
        raise ConfigError(
            f"the observations are {space}, and SB3's rollout buffer would keep what VecNormalize "
            f"makes of them as {space.dtype} (-1.944 as 255 in uint8), so that the policy learns "
            "from what it never saw; pass each env through `make_preference_ready` before "
            "vectorising it, which makes them float32."
        )


def _warn_of_unscaled_actions(model: BaseAlgorithm) -> None:
    if getattr(model.policy, "squash_output", False):  # such a policy knows the bounds
        return
    if action_scale(model.action_space) is not None:
        warnings.warn(
            f"The policy acts in {model.action_space}. SB3's policies begin around 0 with a "
            "deviation of 1, and learn badly where the bounds are others than -1 and 1. Wrap the "
            "vectorised env: `VecNormalize(scale_actions(Recorder(...)), norm_reward=False)`, with "
            "`from rlhf_gym.agents.scaled_actions import scale_actions`; clips keep the env's own "
            "units. The env that you measure in needs the same.",
            UnscaledActionsWarning,
            stacklevel=3,
        )


class SubstituteReward(BaseCallback):
    """An SB3 callback: train any on-policy model on a reward function instead of the env's.

    `rollout/ep_rew_mean` stays the true return, `rollout/ep_rew_learned_mean` is the learned one.

    Args:
        reward_function: (n_envs, n_steps) batch -> rewards; None uses the recorded true rewards.
        scale: Every reward is multiplied by this before PPO sees it.
        centered: Whether the mean of each rollout's rewards is taken off first; what is logged as
            the learned return has it still.
        run_steps: The steps of the whole run, which SB3's schedules run over however often `learn`
            is called; None leaves them to each call.
    """

    def __init__(
        self,
        reward_function: RewardFunction | None,
        *,
        scale: float = 1.0,
        centered: bool = False,
        run_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.reward_function = reward_function
        self.scale = scale
        self.centered = centered
        self.run_steps = run_steps
        self.episode_returns: deque[float] = deque(maxlen=100)
        self._running: Array | None = None

    def _on_training_start(self) -> None:
        self.restore()  # what an interrupted `learn` left: SB3 skips `_on_training_end` there
        venv = self.training_env
        check_hidden(venv)
        _warn_of_unscaled_actions(self.model)
        self._recorder: Recorder = find_recorder(venv)
        if self._running is None or self.locals.get("reset_num_timesteps", True):
            self._running = np.zeros(venv.num_envs)  # else SB3 goes on in the middle of episodes
        buffer = self.model.rollout_buffer  # type: ignore[attr-defined]  # on-policy models only
        self._compute: Callable[..., None] = buffer.compute_returns_and_advantage

        def compute_returns_and_advantage(*args: Any, **kwargs: Any) -> None:
            buffer.rewards += self._rewards(buffer.buffer_size)
            self._compute(*args, **kwargs)

        buffer.compute_returns_and_advantage = compute_returns_and_advantage
        if self.run_steps is not None:
            self._stretch_schedules(self.run_steps)

    def _stretch_schedules(self, total: int) -> None:
        """Let SB3's schedules run over `total` steps: on this model alone, until `restore`."""
        model = self.model
        update, excluded = (getattr(type(model), name) for name in _PATCHED)

        def over_the_run(num_timesteps: int, total_timesteps: int) -> None:
            update(model, num_timesteps, total)

        def not_saved() -> list[str]:
            return [*excluded(model), *_PATCHED]  # `model.save` cannot pickle them, nor should it

        model.__dict__.update(zip(_PATCHED, (over_the_run, not_saved), strict=True))

    def _rewards(self, n_steps: int) -> Array:
        """(n_steps, n_envs) float32 rewards of the rollout that just ended."""
        batch, true_rewards, ends = self._recorder.rollout(n_steps)
        found = true_rewards if self.reward_function is None else self.reward_function(batch)
        rewards = checked_rewards(found, batch)
        self._count_returns(rewards, ends)
        if self.centered:
            rewards = rewards - rewards.mean()
        return rewards.T * np.float32(self.scale)

    def _count_returns(self, rewards: Array, ends: Array) -> None:
        assert self._running is not None
        for step in range(rewards.shape[1]):
            self._running += rewards[:, step]
            for env in np.flatnonzero(ends[:, step]):
                self.episode_returns.append(float(self._running[env]))
                self._running[env] = 0.0

    def _on_rollout_end(self) -> None:
        if self.episode_returns:
            mean = float(np.mean(self.episode_returns))
            self.logger.record("rollout/ep_rew_learned_mean", mean)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.restore()

    def restore(self) -> None:
        """Take the substitution off the model again; safe to call twice."""
        model: Any = getattr(self, "model", None)  # absent if `learn` failed before it began
        if model is None:
            return
        model.rollout_buffer.__dict__.pop("compute_returns_and_advantage", None)
        for name in _PATCHED:
            model.__dict__.pop(name, None)
