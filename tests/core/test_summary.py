from __future__ import annotations

import numpy as np

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.feedback.splits import heldout_mask
from rlhf_gym.summary import _ensemble_calibration
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
