from __future__ import annotations

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Preference, Query, Trajectory
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.feedback.splits import heldout_mask
from rlhf_gym.summary import _ensemble_calibration, _no_better_than_random
from rlhf_gym.train_config import TrainConfig

GAP = 200.0  # exp(200) is more than float32 holds


class CertainModel:
    """Two members that are certain, and say opposite things."""

    def clip_returns(self, clips):
        own = np.array([clip.actions.sum() for clip in clips], np.float32)
        return np.stack([GAP * own, -GAP * own])


def clip(action: float, seed: int) -> Clip:
    obs = np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float32)
    return Clip(obs, np.array([[action]], np.float32), "Any-v0")


def test_members_that_are_certain_are_averaged_without_an_overflow() -> None:
    preferences = [
        Preference(Query((clip(1.0, 2 * i), clip(0.0, 2 * i + 1)), 0, 0, i), Choice.FIRST, "any")
        for i in range(60)
    ]
    answers = PreferenceSet.from_preferences(preferences)
    config = TrainConfig()
    found = _ensemble_calibration(config, CertainModel(), answers)
    # Half of the members say 1, half 0: the mean, 0.5, is what is compared with the answers.
    n_heldout = int(heldout_mask(answers.query_ids, config.ensemble.fit.heldout_fraction).sum())
    assert n_heldout > 0
    assert found == [{"predicted": 0.5, "observed": 1.0, "n": n_heldout}]


def episodes(returns: list[float]) -> list[Trajectory]:
    obs, actions = np.zeros((2, 1), np.float32), np.zeros((1, 1), np.float32)
    return [Trajectory(obs, actions, np.array([r], np.float32), False, True, "E") for r in returns]


@pytest.mark.parametrize(
    ("ours", "random", "is_better"),
    [
        ([3.0, 3.0], [1.0, 1.0], True),
        ([1.0, 1.0], [1.0, 1.0], False),
        ([-5.0], [-4.0], False),
        ([-4.0], [-5.0], True),  # one episode each: nothing is known of their spread
        # By hand: variances 2 and 2 over 2 episodes, a standard error of 1.414, times 1.64: 2.32.
        ([2.0, 4.0], [0.0, 2.0], False),
        ([2.5, 4.5], [0.0, 2.0], True),
    ],
)
def test_an_agent_no_better_than_random_is_said_to_be(ours, random, is_better) -> None:
    found = _no_better_than_random(episodes(ours), episodes(random), "env_steps")
    assert (found == []) == is_better
    if found:
        assert found[0].startswith("the agent is no better than random actions: true return ")
