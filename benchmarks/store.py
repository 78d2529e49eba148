"""How fast the preference store is: 100,000 preferences over 200,000 clips of 50 HalfCheetah steps.

Posted, read back as open queries and answered in 20 rounds; then loaded for fitting in a fresh
process, once with the files in the page cache and once with as few of them there as an ordinary
user can bring about (sync, then POSIX_FADV_DONTNEED on every file). Making the clips, hashes
included, is not counted. The load is the first of its process: opening checks the database's
pages, and every shard is compared with its checksum.

    python benchmarks/store.py --folder /tmp/store-benchmark

Targets: post and answer under 60 s, load under 5 s and 1,500 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, write_result

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.feedback.store import PreferenceStore

N_STEPS, OBS, ACTIONS, STATES = 50, 17, 6, 19


def make_queries(round_: int, n: int, states: bool) -> list[Query]:
    rng = np.random.default_rng(round_)
    obs = rng.standard_normal((2 * n, N_STEPS + 1, OBS), np.float32)
    actions = rng.uniform(-1, 1, (2 * n, N_STEPS, ACTIONS)).astype(np.float32)
    rewards = rng.standard_normal((2 * n, N_STEPS), np.float32)
    sim = (
        rng.standard_normal((2 * n, N_STEPS + 1, STATES), np.float32) if states else [None] * 2 * n
    )
    clips = [
        Clip(*parts) for parts in zip(obs, actions, ["env"] * 2 * n, rewards, sim, strict=True)
    ]
    queries = [Query((clips[2 * i], clips[2 * i + 1]), 0, round_, i) for i in range(n)]
    assert all(query.id for query in queries)
    return queries


def post_and_answer(folder: Path, n: int, n_rounds: int, states: bool) -> dict[str, float]:
    seconds = {"post": 0.0, "open_queries": 0.0, "answer": 0.0}
    with PreferenceStore(folder) as store:
        for round_ in range(n_rounds):
            queries = make_queries(round_, n // n_rounds, states)
            start = time.perf_counter()
            store.post(queries)
            seconds["post"] += time.perf_counter() - start
            del queries
            start = time.perf_counter()
            asked = store.open_queries()
            seconds["open_queries"] += time.perf_counter() - start
            answers = [
                Preference(
                    query,
                    Choice.FIRST
                    if query.first.true_return > query.second.true_return
                    else Choice.SECOND,
                    "synthetic",
                )
                for query in asked
            ]
            start = time.perf_counter()
            store.answer(answers)
            seconds["answer"] += time.perf_counter() - start
            print(f"round {round_ + 1}/{n_rounds}: {sum(seconds.values()):.1f} s", flush=True)
        assert store.counts()["n_answers"] == n
    return seconds


def evict(folder: Path) -> None:
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def load(folder: Path) -> None:
    """What the fresh process does: load, and print its figures."""
    start = time.perf_counter()
    with PreferenceStore(folder, create=False) as store:
        opened = time.perf_counter()
        preferences = store.preferences()
    end = time.perf_counter()
    print(
        json.dumps(
            {
                "seconds": end - start,
                "seconds_cpu": time.process_time(),
                "seconds_open": opened - start,
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
                "arrays_mb": (preferences.clips.obs.nbytes + preferences.clips.actions.nbytes)
                / 1e6,
                "n_preferences": len(preferences),
                "n_clips": len(preferences.clips),
            }
        )
    )


def load_in_fresh_process(folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--folder", str(folder), "--load-only"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measure(folder: Path, n: int, n_rounds: int, states: bool) -> dict[str, Any]:
    # What else runs on the machine slows every figure but the processor time of the load.
    load_average = os.getloadavg()[0]
    seconds = post_and_answer(folder, n, n_rounds, states)
    evict(folder)
    cold = load_in_fresh_process(folder)
    warm = [load_in_fresh_process(folder) for _ in range(3)]
    shards = sum(path.stat().st_size for path in folder.rglob("*.npy"))
    return {
        "n_preferences": n,
        "n_clips": warm[0]["n_clips"],
        "n_rounds": n_rounds,
        "sim_states": states,
        "load_average_before": load_average,
        "seconds_post_and_answer": sum(seconds.values()),
        "seconds_by_part": seconds,
        "seconds_load": max(run["seconds"] for run in warm),
        "seconds_load_all_warm": [run["seconds"] for run in warm],
        "seconds_load_cpu": max(run["seconds_cpu"] for run in warm),
        "seconds_load_cold": cold["seconds"],
        "seconds_open": max(run["seconds_open"] for run in warm),
        "peak_rss_mb": max(run["peak_rss_mb"] for run in [cold, *warm]),
        "arrays_mb": warm[0]["arrays_mb"],
        "database_mb": (folder / "preferences.db").stat().st_size / 1e6,
        "shards_mb": shards / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to put the store; removed afterwards")
    parser.add_argument("--n", type=int, default=100_000, help="preferences")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--states", action="store_true", help="store simulator states, too")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--load-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load_only:
        load(args.folder)
        return
    parent = args.folder or Path(tempfile.mkdtemp(prefix="store-benchmark-"))
    folder = parent / "store"
    if folder.exists():
        parser.error(f"{folder} is already there; name another folder")
    try:
        figures = measure(folder, args.n, args.rounds, args.states)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_result("store", None, figures, folder=args.out)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
