"""How fast clips are drawn and kept: our renderer beside Gymnasium's, and the cache beside codecs.

Every robot and size is measured by turns: some frames of Gymnasium's own renderer, then of ours,
again and again, on the states of one clip of 50 steps under random actions. A frame counts from the
stored state to the picture. Whole clips go through `ClipRenderer`, playback rule included; writing
to the cache includes the fsync, reading is warm.

    python benchmarks/rendering.py

Targets: a pair of 50-step clips of 480 x 480 drawn in under 4 s, the time a labeller takes for one;
read from the cache in under 100 ms.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import RESULTS, spread, write_result

from rlhf_gym.clip_frames import ClipRenderer
from rlhf_gym.data import Array, Clip
from rlhf_gym.envs.make import make_env
from rlhf_gym.envs.sim_state import render_state
from rlhf_gym.frame_cache import FrameCache
from rlhf_gym.gl import choose_gl

__all__ = ["Options"]

_N_STEPS = 50
Codec = tuple[Callable[[Array], bytes], Callable[[bytes], Array]]


@dataclass(frozen=True)
class Options:
    """Measure how fast clips are drawn and kept."""

    robots: tuple[str, ...] = ("HalfCheetah", "Hopper", "Ant", "Reacher")
    """Shipped tasks, without namespace and version."""
    sides: tuple[int, ...] = (480, 320)
    """Pixels per side."""
    rounds: int = 5
    """Rounds of turns."""
    frames: int = 12
    """Frames of Gymnasium's renderer per turn; ours draws 51."""
    smoke: bool = False
    """A tiny run that only shows that everything works."""
    out: Path = RESULTS
    """Where the result goes."""


def clip_states(env_id: str) -> Array:
    """(51, S) float32 states of an episode under random actions, from its 21st step on."""
    env = make_env(env_id)
    states = [env.reset(seed=0)[1]["rlhf_gym.sim_state"]]
    env.action_space.seed(0)
    horizon = 20 + _N_STEPS if "Reacher" not in env_id else _N_STEPS  # its episode is 50 steps
    states += [
        env.step(env.action_space.sample())[-1]["rlhf_gym.sim_state"] for _ in range(horizon)
    ]
    env.close()
    return np.array(states[-_N_STEPS - 1 :], np.float32)


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_drawing(env_id: str, side: int, rounds: int, n_theirs: int) -> dict[str, Any]:
    states = clip_states(env_id)
    few = states[:: max(len(states) // n_theirs, 1)]
    rates: dict[str, list[float]] = {"gymnasium": [], "ours": []}
    # One context at a time: beside another one, Gymnasium's pictures are black, and fast.
    for _ in range(rounds):
        rates["gymnasium"].append(gymnasium_rate(env_id, side, few))
        rates["ours"].append(our_rate(env_id, side, states))
    ratio = [a / b for a, b in zip(rates["ours"], rates["gymnasium"], strict=True)]
    return {
        "frames_per_second": {way: spread(values) for way, values in rates.items()},
        "ours_over_gymnasium": spread(ratio),
    }


def gymnasium_rate(env_id: str, side: int, states: Array) -> float:
    env = make_env(env_id, render_mode="rgb_array", env_kwargs={"width": side, "height": side})
    assert render_state(env, states[0]).any()  # the first frame opens the context
    seconds = seconds_of(lambda: [render_state(env, state) for state in states])
    env.close()
    return len(states) / seconds


def our_rate(env_id: str, side: int, states: Array) -> float:
    from rlhf_gym.envs.fast_renderer import FastRenderer

    env = make_env(env_id)
    renderer = FastRenderer(env, (side, side))
    assert renderer.render_state(states[0]).any()
    seconds = seconds_of(lambda: [renderer.render_state(state) for state in states])
    renderer.close()
    env.close()
    return len(states) / seconds


def measure_clip(env_id: str, side: int, rounds: int) -> tuple[dict[str, Any], Array]:
    states = clip_states(env_id)
    clip = Clip(np.zeros((_N_STEPS + 1, 1)), np.zeros((_N_STEPS, 1)), env_id, sim_states=states)
    renderer = ClipRenderer(env_id, size=(side, side))
    drawn = renderer.render(clip)
    drawing = [seconds_of(lambda: renderer.render(clip)) for _ in range(rounds)]
    renderer.close()
    with tempfile.TemporaryDirectory() as folder:
        cache = FrameCache(Path(folder))
        put = [seconds_of(lambda: cache.put(clip.id, (side, side), drawn)) for _ in range(rounds)]
        get = [seconds_of(lambda: cache.get(clip.id, (side, side))) for _ in range(rounds)]
        n_bytes = cache.path(clip.id, (side, side)).stat().st_size
    figures = {
        "n_frames": len(drawn.frames),
        "shown_seconds": drawn.seconds,
        "draw_seconds": spread(drawing),
        "cache_write_ms": spread([1e3 * s for s in put]),
        "cache_read_ms": spread([1e3 * s for s in get]),
        "cache_mb": n_bytes / 1e6,
        "raw_mb": drawn.frames.nbytes / 1e6,
    }
    return figures, drawn.frames


def codecs(shape: Sequence[int]) -> dict[str, Codec]:
    """Ways to keep one picture of a shape (H, W, 3)."""
    import zlib

    import pyarrow
    from PIL import Image

    n_bytes = int(np.prod(shape))

    def image(kind: str, **options: Any) -> Codec:
        def write(frame: Array) -> bytes:
            file = io.BytesIO()
            Image.fromarray(frame).save(file, kind, **options)
            return file.getvalue()

        return write, lambda data: np.asarray(Image.open(io.BytesIO(data)))

    def arrow(name: str) -> Codec:
        codec = pyarrow.Codec(name, compression_level=1)
        return lambda frame: codec.compress(
            frame.reshape(-1), asbytes=True
        ), lambda data: np.frombuffer(codec.decompress(data, n_bytes), np.uint8).reshape(shape)

    return {
        "png": image("PNG", compress_level=1),
        "jpeg_90": image("JPEG", quality=90),
        "zlib_1": (
            lambda frame: zlib.compress(frame.tobytes(), 1),
            lambda data: np.frombuffer(zlib.decompress(data), np.uint8).reshape(shape),
        ),
        "lz4": arrow("lz4"),
        "zstd_1": arrow("zstd"),
    }


def measure_codecs(frames: Array, rounds: int) -> dict[str, Any]:
    found = {}
    for name, (write, read) in codecs(frames.shape[1:]).items():
        packed = [write(frame) for frame in frames]
        back = np.stack([read(data) for data in packed])
        writing = [seconds_of(lambda w=write: [w(f) for f in frames]) for _ in range(rounds)]
        reading = [
            seconds_of(lambda r=read, p=packed: [r(data).copy() for data in p])
            for _ in range(rounds)
        ]
        found[name] = {
            "write_ms": spread([1e3 * s for s in writing]),
            "read_ms": spread([1e3 * s for s in reading]),
            "mb": sum(map(len, packed)) / 1e6,
            "worst_error_of_255": int(np.abs(back.astype(int) - frames).max()),
        }
    return found


def main() -> None:
    options = tyro.cli(Options)
    rounds, robots = (1, options.robots[:1]) if options.smoke else (options.rounds, options.robots)
    backend = choose_gl(window=False)
    drawing: dict[str, Any] = {}
    clips: dict[str, Any] = {}
    packing: dict[str, Any] = {}
    for robot in robots:
        env_id = f"rlhf_gym/{robot}-v0"
        for side in options.sides:
            key = f"{robot}-{side}"
            drawing[key] = measure_drawing(env_id, side, rounds, options.frames)
            clips[key], frames = measure_clip(env_id, side, rounds)
            if side == options.sides[0]:
                packing[key] = measure_codecs(frames, rounds)
            rates, clip = drawing[key]["frames_per_second"], clips[key]
            draw_seconds, read_ms = clip["draw_seconds"]["median"], clip["cache_read_ms"]["median"]
            print(
                f"{key}: {rates['ours']['median']:.0f} frames/s, Gymnasium "
                f"{rates['gymnasium']['median']:.0f}; a clip {draw_seconds:.2f} s, "
                f"from the cache {read_ms:.0f} ms",
                flush=True,
            )
    figures = {
        "mujoco_gl": backend,
        "n_cpus": os.cpu_count(),
        "target": {"draw_pair_seconds": 4.0, "cache_read_pair_ms": 100.0},
        "smoke": options.smoke,
        "n_steps": _N_STEPS,
        "drawing": drawing,
        "clips": clips,
        "codecs": packing,
    }
    print(write_result("rendering", None, figures, [0], folder=options.out))


if __name__ == "__main__":
    main()
