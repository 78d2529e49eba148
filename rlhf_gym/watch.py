"""See an agent act: in a window, or in a video file.

Only this needs a renderer; training never does. `rlhf_gym.gl.choose_gl` is called before the
environment is made::

    choose_gl()
    env = gymnasium.make("rlhf_gym/HalfCheetah-v0", render_mode="rgb_array")
    watch_policy(env, act, n_episodes=3, video=Path("agent.mp4"))
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console

from rlhf_gym.data import Array
from rlhf_gym.envs.blame import raised_in
from rlhf_gym.errors import ConfigError, DataError, MissingDependencyError
from rlhf_gym.printing import Screen
from rlhf_gym.progress import show_number

__all__ = ["watch_policy", "write_video"]

_GIF_MAX_FPS = 50  # a GIF counts in 1/100 s, and viewers slow down what is faster


def write_video(frames: Iterable[Array], path: Path, fps: float) -> None:
    """Write frames as .mp4 (H.264, plays in any browser) or .gif.

    Frames are taken one by one, so a generator of any length is fine for .mp4. The file appears
    once it is complete; what was there before stays until then.

    Args:
        frames: (height, width, 3) uint8, all of one size, at least one.
        path: ends in .mp4 or .gif; its folder must exist.
        fps: frames per second, positive. A .gif faster than 50 loses every k-th frame.

    Raises:
        ConfigError: another ending, or an fps that is not positive.
        DataError: no frames, or one that is not an RGB image of the first one's size.
        MissingDependencyError: .mp4 without PyAV.
    """
    writers = {".mp4": _write_mp4, ".gif": _write_gif}
    ending = path.suffix.lower()
    if ending not in writers:
        raise ConfigError(
            f"a video is .mp4 or .gif, got {path.name!r}; give a name like agent.mp4."
        )
    if not (math.isfinite(fps) and fps > 0):
        raise ConfigError(f"`fps` must be positive, got {fps}; 30 is usual.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is not a folder; make it first, or write elsewhere.")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{ending}")
    temporary.unlink(missing_ok=True)  # a link of that name would be followed
    try:
        writers[ending](_checked(frames), temporary, fps)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def watch_policy(
    env: gym.Env[Any, Any],
    act: Callable[[Any], Any],
    n_episodes: int,
    video: Path | None = None,
    *,
    seed: int | None = None,
    console: Console | None = None,
) -> list[float]:
    """Play episodes and print the TRUE return of each: the env returns the true reward.

    Args:
        env: made with render_mode "rgb_array" for a video, "human" for a window; not closed here.
        act: observation -> action.
        n_episodes: at least 1.
        video: where to write one video of all episodes; None for the env's own window.
        seed: of the first episode; the others follow from it.
        console: where to print; standard output by default.

    Returns:
        The true return of each episode.

    Raises:
        ConfigError: the env was not made with the render mode that is needed.
    """
    if n_episodes < 1:
        raise ConfigError(f"`n_episodes` must be at least 1, got {n_episodes}.")
    _require_render_mode(env, "rgb_array" if video is not None else "human")
    returns: list[float] = []
    frames = _play(env, act, n_episodes, seed, returns, console or Screen())
    if video is None:
        for _ in frames:  # the env draws by itself in each step
            pass
    else:
        write_video(frames, video, float(env.metadata.get("render_fps", 30)))
    return returns


def _require_render_mode(env: gym.Env[Any, Any], needed: str) -> None:
    if env.render_mode == needed:
        return
    supported = env.metadata.get("render_modes") or []
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    if needed in supported:
        remedy = f'make it with `render_mode="{needed}"`'
    elif needed == "human" and "rgb_array" in supported:
        remedy = "it has no window; write a video with `--video agent.mp4`"
    else:
        remedy = "it trains and evaluates without: only `watch` needs a renderer"
    raise ConfigError(
        f"watching needs render mode {needed!r}, but {name} was made with {env.render_mode!r} "
        f"and supports {list(supported)}; {remedy}."
    )


def _play(
    env: gym.Env[Any, Any],
    act: Callable[[Any], Any],
    n_episodes: int,
    seed: int | None,
    returns: list[float],
    console: Console,
) -> Iterator[Array]:
    """Yield the frames of all episodes, the reset's included; append each return as it ends."""
    draws = env.render_mode != "human"
    for episode in range(n_episodes):
        obs, _ = env.reset(seed=seed if episode == 0 else None)
        total, n_steps, done = 0.0, 0, False
        if draws:
            yield _frame(env)
        while not done:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            total, n_steps, done = total + float(reward), n_steps + 1, terminated or truncated
            if draws:
                yield _frame(env)
        returns.append(total)
        text = f"episode {episode + 1}/{n_episodes}: TRUE return {show_number(total)}"
        console.print(f"{text}, {n_steps:,} steps", markup=False, highlight=False)


def _frame(env: gym.Env[Any, Any]) -> Array:
    try:
        return np.asarray(env.render())
    except NotImplementedError as error:
        if raised_in(error)[-1] != "gymnasium.core":  # of the env's own `render`
            raise
        name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        raise ConfigError(
            f"{name} names render mode {env.render_mode!r} in its metadata, but has no `render` "
            "that draws it; define one."
        ) from error


def _checked(frames: Iterable[Array]) -> Iterator[Array]:
    first_shape: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        first_shape = first_shape or frame.shape
        is_rgb = frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8
        if not is_rgb or frame.shape != first_shape or 0 in frame.shape:
            raise DataError(
                f"frame {index} has shape {frame.shape} and dtype {frame.dtype}, expected "
                f"(height, width, 3) uint8, all like the first {first_shape}."
            )
        yield frame
    if first_shape is None:
        raise DataError("a video needs at least one frame, got none.")


def _write_mp4(frames: Iterator[Array], path: Path, fps: float) -> None:
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            "an .mp4 needs PyAV: `pip install 'rlhf_gym[video]'`; a .gif needs nothing more."
        ) from error
    from fractions import Fraction

    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream: Any = None
        for frame in frames:
            # H.264 with colour subsampling wants even sides: the last row or column is repeated.
            pad = ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0))
            even = np.ascontiguousarray(np.pad(frame, pad, mode="edge"))
            if stream is None:
                stream = container.add_stream("libx264", rate=rate, options={"crf": "20"})
                stream.height, stream.width = even.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())


def _write_gif(frames: Iterator[Array], path: Path, fps: float) -> None:
    from PIL import Image

    every = math.ceil(fps / _GIF_MAX_FPS)
    images = (Image.fromarray(frame) for frame in itertools.islice(frames, 0, None, every))
    first = next(images)
    milliseconds = round(100 * every / fps) * 10
    first.save(path, save_all=True, append_images=images, duration=milliseconds, loop=0)
