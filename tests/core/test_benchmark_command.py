"""Scheduling, on workers that only pretend; and one benchmark of real runs that is killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_gym import benchmark
from rlhf_gym.benchmark import BenchmarkSpec, load_spec, run_benchmark, scheduler
from rlhf_gym.benchmark.records import plan_jobs, read_record
from rlhf_gym.benchmark.worker import make_record
from rlhf_gym.cli import main
from rlhf_gym.errors import ConfigError, NumericalError, RunLockedError

POINT_MASS = "rlhf_gym/PointMass-v0"

# Writes a record without training. What it returns, and what befalls it, depends on the setting.
PRETENDER = """
import json, os, pathlib, sys, time
job = json.loads(sys.stdin.readline())
setting, seed = job["setting"], job["seed"]
out = pathlib.Path(job["out"])
(out / "started").mkdir(exist_ok=True)
(out / "started" / f"{setting}-{seed}").write_text(os.environ["OMP_NUM_THREADS"])
if setting == "fails" and not (out / "repaired").exists():
    sys.exit("the reason why")
if setting == "hangs":
    while sys.stdin.readline():
        pass
    sys.exit(1)
if setting == "counts":  # how many are at it, of which one more would have time to come
    mark = out / "running" / str(seed)
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    n_seen = []
    for _ in range(40):
        n_seen.append(len(list(mark.parent.iterdir())))
        time.sleep(0.01)
    mark.unlink()
    (out / "started" / f"{setting}-{seed}").write_text(str(max(n_seen)))
value = {"true": 100.0, "stock": 90.0}.get(setting, 80.0) + seed
record = {
    "format": 1, "git": None, "versions": {"torch": f"1.{seed}"}, "machine": {"cpu": "Z80"},
    "config": job["config"], "command": job["command"],
    "figures": {
        "task": job["task"], "setting": setting, "seed": seed, "runner": job["runner"],
        "steps": 4000, "config_sha256": "0", "true_return_mean": value, "true_return_std": 1.0,
        "env_steps": 4000, "n_labels": 40, "seconds": 1.0, "seconds_by_part": {"fit": 1.0},
        "evaluation_returns": [value], "random_return_mean": 0.0, "learned_return_mean": None,
        "reward_accuracy_heldout": None, "reward_correlation": None,
        "curve": [{"env_steps": 2000, "true_return_mean": value}] * 2,
    },
}
path = out / "runs" / "pointmass" / f"{setting}-seed{seed}.json"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps(record))
"""


def make_spec(*settings: str, seeds: tuple[int, ...] = (1, 2)) -> BenchmarkSpec:
    options: dict[str, dict[str, Any]] = {"true": {"reward": "true"}, "stock": {"runner": "stock"}}
    return BenchmarkSpec(
        name="pretended",
        tasks={POINT_MASS: {"steps": 4000, "clip_length": 10, "rounds": 2}},
        settings={name: options.get(name, {"labels": 40}) for name in settings},
        seeds=seeds,
        reference=tuple(name for name in settings if name in options),
    )


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_WORKER", [sys.executable, "-S", "-c", PRETENDER])


def started(out: Path) -> set[str]:
    return {path.name for path in (out / "started").glob("*")}


@pytest.mark.usefixtures("pretend")
def test_only_what_is_missing_damaged_or_changed_is_made_again(tmp_path: Path) -> None:
    spec = make_spec("true", "stock", "learned")
    result = run_benchmark(spec, tmp_path, workers=2, quiet=True)
    everything = {f"{s}-{seed}" for s in ("true", "stock", "learned") for seed in (1, 2)}
    assert started(tmp_path) == everything
    assert (result.failures, result.missing, len(result.records)) == ([], [], 6)

    def again(spec: BenchmarkSpec = spec, **options: Any) -> set[str]:
        for path in (tmp_path / "started").glob("*"):
            path.unlink()
        run_benchmark(spec, tmp_path, quiet=True, **options)
        return started(tmp_path)

    assert again() == set()
    runs = tmp_path / "runs" / "pointmass"
    (runs / "true-seed2.json").write_text("{half")
    text = (runs / "stock-seed1.json").read_text()
    (runs / "stock-seed1.json").write_text(text.replace("91.0", "NaN"))
    (runs / "learned-seed2.json").unlink()
    damaged = {"true-2", "stock-1", "learned-2"}
    assert again(report_only=True) == set()
    assert again() == damaged
    changed = BenchmarkSpec(
        **{**vars(spec), "settings": {**spec.settings, "learned": {"labels": 50}}}
    )
    assert again(changed, seeds=(2,)) == {"learned-2"}


@pytest.mark.usefixtures("pretend")
def test_as_many_runs_go_at_once_as_there_are_workers(tmp_path: Path) -> None:
    spec = make_spec("counts", seeds=(1, 2, 3, 4, 5))
    run_benchmark(spec, tmp_path, workers=2, quiet=True)
    assert max(int((tmp_path / "started" / name).read_text()) for name in started(tmp_path)) == 2


@pytest.mark.usefixtures("pretend")
def test_a_choice_runs_a_part_and_the_results_say_what_is_missing(tmp_path: Path) -> None:
    spec = make_spec("true", "stock", "learned")
    result = run_benchmark(spec, tmp_path, only=["learned", "true"], seeds=[2], quiet=True)
    assert started(tmp_path) == {"learned-2", "true-2"}
    assert {(m.job.setting, m.job.seed) for m in result.missing} == {
        ("true", 1), ("stock", 1), ("stock", 2), ("learned", 1),
    }  # fmt: skip
    table = (tmp_path / "table.md").read_text()
    assert "Partial: 4 of 6 runs are missing." in table
    assert f"- {POINT_MASS}, stock, seeds 1, 2: not made yet" in table
    for option, value in (("only", "lerned"), ("tasks", "X-v0"), ("seeds", 3)):
        with pytest.raises(ConfigError, match=rf"--{option}` names .*{value}"):
            run_benchmark(spec, tmp_path, quiet=True, **{option: [value]})  # type: ignore[arg-type]  # one of three
    with pytest.raises(ConfigError, match="`workers` is 0"):
        run_benchmark(spec, tmp_path, workers=0, quiet=True)
    (tmp_path / "bad.json").write_text("[1]")
    for name, message in (("bad.json", "holds no mapping"), (".", "cannot read the yardsticks")):
        with pytest.raises(ConfigError, match=message):
            run_benchmark(spec, tmp_path, yardsticks=tmp_path / name, quiet=True)
    assert started(tmp_path) == {"learned-2", "true-2"}, "none of these made a run"


@pytest.mark.usefixtures("pretend")
def test_a_failing_run_does_not_stop_the_others_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yml").write_text(
        f"tasks: {{{POINT_MASS}: {{steps: 4000, clip_length: 10}}}}\nseeds: [1, 2]\n"
        "settings: {true: {reward: true}, fails: {labels: 40}}\nreference: [true]\nworkers: 2\n"
    )
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", "spec.yml"])
    out = tmp_path / "benchmarks" / "results" / "spec"
    shown = capsys.readouterr()
    assert stop.value.code == 1
    assert "warning: the runs were made with different versions" in shown.out
    assert started(out) == {"true-1", "true-2", "fails-1", "fails-2"}
    assert f"{POINT_MASS}, fails, seed 2 failed" in shown.err and "the reason why" in shown.err
    assert len(list((out / "runs" / "pointmass").iterdir())) == 2
    assert (out / "work" / "pointmass" / "fails-seed1.log").is_file()
    assert not (out / "work" / "pointmass" / "true-seed1.log").exists()
    assert (out / "work" / ".gitignore").read_text() == "*\n"
    record = json.loads((out / "runs" / "pointmass" / "true-seed1.json").read_text())
    assert record["command"][0] == "rlhf-gym"

    (out / "repaired").touch()
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", "spec.yml", "--publish-yardsticks", "y.json"])
    assert stop.value.code == 0
    yardstick = json.loads((tmp_path / "y.json").read_text())[POINT_MASS]
    assert yardstick == {
        "steps": 4000, "return_mean": 101.5, "seeds": [1, 2], "setting": "true",
        "source": "benchmarks/results/spec/summary.json",
    }  # fmt: skip


def test_a_mistake_in_the_specification_ends_with_status_2_and_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spec.yml"
    path.write_text("tasks: [rlhf_gym/PointMas-v0]\nseeds: [1]\nsettings: {a: {labels: 40}}\n")
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", str(path), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "task rlhf_gym/PointMas-v0, setting a" in error and "PointMass-v0" in error
    assert "Traceback" not in error and not (tmp_path / "out").exists()


def test_a_part_that_cannot_be_built_is_refused_before_the_folder_is_there(tmp_path: Path) -> None:
    (tmp_path / "real.yml").write_text(REAL.replace("{n_envs: 4,", "{gama: 0.9, n_envs: 4,"))
    with pytest.raises(ConfigError, match=r"setting learned.*gama"):
        run_benchmark(load_spec(tmp_path / "real.yml"), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("pretend")
def test_a_worker_has_the_threads_of_its_run_only(tmp_path: Path) -> None:
    run_benchmark(make_spec("true", seeds=(1,)), tmp_path, quiet=True)
    assert (tmp_path / "started" / "true-1").read_text() == "1"


@pytest.mark.usefixtures("pretend")
def test_ctrl_c_stops_the_workers_keeps_the_records_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remember(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        processes.append(popen(*args, **kwargs))
        return processes[-1]

    monkeypatch.setattr(scheduler.subprocess, "Popen", remember)

    ended = threading.Event()

    def press() -> None:
        while not ended.wait(0.01):
            if (tmp_path / "started" / "hangs-1").exists():
                os.kill(os.getpid(), signal.SIGINT)
                return

    # Tests that are started in the background of a shell inherit that SIGINT is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=press, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(make_spec("true", "hangs", seeds=(1,)), tmp_path, workers=1)
    finally:
        ended.set()
        signal.signal(signal.SIGINT, before)
    assert all(process.poll() is not None for process in processes)
    shown = capsys.readouterr().out
    assert "Stopped after 1 of 2 runs" in shown and "run the same command again" in shown
    assert (tmp_path / "runs" / "pointmass" / "true-seed1.json").is_file()


@pytest.mark.usefixtures("pretend")
def test_two_benchmarks_on_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    spec = make_spec("true", seeds=(1,))
    with (
        scheduler.lock(tmp_path),
        pytest.raises(RunLockedError, match=rf"process {os.getpid()} .*--out"),
    ):
        run_benchmark(spec, tmp_path, quiet=True)
    with scheduler.lock(tmp_path):
        result = run_benchmark(spec, tmp_path, report_only=True, quiet=True)
    assert [m.why for m in result.missing] == ["not made yet"], "looking needs no lock"
    assert len(run_benchmark(spec, tmp_path, quiet=True).records) == 1


# -- real runs ------------------------------------------------------------------------------------

REAL = f"""
name: real
tasks: {{{POINT_MASS}: {{steps: 8000, rounds: 8, clip_length: 10, final_episodes: 2,
  ensemble: {{hidden: [8], fit: {{max_epochs: 2}}}},
  hyperparameters: {{n_envs: 4, n_steps: 100, batch_size: 100, n_epochs: 2}}}}}}
settings: {{learned: {{labels: 40}}}}
seeds: [5]
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600  # a hang must not last for ever; a busy machine may
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def is_free(path: Path) -> bool:
    with path.open("a") as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def timeless(path: Path) -> Any:
    """Everything of a record but what says when, where and how fast it was made."""
    content = json.loads(path.read_text())
    figures = {k: v for k, v in content["figures"].items() if not k.startswith("seconds")}
    return {"config": content["config"], "figures": figures}


def test_a_killed_benchmark_goes_on_to_the_same_figures(tmp_path: Path) -> None:
    (tmp_path / "real.yml").write_text(REAL)
    spec, out = load_spec(tmp_path / "real.yml"), tmp_path / "killed"
    (job,) = plan_jobs(spec)
    make_record(job, tmp_path / "whole", ["test"])
    command = [sys.executable, "-m", "rlhf_gym", "benchmark", str(tmp_path / "real.yml")]
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL)
    folder = job.work(out)
    try:
        wait_for(lambda: (folder / "checkpoints" / "round-0001").is_dir())
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: is_free(folder / "run.lock"))  # the worker is gone as well
    assert not job.path(out).exists(), "it was killed half-way"
    n_rounds = len((folder / "metrics.jsonl").read_text().splitlines())
    assert 2 <= n_rounds < 8
    inode = (folder / "config.yaml").stat().st_ino
    result = run_benchmark(spec, out, keep_runs=True, quiet=True)
    assert (result.failures, len(result.records)) == ([], 1)
    assert timeless(job.path(out)) == timeless(job.path(tmp_path / "whole"))
    assert (folder / "config.yaml").stat().st_ino == inode, "the same folder, continued"
    assert not job.work(tmp_path / "whole").exists(), "finished runs are removed unless kept"

    # A run folder that is finished but has no record is not trained again.
    job.path(out).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_gym.training.resume", None)
        patch.setattr("rlhf_gym.training.train", None)
        make_record(job, out, ["test"])
    assert timeless(job.path(out)) == timeless(job.path(tmp_path / "whole"))
    assert not folder.exists()


def test_a_run_folder_of_other_options_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "real.yml").write_text(REAL.replace("steps: 8000, rounds: 8", "steps: 2400"))
    spec = load_spec(tmp_path / "real.yml")
    (job,) = plan_jobs(spec)
    folder = job.work(tmp_path)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("labels: 3\n")
    (folder / "summary.json").write_text("{}")
    make_record(job, tmp_path, ["test"])
    assert "made with other options" in capsys.readouterr().err
    record, _ = read_record(job, tmp_path)
    assert record is not None and record["n_labels"] == 40


def test_a_result_that_is_no_number_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real.yml").write_text(REAL)
    (job,) = plan_jobs(load_spec(tmp_path / "real.yml"))
    monkeypatch.setattr(
        "rlhf_gym.benchmark.worker._run_train", lambda *_: {"true_return_mean": float("nan")}
    )
    with pytest.raises(NumericalError, match="not finite; nothing was recorded"):
        make_record(job, tmp_path, ["test"])
    assert not job.path(tmp_path).exists()


def test_the_facade_names_everything_and_loads_nothing_heavy() -> None:
    program = "import sys, json, rlhf_gym.benchmark; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    heavy = {"torch", "pyarrow", "matplotlib", "scipy", "stable_baselines3"}
    assert not heavy & set(json.loads(done.stdout))
    assert all(callable(getattr(benchmark, name)) for name in benchmark.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = benchmark.nothing
