"""What one does with a run afterwards: fit, evaluate, watch, export."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf_gym.envs.make import make_env
from rlhf_gym.errors import ConfigError, MissingDependencyError
from rlhf_gym.feedback.pooling import pool_labellers
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.gl import has_display, why_nobody_sees
from rlhf_gym.printing import say
from rlhf_gym.runs import Run
from rlhf_gym.seeding import generator, stream
from rlhf_gym.text_clips import symbols_text
from rlhf_gym.train_config import read_run_config
from rlhf_gym.training import Prepared, build_agent, build_reward_model, prepare

__all__ = ["evaluate_run", "export_run", "fit_run", "load_agent", "watch_run"]


@dataclass(frozen=True)
class _Loaded:
    run: Run
    prepared: Prepared


def _open(folder: Path, trust: bool) -> _Loaded:
    run = Run.open(folder)
    prepared = prepare(read_run_config(run, trust=trust))
    torch.set_num_threads(prepared.config.threads)
    return _Loaded(run, prepared)


def load_agent(folder: Path, device: str | None = None, *, trust: bool = False) -> Any:
    """The agent of a run as its last checkpoint left it.

    Args:
        folder: The run's.
        device: Where it is to be; default: as in the run's configuration.
        trust: Run the modules that its config.yaml names, though it was not made here; as in all
            functions below.

    Raises:
        ConfigError: there is no run, or it has no checkpoint yet.
        UntrustedError: it names modules, was not made here, and `trust` is False.
        CorruptDataError: the checkpoint is damaged.
    """
    loaded = _open(folder, trust)
    checkpoint = loaded.run.latest_checkpoint()
    if checkpoint is None:
        raise ConfigError(
            f"{folder} has no checkpoint yet: the first round is not finished. Wait for it, or "
            f"continue it with `rlhf-gym train --resume {folder}`."
        )
    prepared = loaded.prepared
    if device is not None:
        prepared = replace(prepared, config=replace(prepared.config, device=device))
    agent = build_agent(prepared)
    agent.load(checkpoint.folder)
    return agent


def fit_run(folder: Path, device: str, out: Path | None, *, trust: bool = False) -> dict[str, Any]:
    """Fit a fresh reward model to the answers of a run, and say how well it does.

    Raises:
        ConfigError: `out` holds something already, or the run's algorithm fits no reward model.
    """
    if out is not None and out.exists() and (out.is_file() or any(out.iterdir())):
        _refuse_existing([out])
    loaded = _open(folder, trust)
    config = loaded.prepared.config
    prepared = replace(loaded.prepared, config=replace(config, device=device))
    # A text reward model starts from what SFT left, which lies beside the policy.
    agent = load_agent(folder, device, trust=trust) if prepared.is_text else None
    model = build_reward_model(prepared, agent)
    if model is None:
        raise ConfigError(f"`--algo {config.algo}` learns without a reward model; nothing to fit.")
    with PreferenceStore(loaded.run.store_folder, create=False) as store:
        preferences = pool_labellers(store.preferences(), config.pooling)
        report = model.fit(preferences, generator(config.seed, "offline fit"))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        model.save(out)
    return asdict(report)


def evaluate_run(
    folder: Path, n_episodes: int, seed: int, *, trust: bool = False
) -> dict[str, Any]:
    """True return of the trained agent over deterministic episodes."""
    if n_episodes < 1:
        raise ConfigError(f"`episodes` is {n_episodes}; at least 1 is needed.")
    agent = load_agent(folder, trust=trust)
    try:
        episodes = agent.evaluate(n_episodes, stream(seed, "evaluate"))
    finally:
        agent.close()
    returns = np.array([episode.true_return for episode in episodes])
    return {
        "true_return_mean": float(returns.mean()),
        "true_return_std": float(returns.std()),
        "n_episodes": n_episodes,
        "returns": returns.tolist(),
    }


def watch_run(
    folder: Path, video: Path | None, n_episodes: int, seed: int, *, trust: bool = False
) -> None:
    """Show the trained agent in a window, or film it; print the completions of a language model.

    Raises:
        MissingDependencyError: a MuJoCo env, and no renderer works here.
        ConfigError: a video of texts.
    """
    from rlhf_gym.gl import choose_gl
    from rlhf_gym.watch import watch_policy

    prepared = _open(folder, trust).prepared
    if prepared.is_text:
        _print_texts(folder, video, n_episodes, seed, trust)
        return
    missing: MissingDependencyError | None = None
    try:
        choose_gl()  # before any env is made: MuJoCo reads the choice when it is imported
    except MissingDependencyError as error:
        missing = error  # no matter, if the env draws itself
    config, agent = prepared.config, load_agent(folder, trust=trust)
    _require_method(agent, "act", "watch")
    mode = "human" if video is None else "rgb_array"
    env = make_env(config.env, render_mode=mode, env_kwargs=config.make_env_kwargs())
    try:
        if missing is not None and _is_mujoco(env):
            raise missing
        if video is None:
            _require_display(env)
        watch_policy(env, lambda obs: agent.act(obs[None])[0], n_episodes, video, seed=seed)
    finally:
        env.close()
        agent.close()


def _require_display(env: Any) -> None:
    """Refuse a window that could not open, or that nobody would see.

    Raises:
        MissingDependencyError: no display; MuJoCo's own windows need a real one.
    """
    if _is_mujoco(env):
        reason = None if has_display() else "neither DISPLAY nor WAYLAND_DISPLAY is set"
    else:
        reason = why_nobody_sees()
    if reason:
        raise MissingDependencyError(
            f"there is no display to watch on: {reason}. Write a video instead, "
            "`--video film.gif`, or run this where you have a desktop."
        )


def _require_method(agent: Any, name: str, command: str) -> None:
    """Refuse a command that this agent has no method for.

    Raises:
        ConfigError: naming both.
    """
    if not hasattr(agent, name):
        raise ConfigError(
            f"`rlhf-gym {command}` needs an agent with `{name}`, and {type(agent).__name__} has "
            "none."
        )


def _is_mujoco(env: Any) -> bool:
    from rlhf_gym.envs.fast_renderer import has_mujoco_model  # imports mujoco

    return has_mujoco_model(env)


def _print_texts(folder: Path, video: Path | None, n_episodes: int, seed: int, trust: bool) -> None:
    if video is not None:
        raise ConfigError("`--video` films robots; omit it to read completions.")
    agent = load_agent(folder, trust=trust)
    for episode in agent.evaluate(n_episodes, stream(seed, "watch")):
        prompt, completion, ended = symbols_text(episode.actions)
        cut = "" if ended else " ..."
        behind = completion.removeprefix(" ")  # the bar stands in its place
        say(f"{prompt} | {behind}{cut}  (TRUE reward {episode.true_return:.3g})")


def export_run(folder: Path, sb3: Path, *, trust: bool = False) -> tuple[list[Path], str | None]:
    """Write stock Stable-Baselines3 files.

    Returns:
        What was written, and what is to be known to use it, in one line, if anything.

    Raises:
        ConfigError: no .zip, no such folder, a file that is there already, or an agent that is not
            SB3's; nothing was written.
    """
    if sb3.suffix != ".zip":
        raise ConfigError(f"`--sb3` is {sb3}; Stable-Baselines3 reads files that end in .zip.")
    if not sb3.parent.is_dir():
        raise ConfigError(f"{sb3.parent} is not a folder; make it first, or write elsewhere.")
    agent = load_agent(folder, trust=trust)
    try:
        _require_method(agent, "export_sb3", "export --sb3")
        with tempfile.TemporaryDirectory(prefix=".export-", dir=sb3.parent) as temporary:
            written: list[Path] = agent.export_sb3(Path(temporary) / sb3.name)
            targets = [sb3.with_name(path.name) for path in written]
            _refuse_existing(targets)
            note: str | None = getattr(agent, "export_note", None)
            for path, target in zip(written, targets, strict=True):
                path.replace(target)
    finally:
        agent.close()
    return targets, note


def _refuse_existing(paths: Iterable[Path]) -> None:
    if there := [str(path) for path in paths if path.exists()]:
        raise ConfigError(
            f"{', '.join(there)}: already there, and nothing was written; remove what you do not "
            "need, or give another name."
        )
