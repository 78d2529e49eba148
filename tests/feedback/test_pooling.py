from __future__ import annotations

import numpy as np
from gymnasium import spaces

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.feedback.pooling import pool_labellers
from rlhf_gym.feedback.reward_model import EnsembleRewardModel
from rlhf_gym.feedback.settings import FitSettings, RewardModelSettings
from rlhf_gym.protocols import SpaceInfo

INFO = SpaceInfo("E", spaces.Box(-9, 9, (2,)), spaces.Box(-1, 1, (1,)), 3)
FLIP = {Choice.FIRST: Choice.SECOND, Choice.SECOND: Choice.FIRST}


def query(i: int) -> Query:
    """The second clip has the higher numbers exactly where i is odd."""
    rng = np.random.default_rng(i)
    low, high = (
        Clip((rng.normal(size=(4, 2)) + mean).astype(np.float32), np.zeros((3, 1), np.float32), "E")
        for mean in (-1, 1)
    )
    return Query((low, high) if i % 2 else (high, low), 0, 0, i)


def right(i: int) -> Choice:
    return Choice.SECOND if i % 2 else Choice.FIRST


def answers(labellers: dict[str, bool], n: int = 40) -> PreferenceSet:
    """Everybody answers everything; True: always right, False: always the opposite."""
    return PreferenceSet.from_preferences(
        [
            Preference(query(i), right(i) if is_right else FLIP[right(i)], "human", labeller=who)
            for i in range(n)
            for who, is_right in labellers.items()
        ]
    )


def test_an_adversary_is_outvoted_in_one_soft_label_per_pair() -> None:
    given = answers({"a": True, "b": True, "c": False})
    pooled = pool_labellers(given, "dawid-skene")
    assert len(pooled) == 40 and len(given) == 120
    assert pooled.query_ids == [query(i).id for i in range(40)]
    expected = np.array([float(right(i) is Choice.FIRST) for i in range(40)])
    # Plain averaging would leave every label at 2/3 or 1/3.
    assert np.abs(pooled.probs - expected).max() < 0.1


def test_fewer_than_three_labellers_and_no_pooling_leave_the_answers_alone() -> None:
    two = answers({"a": True, "b": False})
    assert pool_labellers(two, "dawid-skene") is two
    three = answers({"a": True, "b": True, "c": False})
    assert pool_labellers(three, "none") is three


def test_a_pair_that_everybody_skipped_is_not_trained_on() -> None:
    skipped = [Preference(query(9), Choice.SKIP, "human", labeller=who) for who in "abc"]
    given = PreferenceSet.from_preferences(
        [*answers({"a": True, "b": True, "c": True}, 6), *skipped]
    )
    pooled = pool_labellers(given, "dawid-skene")
    assert np.isnan(pooled.probs).sum() == 1
    assert len(pooled.trained()) == 6
    assert len(pooled[:3]) == 3 and pooled[:3].probs.shape == (3,)
    # One by one, as direct methods read them, they say the same.
    probs = np.array([p.preference_prob for p in pooled], np.float32)
    np.testing.assert_array_equal(probs, pooled.probs)
    again = PreferenceSet.from_preferences(list(pooled))
    np.testing.assert_array_equal(again.probs, pooled.probs)


def test_a_reward_model_is_fitted_to_pooled_labels() -> None:
    pooled = pool_labellers(answers({"a": True, "b": True, "c": False}), "dawid-skene")
    settings = RewardModelSettings(hidden=(16,), fit=FitSettings(max_epochs=30, label_noise=0.0))
    model = EnsembleRewardModel(INFO, settings=settings, seed=0, device="cpu")
    model.fit(pooled, np.random.default_rng(0))
    first, second = (
        model.clip_returns([query(i).clips[side] for i in range(40)]).mean(0) for side in (0, 1)
    )
    assert ((first > second) == [right(i) is Choice.FIRST for i in range(40)]).mean() > 0.95
