from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_gym.benchmark.records import Job, check_parts, plan_jobs, read_record, resolved, sha256_of
from rlhf_gym.benchmark.spec import BenchmarkSpec
from rlhf_gym.errors import ConfigError, DataError, UnknownNameError

POINT_MASS = "rlhf_gym/PointMass-v0"
SMALL = {"steps": 4000, "clip_length": 10, "hyperparameters": {"n_envs": 4, "n_steps": 100}}
SETTINGS: dict[str, dict[str, Any]] = {
    "true": {"reward": "true"},
    "stock": {"runner": "stock"},
    "learned": {"labels": 40},
}


def make_spec(**changes: Any) -> BenchmarkSpec:
    entries: dict[str, Any] = {
        "name": "small", "tasks": {POINT_MASS: SMALL}, "settings": SETTINGS, "seeds": (1, 2),
    }  # fmt: skip
    return BenchmarkSpec(**{**entries, **changes})


@pytest.fixture(scope="module")
def job() -> Job:
    return plan_jobs(make_spec())[2]


def content_of(job: Job) -> dict[str, Any]:
    """A record as a worker writes it."""
    return {
        "format": 1,
        "git": {"commit": "abc", "dirty": False}, "versions": {"torch": "1"},
        "machine": {"cpu": "Z80"},
        "config": resolved(job.config),
        "figures": {
            "task": job.task, "setting": job.setting, "seed": job.seed, "runner": job.runner,
            "true_return_mean": -5.0, "true_return_std": 1.0, "env_steps": 4000, "n_labels": 40,
            "seconds": 2.5, "evaluation_returns": [-4.0, -6.0], "random_return_mean": -70.0,
            "reward_accuracy_heldout": None, "reward_correlation": 0.9, "seconds_by_part": {},
            "curve": [{"env_steps": 4000, "true_return_mean": -5.0}], "steps": 4000,
            "learned_return_mean": -4.0, "config_sha256": sha256_of(job),
        },
    }  # fmt: skip


def write(job: Job, out: Path, content: Any) -> None:
    job.path(out).parent.mkdir(parents=True, exist_ok=True)
    job.path(out).write_text(content if isinstance(content, str) else json.dumps(content))


def test_runs_are_planned_seed_by_seed_and_differ_in_everything_asked_for() -> None:
    jobs = plan_jobs(make_spec())
    planned = [(job.setting, job.seed) for job in jobs]
    assert planned == [(s, seed) for seed in (1, 2) for s in ("true", "stock", "learned")]
    assert [job.config.seed for job in jobs] == [1, 1, 1, 2, 2, 2]
    assert jobs[1].config.reward == "true" and jobs[1].runner == "stock"
    assert jobs[0].config.hyperparameters["gamma"] == 0.99, "resolved from the table"
    # The options of `true` and `stock` are the same: the runner tells them apart.
    assert len({sha256_of(job) for job in jobs}) == 6
    assert sha256_of(jobs[0]) == sha256_of(plan_jobs(make_spec())[0])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tasks": {"rlhf_gym/PointMas-v0": {}}}, UnknownNameError,
         r"task rlhf_gym/PointMas-v0, setting true.*PointMass-v0"),
        ({"settings": {"odd": {"clip_length": 51}}}, ConfigError,
         rf"task {POINT_MASS}, setting odd.*has 50 steps"),
        ({"settings": {"odd": {"steps": 5}}}, ConfigError, "setting odd.*`steps` is 5"),
        *[
            ({"settings": {"odd": {name: value}}}, error, f"setting odd.*{message}")
            for name, value, error, message in (
                ("teacher", "orakle", UnknownNameError, "oracle"),
                ("teacher", "nowhere:Strict", UnknownNameError, "nowhere"),
                ("teacher", "replay:/nowhere", DataError, "/nowhere"),
                ("preferences", "/nowhere", DataError, "/nowhere"),
                ("acquisition", "unifrm", UnknownNameError, "uniform"),
                ("reward_model", "ensembl", UnknownNameError, "ensemble"),
                ("algo", "pppo", UnknownNameError, "ppo"),
                ("device", "gpu", ConfigError, "`device` is 'gpu'"),
                ("hyperparameters", {"gama": 0.9}, ConfigError, "gama"),
                ("hyperparameters", {"activation_fn": "Tanh"}, ConfigError, "activation_fn"),
                ("hyperparameters", {"policy": "MlpPolcy"}, ConfigError, "MlpPolcy"),
            )
        ],
    ],
)  # fmt: skip
def test_a_run_that_cannot_work_is_refused_before_any_is_made(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_parts(plan_jobs(make_spec(**changes)))


def test_a_record_that_fits_is_read(job: Job, tmp_path: Path) -> None:
    assert read_record(job, tmp_path) == (None, "not made yet")
    write(job, tmp_path, content_of(job))
    record, why = read_record(job, tmp_path)
    assert record is not None and why == ""
    assert (record["true_return_mean"], record["commit"]) == (-5.0, "abc")
    assert record["config"]["labels"] == 40
    assert (record["versions"], record["machine"]) == ({"torch": "1"}, "Z80")


def test_a_record_of_uncommitted_changes_says_so(job: Job, tmp_path: Path) -> None:
    write(job, tmp_path, {**content_of(job), "git": {"commit": "abc", "dirty": True}})
    record, _ = read_record(job, tmp_path)
    assert record is not None and record["commit"] == "abc-dirty"


def test_a_record_outside_of_a_checkout_has_no_commit(job: Job, tmp_path: Path) -> None:
    write(job, tmp_path, {**content_of(job), "git": None})
    record, _ = read_record(job, tmp_path)
    assert record is not None and record["commit"] is None


def test_a_record_of_other_options_does_not_hold_and_says_which(job: Job, tmp_path: Path) -> None:
    write(job, tmp_path, content_of(job))
    config = dataclasses.replace(job.config, labels=41)
    record, why = read_record(dataclasses.replace(job, config=config), tmp_path)
    assert record is None and "`labels: 40`, now 41" in why
    config = dataclasses.replace(
        job.config, hyperparameters={**job.config.hyperparameters, "gamma": 0.5}
    )
    _, why = read_record(dataclasses.replace(job, config=config), tmp_path)
    assert "`hyperparameters.gamma: 0.99`, now 0.5" in why
    _, why = read_record(dataclasses.replace(job, runner="stock"), tmp_path)
    assert "runner train" in why


def test_an_option_that_is_new_since_is_no_difference_at_its_default(
    job: Job, tmp_path: Path
) -> None:
    content = content_of(job)
    del content["config"]["acquisition"], content["config"]["ensemble"]["n_members"]
    write(job, tmp_path, content)
    assert read_record(job, tmp_path)[0] is not None
    config = dataclasses.replace(job.config, acquisition="entropy")
    record, why = read_record(dataclasses.replace(job, config=config), tmp_path)
    assert record is None and "acquisition" in why
    # An option that is gone since: nobody knows what the run would do today.
    content["config"]["vanished"] = None
    write(job, tmp_path, content)
    assert "vanished" in read_record(job, tmp_path)[1]


@pytest.mark.parametrize("name", ["center_rewards", "restart_at"])
def test_a_hyperparameter_that_is_new_since_is_no_difference_at_its_default(
    job: Job, tmp_path: Path, name: str
) -> None:
    content = content_of(job)
    del content["config"]["hyperparameters"][name]
    write(job, tmp_path, content)
    assert read_record(job, tmp_path)[0] is not None
    of_ppo = content_of(job)
    del of_ppo["config"]["hyperparameters"]["gamma"]
    write(job, tmp_path, of_ppo)
    assert "gamma" in read_record(job, tmp_path)[1]


def test_so_it_is_with_those_of_language_models(tmp_path: Path) -> None:
    text = plan_jobs(make_spec(tasks={"rlhf_gym/Sentiment-v0": {}}, settings={"ppo": {}}))[0]
    content = content_of(text)
    hyperparameters = content["config"]["hyperparameters"]
    del hyperparameters["ppo"]["ptx_coef"], hyperparameters["num_layers_unfrozen"]
    hyperparameters["n_completions"] += 1  # the task's usual budget: the run's own is `steps`
    write(text, tmp_path, content)
    record, why = read_record(text, tmp_path)
    assert record is not None, why
    hyperparameters["ppo"]["kl_coef"] += 0.1
    write(text, tmp_path, content)
    assert "kl_coef" in read_record(text, tmp_path)[1]


def test_the_tasks_usual_budget_does_not_matter_beside_the_runs_own(
    job: Job, tmp_path: Path
) -> None:
    content = content_of(job)
    content["config"]["hyperparameters"]["n_timesteps"] = 12345
    write(job, tmp_path, content)
    assert read_record(job, tmp_path)[0] is not None


@pytest.mark.parametrize("runner", ["train", "stock"])
def test_how_learned_rewards_are_scaled_does_not_matter_to_a_stock_run(
    job: Job, tmp_path: Path, runner: Any
) -> None:
    job = dataclasses.replace(job, runner=runner)
    content = content_of(job)
    content["config"]["hyperparameters"]["reward_scale"] = 0.123
    write(job, tmp_path, content)
    record, why = read_record(job, tmp_path)
    assert (record is not None) == (runner == "stock"), why


@pytest.mark.parametrize(
    ("runner", "reward", "counts"),
    [("train", "learned", True), ("train", "true", False), ("stock", "learned", False)],
)
def test_a_restart_matters_to_learned_rewards_only(
    job: Job, tmp_path: Path, runner: Any, reward: Any, counts: bool
) -> None:
    config = dataclasses.replace(job.config, reward=reward)
    job = dataclasses.replace(job, runner=runner, config=config)
    content = content_of(job)
    content["config"]["hyperparameters"]["restart_at"] = 0.123
    write(job, tmp_path, content)
    record, why = read_record(job, tmp_path)
    assert (record is None) == counts, why


@pytest.mark.parametrize(("runner", "counts"), [("train", True), ("stock", False)])
@pytest.mark.parametrize(("name", "value"), [("reward_scale", 0.5), ("center_rewards", True)])
def test_what_only_our_agent_does_to_rewards_makes_no_difference_to_stock(
    job: Job, tmp_path: Path, runner: Any, counts: bool, name: str, value: Any
) -> None:
    job = dataclasses.replace(job, runner=runner)
    content = content_of(job)
    content["config"]["hyperparameters"][name] = value
    write(job, tmp_path, content)
    record, why = read_record(job, tmp_path)
    assert (record is None) == counts, why


def damaged(job: Job, key: str, value: Any) -> dict[str, Any]:
    content = content_of(job)
    content["figures"][key] = value
    return content


@pytest.mark.parametrize("key", ["true_return_mean", "env_steps", "seconds", "steps"])
@pytest.mark.parametrize("value", [None, float("nan"), "5"])
def test_a_figure_that_is_no_number_makes_a_record_damaged(
    job: Job, tmp_path: Path, key: str, value: Any
) -> None:
    write(job, tmp_path, damaged(job, key, value))
    record, why = read_record(job, tmp_path)
    assert record is None and "damaged" in why


def test_damage_is_found_wherever_it_is(job: Job, tmp_path: Path) -> None:
    whole = json.dumps(content_of(job))
    without_curve = damaged(job, "curve", [])
    without_config = {k: v for k, v in content_of(job).items() if k != "config"}
    nan = damaged(job, "curve", [{"env_steps": 1, "true_return_mean": None}])
    episode = damaged(job, "evaluation_returns", [1.0, None])
    for key in set(content_of(job)["figures"]) - {"setting"}:  # which is the job's
        lacking = content_of(job)
        del lacking["figures"][key]
        write(job, tmp_path, lacking)
        assert "damaged" in read_record(job, tmp_path)[1], key
    for config in (None, [1]):
        write(job, tmp_path, {**content_of(job), "config": config})
        assert "damaged" in read_record(job, tmp_path)[1]
    for content in (
        whole[: len(whole) // 2],
        "",
        "[]",
        without_curve,
        without_config,
        nan,
        episode,
    ):
        write(job, tmp_path, content)
        record, why = read_record(job, tmp_path)
        assert record is None and "damaged" in why, content
    for versions in (None, []):
        write(job, tmp_path, {**content_of(job), "versions": versions})
        assert "damaged" in read_record(job, tmp_path)[1]
    write(job, tmp_path, {**content_of(job), "format": 2})
    assert "format 2" in read_record(job, tmp_path)[1]
    write(job, tmp_path, damaged(job, "setting", "called otherwise"))
    record, _ = read_record(job, tmp_path)
    assert record is not None and record["setting"] == job.setting
    write(job, tmp_path, damaged(job, "seed", 2))
    assert "another run" in read_record(job, tmp_path)[1]
