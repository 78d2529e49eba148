"""Hyper-parameters per task, as YAML in rl-baselines3-zoo's shape, read without `eval`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from rlhf_gym.config import is_whole
from rlhf_gym.documents import read_yaml
from rlhf_gym.errors import ConfigError, CorruptDataError

__all__ = ["AgentSettings", "align", "load_settings"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "ReLU": nn.ReLU,
    "Tanh": nn.Tanh,
    "ELU": nn.ELU,
    "LeakyReLU": nn.LeakyReLU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
}
_NEEDED_OF_OURS = ("n_envs", "n_timesteps", "normalize", "policy", "reward_scale")
_SWITCHES = ("center_rewards", "restart_at")
_OURS = (*_NEEDED_OF_OURS, *_SWITCHES)
_NEEDED = (*_NEEDED_OF_OURS, "n_steps", "batch_size")
_SCHEDULED = ("learning_rate", "clip_range")


def _within(low: float, high: float, *, open_at_low: bool = False) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return low <= value <= high and math.isfinite(value) and not (open_at_low and value == low)

    return fits


def _is_any_of(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types)


_COUNT = (is_whole, "a whole number of at least 1")
_SHARE = (_within(0, 1), "a number from 0 to 1")
_POSITIVE = (_within(0, math.inf, open_at_low=True), "a number above 0")
_NOT_NEGATIVE = (_within(0, math.inf), "a number of at least 0")

_ACCEPTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("n_envs", "n_steps", "batch_size", "n_epochs"), _COUNT),
    "n_timesteps": (
        lambda value: is_whole(value) or (isinstance(value, float) and value % 1 == 0 < value),
        _COUNT[1],
    ),
    **dict.fromkeys(("gamma", "gae_lambda"), _SHARE),
    **dict.fromkeys(("reward_scale", "max_grad_norm"), _POSITIVE),
    **dict.fromkeys(("ent_coef", "vf_coef"), _NOT_NEGATIVE),
    **dict.fromkeys(
        _SCHEDULED,
        (
            lambda value: isinstance(value, str) or _POSITIVE[0](value),
            "a number above 0, or a linear decay like lin_0.001",
        ),
    ),
    "restart_at": (
        lambda value: value is None or (_POSITIVE[0](value) and value < 1),
        "a share of the run's steps, above 0 and below 1, or null for no restart",
    ),
    "center_rewards": (_is_any_of(bool), "true or false"),
    "policy": (_is_any_of(str), "the name of a policy of SB3's"),
    "normalize": (_is_any_of(bool, dict), "true, false or a mapping"),
    "policy_kwargs": (_is_any_of(dict, type(None)), "a mapping"),
}


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """What an agent needs beyond its env."""

    n_envs: int
    """Environments stepped in parallel, in this process."""
    n_timesteps: int
    """The task's usual budget in env steps, taken where none is asked for."""
    normalize_obs: bool
    """Whether VecNormalize scales observations. Rewards are never scaled by it."""
    policy: str
    """SB3's policy name."""
    reward_scale: float
    """What the reward of deviation 1 is multiplied by: PPO's value network learns discounted sums
    of it, and learns sums near 1 fastest."""
    center_rewards: bool = False
    """Whether the mean of each rollout's rewards is taken off before PPO sees them. Preferences fix
    a reward up to a constant per step, which with a discount near 1 is most of every value (Naik et
    al. 2024, "Reward Centering", with a running mean)."""
    restart_at: float | None = None
    """Share of the run's env steps after which policy and value networks are drawn anew, once: what
    they learned from the first answers stays with them too long (Nikishin et al. 2022, "The Primacy
    Bias in Deep Reinforcement Learning"). Not done on the true reward, which does not change. None:
    never."""
    algorithm: Mapping[str, Any]
    """Keyword arguments of the SB3 algorithm, `policy_kwargs` included."""

    def __post_init__(self) -> None:
        for name in ("n_envs", "n_timesteps"):
            if not is_whole(value := getattr(self, name)):
                raise ConfigError(f"`{name}` is {value!r}; accepted is {_COUNT[1]}.")

    def steps_unit(self, horizon: int | None) -> int:
        """Env steps of whole rollouts and, if eight rollouts suffice, of whole episodes."""
        n_steps = int(self.algorithm["n_steps"])
        rollouts = math.lcm(n_steps, horizon) // n_steps if horizon else 1
        return n_steps * self.n_envs * (rollouts if rollouts <= 8 else 1)

    def as_mapping(self) -> dict[str, Any]:
        """Back to the table's shape, plain values only."""
        policy_kwargs = dict(self.algorithm["policy_kwargs"])
        if "activation_fn" in policy_kwargs:
            policy_kwargs["activation_fn"] = policy_kwargs["activation_fn"].__name__
        schedules = {
            name: f"lin_{value.start}"
            for name, value in self.algorithm.items()
            if isinstance(value, LinearSchedule)
        }
        return {
            "n_envs": self.n_envs,
            "n_timesteps": self.n_timesteps,
            "normalize": self.normalize_obs,
            "policy": self.policy,
            "reward_scale": self.reward_scale,
            "center_rewards": self.center_rewards,
            "restart_at": self.restart_at,
            **self.algorithm,
            **schedules,
            "policy_kwargs": policy_kwargs,
        }


def load_settings(
    algo: str, env_id: str, overrides: Mapping[str, Any] | None = None, path: Path | None = None
) -> AgentSettings:
    """The settings of one task from the shipped table, or from a file of the caller's.

    Args:
        algo: "ppo"; names the shipped table.
        env_id: Looked up whole; where it is missing, `default` serves.
        overrides: Replace single entries; a whole mapping, as `as_mapping` gives it, leads to the
            settings that it came from.
        path: A YAML file of the same shape instead of the shipped one.

    Raises:
        ConfigError: the file, or an entry, cannot be read; the message names it.
    """
    source = path or Path(str(resources.files("rlhf_gym.agents") / f"{algo}.yml"))
    try:
        table = read_yaml(source)
    except (OSError, CorruptDataError) as error:
        raise ConfigError(f"cannot read the settings in {source}: {error}") from error
    entry = table.get(env_id, table.get("default")) if isinstance(table, dict) else None
    if not isinstance(entry, dict):
        raise ConfigError(
            f"{source} has no mapping for {env_id!r} and no `default`; it must map env ids to "
            "settings in rl-baselines3-zoo's shape."
        )
    overrides = overrides or {}
    if set(_NEEDED) <= set(overrides):  # resolved before; earlier versions left out what is off
        entry = {name: value for name, value in entry.items() if name not in _SWITCHES}
    return _parse({**entry, **overrides}, f"{source.name}: {env_id}")


def _parse(entry: dict[str, Any], where: str) -> AgentSettings:
    missing = [name for name in _NEEDED if name not in entry]
    if missing:
        raise ConfigError(f"{where} lacks {missing}; every task needs {list(_NEEDED)}.")
    _check_values(entry, where)
    algorithm = {name: value for name, value in entry.items() if name not in _OURS}
    policy_kwargs = dict(algorithm.get("policy_kwargs") or {})
    activation = policy_kwargs.get("activation_fn")
    if activation is not None:
        if activation not in _ACTIVATIONS:
            raise ConfigError(
                f"{where} has `activation_fn: {activation}`; accepted are {sorted(_ACTIVATIONS)}."
            )
        policy_kwargs["activation_fn"] = _ACTIVATIONS[activation]
    algorithm["policy_kwargs"] = policy_kwargs
    for name in _SCHEDULED:
        if isinstance(text := algorithm.get(name), str):
            algorithm[name] = _linear(name, text, where)
    return AgentSettings(
        n_envs=entry["n_envs"],
        n_timesteps=int(entry["n_timesteps"]),
        normalize_obs=_normalizes_obs(entry["normalize"], where),
        policy=entry["policy"],
        reward_scale=float(entry["reward_scale"]),
        center_rewards=entry.get("center_rewards", False),
        restart_at=entry.get("restart_at"),
        algorithm=algorithm,
    )


def _normalizes_obs(normalize: bool | Mapping[str, Any], where: str) -> bool:
    """rl-zoo's `normalize`, as a whole or by part."""
    if isinstance(normalize, bool):
        return normalize
    for name, value in normalize.items():
        if name not in ("norm_obs", "norm_reward") or not isinstance(value, bool):
            raise ConfigError(
                f"{where} has `{name}: {value!r}` within `normalize`; accepted there are "
                "`norm_obs` and `norm_reward`, each true or false."
            )
    if normalize.get("norm_reward"):
        raise ConfigError(
            f"{where} asks for `norm_reward: true`; set it to false: the learned reward is "
            "scaled once per fit, by the reward model."
        )
    return bool(normalize.get("norm_obs", True))


def _linear(name: str, text: str, where: str) -> LinearSchedule:
    """rl-zoo's `lin_0.001`: from 0.001 in equal steps to 0 over the whole run."""
    try:
        start = float(text.removeprefix("lin_"))
    except ValueError:
        start = math.nan
    if not (text.startswith("lin_") and math.isfinite(start) and start > 0):
        raise ConfigError(
            f"{where} has `{name}: {text!r}`; accepted are a number (nothing is evaluated; YAML "
            "reads 1e-3 as text, write 1.0e-3) and a linear decay like `lin_0.001`."
        )
    return LinearSchedule(start, 0.0, 1.0)


def _check_values(entry: Mapping[str, Any], where: str) -> None:
    """Refuse what cannot mean anything, values that rl-zoo would have evaluated among it."""
    for name, (fits, accepted) in _ACCEPTED.items():
        if name in entry and not fits(value := entry[name]):
            hint = " (nothing is evaluated; YAML reads 1e-3 as text, write 1.0e-3)"
            raise ConfigError(
                f"{where} has `{name}: {value!r}`; accepted is {accepted}"
                f"{hint if isinstance(value, str) else ''}."
            )


def align(
    settings: AgentSettings, horizon: int | None, fixed: Collection[str] = ()
) -> AgentSettings:
    """Make rollouts and episodes fit each other, so that a round can hold whole ones of both.

    `n_steps` becomes the nearest divisor or multiple of the horizon within a factor of two (or
    stays), `batch_size` the largest divisor of the rollout that is not above it and not below half
    of it (or stays). What stands in `fixed` is left alone: somebody chose it.
    """
    n_steps = settings.algorithm["n_steps"]
    if horizon and "n_steps" not in fixed:
        low, high = (n_steps + 1) // 2, 2 * n_steps
        fitting = [n for n in range(low, high + 1) if horizon % n == 0 or n % horizon == 0]
        n_steps = min(fitting, key=lambda n: (abs(n - n_steps), n), default=n_steps)
    rollout = n_steps * settings.n_envs
    batch_size = settings.algorithm["batch_size"]
    if "batch_size" not in fixed:
        wanted = min(batch_size, rollout)
        sizes = range(wanted, wanted // 2, -1)
        batch_size = next((size for size in sizes if rollout % size == 0), batch_size)
    algorithm = {**settings.algorithm, "n_steps": n_steps, "batch_size": batch_size}
    return dataclasses.replace(settings, algorithm=algorithm)
