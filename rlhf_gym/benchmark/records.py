"""One run of a benchmark, the file that says how it ended, and whether that file still holds."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_gym.benchmark.spec import BenchmarkSpec, Runner, named, task_slug
from rlhf_gym.config import to_yaml
from rlhf_gym.documents import parse_yaml, read_json
from rlhf_gym.errors import ConfigError
from rlhf_gym.provenance import commit_of
from rlhf_gym.train_config import TrainConfig
from rlhf_gym.training import build_and_close, prepare

__all__ = [
    "RECORD_FORMAT",
    "Job",
    "Record",
    "check_parts",
    "plan_jobs",
    "read_record",
    "resolved",
    "sha256_of",
]

Record = dict[str, Any]
"""The `figures` of a record file, plus `config`, `versions`, `machine` (its processor) and
`commit`, which ends in "-dirty" where the checkout held changes that no commit has."""

RECORD_FORMAT = 1

# The task's usual budget: the run's own is `steps`.
_NO_DIFFERENCE = {"hyperparameters.n_timesteps", "hyperparameters.n_completions"}
# A reward that does not change is learned without a restart, by ours and by stock PPO.
_NO_DIFFERENCE_ON_TRUE_REWARD = {"hyperparameters.restart_at"}
# Stock PPO never sees them: VecNormalize scales its rewards.
_NO_DIFFERENCE_TO_STOCK = {
    "hyperparameters.reward_scale",
    "hyperparameters.center_rewards",
    *_NO_DIFFERENCE_ON_TRUE_REWARD,
}

_FINITE = ("true_return_mean", "true_return_std", "env_steps", "n_labels", "seconds", "steps")
_NUMBER_OR_NONE = (
    "random_return_mean",
    "learned_return_mean",
    "reward_accuracy_heldout",
    "reward_correlation",
)


@dataclass(frozen=True)
class Job:
    """One run."""

    task: str
    setting: str
    seed: int
    runner: Runner
    config: TrainConfig
    """Complete, as resolved against the env."""

    @property
    def label(self) -> str:
        """How people call it."""
        return f"{self.task}, {self.setting}, seed {self.seed}"

    def path(self, out: Path) -> Path:
        """Where its record lies."""
        return out / "runs" / task_slug(self.task) / f"{self.setting}-seed{self.seed}.json"

    def work(self, out: Path) -> Path:
        """Its run folder while it is made; its log lies beside it."""
        return out / "work" / task_slug(self.task) / f"{self.setting}-seed{self.seed}"


def plan_jobs(spec: BenchmarkSpec) -> list[Job]:
    """Every run of a specification, seed by seed, so that all settings progress together.

    Raises:
        ConfigError, UnknownNameError: a task or an option that cannot work, before any run is
            made; the message names task and setting.
    """
    configs = {}
    for task in spec.tasks:
        for setting in spec.settings:
            with named(f"task {task}, setting {setting}"):
                prepared = prepare(spec.config(task, setting, spec.seeds[0]))
                if prepared.is_text and spec.runner(setting) == "stock":
                    raise ConfigError(
                        "the runner `stock` is Stable-Baselines3's PPO, which has no policy for "
                        'texts; take `reward: "true"`, or omit the task.'
                    )
            configs[task, setting] = prepared.config
    return [
        # The seed changes nothing else in a resolved configuration.
        Job(task, setting, seed, spec.runner(setting), dataclasses.replace(config, seed=seed))
        for seed in spec.seeds
        for (task, setting), config in configs.items()
    ]


def check_parts(jobs: Iterable[Job]) -> None:
    """Build what each task and setting asks for, and throw it away.

    Raises:
        ConfigError, UnknownNameError: a part that cannot be built, as a run would find out; the
            message names task and setting.
    """
    seen = set()
    for job in jobs:
        if (job.task, job.setting) not in seen:
            seen.add((job.task, job.setting))
            with named(f"task {job.task}, setting {job.setting}"):
                build_and_close(prepare(job.config))


def resolved(config: TrainConfig) -> dict[str, Any]:
    """A configuration as plain values, as YAML would hold them."""
    mapping: dict[str, Any] = parse_yaml(to_yaml(config), "the options")
    return mapping


def sha256_of(job: Job) -> str:
    """sha256 of everything a run was asked to do, defaults and hyper-parameters included."""
    return hashlib.sha256(f"{job.runner}\n{to_yaml(job.config)}".encode()).hexdigest()


def read_record(job: Job, out: Path) -> tuple[Record | None, str]:
    """The record of a run, or why there is none that holds.

    A record holds while its configuration is the one asked for now. An option that came into
    being since is no difference as long as it has its default.

    Returns:
        The record and "", or None and the reason.
    """
    path = job.path(out)
    if not path.exists():
        return None, "not made yet"
    try:
        content = read_json(path)
        record: Record = {**content["figures"], "config": content["config"]}
        record["commit"] = commit_of(content["git"])
        record["versions"] = dict(content["versions"].items())
        record["machine"] = content["machine"]["cpu"]
        record["setting"] = job.setting  # a copy from a benchmark that calls it otherwise holds
        if content["format"] != RECORD_FORMAT:
            return None, f"its record has format {content['format']}, not {RECORD_FORMAT}"
        _check(record)
        why = _of_another_run(record, job)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return None, f"its record is damaged ({type(error).__name__}: {error})"
    return (None, why) if why else (record, "")


def _of_another_run(record: Record, job: Job) -> str:
    """How a record's run is not the one asked for; "" where it is."""
    if (record["task"], record["seed"]) != (job.task, job.seed):
        return f"its record is of another run, {record['task']}, seed {record['seed']}"
    if record["runner"] != job.runner:
        return f"its record was made by the runner {record['runner']}"
    difference = _difference(record["config"], resolved(job.config), _without_effect(job))
    return f"its record was made with {difference}" if difference else ""


def _without_effect(job: Job) -> Set[str]:
    if job.runner == "stock":
        return _NO_DIFFERENCE | _NO_DIFFERENCE_TO_STOCK
    on_true_reward = job.config.reward == "true"
    return _NO_DIFFERENCE | (_NO_DIFFERENCE_ON_TRUE_REWARD if on_true_reward else set())


def _check(record: Record) -> None:
    """Figures that everything else is computed from."""
    for key in _FINITE:
        if not math.isfinite(record[key]):
            raise ValueError(f"{key} is {record[key]}")
    for key in _NUMBER_OR_NONE:
        if record[key] is not None and not math.isfinite(record[key]):
            raise ValueError(f"{key} is {record[key]}")
    if not record["evaluation_returns"] or not record["curve"]:
        raise ValueError("no evaluation")
    if not all(math.isfinite(value) for value in record["evaluation_returns"]):
        raise ValueError("the return of an episode is not finite")
    if not isinstance(record["config_sha256"], str):
        raise TypeError(f"config_sha256 is {record['config_sha256']!r}")
    if not all(math.isfinite(seconds) for seconds in record["seconds_by_part"].values()):
        raise ValueError("the seconds of a part are not finite")
    for point in record["curve"]:
        if not math.isfinite(point["env_steps"]) or not math.isfinite(point["true_return_mean"]):
            raise ValueError("a point of the curve is not finite")


def _difference(then: Mapping[str, Any], now: Mapping[str, Any], ignored: Set[str]) -> str:
    """The first option that differs; "" where none does."""
    defaults = _flat({**resolved(TrainConfig()), "hyperparameters": _default_hyperparameters()})
    old, new = _flat(then), _flat(now)
    for key in sorted({*old, *new} - ignored):
        if key not in old and key in defaults and new[key] == defaults[key]:
            continue
        if old.get(key) != new.get(key) or (key in old) != (key in new):
            return f"`{key}: {old.get(key)!r}`, now {new.get(key)!r}"
    return ""


def _default_hyperparameters() -> dict[str, Any]:
    """Of both kinds of agents, whose options have no name in common; PPO's own have none here."""
    from rlhf_gym.agents.settings import AgentSettings
    from rlhf_gym.agents.text.agent_settings import TextAgentSettings

    of_control = {
        field.name: field.default
        for field in dataclasses.fields(AgentSettings)
        if field.default is not dataclasses.MISSING
    }
    return {**of_control, **TextAgentSettings().as_mapping()}


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
