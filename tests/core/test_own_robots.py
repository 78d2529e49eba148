"""Envs that are not ours through the whole loop: Dict observations, choices, early ends."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlhf_gym import training
from rlhf_gym.cli import main
from rlhf_gym.data import Clip
from rlhf_gym.envs.horizon import HorizonWarning
from rlhf_gym.feedback.settings import FitSettings, RewardModelSettings
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.offline import evaluate_run
from rlhf_gym.train_config import TrainConfig


class Warehouse(gym.Env[Any, Any]):
    """Two levers move a cart; no time limit, no renderer, a Dict with a label nobody can learn."""

    observation_space = spaces.Dict(
        {
            "label": spaces.Text(4),
            "cart": spaces.Dict({"x": spaces.Box(-9, 9, (1,)), "aisle": spaces.Discrete(3)}),
        }
    )
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = 0.0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x = float(np.clip(self.x + int(action[1]) - int(action[0]), -9, 9))
        return self._observe(), self.x, False, False, {}

    def _observe(self) -> Any:
        cart = {"x": np.array([self.x], np.float32), "aisle": round(abs(self.x)) % 3}
        return {"label": "cart", "cart": cart}


@pytest.fixture(autouse=True)
def warehouse() -> Iterator[None]:
    gym.register("Warehouse-v0", Warehouse)
    yield
    del gym.registry["Warehouse-v0"]


def small(env: str, **options: Any) -> TrainConfig:
    return TrainConfig(
        env=env,
        labels=20,
        steps=1600,
        rounds=2,
        clip_length=5,
        eval_episodes=1,
        final_episodes=2,
        ensemble=RewardModelSettings(hidden=(8,), fit=FitSettings(max_epochs=2)),
        hyperparameters={"n_envs": 2, "n_steps": 100, "batch_size": 100, "n_epochs": 1},
        **options,
    )


def test_dict_observations_and_multi_discrete_actions_pass_through_the_whole_loop(
    tmp_path: Path,
) -> None:
    config = small("Warehouse-v0", horizon=25, obs_keys=("cart",))
    run = training.train(config, tmp_path / "run", quiet=True)
    with PreferenceStore(run.store_folder) as store:
        clips: list[Clip] = [clip for p in store.preferences() for clip in p.query.clips]
    assert {clip.obs.shape for clip in clips} == {(6, 4)}  # aisle: 3, x: 1
    actions = np.concatenate([clip.actions for clip in clips])
    assert actions.dtype == np.int64
    assert [sorted(set(column)) for column in actions.T.tolist()] == [[0, 1], [0, 1, 2]]
    for clip in clips:  # what the env did follows from the actions that were recorded
        steps = np.clip(clip.obs[:-1, 3] + clip.actions[:, 1] - clip.actions[:, 0], -9, 9)
        np.testing.assert_array_equal(clip.obs[1:, 3], steps)
    again = evaluate_run(run.folder, 2, seed=1)
    assert len(again["returns"]) == 2


def test_horizon_and_keys_are_found_again_in_the_run_folder(tmp_path: Path) -> None:
    config = small("Warehouse-v0", horizon=25, obs_keys=("cart",))
    run = training.train(config, tmp_path / "run", quiet=True)
    before = json.loads(run.summary_path.read_text())["evaluation_returns"]
    run.summary_path.unlink()
    again = training.resume(run.folder, quiet=True)
    assert json.loads(again.summary_path.read_text())["evaluation_returns"] == before


def test_an_env_that_ends_early_trains_with_one_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training.train(small("CartPole-v1"), tmp_path / "run", quiet=True)
    ours = [w for w in caught if issubclass(w.category, HorizonWarning)]
    assert len(ours) == 1
    assert "terminate_when_unhealthy=False" in str(ours[0].message)


def test_the_warning_can_be_switched_off(tmp_path: Path) -> None:
    config = small("CartPole-v1", allow_variable_horizon=True)  # a warning is an error here
    training.train(config, tmp_path / "run", quiet=True)


def test_an_env_without_a_picture_trains_and_only_watch_complains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")  # no renderer is looked for: this env has none to use
    config = small("Warehouse-v0", horizon=25, obs_keys=("cart",))
    run = training.train(config, tmp_path / "run", quiet=True)
    with pytest.raises(SystemExit) as stop:
        main(["watch", str(run.folder), "--video", str(tmp_path / "a.gif")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "Warehouse-v0" in error and "only `watch` needs a renderer" in error
    assert list(tmp_path.glob("*.gif")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--horizon", "25"], "Text"),
        (["--obs-keys", "cart"], "--horizon N"),
        (["--obs-keys", "crat", "--horizon", "25"], "['cart', 'label']"),
        (["--obs-keys", "cart", "--horizon", "0"], "--horizon"),
        (["--obs-keys", "cart", "--horizon", "25", "--clip-length", "26"], "`clip_length` is 26"),
    ],
)
def test_what_cannot_work_is_refused_with_one_message(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--env", "Warehouse-v0", *options, "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()
