"""`rlhf-gym train --teacher human` in a process of its own, for scripted labellers to answer."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_gym.data import Choice
from rlhf_gym.feedback.store import PreferenceStore

__all__ = ["final_figures", "right_choice", "training"]


@contextmanager
def training(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run that is under way in `folder`; leaving the block waits for its end.

    Raises:
        SystemExit: training failed.
    """
    command = [sys.executable, "-m", "rlhf_gym", "train", *arguments, "--out", str(folder)]
    trainer = subprocess.Popen(command, stdout=sys.stderr)
    try:
        while not (folder / "run.lock").exists() and trainer.poll() is None:
            time.sleep(0.1)
        yield trainer
        if trainer.wait() != 0:
            raise SystemExit(f"training ended with status {trainer.returncode}")
    finally:
        if trainer.poll() is None:
            trainer.terminate()


def right_choice(store: PreferenceStore, query_id: str) -> Choice:
    """What somebody says who sees the true return of both clips."""
    first, second = store.query(query_id).clips
    gap = first.true_return - second.true_return
    return Choice.TIE if gap == 0 else Choice.FIRST if gap > 0 else Choice.SECOND


def final_figures(folder: Path) -> dict[str, Any]:
    """What the summary of a finished run says of its agent."""
    summary = json.loads((folder / "summary.json").read_text())
    figures = {k: summary[k] for k in ("true_return_mean", "true_return_std", "n_labels")}
    return {**figures, "random_return_mean": summary["reference"]["random_return_mean"]}
