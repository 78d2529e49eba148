"""Make an env by its id, ready for preferences, with one clear error where that cannot be."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator

from rlhf_gym.envs.blame import is_about_contract, is_renderers
from rlhf_gym.envs.preference_ready import (
    check_horizon,
    check_obs_keys,
    horizon_of,
    make_preference_ready,
)
from rlhf_gym.envs.sim_state import missing_renderer
from rlhf_gym.errors import (
    CannotDrawError,
    ConfigError,
    MissingDependencyError,
    RlhfGymError,
    UnknownNameError,
)
from rlhf_gym.protocols import SpaceInfo

__all__ = [
    "env_table",
    "is_text_env",
    "make_env",
    "plain_spaces",
    "space_info",
]

_NAMESPACE = "rlhf_gym"

# What to install for a module, where pip knows it by another name.
_PIP_NAMES = {
    "ale_py": "ale-py",
    "Box2D": '"gymnasium[box2d]"',
    "cv2": '"gymnasium[other]"',
    "gymnasium_robotics": "gymnasium-robotics",
    "highway_env": "highway-env",
    "jax": '"gymnasium[jax]"',
    "mujoco": '"gymnasium[mujoco]"',
    "pygame": "pygame-ce",
    "shimmy": '"shimmy[dm-control]"',
}


def make_env(
    env_id: str,
    *,
    render_mode: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> gym.Env[Any, Any]:
    """Make any Gymnasium env and pass it through `make_preference_ready`.

    All that distinguishes one env of an id from another lies in `env_kwargs`, so that whoever
    passes it on makes the same env.

    Args:
        env_id: A registered id with its version, or `module:Id-v0`, which imports the module that
            registers the id first.
        render_mode: As in `gymnasium.make`, e.g. "rgb_array".
        env_kwargs: Further arguments of `gymnasium.make` and of the env's constructor, e.g.
            `{"max_episode_steps": 200}`, which replaces the env's own time limit. `obs_keys` is
            taken out and given to `make_preference_ready`.

    Returns:
        The env. It returns the task's true reward; hide it with `hide_reward`.

    Raises:
        UnknownNameError: nobody registered the id.
        MissingDependencyError: the module, a package that the env needs, or the OpenGL library
            that MUJOCO_GL names, is not installed.
        ConfigError: the env takes no such argument, has no time limit or another one inside, cannot
            be drawn in the render mode, or has spaces that clips cannot hold, images included.
    """
    kwargs = dict(env_kwargs or {})
    check_horizon(kwargs.get("max_episode_steps"), "max_episode_steps")
    check_obs_keys(kwargs.get("obs_keys", ()))
    obs_keys = tuple(kwargs.pop("obs_keys", ()))
    env = _gymnasium_make(env_id, render_mode, kwargs)
    if is_text_env(env):  # a completion ends by itself, and is compared as a whole
        return env
    env = make_preference_ready(env, obs_keys=obs_keys)
    wanted, found = kwargs.get("max_episode_steps"), horizon_of(env)
    if wanted is not None and found != wanted:
        raise ConfigError(
            f"a horizon of {wanted} steps was asked for, but {env_id} ends its episodes after "
            f"{found} by a time limit inside of it; ask for {found} steps or fewer, or register "
            "the env without that limit."
        )
    return env


def plain_spaces(
    env_id: str, env_kwargs: Mapping[str, Any] | None = None
) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """What `gymnasium.make` alone makes of an id: its observation and its action space.

    Args:
        env_id: As for `make_env`.
        env_kwargs: As for `make_env`; `obs_keys` is left out.

    Raises:
        UnknownNameError, MissingDependencyError, ConfigError: As `make_env`.
    """
    kwargs = {name: value for name, value in (env_kwargs or {}).items() if name != "obs_keys"}
    env = _gymnasium_make(env_id, None, kwargs)
    found = env.observation_space, env.action_space
    env.close()
    return found


def _gymnasium_make(
    env_id: str, render_mode: str | None, kwargs: dict[str, Any]
) -> gym.Env[Any, Any]:
    """`gymnasium.make`, with our errors."""
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    spec = _find_spec(env_id)
    try:
        _require_render_mode(spec, render_mode)
        env: gym.Env[Any, Any] = gym.make(spec, **kwargs)
    except Exception as error:
        if (ours := _why_not_made(env_id, error, kwargs)) is not None:
            raise ours from error
        error.add_note(f"This was raised while {env_id} was made, in the env's own code.")
        raise
    return env


def _require_render_mode(spec: EnvSpec, render_mode: str | None) -> None:
    """Stop where Gymnasium would warn, make the env, and leave the failure to its first frame."""
    if render_mode is None or spec.entry_point is None:
        return
    entry_point = spec.entry_point
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    metadata = getattr(creator, "metadata", None)  # a function that makes envs has none
    if not isinstance(metadata, Mapping):
        return
    modes = list(metadata.get("render_modes") or ())
    if render_mode in modes or render_mode.removesuffix("_list") in modes:
        return
    if render_mode != "human" or "rgb_array" not in modes:
        raise _cannot_draw(spec.id, render_mode, f"its render modes are {modes}")
    # Gymnasium opens a window for an env that draws pictures, at the rate that it names.
    if "render_fps" not in metadata:
        raise _cannot_draw(
            spec.id,
            render_mode,
            "it draws pictures but has no window, and no `render_fps` in its metadata for "
            "Gymnasium to open one; film it with `watch --video`",
        )


def _why_not_made(env_id: str, error: Exception, kwargs: Mapping[str, Any]) -> RlhfGymError | None:
    """The sentence for an env that Gymnasium could not make; None for an error of the env's own."""
    if isinstance(error, RlhfGymError):
        return error
    # Importing mujoco already loads the library that MUJOCO_GL names, and trips over it.
    if isinstance(error, ImportError | AttributeError | RuntimeError) and is_renderers(error):
        if isinstance(error, ModuleNotFoundError):
            return _missing_package(env_id, error)
        return missing_renderer(error)
    if isinstance(error, gym.error.DependencyNotInstalled):
        return MissingDependencyError(f"{env_id} cannot be made: {error}.")
    if isinstance(error, ImportError):
        return _missing_package(env_id, error)
    if isinstance(error, TypeError) and (refused := _refused_argument(env_id, error, kwargs)):
        return refused
    if is_about_contract(error):
        return ConfigError(f"{env_id} cannot be made: {error}")
    return None


def _refused_argument(
    env_id: str, error: TypeError, kwargs: Mapping[str, Any]
) -> ConfigError | None:
    """What to raise for a TypeError about one of these arguments; None for any other."""
    takes_none = "takes no arguments" in str(error)  # a class without a constructor
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not (kwargs if takes_none else found and found[1] in kwargs):
        return None
    if (found and found[1] == "render_mode") or set(kwargs) == {"render_mode"}:
        return _cannot_draw(env_id, kwargs["render_mode"], "its constructor takes no `render_mode`")
    return ConfigError(
        f"{env_id} does not take one of the arguments {sorted(kwargs)}: {error}. "
        "Remove it from `env_kwargs` (`--max-new-tokens` is one of them, for texts), or see the "
        "env's documentation for what it accepts."
    )


def _cannot_draw(env_id: str, render_mode: str, why: str) -> CannotDrawError:
    return CannotDrawError(
        f"{env_id} cannot be drawn with render mode {render_mode!r}: {why}. It trains and "
        "evaluates without: only `watch` needs a renderer. To have one, take `render_mode` in the "
        'constructor, list "rgb_array" in `metadata["render_modes"]` and define `render`.'
    )


def _find_spec(env_id: str) -> EnvSpec:
    module, _, name = env_id.rpartition(":")
    if module:
        _import_registering_module(env_id, module)
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        lowered = {known.lower(): known for known in sorted(gym.registry)}
        close = difflib.get_close_matches(name.lower(), lowered, n=3)
        hint = f" Did you mean {', '.join(repr(lowered[c]) for c in close)}?" if close else ""
        raise UnknownNameError(
            f"No environment is registered as {name!r}{_after(module)}.{hint} An id reads "
            "[namespace/]Name-v0; `rlhf-gym envs` lists ours, `gymnasium.pprint_registry()` all. "
            "For one that another module registers, put the module first: "
            "`my_package.my_envs:MyRobot-v0`."
        ) from error


def _after(module: str) -> str:
    """Which file was imported for the id: perhaps not the caller's, but an installed namesake."""
    loaded = getattr(sys.modules.get(module), "__file__", None) if module else None
    return f", though {loaded} was imported as {module!r}" if loaded else ""


def _import_registering_module(env_id: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        missing = error.name or ""
        if not (module == missing or module.startswith(f"{missing}.")):
            raise _missing_package(env_id, error) from error
        raise MissingDependencyError(
            f"The module {missing!r} of the environment {env_id!r} cannot be imported. If it is "
            "your own, run from its folder, name that folder in PYTHONPATH, or install it with "
            f"`pip install -e .`; if it is a package, `pip install {_pip_name(missing)}`."
        ) from error


def _missing_package(env_id: str, error: ImportError) -> MissingDependencyError:
    if error.name is None:  # a message of the env's author, e.g. that the env has moved
        return MissingDependencyError(f"{env_id} cannot be made: {error}")
    return MissingDependencyError(
        f"{env_id} needs the package {error.name!r}, which cannot be imported ({error}); "
        f"`pip install {_pip_name(error.name)}` adds it."
    )


def _pip_name(module: str) -> str:
    package = module.partition(".")[0]
    return _PIP_NAMES.get(package, package)


def space_info(env: gym.Env[Any, Any]) -> SpaceInfo:
    """What reward models and agents need to know of an env: its id, spaces and horizon."""
    spec = env.spec
    return SpaceInfo(
        env_id=type(env.unwrapped).__name__ if spec is None else spec.id,
        observation_space=env.observation_space,
        action_space=env.action_space,
        horizon=horizon_of(env),
    )


def is_text_env(env: gym.Env[Any, Any]) -> bool:
    """Whether an env is a view of a text task; loads nothing to find out."""
    tasks = sys.modules.get("rlhf_gym.envs.text.task")  # before that, nobody has made one
    return tasks is not None and isinstance(getattr(env.unwrapped, "task", None), tasks.TextTask)


def env_table() -> list[tuple[str, str]]:
    """The shipped tasks as (id, first line of the docstring), sorted by id. No env is made.

    Raises:
        MissingDependencyError: a package that a task needs is not installed.
    """
    rows = []
    for env_id, spec in sorted(gym.registry.items()):
        if spec.namespace != _NAMESPACE:
            continue
        assert isinstance(spec.entry_point, str), "tasks are registered by strings"
        try:
            creator = load_env_creator(spec.entry_point)
        except ImportError as error:
            raise _missing_package(env_id, error) from error
        rows.append((env_id, (creator.__doc__ or "").strip().partition("\n")[0]))
    return rows
