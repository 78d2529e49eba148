from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

from rlhf_gym.envs.moving_scales import UnstableScaleWarning
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.settings import FitSettings, RewardModelSettings
from rlhf_gym.train_config import TrainConfig
from rlhf_gym.training import resume, train


class Rail(gym.Env[Any, Any]):
    observation_space = gym.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    paid: ClassVar[Any] = None
    jams: ClassVar[bool] = False
    n_all: ClassVar[int] = 0

    def __init__(self, render_mode: str | None = None) -> None:
        self.x = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-1, 1))
        return np.array([self.x, 1.0], np.float32), {}

    def step(self, action):
        type(self).n_all += 1
        if self.jams and self.n_all > 900:
            raise ZeroDivisionError("the motor jams")
        self.x = float(np.clip(self.x + 0.1 * action[0], -2, 2))
        reward = -abs(self.x) if self.paid is None else self.paid
        return np.array([self.x, 1.0], np.float32), reward, False, False, {}


def small() -> TrainConfig:
    return TrainConfig(
        env="Rail-v0",
        labels=10,
        steps=1200,
        rounds=2,
        clip_length=5,
        eval_episodes=1,
        final_episodes=2,
        ensemble=RewardModelSettings(hidden=(8,), fit=FitSettings(max_epochs=2)),
        hyperparameters={"n_envs": 2, "n_steps": 100, "batch_size": 100, "n_epochs": 1},
    )


@pytest.fixture
def rail() -> Iterator[type[Rail]]:
    kind = type("RailOfOneTest", (Rail,), {})
    gym.register("Rail-v0", entry_point=kind, max_episode_steps=20)
    yield kind
    gym.registry.pop("Rail-v0")


@pytest.mark.filterwarnings("ignore:.*reward returned by:UserWarning")
def test_a_broken_contract_leaves_no_folder(rail, tmp_path: Path) -> None:
    rail.paid = np.array([0.5])
    with pytest.raises(DataError, match=r"^Rail-v0: `step` returned the reward"):
        train(small(), tmp_path / "run", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_an_env_that_fails_from_its_first_step_leaves_no_folder(rail, tmp_path: Path) -> None:
    rail.jams, rail.n_all = True, 10_000
    with pytest.raises(ZeroDivisionError, match="the motor jams"):
        train(small(), tmp_path / "run", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_after_an_error_of_the_env(rail, tmp_path: Path) -> None:
    whole = json.loads(train(small(), tmp_path / "whole", quiet=True).summary_path.read_text())
    rail.jams, rail.n_all = True, 0
    with pytest.raises(ZeroDivisionError) as caught:
        train(small(), tmp_path / "run", quiet=True)
    notes = "\n".join(caught.value.__notes__)
    assert "raised by `step` of Rail-v0" in notes
    assert f"rlhf-gym train --resume {tmp_path / 'run'}" in notes
    rail.jams = False
    again = json.loads(resume(tmp_path / "run", quiet=True).summary_path.read_text())
    assert again["evaluation_returns"] == whole["evaluation_returns"]


def test_a_run_on_a_moving_scale_is_warned_of_once_and_goes_on(rail, tmp_path: Path) -> None:
    wrap = gym.wrappers.NormalizeReward
    gym.register("Moving-v0", entry_point=lambda **_: wrap(rail()), max_episode_steps=20)
    try:
        with pytest.warns(UnstableScaleWarning, match="Moving-v0: NormalizeReward") as caught:
            config = TrainConfig(**{**vars(small()), "env": "Moving-v0"})
            run = train(config, tmp_path / "run", quiet=True)
    finally:
        gym.registry.pop("Moving-v0")
    assert len([w for w in caught if w.category is UnstableScaleWarning]) == 1
    assert run.summary_path.exists()
