"""How good is the agent, and how good is the reward it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_gym.data import Array, Clip, RewardBatch, Trajectory
from rlhf_gym.feedback.metrics import correlation
from rlhf_gym.protocols import RewardModel

__all__ = ["Evaluation", "evaluate_trajectories", "reward_correlation"]


@dataclass(frozen=True)
class Evaluation:
    """Returns of the same episodes under the true and under the learned reward."""

    true_returns: Array
    """(n_episodes,) undiscounted."""
    learned_returns: Array
    """(n_episodes,) undiscounted, normalised reward units; NaN without a reward model."""

    def figures(self) -> dict[str, float]:
        """Means, deviations (over episodes) and extremes, as they stand in metrics.jsonl."""
        true, learned = self.true_returns, self.learned_returns
        return {
            "true_return_mean": float(true.mean()),
            "true_return_std": float(true.std()),
            "true_return_min": float(true.min()),
            "true_return_max": float(true.max()),
            "learned_return_mean": float(learned.mean()),
            "learned_return_std": float(learned.std()),
        }


def evaluate_trajectories(
    trajectories: Sequence[Trajectory], reward_model: RewardModel | None
) -> Evaluation:
    """Score whole episodes under both rewards."""
    learned = [float("nan")] * len(trajectories)
    if reward_model is not None:
        learned = [
            float(
                reward_model.rewards(
                    RewardBatch.from_steps(t.obs[None, :-1], t.actions[None], t.obs[None, 1:])
                ).sum()
            )
            for t in trajectories
        ]
    return Evaluation(np.array([t.true_return for t in trajectories]), np.array(learned))


def reward_correlation(clips: Sequence[Clip], reward_model: RewardModel) -> float:
    """Pearson correlation of learned and true clip returns.

    The loop gives it random clips of the last recorded experience; some overlap labelled ones.
    NaN where the true rewards are unknown or either side does not vary.
    """
    learned = reward_model.clip_returns(clips).mean(axis=0)  # (B,)
    return correlation(learned, np.array([clip.true_return for clip in clips]))
