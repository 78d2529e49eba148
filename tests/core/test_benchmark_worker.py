"""What a worker makes of one run: its record, and a folder that was there before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_gym import training
from rlhf_gym.benchmark.records import Job, check_parts, plan_jobs, read_record
from rlhf_gym.benchmark.results import write_results
from rlhf_gym.benchmark.spec import BenchmarkSpec
from rlhf_gym.benchmark.worker import make_record, trained
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError

OPTIONS: dict[str, Any] = {
    "steps": 2400, "rounds": 2, "clip_length": 10, "final_episodes": 2,
    "ensemble": {"hidden": [8], "fit": {"max_epochs": 2}},
    "hyperparameters": {"n_envs": 4, "n_steps": 100, "batch_size": 100, "n_epochs": 1},
}  # fmt: skip
TEXT: dict[str, Any] = {
    "labels": 8, "steps": 32, "rounds": 2, "eval_episodes": 8, "final_episodes": 8,
    "hyperparameters": {
        "n_sft_examples": 32,
        "model": {"n_layers": 1, "d_model": 16, "n_heads": 2},
        "sft": {"batch_size": 16},
        "ppo": {"batch_size": 16, "n_epochs": 1},
        "reward_model": {"n_members": 1, "max_epochs": 1},
    },
}  # fmt: skip


def make_spec(task: str, options: dict[str, Any], **settings: dict[str, Any]) -> BenchmarkSpec:
    return BenchmarkSpec(name="small", tasks={task: options}, settings=settings, seeds=(5,))


@pytest.fixture
def job() -> Job:
    return plan_jobs(make_spec("rlhf_gym/PointMass-v0", OPTIONS, learned={"labels": 40}))[0]


def test_a_return_of_exactly_zero_is_recorded(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {
        "true_return_mean": 0.0, "true_return_std": 0.0, "env_steps": 2400, "n_labels": 40,
        "seconds": 1.0, "seconds_by_part": {}, "evaluation_returns": [0.0],
        "random_return_mean": 0.0, "learned_return_mean": 0.0, "reward_accuracy_heldout": None,
        "reward_correlation": None, "curve": [{"env_steps": 2400, "true_return_mean": 0.0}],
    }  # fmt: skip
    monkeypatch.setattr("rlhf_gym.benchmark.worker._run_train", lambda *_: figures)
    make_record(job, tmp_path, ["test"])
    record, why = read_record(job, tmp_path)
    assert record is not None and record["true_return_mean"] == 0.0, why


def test_a_run_that_fails_again_keeps_its_folder(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    trained(job.config, folder)
    (folder / "summary.json").unlink()

    def fail(*_: Any, **__: Any) -> None:
        raise DataError("no recorded episode is that long")

    monkeypatch.setattr(training, "resume", fail)
    with pytest.raises(DataError, match="no recorded episode"):
        trained(job.config, folder)
    assert (folder / "checkpoints").is_dir()

    def damaged(*_: Any, **__: Any) -> None:
        raise CorruptDataError("round-0001 is damaged")

    monkeypatch.setattr(training, "resume", damaged)
    trained(job.config, folder)
    assert (folder / "summary.json").is_file(), "made from the start"


def test_texts_are_measured_in_completions(tmp_path: Path) -> None:
    task = "rlhf_gym/Sentiment-v0"
    spec = make_spec(task, TEXT, ppo={})
    (job,) = plan_jobs(spec)
    check_parts([job])
    make_record(job, tmp_path, ["test"])
    record, why = read_record(job, tmp_path)
    assert record is not None, why
    assert (record["env_steps"], record["n_labels"]) == (32, 8)
    assert [point["env_steps"] for point in record["curve"]] == [16, 32]
    write_results(spec, [record], [], tmp_path)
    with pytest.raises(ConfigError, match=rf"{task}, setting stock.*no policy for texts"):
        plan_jobs(make_spec(task, TEXT, stock={"runner": "stock"}))
