"""Whose error it is: read from where it was raised, never from what else happens to be set."""

from __future__ import annotations

import sys

import gymnasium as gym

__all__ = ["is_about_contract", "is_renderers", "raised_in"]

_RENDERERS = ("mujoco", "OpenGL", "glfw", "gymnasium.envs.mujoco.mujoco_rendering")

# What calls an env's methods and takes its answers apart, without code of the env's own.
_CALLERS = (
    "gymnasium.core",
    "gymnasium.envs.registration",
    "gymnasium.utils",
    "gymnasium.wrappers",
    "rlhf_gym.envs.contract",
    "rlhf_gym.envs.make",
    "stable_baselines3.common.monitor",
)


def raised_in(error: BaseException) -> list[str]:
    """The modules that an error passed through, from the one that caught it to its origin."""
    modules, entry = [], error.__traceback__
    while entry is not None:
        modules.append(str(entry.tb_frame.f_globals.get("__name__", "")))
        entry = entry.tb_next
    return modules


def is_renderers(error: BaseException) -> bool:
    """Whether an error comes from MuJoCo's way to OpenGL: while it is imported, or draws.

    An env's own error does not, whatever `MUJOCO_GL` says and whatever is imported.
    """
    if type(error).__name__ == "FatalError" and "OpenGL" in str(error):  # raised in C: no frame
        return True
    # ctypes and importlib only carry out what the renderer asked for.
    modules = [m for m in raised_in(error) if m.partition(".")[0] not in sys.stdlib_module_names]
    return bool(modules) and _lies_in(modules[-1], _RENDERERS)


def is_about_contract(error: BaseException) -> bool:
    """Whether Gymnasium, not the env's own code, tripped over what an env takes or returns."""
    kinds = (TypeError, ValueError, AttributeError, AssertionError, gym.error.Error)
    if not isinstance(error, kinds) or isinstance(error, gym.error.ResetNeeded):
        return False
    # Gymnasium raises a constructor's TypeError anew, from the first.
    modules = raised_in(error) + (raised_in(error.__cause__) if error.__cause__ else [])
    return all(_lies_in(module, _CALLERS) for module in modules)


def _lies_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
