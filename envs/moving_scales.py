"""Wrappers inside an env's id that make its numbers mean something else from step to step.

They are known by their class along the chain of wrappers, or by the running statistics that such
wrappers keep by convention (`return_rms`, `obs_rms`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import gymnasium as gym

from rlhf_gym.errors import ConfigError

__all__ = ["UnstableScaleWarning", "scale_warnings"]

_REMOVE = "take it out of the env that the id makes"


class UnstableScaleWarning(UserWarning):
    """A wrapper inside the env makes true rewards, observations or logs hard to compare."""


def scale_warnings(env: gym.Env[Any, Any]) -> tuple[str, ...]:
    """What wrappers of an env's own would do to training, one sentence or two each.

    Args:
        env: As it is handed to `hide_reward`; a Monitor that is its outermost wrapper is ours.

    Raises:
        ConfigError: a Monitor inside that the first reset would stop at.
    """
    found = [_about(layer) for layer in _inside(env)]
    return tuple(text for text in found if text)


def _inside(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    layer = env.env if _is_monitor(env) and isinstance(env, gym.Wrapper) else env
    while isinstance(layer, gym.Wrapper):
        yield layer
        layer = layer.env


def _about(layer: gym.Env[Any, Any]) -> str | None:
    name, own = type(layer).__name__, vars(layer)  # `getattr` may look into the env below
    if own.get("_update_running_mean") is False:  # statistics that stand still are one scale
        return None
    if _is_a(layer, "NormalizeReward") or "return_rms" in own:
        return (
            f"{name} inside the env divides rewards by a deviation that it measures as it goes, in "
            "each copy of the env anew: teachers, the yardstick and true returns would each "
            f"measure on another, moving scale. For figures that can be compared, {_REMOVE}; "
            "nothing is lost, since the learned reward is scaled by the reward model."
        )
    if _is_a(layer, "NormalizeObservation") or "obs_rms" in own:
        return (
            f"{name} inside the env shifts and scales observations by statistics of its own in "
            "each copy: evaluation begins without them, and clips of one state differ from day to "
            f"day. For an agent that does elsewhere what it learned, {_REMOVE}; agents normalise "
            "observations themselves (`normalize: true`, or VecNormalize)."
        )
    if _is_a(layer, "RewardReplacer"):
        return (
            f"{name} inside the env replaces its reward: evaluations and the yardstick would "
            f"measure on that and not on the task's. To measure the task, {_REMOVE}; training "
            "hides the reward itself."
        )
    if _is_monitor(layer):
        return _about_monitor(layer)
    return None


def _about_monitor(monitor: Any) -> str | None:
    """A plain second Monitor does no harm: the outer one writes the same figures over its own."""
    if not monitor.allow_early_resets or monitor.reset_keywords:
        option = "reset_keywords" if monitor.reset_keywords else "allow_early_resets=False"
        raise ConfigError(
            f"the env holds a Monitor with `{option}`, which stops at the first reset that a time "
            f"limit or a new round of training asks for; {_REMOVE}: one stands outside of it."
        )
    if monitor.results_writer is None:
        return None
    return (
        f"the env holds a Monitor that writes {monitor.results_writer.file_handler.name}: every "
        "copy of the env writes that file over, and an episode that the time limit ends is not in "
        f"it. For a file of all episodes, {_REMOVE}, and read the run's metrics.jsonl or put "
        "Monitor outside."
    )


def _is_a(layer: gym.Env[Any, Any], class_name: str) -> bool:
    """Also the forms for vectors and those of other packages, which share nothing but the name."""
    return any(kind.__name__ == class_name for kind in type(layer).__mro__)


def _is_monitor(layer: gym.Env[Any, Any]) -> bool:
    module = sys.modules.get("stable_baselines3.common.monitor")  # else nobody has made one
    return module is not None and isinstance(layer, module.Monitor)
