"""How fast the labelling window is: frames drawn, next pair after a key, answers made durable.

Two clips of 480x480 pixels and 51 frames from memory: what drawing them in MuJoCo costs is measured
by rendering.py. All through real key events and a real store on disk, in one process, once with
SDL's dummy driver and, where `xvfb-run` is installed, once on a virtual X display.

    python benchmarks/viewer.py

Targets, on 2 cores without a GPU: 30 frames/s; next pair within 100 ms of the key; answer durable
within 50 ms (99th percentiles).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, write_result

from rlhf_gym.data import Array, Clip, Query

N_FRAMES, PIXELS, SECONDS_PER_FRAME = 51, 480, 2.0 / 51
SIZES = ((1280, 720), (1920, 1080))


@dataclass
class Pictures:
    """Of one clip."""

    frames: Array
    seconds_per_frame: float = SECONDS_PER_FRAME


class MemoryFrames:
    """A few moving patterns, dealt out to all clips."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 255, (4, PIXELS, PIXELS, 3), np.uint8)
        self._pictures = [
            Pictures(np.stack([np.roll(image, 9 * n, axis=1) for n in range(N_FRAMES)]))
            for image in noise
        ]

    def request(self, clips: Sequence[Clip]) -> None:
        """Nothing is ever drawn."""

    def get(self, clip_id: str) -> Pictures:
        """At once."""
        return self._pictures[int(clip_id[:4], 16) % len(self._pictures)]

    def error(self, clip_id: str) -> None:
        """Never."""


def make_queries(n: int) -> list[Query]:
    """Pairs of clips of HalfCheetah's shapes."""
    rng = np.random.default_rng(1)

    def clip() -> Clip:
        obs = rng.standard_normal((51, 17)).astype(np.float32)
        actions = rng.uniform(-1, 1, (50, 6)).astype(np.float32)
        states = rng.standard_normal((51, 19)).astype(np.float32)
        return Clip(obs, actions, "HalfCheetah", np.zeros(50, np.float32), states)

    return [Query((clip(), clip()), 0, 0, index) for index in range(n)]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    values = 1000 * np.asarray(seconds)
    names = ("median", "p90", "p99", "max")
    found = (*np.percentile(values, (50, 90, 99)), values.max())
    return {f"{name}_ms": float(value) for name, value in zip(names, found, strict=True)}


def measure_frames(viewer: Any, clock: Any, seconds: float) -> float:
    """Frames per second where both clips have a new frame at every turn."""
    n, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        clock.offset += SECONDS_PER_FRAME
        viewer.turn()
        n += 1
    return n / (time.perf_counter() - start)


class Clock:
    """The real one, plus what was added."""

    offset = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return time.monotonic() + self.offset


def measure(folder: Path, n_pairs: int, size: tuple[int, int], seconds: float) -> dict[str, Any]:
    import pygame

    from rlhf_gym.feedback.desk import LabelDesk
    from rlhf_gym.feedback.store import PreferenceStore
    from rlhf_gym.feedback.viewer.session import LabelSession
    from rlhf_gym.feedback.viewer.window import Viewer

    to_next, durable, work = [], [], []
    with PreferenceStore(folder) as store:
        store.post(make_queries(n_pairs + 10))
        desk, clock = LabelDesk(store, "scripted"), Clock()
        keep = desk.answer

        def timed(*args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            keep(*args, **kwargs)
            durable.append(time.perf_counter() - start)

        desk.answer = timed  # type: ignore[method-assign]  # to time it
        session = LabelSession(desk, MemoryFrames(), clock=clock, total=n_pairs)
        viewer = Viewer(session, size=size)
        for _ in range(30):
            viewer.turn()
        frames_per_second = measure_frames(viewer, clock, seconds)
        keys = (pygame.K_LEFT, pygame.K_RIGHT, pygame.K_UP, pygame.K_DOWN)
        for n in range(n_pairs):
            before = session.pair
            pygame.event.post(
                pygame.event.Event(pygame.KEYDOWN, key=keys[n % 4], unicode="", mod=0)
            )
            start = time.perf_counter()
            viewer.turn()  # takes the key, keeps the answer, draws the next pair
            to_next.append(time.perf_counter() - start)
            assert session.pair is not None and session.pair is not before
            start = time.perf_counter()
            viewer.turn()  # fetches pairs ahead and counts the progress
            work.append(time.perf_counter() - start)
            for _ in range(3):
                clock.offset += SECONDS_PER_FRAME
                viewer.turn()
        driver = pygame.display.get_driver()
        viewer.close()
        n_kept = len(store.answer_records())
    return {
        "driver": driver,
        "window": list(size),
        "n_pairs": n_pairs,
        "n_answers_in_store": n_kept,
        "frames_per_second": frames_per_second,
        "key_to_next_pair": percentiles(to_next),
        "answer_durable": percentiles(durable),
        "turn_after_an_answer": percentiles(work),
    }


def in_fresh_process(driver: str, args: argparse.Namespace) -> dict[str, Any]:
    """Each window in its own process: SDL chooses its driver once."""
    command = [sys.executable, __file__, "--pairs", str(args.pairs), "--seconds", str(args.seconds)]
    env = {**os.environ, "PYGAME_HIDE_SUPPORT_PROMPT": "1", "SDL_VIDEODRIVER": driver}
    if driver == "x11":
        command = ["xvfb-run", "-a", "-s", "-screen 0 1920x1080x24", *command]
    done = subprocess.run(
        [*command, "--here"], env=env, check=True, stdout=subprocess.PIPE, text=True
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0, help="of drawing frames")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        figures = {}
        for size in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                name = f"{size[0]}x{size[1]}"
                figures[name] = measure(Path(folder) / "store", args.pairs, size, args.seconds)
        print(json.dumps(figures))
        return
    drivers = ["dummy", *(["x11"] if shutil.which("xvfb-run") else [])]
    figures = {driver: in_fresh_process(driver, args) for driver in drivers}
    path = write_result("viewer", None, figures, folder=args.out)
    print(json.dumps(figures, indent=2))
    print(path)


if __name__ == "__main__":
    main()
