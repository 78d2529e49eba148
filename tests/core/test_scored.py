from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf_gym.data import Trajectory
from rlhf_gym.scored import ScoredTrajectory, scored_figures


def episode(**more) -> ScoredTrajectory:
    arrays = {"obs": np.zeros((3, 1)), "actions": np.zeros((2, 1)), "true_rewards": np.ones(2)}
    return ScoredTrajectory(**arrays, terminated=True, truncated=False, context_id="x", **more)


def test_the_figures_are_means_over_the_episodes() -> None:
    episodes = [
        episode(components={"paid": 1.0, "wanted": 1.0}, kl_to_ref=0.5),
        episode(components={"paid": 4.0, "wanted": 0.0}, kl_to_ref=2.0),
    ]
    found = scored_figures(episodes)
    assert found == {"component_paid": 2.5, "component_wanted": 0.5, "kl_evaluated": 1.25}
    assert episodes[0].true_return == 2.0, "an episode like any other"


def test_an_unknown_kl_is_left_out() -> None:
    figures = scored_figures([episode(components={"paid": 1.0}), episode(components={"paid": 3.0})])
    assert figures == {"component_paid": pytest.approx(2.0)}
    assert math.isnan(episode().kl_to_ref)


def test_episodes_that_say_no_more_than_their_return_have_no_figures() -> None:
    plain = Trajectory(np.zeros((3, 1)), np.zeros((2, 1)), np.ones(2), True, False, "x")
    assert scored_figures([plain]) == {}
