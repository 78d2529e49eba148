"""What pictures taken while acting cost: env steps/s with and without them, bytes of a picture.

For envs whose clips cannot be drawn later. Both ways step the env in one process, turn by turn,
with random actions. The frames of one stretch are then compressed as we do (JPEG) and as WebP of
the same quality.

    python benchmarks/pictures.py
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from common import RESULTS, spread, write_result
from overhead import take_turns
from PIL import Image

from rlhf_gym.envs.make import make_env
from rlhf_gym.envs.picture_info import make_pictured_env
from rlhf_gym.pictures import encode_picture

ENVS = ("CartPole-v1", "Pendulum-v1")


@dataclass(frozen=True)
class Options:
    """Measure what pictures cost."""

    rounds: int = 5
    """Turns of each way."""
    steps: int = 2_000
    """Env steps per turn."""
    frames: int = 200
    """Pictures that are compressed both ways."""
    smoke: bool = False
    """A tiny run that only shows that everything works."""
    out: Path = RESULTS
    """Where the result goes."""


def stepper(env: gym.Env[Any, Any]) -> Callable[[int], None]:
    """Step an env with random actions, a number of times."""
    env.reset(seed=0)
    env.action_space.seed(0)

    def run(n_steps: int) -> None:
        for _ in range(n_steps):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

    return run


def as_webp(frame: np.ndarray[Any, Any]) -> bytes:
    """A frame in the size that is kept, as WebP."""
    image = Image.fromarray(frame)
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=85)
    return file.getvalue()


def compressed(frames: list[Any], compress: Callable[[Any], bytes]) -> dict[str, float]:
    """Mean milliseconds and bytes of a picture."""
    started = time.process_time()
    n_bytes = sum(len(compress(frame)) for frame in frames)
    seconds = time.process_time() - started
    return {"ms": 1_000 * seconds / len(frames), "bytes": n_bytes / len(frames)}


def drawn(env_id: str, n_frames: int) -> tuple[list[Any], float]:
    """Frames of random behaviour, and the milliseconds that the env's own `render` takes."""
    env = make_env(env_id, render_mode="rgb_array")
    step = stepper(env)
    frames, seconds = [], 0.0
    for _ in range(n_frames):
        step(1)
        started = time.process_time()
        frames.append(np.asarray(env.render()))
        seconds += time.process_time() - started
    env.close()
    return frames, 1_000 * seconds / n_frames


def measure(env_id: str, options: Options) -> dict[str, Any]:
    """All figures of one env."""
    bare, pictured = make_env(env_id), make_pictured_env(env_id)
    ways = {"without": stepper(bare), "with_pictures": stepper(pictured)}
    rates, _ = take_turns(
        ways, dict.fromkeys(ways, 50), dict.fromkeys(ways, options.steps), options.rounds
    )
    for env in (bare, pictured):
        env.close()
    frames, render_ms = drawn(env_id, options.frames)
    small = [frame[::2, ::2].copy() if max(frame.shape) > 480 else frame for frame in frames]
    return {
        "steps_per_second": {way: spread(rate) for way, rate in rates.items()},
        "frame_shape": list(frames[0].shape),
        "render_ms": render_ms,
        "reduced_and_jpeg": compressed(frames, encode_picture),
        "compressing_alone": {
            "jpeg": compressed(small, partial(encode_picture, pixels=10_000)),
            "webp": compressed(small, as_webp),
        },
    }


def main() -> None:
    options = tyro.cli(Options)
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if options.smoke:
        options = replace(options, rounds=2, steps=20, frames=5)
    figures: dict[str, Any] = {"smoke": options.smoke}
    for env_id in ENVS:
        figures[env_id] = measure(env_id, options)
        print(env_id, figures[env_id]["compressing_alone"], flush=True)
    print(write_result("pictures", None, figures, [0], folder=options.out))


if __name__ == "__main__":
    main()
