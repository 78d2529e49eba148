"""Every option of a training run, with its one text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rlhf_gym.config import from_yaml, is_whole
from rlhf_gym.documents import read_json
from rlhf_gym.errors import ConfigError, SchemaError
from rlhf_gym.feedback.settings import RewardModelSettings
from rlhf_gym.runs import Run, is_run
from rlhf_gym.trust import require_trust

__all__ = ["TrainConfig", "check_config_file", "read_run_config"]

_IMPORT_STRING = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\S*")

_MOST = 10**12


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train an agent from preferences."""

    env: str = "rlhf_gym/HalfCheetah-v0"
    """Any Gymnasium id; `module:id` imports the module that registers it."""
    obs_keys: tuple[str, ...] = ()
    """The keys of a Dict observation to learn from; default: all. Nested ones are flattened."""
    horizon: int | None = None
    """Steps per episode, in place of the env's own time limit, or where it has none."""
    algo: str = "ppo"
    """The agent: ppo; on texts also dpo; or an own one as `module:attribute`."""
    model: str | None = None
    """On texts: the language model to start from, a folder or a name; default: a tiny new one."""
    max_new_tokens: int | None = None
    """On texts: tokens of the longest completion, EOS included; default: what the task's longest
    text needs under the model's tokenizer."""
    teacher: str = "synthetic"
    """Who answers: human (through `rlhf-gym label`), synthetic (= oracle), mistake, noisy, skip,
    myopic, equal, knobs like `eps_mistake=0.3`, `replay:FOLDER` (the answers recorded there), or
    `module:attribute`."""
    acquisition: str = "uniform"
    """Which pairs are asked about: uniform, disagreement, entropy, or `module:attribute`."""
    reward_model: str = "ensemble"
    """What learns the reward: ensemble, or `module:attribute`."""
    labels: int = 700
    """Answers in the whole run."""
    steps: int | None = None
    """Env steps in the whole run, warm-up included, evaluation not; default: the task's own."""
    seed: int = 0
    """Root seed, 0 or more: everything random derives from it."""
    reward: Literal["learned", "true"] = "learned"
    """What the agent is trained on; `true` is the yardstick, by the same code."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto keeps small networks on the CPU."""
    rounds: int = 40
    """How often new questions are asked and the reward model is fitted; fewer where the steps do
    not allow as many."""
    clip_length: int | None = None
    """Steps per clip; default: 50, or two fifths of an episode where that is less."""
    initial_labels: float = 0.25
    """Share of the answers given to warm-up experience, in (0, 1]."""
    label_slack: float = 0.2
    """With people: share of the scheduled answers that a round does not wait for, in [0, 1); the
    last round waits for all of them."""
    wait: bool = True
    """With people: whether rounds after the first wait for answers at all. Without waiting the last
    round asks nothing: it fits the reward to what came, and trains the agent on it."""
    record_pictures: bool = False
    """Take pictures while acting, if clips cannot be drawn later: the env has no simulator state.
    With `--teacher human` that is done in any case."""
    answers_per_query: int = 1
    """With people: labellers who are to answer each pair; `labels` counts answers, not pairs."""
    pooling: Literal["none", "dawid-skene"] = "none"
    """With several labellers per pair: none trains on each answer, dawid-skene on one soft label
    per pair in which a labeller counts as far as the others bear them out."""
    preferences: str | None = None
    """A run or store whose answers are given from the start, beside `labels` new ones."""
    label_schedule: Literal["hyperbolic", "constant"] = "hyperbolic"
    """Whether later rounds ask fewer questions, in proportion to 1 / (1 + 3 progress)."""
    warm_up: float = 0.05
    """Share of the steps taken at random before the first question, in (0, 0.5]; more where the
    first questions need more clips."""
    eval_episodes: int = 2
    """Evaluation episodes after each round."""
    final_episodes: int = 20
    """Evaluation episodes at the end."""
    threads: int = 1
    """torch threads; results depend on their number bit by bit."""
    allow_variable_horizon: bool = False
    """Whether episodes that end early pass without a warning."""
    ensemble: RewardModelSettings = field(default_factory=RewardModelSettings)
    """The default reward model."""
    hyperparameters: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """The agent's settings in rl-baselines3-zoo's shape; what is absent comes from the table."""
    env_kwargs: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """Passed to `gymnasium.make` and the env's constructor."""

    def __post_init__(self) -> None:
        for name, low in (
            ("labels", 0), ("steps", 1), ("seed", 0), ("rounds", 1), ("clip_length", 1),
            ("answers_per_query", 1), ("eval_episodes", 1), ("final_episodes", 1), ("threads", 1),
            ("horizon", 1), ("max_new_tokens", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if name != "seed" and is_whole(value) and value > _MOST:
                raise ConfigError(
                    f"`{name}` is {value:,}; at most {_MOST:,} is accepted, more than anybody can "
                    f"wait for (--{name.replace('_', '-')})."
                )
            if value is not None and not is_whole(value, low):
                raise ConfigError(
                    f"`{name}` is {value!r}; a whole number of at least {low} is needed "
                    f"(--{name.replace('_', '-')})."
                )
        if not 0 < self.initial_labels <= 1 or not 0 < self.warm_up <= 0.5:
            raise ConfigError(
                f"`initial_labels` ({self.initial_labels}) must lie in (0, 1] and `warm_up` "
                f"({self.warm_up}) in (0, 0.5]."
            )
        if self.labels == 0 and self.preferences is None and self.reward == "learned":
            raise ConfigError(
                "`labels` is 0 and no `preferences` are given: there is nothing to learn a reward "
                "from; ask for at least 1 answer (--labels 700), or name a run or store with "
                "answers (--preferences DIR)."
            )
        if self.labels % self.answers_per_query or (
            self.answers_per_query > 1 and self.teacher != "human"
        ):
            raise ConfigError(
                f"`answers_per_query` is {self.answers_per_query}; it must divide `labels` "
                f"({self.labels}), and needs several people: `--teacher human` (now "
                f"{self.teacher})."
            )
        alone = ":" not in self.teacher and self.teacher != "human" and self.preferences is None
        if self.pooling != "none" and alone:
            raise ConfigError(
                f"`pooling` is {self.pooling}, which weighs several labellers of one pair, and "
                f"`--teacher {self.teacher}` is one; leave it at none."
            )
        for name, mine in (
            ("horizon", "max_episode_steps"),
            ("obs_keys", "obs_keys"),
            ("max_new_tokens", "max_new_tokens"),
        ):
            if getattr(self, name) and mine in self.env_kwargs:
                raise ConfigError(
                    f"`{name}` is {getattr(self, name)} and `env_kwargs` holds `{mine}: "
                    f"{self.env_kwargs[mine]}`; both say the same thing, keep `{name}`."
                )

    def make_env_kwargs(self) -> dict[str, Any]:
        """What `make_env` takes as `env_kwargs`: those of the config, with horizon, keys and T."""
        kwargs = dict(self.env_kwargs)
        if self.horizon is not None:
            kwargs["max_episode_steps"] = self.horizon
        if self.obs_keys:
            kwargs["obs_keys"] = self.obs_keys
        if self.max_new_tokens is not None:
            kwargs["max_new_tokens"] = self.max_new_tokens
        return kwargs

    def named_modules(self) -> dict[str, str]:
        """Everything here that makes Python import a module: option -> import string.

        An env's own arguments count where they read like one, for who takes them may import them.
        """
        parts = {name: getattr(self, name) for name in ("algo", "reward_model", "acquisition")}
        if not self.teacher.startswith("replay:"):
            parts["teacher"] = self.teacher
        named = {name: text for name, text in {"env": self.env, **parts}.items() if ":" in text}
        for name in ("env_kwargs", "hyperparameters"):
            named |= dict(_import_strings(getattr(self, name), name))
        return named


def _import_strings(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Everything within a setting that reads like `module:attribute`, with where it stands."""
    seen: set[int] = set()  # YAML's aliases may repeat a part at will, or put it into itself
    waiting = [(where, value)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, str):
            if _IMPORT_STRING.fullmatch(value):
                yield where, value
        elif isinstance(value, Mapping | Sequence) and id(value) not in seen:
            seen.add(id(value))
            entries: Iterable[tuple[Any, Any]]
            entries = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting += [(f"{where}.{key}", entry) for key, entry in entries]


def check_config_file(path: Path, options: TrainConfig) -> None:
    """Refuse what the config.yaml of somebody else's run names; other files are the user's word.

    Args:
        path: The file after `--config`.
        options: Those that are to be trained with: flags may have replaced what the file names.

    Raises:
        UntrustedError: it lies in a run that was not made here, and names modules.
    """
    run = Run(path.resolve().parent)
    if is_run(run.folder) and path.resolve() == run.config_path:
        theirs = from_yaml(TrainConfig, path).named_modules()
        named = options.named_modules()
        require_trust(run, dict(theirs.items() & named.items()))


def read_run_config(run: Run, *, trust: bool = False) -> TrainConfig:
    """The options that a run was made with.

    Args:
        run: The run.
        trust: Read them even where they name modules and the run was not made here: whoever trains,
            evaluates or watches with them runs these modules.

    Raises:
        ConfigError: its config.yaml is malformed, or somebody wrote another option into it.
        SchemaError: the same, and another version of rlhf_gym made the run.
        UntrustedError: they name modules, the run was not made here, and `trust` is False.
    """
    config = _read(run)
    if not trust:
        require_trust(run, config.named_modules())
    return config


def _read(run: Run) -> TrainConfig:
    try:
        return from_yaml(TrainConfig, run.config_path)
    except ConfigError as error:
        made_by, here = _version_of(run), version("rlhf_gym")
        if made_by in (None, here):
            raise
        raise SchemaError(
            f"{run.folder} was made by rlhf_gym {made_by}, this is {here}, and its options cannot "
            f"be read ({error}) Take rlhf_gym {made_by} for this run."
        ) from error


def _version_of(run: Run) -> str | None:
    try:
        found = read_json(run.folder / "provenance.json")["versions"]["rlhf_gym"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(found)
