"""What a worker makes of one run: its record, and a folder that was there before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf_gym import training
from rlhf_gym.benchmark.records import Job, check_parts, plan_jobs, read_record
from rlhf_gym.benchmark.results import write_results
from rlhf_gym.benchmark.spec import BenchmarkSpec
from rlhf_gym.benchmark.worker import _why_of_no_use, make_record, trained
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

FALLS = """
import gymnasium, numpy as np
from gymnasium import spaces
class Falls(gymnasium.Env):
    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}
    def step(self, action):
        self.t += 1
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return obs, float(action[0]), self.t == 12, False, {}
gymnasium.register("Falls-v0", Falls, max_episode_steps=20)
"""
BENCH = """
from pathlib import Path
from rlhf_gym.benchmark import BenchmarkSpec, run_benchmark
SETTINGS = {{
    "learned": {{}}, "true": {{"reward": "true"}}, "known": {{"allow_variable_horizon": True}}
}}
spec = BenchmarkSpec(
    name="small", tasks={{"falls:Falls-v0": {options}}}, settings=SETTINGS, seeds=(5,)
)
result = run_benchmark(spec, Path(__file__).parent / "out")
assert not result.failures, result.failures
"""


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


def test_a_record_says_what_its_run_was_made_with_not_what_recorded_it(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_record(job, tmp_path, ["test"], keep_run=True)
    content = json.loads(path.read_text())
    path.unlink()
    git = {"commit": "later", "dirty": True}
    later = {"versions": {}, "git": git, "machine": {}, "source_sha256": "other"}
    monkeypatch.setattr("rlhf_gym.benchmark.worker.provenance", lambda *_: later)
    again = json.loads(make_record(job, tmp_path, ["test"], keep_run=True).read_text())
    assert again["git"] == content["git"] and again["versions"] == content["versions"]
    # The kept run is taken as it stands; had it stopped half way, it would be begun again.
    assert again["figures"]["seconds"] == content["figures"]["seconds"]
    (job.work(tmp_path) / "summary.json").unlink()
    assert "another version" in _why_of_no_use(job.config, job.work(tmp_path))
    same = {key: content[key] for key in ("versions", "source_sha256")}
    for key in same:
        here = {**later, **same, key: later[key]}
        monkeypatch.setattr("rlhf_gym.benchmark.worker.provenance", lambda *_, h=here: h)
        assert "another version" in _why_of_no_use(job.config, job.work(tmp_path)), key
    # A commit of documents, or a file that lies about, ends nothing.
    monkeypatch.setattr("rlhf_gym.benchmark.worker.provenance", lambda *_: {**later, **same})
    assert _why_of_no_use(job.config, job.work(tmp_path)) == ""


def test_episodes_that_ended_early_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's own process sees the warning; who reads the results has to see it too."""
    (tmp_path / "falls.py").write_text(FALLS)
    script = tmp_path / "bench.py"
    script.write_text(BENCH.format(options={**OPTIONS, "labels": 40, "clip_length": 5}))
    # From another folder: the workers have to find the module where the script's process does.
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path.parent
    )
    assert done.returncode == 0, done.stderr
    assert "warning: An episode of falls:Falls-v0 ended before its horizon" in done.stdout
    table = (tmp_path / "out" / "table.md").read_text()
    # Not where nothing is learned about the reward, nor where somebody knows it.
    assert "ended before their horizon in 1 runs (learned, seed 5)" in table


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
