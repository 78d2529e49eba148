"""A whole sitting: train with a person who answers by key in a window, then replay the answers.

`rlhf-gym train --teacher human` runs in one process. Here the window draws the clips (SDL's dummy
driver, unless SDL_VIDEODRIVER says otherwise), and a scripted labeller presses real keys in it: the
side with the higher true return, after a pause. Then `--teacher replay` repeats the run.

    python benchmarks/sitting.py                        700 answers on HalfCheetah, no pause
    python benchmarks/sitting.py --labels 60 --pause 4 --no-replay   how long one waits
    SDL_VIDEODRIVER=x11 xvfb-run -a python benchmarks/sitting.py --out sitting_xvfb

Targets: the trained robot runs; the replay's weights are equal; waiting below 5 % of a sitting at
4 s a pair.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from common import write_result
from trainer import final_figures, right_choice, training

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import pygame

from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.feedback.viewer.window import Viewer
from rlhf_gym.label_options import LabelOptions
from rlhf_gym.labelling import open_sitting

KEYS = {"left": pygame.K_LEFT, "right": pygame.K_RIGHT, "tie": pygame.K_UP}


def press(key: int) -> None:
    """A key goes down and up, as from a keyboard."""
    for kind in (pygame.KEYDOWN, pygame.KEYUP):
        pygame.event.post(pygame.event.Event(kind, key=key, mod=0, unicode=""))


def true_side(store: PreferenceStore, viewer: Viewer) -> str:
    """Where the clip with the higher true return is shown."""
    question = viewer.session.question
    assert question is not None
    return question.side(right_choice(store, question.query.id))


def label(folder: Path, trainer: subprocess.Popen[bytes], pause: float) -> dict[str, Any]:
    """Answer until the trainer has ended."""
    with (
        PreferenceStore(folder) as truth,
        open_sitting(folder, LabelOptions(labeller="script")) as s,
    ):
        viewer = Viewer(s, size=(1280, 720))
        shown, shown_at, loading = None, 0.0, []
        began_loading: float | None = None
        while trainer.poll() is None and viewer.is_open:
            viewer.turn()
            now = time.monotonic()
            if viewer.view.overlay:
                press(pygame.K_RETURN)  # the rubric has been read
            elif s.state == "loading":
                began_loading = began_loading or now
            elif s.state == "showing" and s.question is not shown:
                shown, shown_at = s.question, now
                loading.append(now - began_loading if began_loading else 0.0)
                began_loading = None
            elif s.state == "showing" and now - shown_at >= pause:
                press(KEYS[true_side(truth, viewer)])
            time.sleep(0.002)
        loading.sort()
        figures = {
            "driver": pygame.display.get_driver(),
            "n_answers": s.n_answers,
            "seconds": s.seconds,
            "seconds_no_pair_to_show": s.seconds_waiting,
            "seconds_loading_pictures": sum(loading),
            "loading_share": sum(loading) / s.seconds,
            "loading_median": loading[len(loading) // 2],
            "loading_p99": loading[int(0.99 * (len(loading) - 1))],
            "loading_at_start": loading[0] if loading else None,
        }
        viewer.close()
    return figures


def weights(folder: Path) -> dict[str, str]:
    """sha256 of what was learned, by file of the last checkpoint."""
    last = max((folder / "checkpoints").glob("round-*"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in last.glob("*.safetensors")}


def main() -> None:
    """Run the sitting and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="rlhf_gym/HalfCheetah-v0")
    parser.add_argument("--labels", type=int, default=700)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--replay", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", default="sitting")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        first, second = Path(scratch) / "labelled", Path(scratch) / "replayed"
        steps = ["--steps", str(options.steps)] if options.steps else []
        asked = ["--env", options.env, "--teacher", "human", "--labels", str(options.labels)]
        with training(first, *asked, *steps) as trainer:
            figures = label(first, trainer, options.pause)
        figures |= final_figures(first)
        if options.replay:
            config = str(first / "config.yaml")
            with training(second, "--config", config, "--teacher", f"replay:{first}"):
                pass
            figures["replay_has_equal_weights"] = weights(first) == weights(second)
    path = write_result(options.out, None, {"options": vars(options), **figures}, [0])
    print(json.dumps(figures, indent=1), path, sep="\n")


if __name__ == "__main__":
    main()
