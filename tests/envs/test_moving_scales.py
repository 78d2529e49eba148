from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import NormalizeObservation, NormalizeReward
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlhf_gym.agents.recorder import Recorder
from rlhf_gym.envs import hide_reward, make_env
from rlhf_gym.envs.moving_scales import UnstableScaleWarning, scale_warnings
from rlhf_gym.envs.point_mass import PointMassEnv
from rlhf_gym.errors import ConfigError


class ScaledReward(NormalizeReward):
    """Somebody's own kind of it."""


class Home(gym.Wrapper):
    """Somebody's own wrapper with running statistics, by the usual name."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.obs_rms = np.zeros(3)


def still(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    env = NormalizeObservation(env)
    env.update_running_mean = False
    return env


@pytest.fixture
def made() -> Iterator[Callable[..., gym.Env[Any, Any]]]:
    def make(wrap: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]) -> gym.Env[Any, Any]:
        gym.register("Inside-v0", lambda **_: wrap(PointMassEnv()), max_episode_steps=20)
        return make_env("Inside-v0")

    yield make
    gym.registry.pop("Inside-v0", None)


@pytest.mark.parametrize(
    ("wrap", "named"),
    [
        (NormalizeReward, "NormalizeReward inside the env divides rewards"),
        (ScaledReward, "ScaledReward inside the env divides rewards"),
        (NormalizeObservation, "NormalizeObservation inside the env shifts"),
        (Home, "Home inside the env shifts"),
        (hide_reward, "HideReward inside the env replaces"),
    ],
)
def test_a_wrapper_that_moves_the_scale_is_warned_of_once_by_name(made, wrap, named: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        venv = DummyVecEnv([lambda: hide_reward(Monitor(made(wrap)))] * 3)
        Recorder(venv, context_id="Inside-v0", n_steps=8)
    ours = [str(w.message) for w in caught if w.category is UnstableScaleWarning]
    assert len(ours) == 1
    assert ours[0].startswith(f"Inside-v0: {named}") and "take it out" in ours[0]


def test_what_keeps_one_scale_passes(made) -> None:
    for wrap in (lambda env: env, still, Monitor, gym.wrappers.RecordEpisodeStatistics):
        assert scale_warnings(Monitor(made(wrap))) == ()
        gym.registry.pop("Inside-v0")


def test_a_plain_second_monitor_changes_nothing_that_is_logged(made) -> None:
    env = hide_reward(Monitor(made(Monitor)))
    for _ in range(2):
        env.reset(seed=0)
        truth, done = 0.0, False
        while not done:
            _, _, terminated, truncated, info = env.step(np.ones(2, np.float32))
            truth, done = truth + info["true_reward"], terminated or truncated
        assert (info["episode"]["r"], info["episode"]["l"]) == (pytest.approx(truth, abs=1e-5), 20)


def test_a_second_monitor_that_writes_a_file_is_warned_of(made, tmp_path: Path) -> None:
    env = made(lambda inner: Monitor(inner, str(tmp_path / "log")))
    (text,) = scale_warnings(Monitor(env))
    assert "log.monitor.csv" in text and "writes that file over" in text
    hide_reward(env)
    env.close()


@pytest.mark.parametrize("options", [{"allow_early_resets": False}, {"reset_keywords": ("level",)}])
def test_a_second_monitor_that_stops_at_resets_is_refused(made, options) -> None:
    with pytest.raises(ConfigError, match=f"Monitor with `{next(iter(options))}"):
        hide_reward(Monitor(made(lambda inner: Monitor(inner, **options))))


def test_a_normaliser_below_the_recorder_is_refused() -> None:
    venv = DummyVecEnv([lambda: hide_reward(make_env("rlhf_gym/PointMass-v0"))])
    with pytest.raises(ConfigError, match=r"put it outside: `VecNormalize\(Recorder"):
        Recorder(VecNormalize(venv, norm_reward=False), context_id="P", n_steps=8)
