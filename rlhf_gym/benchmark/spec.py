"""What a benchmark measures: tasks x settings x seeds, read from YAML and checked at once."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rlhf_gym.config import from_mapping, from_yaml, is_whole
from rlhf_gym.errors import ConfigError, RlhfGymError
from rlhf_gym.train_config import TrainConfig

__all__ = ["BenchmarkSpec", "Overrides", "Runner", "load_spec", "named", "task_slug"]

Runner = Literal["train", "stock"]
Overrides = Mapping[str, Any]

_OPTIONS = tuple(f.name for f in dataclasses.fields(TrainConfig) if f.name not in ("env", "seed"))

# What plain PPO takes of them. Those of a task go to all of its settings, and are not looked at.
_OF_STOCK = (
    "runner", "reward", "algo", "steps", "rounds", "eval_episodes", "final_episodes", "threads",
    "device", "horizon", "obs_keys", "env_kwargs", "hyperparameters",
)  # fmt: skip


def task_slug(env_id: str) -> str:
    """The short name of a task's files.

    >>> task_slug("rlhf_gym/HalfCheetah-v0"), task_slug("my.envs:Robot-Arm-v12")
    ('halfcheetah', 'robot-arm')
    """
    task = env_id.rpartition(":")[2].rpartition("/")[2]
    return re.sub(r"-v\d+$", "", task).lower()


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec:
    """Tasks x settings x seeds, and what the results are compared with.

    Overrides are options of `TrainConfig` by name; a setting's win over a task's, and nested
    mappings (`hyperparameters`, `ensemble`, `env_kwargs`) are merged key by key.

    Raises:
        ConfigError: a list is empty or repeats an entry, a name cannot be one, an option is
            unknown or refused by `TrainConfig`, people would be asked, or a reference learns its
            reward; the message names task and setting.
    """

    name: str
    """Names the folder of the results."""
    tasks: Mapping[str, Overrides]
    """Env id -> overrides. A list of ids is taken too, whatever a type checker says, as ids without
    any."""
    settings: Mapping[str, Overrides]
    """Name -> overrides, plus `runner`: "train" (default), or "stock" for plain SB3 PPO on the
    true reward."""
    seeds: tuple[int, ...]
    """Root seeds, each of every task and setting; a list or a range is taken too."""
    reference: tuple[str, ...] = ()
    """Settings on the true reward; a task's fractions have the better of them (by mean) below the
    line. None: no fractions."""
    headline: tuple[str, ...] = ()
    """Tasks the aggregate is taken over; default: all that count."""
    workers: int = 1
    """Runs at once, each in a process of its own."""

    def __post_init__(self) -> None:
        self._make_plain()
        for name in ("tasks", "settings", "seeds"):
            if not getattr(self, name):
                raise ConfigError(f"`{name}` is empty; a benchmark needs at least one entry there.")
        for kind, names in (("name", [self.name]), ("settings", list(self.settings))):
            for name in names:
                if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                    raise ConfigError(
                        f"`{kind}`: {name!r} is part of a file's name; take letters, digits, dots, "
                        "dashes and underscores, and begin with a letter or digit."
                    )
        for name in ("seeds", "reference", "headline"):
            _refuse_repeats(name, getattr(self, name))
        if not is_whole(self.workers):
            raise ConfigError(f"`workers` is {self.workers!r}; at least 1 is needed.")
        _check_known("reference", self.reference, self.settings)
        _check_known("headline", self.headline, self.tasks)
        self._check_slugs()
        for task, overrides in self.tasks.items():
            _check_options(f"tasks: {task}", overrides, _OPTIONS)
        for setting, overrides in self.settings.items():
            _check_options(f"settings: {setting}", overrides, (*_OPTIONS, "runner"))
            if self.runner(setting) == "stock":
                _refuse_unused(setting, overrides)
        for task in self.tasks:
            envs = {s: _env_arguments(self.config(task, s, self.seeds[0])) for s in self.settings}
            if self.reference:
                _refuse_other_envs(task, envs, self.reference[0])
                self._refuse_learned_references(task)

    def _make_plain(self) -> None:
        """Take what a caller would write, a list of ids or a range of seeds, and keep one kind."""
        tasks: Any = self.tasks
        if isinstance(tasks, str) or not isinstance(tasks, Iterable):
            raise ConfigError(
                f"`tasks` is {tasks!r}; accepted is a list of env ids, or a mapping of ids to "
                "overrides."
            )
        if not isinstance(tasks, Mapping):
            _refuse_repeats("tasks", tasks := list(tasks))
        if not isinstance(self.settings, Mapping):
            raise ConfigError(
                f"`settings` is {self.settings!r}; accepted is a mapping of names to overrides."
            )
        entries = tasks.items() if isinstance(tasks, Mapping) else [(task, None) for task in tasks]
        object.__setattr__(self, "tasks", _plain_overrides("tasks", entries))
        settings = _plain_overrides("settings", self.settings.items())
        object.__setattr__(self, "settings", settings)
        for name in ("seeds", "reference", "headline"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise ConfigError(f"`{name}` is {value!r}; accepted is a list.")
            object.__setattr__(self, name, tuple(value))
        for name in ("reference", "headline"):
            _require_names(name, getattr(self, name))
        _require_names("name", [self.name])
        _check_seeds(self.seeds)
        object.__setattr__(self, "seeds", tuple(map(int, self.seeds)))  # numpy's are no JSON

    def runner(self, setting: str) -> Runner:
        """What makes a setting's runs."""
        runner: Runner = self.settings[setting].get("runner", "train")
        if runner not in get_args(Runner):
            raise ConfigError(
                f"settings: {setting}: `runner` is {runner!r}; accepted are train and stock."
            )
        return runner

    def config(self, task: str, setting: str, seed: int) -> TrainConfig:
        """The options of one run, not yet resolved against its env."""
        overrides = _merged(self.tasks[task], self.settings[setting])
        runner = overrides.pop("runner", "train")
        where = f"task {task}, setting {setting}"
        if runner == "stock":
            for option, only in (("reward", "true"), ("algo", "ppo")):
                if overrides.setdefault(option, only) != only:
                    raise ConfigError(
                        f"{where}: `{option}` is {overrides[option]!r}; the runner `stock` is "
                        f"plain PPO on the true reward: omit `{option}`."
                    )
        with named(where):
            config = from_mapping(TrainConfig, {**overrides, "env": task, "seed": seed}, "options")
            if config.teacher == "human" and config.reward == "learned":
                raise ConfigError(
                    "`teacher` is human, and a benchmark asks nobody; give a synthetic teacher, "
                    "or the folder of a run that people answered: `teacher: replay:FOLDER`."
                )
        return config

    def _refuse_learned_references(self, task: str) -> None:
        for setting in self.reference:
            if (found := self.config(task, setting, self.seeds[0]).reward) != "true":
                raise ConfigError(
                    f"`reference` names {setting}, whose `reward` on {task} is {found!r}; a "
                    'fraction is of what the true reward brings: give it `reward: "true"` or '
                    "`runner: stock`, or leave `reference` out."
                )

    def _check_slugs(self) -> None:
        """Two tasks whose files would have the same names."""
        slugs: dict[str, str] = {}
        for task in self.tasks:
            other = slugs.setdefault(task_slug(task), task)
            if other != task:
                raise ConfigError(
                    f"`tasks`: the files of {task} and {other} would have the same name, "
                    f"{task_slug(task)!r}; measure one of them with a specification of its own."
                )


@dataclass(frozen=True)
class _SpecFile:
    """The same as it stands in YAML."""

    name: str | None = None
    tasks: object = None
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    reference: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    workers: int = 1


def load_spec(path: Path) -> BenchmarkSpec:
    """Read a specification; its `name` defaults to the file's stem.

    Raises:
        ConfigError: the file is missing or malformed, a key unknown at any level, or a value
            refused; the message names file, key and value.
    """
    file = from_yaml(_SpecFile, path, names=("tasks", "settings", "reference", "headline"))
    with named(str(path)):
        return BenchmarkSpec(
            name=file.name or path.stem,
            tasks=file.tasks or {},  # type: ignore[arg-type]  # looked at there
            settings=file.settings,
            seeds=file.seeds,
            reference=file.reference,
            headline=file.headline,
            workers=file.workers,
        )


@contextlib.contextmanager
def named(where: str) -> Iterator[None]:
    """Put where an error comes from before its message; the error keeps its class."""
    try:
        yield
    except RlhfGymError as error:
        raise type(error)(f"{where}: {error}") from error


def _plain_overrides(where: str, entries: Iterable[tuple[Any, Any]]) -> dict[str, dict[str, Any]]:
    plain: dict[str, dict[str, Any]] = {}
    for name, overrides in entries:
        _require_names(where, [name])
        if overrides is not None and not isinstance(overrides, Mapping):
            raise ConfigError(
                f"`{where}`: {name} must be a mapping of options ({{}} for none), found "
                f"{overrides!r}."
            )
        options = dict(overrides or {})
        _require_names(f"{where}: {name}", options)
        if isinstance(reward := options.get("reward"), bool):  # YAML's reading of `reward: true`
            options["reward"] = str(reward).lower()
        plain[name] = options
    return plain


def _require_names(where: str, names: Iterable[Any]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(
                f"`{where}` holds {name!r}, which is no name; give text. Options stand in a "
                "mapping, without dashes before the names."
            )


def _merged(below: Overrides, above: Overrides) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _check_options(where: str, overrides: Overrides, known: Sequence[str]) -> None:
    for key in overrides:
        if key in ("env", "seed"):
            raise ConfigError(
                f"{where}: `{key}` cannot be overridden; list it under "
                f"`{'tasks' if key == 'env' else 'seeds'}`."
            )
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else f" Accepted are {list(known)}."
            raise ConfigError(f"{where}: unknown option `{key}`.{hint}")


def _refuse_unused(setting: str, overrides: Overrides) -> None:
    if unused := [key for key in overrides if key not in _OF_STOCK]:
        raise ConfigError(
            f"settings: {setting}: the runner `stock`, plain PPO on the true reward, does not use "
            f"`{'`, `'.join(unused)}`; omit {'it' if len(unused) == 1 else 'them'}."
        )


def _env_arguments(config: TrainConfig) -> dict[str, Any]:
    """What the true return depends on; keys of an observation only change what is seen."""
    return {k: v for k, v in config.make_env_kwargs().items() if k != "obs_keys"}


def _refuse_other_envs(task: str, envs: Mapping[str, dict[str, Any]], reference: str) -> None:
    for setting, arguments in envs.items():
        if arguments != envs[reference]:
            raise ConfigError(
                f"task {task}: setting {setting} makes another env ({arguments or 'as it is'}) "
                f"than {reference} ({envs[reference] or 'as it is'}), and its returns would be no "
                "fraction of the reference's; give `horizon` and `env_kwargs` to the task, or "
                "leave `reference` out."
            )


def _check_known(where: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise ConfigError(f"`{where}` names {name!r}; accepted are {list(known)}.{hint}")


def _refuse_repeats(where: str, values: Sequence[Any]) -> None:
    repeated = sorted({str(value) for value in values if list(values).count(value) > 1})
    if repeated:
        raise ConfigError(
            f"`{where}` is {list(values)} and repeats {', '.join(repeated)}; list each once: a "
            "repeated run is the same run, not another sample."
        )


def _check_seeds(seeds: Sequence[int]) -> None:
    for seed in seeds:
        if not is_whole(seed, 0) or seed >= 2**63:  # runs.parquet has 64 bits for it
            raise ConfigError(
                f"`seeds` holds {seed!r}; whole numbers from 0 to 2**63 - 1 are needed."
            )
