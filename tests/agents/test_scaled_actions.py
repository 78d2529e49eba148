from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv

from rlhf_gym.agents.ppo import PPOAgent
from rlhf_gym.agents.recorder import Recorder
from rlhf_gym.agents.scaled_actions import ScaledActions, action_scale, scale_actions
from rlhf_gym.agents.settings import load_settings
from rlhf_gym.agents.vec_reward import VecLearnedReward
from rlhf_gym.data import Array, RewardBatch
from rlhf_gym.envs.hide_reward import hide_reward
from rlhf_gym.envs.make import make_env
from rlhf_gym.errors import ConfigError
from rlhf_gym.protocols import Signal
from rlhf_gym.seeding import stream
from tests.agents.lever import ENV, HORIZON, Lever

SMALL = {"n_envs": 2, "n_steps": 40, "batch_size": 40, "n_epochs": 2, "learning_rate": 0.01}


class Distance:
    """A fixed stand-in for a reward model, which also keeps the actions that it is shown."""

    def __init__(self) -> None:
        self.seen: list[Array] = []

    def rewards(self, batch: RewardBatch) -> Array:
        self.seen.append(batch.actions)
        return -np.abs(batch.next_obs - 50).sum(-1) / 10


def trained(**env_kwargs: Any) -> tuple[PPOAgent, Distance]:
    agent = PPOAgent(
        ENV, n_run_steps=480, settings=load_settings("ppo", ENV, SMALL), env_kwargs=env_kwargs
    )
    reward = Distance()
    agent.begin_round(stream(0, "round", 0))
    agent.warm_up(80)
    agent.improve(Signal(reward_model=reward), 400)  # type: ignore[arg-type]
    return agent, reward


def weights(agent: PPOAgent) -> Array:
    parts = [p.detach().flatten() for p in agent.model.policy.parameters()]
    return torch.cat(parts).numpy()


def test_the_unit_of_the_actions_changes_nothing_but_the_actions() -> None:
    # Powers of two about 0: the map is exact in floating point, and so is everything after it.
    widths = np.array([2.0, 0.25])
    plain, plain_reward = trained()
    scaled, reward = trained(low=tuple(-widths), high=tuple(widths))
    np.testing.assert_array_equal(weights(plain), weights(scaled))
    for ours, theirs in zip(reward.seen, plain_reward.seen, strict=True):
        np.testing.assert_array_equal(ours, theirs * widths)
    for a, b in zip(
        plain.clips(20, 5, np.random.default_rng(0)),
        scaled.clips(20, 5, np.random.default_rng(0)),
        strict=True,
    ):
        np.testing.assert_array_equal(a.obs, b.obs)
        np.testing.assert_array_equal(a.actions * widths, b.actions)
        np.testing.assert_array_equal(a.true_rewards, b.true_rewards)
    for random in (False, True):
        for e, f in zip(
            plain.evaluate(2, stream(0, "e"), random=random),
            scaled.evaluate(2, stream(0, "e"), random=random),
            strict=True,
        ):
            np.testing.assert_allclose(e.actions * widths, f.actions, rtol=1e-6)
            assert e.true_return == pytest.approx(f.true_return, abs=1e-4)


def test_clips_of_an_asymmetric_box_hold_what_the_env_executed() -> None:
    agent, reward = trained(low=(0.0, -3.0), high=(5.0, 1.0))
    clips = agent.clips(200, HORIZON, np.random.default_rng(0))
    actions = np.concatenate(
        [clip.actions for clip in clips] + [s.reshape(-1, 2) for s in reward.seen]
    )
    assert (actions >= [0, -3]).all() and (actions <= [5, 1]).all()
    # A fresh policy leaves [-1, 1] a third of the time: both ends are reached, and all between.
    assert (np.ptp(actions, axis=0) == [5, 4]).all()
    # The env's own dynamics, computed from the clip: it received these actions and no others.
    for clip in clips:
        push = (2 * clip.actions - [5, -2]) / [5, 4]
        x = (clip.obs - 50) / 10
        np.testing.assert_allclose(
            x[1:], np.clip(0.9 * x[:-1] + push, -5, 5), atol=0.1
        )  # observations are rounded to 0.1


def test_warm_up_fills_the_box_evenly() -> None:
    agent = PPOAgent(
        ENV,
        n_run_steps=4000,
        settings=load_settings("ppo", ENV, SMALL),
        env_kwargs={"low": (10.0, -1.0), "high": (30.0, 0.0)},
        n_record_steps=1000,
    )
    agent.begin_round(stream(0, "round", 0))
    agent.warm_up(2000)
    actions = agent.recorder.rollout(1000)[0].actions.reshape(-1, 2)
    # 2,000 draws: the mean of a uniform distribution of width w errs by w / sqrt(12 * 2000).
    assert np.abs(actions.mean(0) - [20, -0.5]).max() < 5 * 20 / np.sqrt(12 * 2000)
    assert (actions.min(0) < [10.1, -0.995]).all() and (actions.max(0) > [29.9, -0.005]).all()


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.floats(-1e6, 1e6, width=32), st.floats(0, 1e6, width=32), st.floats(-1, 1, width=32)
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([np.float32, np.float64]),
)
def test_the_map_is_affine_and_never_leaves_the_box(parts: Any, dtype: Any) -> None:
    low, width, action = np.array(parts, np.float64).T
    box = spaces.Box(low.astype(dtype), (low + width).astype(dtype), dtype=dtype)
    scale = action_scale(box)
    if scale is None:  # [-1, 1] itself
        return
    mapped = scale.to_env(action[None].astype(np.float32))[0]
    assert box.contains(mapped)
    expected = box.low + (action + 1) / 2 * (box.high.astype(float) - box.low)
    np.testing.assert_allclose(mapped, expected, rtol=1e-6, atol=1e-6 * np.abs(low).max() + 1e-30)
    ends = scale.to_env(np.stack([-np.ones_like(low), np.ones_like(low)]))
    rounding = 1e-7 * (np.abs(low) + width).max()  # of one float32
    np.testing.assert_allclose(ends, [box.low, box.high], rtol=0, atol=rounding)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2,)),
        spaces.Box(-1, 1, (2, 2), np.float64),
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
    ],
)
def test_what_needs_no_scale_gets_none(space: Any) -> None:
    env = Lever()
    env.action_space = space
    venv = DummyVecEnv([lambda: env])
    assert action_scale(space) is None
    assert scale_actions(venv) is venv


def test_a_box_without_bounds_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"component 1 runs from -1.0 to inf.*TransformAction"):
        action_scale(spaces.Box(-1, np.array([1, np.inf], np.float32)))


def test_a_learned_reward_below_the_scale_sees_the_envs_units() -> None:
    reward = Distance()
    hidden = DummyVecEnv(
        [lambda: hide_reward(make_env(ENV, env_kwargs={"low": (0, 0), "high": (8, 8)}))]
    )
    for below in (
        VecLearnedReward(hidden, reward.rewards, horizon=HORIZON),
        Recorder(hidden, context_id=ENV, n_steps=4),
    ):
        venv = scale_actions(below)
        assert isinstance(venv, ScaledActions)
        venv.reset()
        venv.step(np.array([[0.5, -1.0]], np.float32))
    np.testing.assert_array_equal(reward.seen[0].reshape(-1), [6, 0])
    np.testing.assert_array_equal(below.rollout(1)[0].actions.reshape(-1), [6, 0])
