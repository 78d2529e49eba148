from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.data import Array, RewardBatch
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.encoding import StepEncoder
from rlhf_gym.protocols import SpaceInfo

OBS = spaces.Box(-np.inf, np.inf, (3,), np.float32)


def batch_of(actions: Array, rng: np.random.Generator) -> RewardBatch:
    lead = actions.shape[:2]
    obs, next_obs = rng.normal(size=(2, *lead, 3)).astype(np.float32)
    return RewardBatch(obs, actions, next_obs, np.ones(lead, bool))


sizes = st.lists(st.integers(1, 4), min_size=1, max_size=3)
action_spaces = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.just(-2)),
    st.builds(spaces.Discrete, st.integers(1, 5)),
    st.builds(spaces.MultiDiscrete, sizes),
    st.builds(lambda n: spaces.MultiDiscrete(n, start=[3] * len(n)), sizes),
    st.just(spaces.MultiDiscrete(np.array([[2, 3], [4, 1]]))),
    st.builds(spaces.MultiBinary, st.integers(1, 4)),
    st.builds(lambda n: spaces.Box(-1, 1, (n, 2), np.float32), st.integers(1, 3)),
)


@given(space=action_spaces, seed=st.integers(0, 99), use_next_obs=st.booleans())
def test_features_are_observation_flattened_action_and_next_observation(
    space: spaces.Space[Any], seed: int, use_next_obs: bool
) -> None:
    space.seed(seed)
    actions = np.array([[space.sample() for _ in range(4)] for _ in range(2)])
    batch = batch_of(actions, np.random.default_rng(seed))
    encoder = StepEncoder(SpaceInfo("Test-v0", OBS, space, 10), use_next_obs=use_next_obs)
    features = encoder(batch)
    assert features.dtype == np.float32
    assert features.shape == (2, 4, encoder.n_features)
    for b in range(2):
        for t in range(4):
            parts = [batch.obs[b, t], spaces.flatten(space, actions[b, t])]
            parts += [batch.next_obs[b, t]] if use_next_obs else []
            np.testing.assert_array_equal(features[b, t], np.concatenate(parts).astype(np.float32))


def test_two_dimensions_of_choices_by_hand(rng: np.random.Generator) -> None:
    space = spaces.MultiDiscrete([2, 3])
    encoder = StepEncoder(SpaceInfo("Test-v0", OBS, space, 10))
    assert encoder.n_features == 3 + 5
    features = encoder(batch_of(np.array([[[1, 0], [0, 2]]]), rng))
    np.testing.assert_array_equal(features[0, :, 3:], [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]])


def test_the_zeros_of_padded_steps_pass_where_choices_do_not_begin_at_0(
    rng: np.random.Generator,
) -> None:
    encoder = StepEncoder(SpaceInfo("Test-v0", OBS, spaces.Discrete(2, start=5), 10))
    features = encoder(batch_of(np.array([[6, 0]]), rng))  # the second step is padding
    np.testing.assert_array_equal(features[0, :, 3:], [[0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("obs_space", "action_space", "named"),
    [
        (spaces.Dict({"a": OBS}), spaces.Discrete(2), "observation space Dict"),
        (spaces.Discrete(3), spaces.Discrete(2), "observation space Discrete"),
        (OBS, spaces.Tuple((spaces.Discrete(2),)), "action space Tuple"),
        (OBS, spaces.Text(4), "action space Text"),
    ],
)
def test_other_spaces_are_refused_naming_the_accepted_ones(
    obs_space: spaces.Space[Any], action_space: spaces.Space[Any], named: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        StepEncoder(SpaceInfo("Test-v0", obs_space, action_space, 10))
    assert named in str(caught.value)
    assert "Box, Discrete, MultiDiscrete or MultiBinary" in str(caught.value)
    assert "make_preference_ready" in str(caught.value)
