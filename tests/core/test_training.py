from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rlhf_gym import training
from rlhf_gym.errors import (
    ConfigError,
    CorruptDataError,
    MissingDependencyError,
    RunExistsError,
    UnknownNameError,
)
from rlhf_gym.feedback.settings import FitSettings, RewardModelSettings
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.offline import evaluate_run, export_run, fit_run, watch_run
from rlhf_gym.runs import Run
from rlhf_gym.train_config import TrainConfig

SMALL = TrainConfig(
    env="rlhf_gym/PointMass-v0",
    labels=40,
    steps=4000,
    rounds=4,
    clip_length=10,
    eval_episodes=2,
    final_episodes=4,
    ensemble=RewardModelSettings(hidden=(16,), fit=FitSettings(max_epochs=4)),
    hyperparameters={"n_envs": 4, "n_steps": 100, "batch_size": 100, "n_epochs": 2},
)


def with_(**changes) -> TrainConfig:
    import dataclasses

    return dataclasses.replace(SMALL, **changes)


def weights_sha256(run: Run) -> str:
    """Over the files of the last checkpoint that hold what was learned."""
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None
    digest = hashlib.sha256()
    for name in ("agent.safetensors", "reward_model.safetensors", "normaliser.npz"):
        if (checkpoint.folder / name).exists():
            digest.update((checkpoint.folder / name).read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    return training.train(SMALL, tmp_path_factory.mktemp("runs") / "a", quiet=True)


def test_budgets_are_exact_and_both_returns_are_on_file(finished: Run) -> None:
    summary = json.loads(finished.summary_path.read_text())
    metrics = finished.metrics()
    assert summary["n_labels"] == 40 and metrics[-1]["n_labels"] == 40
    assert summary["env_steps"] <= 4000 < summary["env_steps"] + 400
    # 4 rounds of 2 episodes, then 4: 50 steps each; the random yardstick is not evaluation.
    assert summary["eval_steps"] == (4 * 2 + 4) * 50
    steps = [row["env_steps"] for row in metrics]
    assert steps == sorted(steps) and all((s - steps[0]) % 400 == 0 for s in steps)
    for key in ("true_return_mean", "learned_return_mean", "reward_accuracy_heldout"):
        assert all(key in row for row in metrics)
    assert summary["reference"]["random_return_mean"] < 0
    assert metrics[0]["n_labels"] == 10, "a quarter of the labels comes first"


def test_the_stored_configuration_leads_to_the_same_run(finished: Run, tmp_path: Path) -> None:
    from rlhf_gym.config import from_yaml

    config = from_yaml(TrainConfig, finished.config_path)
    again = training.train(config, tmp_path / "again", quiet=True)
    assert weights_sha256(again) == weights_sha256(finished)
    assert again.config_path.read_text() == finished.config_path.read_text()


def test_resuming_after_any_round_ends_with_the_same_weights(
    finished, tmp_path, stopped_after
) -> None:
    for last in (0, 2):
        folder = tmp_path / f"stopped-{last}"
        with stopped_after(last):
            training.train(SMALL, folder, quiet=True)
        run = training.resume(folder, quiet=True)
        assert weights_sha256(run) == weights_sha256(finished)
        timeless = [
            [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in r.metrics()]
            for r in (run, finished)
        ]
        assert timeless[0] == timeless[1]


def test_answers_given_before_a_kill_are_kept_and_not_asked_again(finished, tmp_path) -> None:
    class StopError(Exception):
        pass

    def stop(*args, **kwargs):
        raise StopError

    folder = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_gym.feedback.reward_model.EnsembleRewardModel.fit", stop)
        with pytest.raises(StopError):
            training.train(SMALL, folder, quiet=True)
    with PreferenceStore(folder) as store:
        before = store.counts()
    assert before["n_answers"] == 10
    run = training.resume(folder, quiet=True)
    with PreferenceStore(folder) as store:
        assert store.counts()["n_answers"] == 40
    assert weights_sha256(run) == weights_sha256(finished)


def kill_and_resume(folder: Path, delay: float) -> Run | None:
    """Kill -9 the command after a delay, then let it finish; None if it had ended before."""
    Run.create(folder, {"config.yaml": training.to_yaml(training.prepare(SMALL).config)})
    command = [sys.executable, "-m", "rlhf_gym", "train", "--resume", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(delay)
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return Run.open(folder)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_end_with_the_same_weights(finished, tmp_path) -> None:
    rng = np.random.default_rng(0)
    n_killed = 0
    for trial in range(100):
        run = kill_and_resume(tmp_path / f"killed-{trial}", float(rng.uniform(1.5, 7)))
        if run is None:
            continue  # too late: a kill after the end proves nothing
        n_killed += 1
        assert weights_sha256(run) == weights_sha256(finished), f"trial {trial}"
        if n_killed == 20:
            break
    assert n_killed == 20


def test_the_true_reward_is_the_yardstick_through_the_same_code(tmp_path: Path) -> None:
    run = training.train(with_(reward="true"), tmp_path / "true", quiet=True)
    summary = json.loads(run.summary_path.read_text())
    assert summary["n_labels"] == 0 and summary["learned_return_mean"] is None
    assert len(run.metrics()) == 4


@pytest.mark.parametrize("teacher", ["mistake", "skip", "equal", "noisy", "myopic"])
def test_every_preset_teacher_runs(tmp_path: Path, teacher: str) -> None:
    config = with_(teacher=teacher, steps=1300, rounds=2, labels=20, warm_up=0.3)
    run = training.train(config, tmp_path / teacher, quiet=True)
    assert "label_noise: 0.1" in run.config_path.read_text()


def test_an_existing_folder_is_refused_and_untouched(finished: Run) -> None:
    before = finished.config_path.read_bytes()
    with pytest.raises(RunExistsError, match="--resume"):
        training.train(SMALL, finished.folder, quiet=True)
    assert finished.config_path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"env": "rlhf_gym/PointMas-v0"}, UnknownNameError, "PointMass-v0"),
        ({"clip_length": 51}, ConfigError, "has 50 steps; pass `--clip-length 20`"),
        ({"steps": 500}, ConfigError, r"pass `--steps \d+`"),
        ({"teacher": "orakle"}, UnknownNameError, "oracle"),
        ({"acquisition": "unifrm"}, UnknownNameError, "uniform"),
        ({"reward_model": "no_such:Thing"}, UnknownNameError, "no_such"),
        ({"algo": "pppo"}, UnknownNameError, "ppo"),
        ({"device": "tpu9"}, ConfigError, "auto, cpu, cuda"),
        ({"hyperparameters": {"n_epoch": 3}}, ConfigError, "n_epoch"),
        ({"hyperparameters": {"learning_rate": "1e-3"}}, ConfigError, "learning_rate"),
        ({"hyperparameters": {"normalize": "{'norm_reward': True}"}}, ConfigError, "normalize"),
        ({"model": "gpt2"}, ConfigError, "is no text env"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path, changes, error, message) -> None:
    with pytest.raises(error, match=message):
        training.train(with_(**changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists(), "nothing was written"


def test_a_damaged_checkpoint_is_named_and_the_one_before_still_serves(tmp_path: Path) -> None:
    run = training.train(SMALL, tmp_path / "run", quiet=True)
    reference = weights_sha256(run)
    run.summary_path.unlink()
    newest = run.checkpoints_folder / "round-0003"
    path = newest / "agent.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptDataError, match=r"agent\.safetensors"):
        training.resume(run.folder, quiet=True)
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    assert weights_sha256(training.resume(run.folder, quiet=True)) == reference


def test_evaluate_fit_and_export_read_a_finished_run(finished: Run, tmp_path: Path) -> None:
    figures = evaluate_run(finished.folder, 3, seed=5)
    assert figures["n_episodes"] == 3 and len(figures["returns"]) == 3
    assert figures["true_return_mean"] == pytest.approx(np.mean(figures["returns"]))
    report = fit_run(finished.folder, "cpu", tmp_path / "model")
    assert report["n_train"] + report["n_heldout"] == 40
    assert (tmp_path / "model" / "reward_model.safetensors").is_file()
    written, note = export_run(finished.folder, tmp_path / "agent.zip")
    assert note is None
    assert [p.name for p in written] == ["agent.zip", "agent_vecnormalize.pkl"]
    with pytest.raises(ConfigError, match=r"\.zip"):
        export_run(finished.folder, tmp_path / "agent.tar")


def test_what_would_be_overwritten_is_refused(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "agent_vecnormalize.pkl").write_text("mine")
    with pytest.raises(ConfigError, match=r"agent_vecnormalize.pkl: already there, and nothing"):
        export_run(finished.folder, tmp_path / "agent.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["agent_vecnormalize.pkl"]
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        export_run(finished.folder, tmp_path / "nowhere" / "agent.zip")
    with pytest.raises(ConfigError, match="already there"):
        fit_run(finished.folder, "cpu", tmp_path)


def test_without_a_display_watch_says_to_film(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(MissingDependencyError, match=r"no display.*--video film\.gif"):
        watch_run(finished.folder, None, 1, seed=0)
