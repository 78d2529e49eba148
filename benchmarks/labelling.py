"""How long a labeller waits for an answer to be kept: one process alone, and eight on one store.

- alone: one labeller answers 200 pairs as fast as it can.
- paced: eight processes on one store, 800 pairs, two answers wanted of each: 200 answers per
  process. Each thinks about a pair for 0.25 to 0.75 s, eight times as fast as people do.
- saturated: the same without thinking. The disk takes one commit at a time, so that an answer waits
  for those of the seven others: this shows that nothing breaks, and is no measure of a viewer.

A submit is `LabelDesk.answer`: the answer is on disk, and the next pairs are leased, when it
returns. Afterwards every pair must have exactly two answers, by different labellers.

    python benchmarks/labelling.py

Targets: submit under 50 ms (p99) alone and under 100 ms (p99) with eight paced ones; no lock error.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, write_result

from rlhf_gym.data import Clip, Query
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk
from rlhf_gym.feedback.store import PreferenceStore

N_STEPS, OBS, ACTIONS, STATES = 50, 17, 6, 19  # HalfCheetah's
AHEAD = 4  # as the viewer: the present pair and three more
SETTINGS = DeskSettings(gold_share=0.0, repeat_share=0.0)


def make_queries(n: int) -> list[Query]:
    rng = np.random.default_rng(0)

    def clip() -> Clip:
        return Clip(
            obs=rng.standard_normal((N_STEPS + 1, OBS), np.float32),
            actions=rng.uniform(-1, 1, (N_STEPS, ACTIONS)).astype(np.float32),
            context_id="env",
            true_rewards=rng.standard_normal(N_STEPS, np.float32),
            sim_states=rng.standard_normal((N_STEPS + 1, STATES), np.float32),
        )

    return [Query((clip(), clip()), seed=0, round=0, index=i) for i in range(n)]


def label(folder: Path, labeller: str, think: float) -> dict[str, Any]:
    """One labeller, until no pair is open: milliseconds of each submit and each fetch."""
    rng = random.Random(labeller)
    submits: list[float] = []
    fetches: list[float] = []
    with PreferenceStore(folder, create=False) as store:
        desk = LabelDesk(store, labeller, SETTINGS)
        while True:
            start = time.perf_counter()
            upcoming = desk.upcoming(AHEAD)
            fetches.append(1e3 * (time.perf_counter() - start))
            if not upcoming:
                if store.counts()["n_open"] == 0:
                    break
                time.sleep(0.05)  # the last pairs are before others
                continue
            shown_at = time.time()
            time.sleep(think * rng.uniform(0.5, 1.5))
            start = time.perf_counter()
            desk.answer(upcoming[0], rng.choice(["left", "right", "tie"]), shown_at=shown_at)
            submits.append(1e3 * (time.perf_counter() - start))
        desk.close()
    return {"submit_ms": submits, "fetch_ms": fetches}


def quantiles(values: list[float]) -> dict[str, float]:
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return {"n": len(values), "p50": float(p50), "p99": float(p99), "max": max(values)}


def check(store: PreferenceStore, n_wanted: int) -> dict[str, int]:
    """How often the promises were broken; all must be 0."""
    labellers: dict[str, list[str]] = defaultdict(list)
    for record in store.answer_records(superseded=True):
        labellers[record.query_id].append(record.labeller)
    return {
        "n_pairs_without_all_their_answers": store.counts()["n_open"],
        "n_pairs_with_a_wrong_number": sum(len(who) != n_wanted for who in labellers.values()),
        "n_pairs_answered_twice_by_one": sum(len(set(w)) < len(w) for w in labellers.values()),
    }


def measure(parent: Path, n_labellers: int, n_each: int, think: float) -> dict[str, Any]:
    n_wanted = min(n_labellers, 2)
    folder = parent / f"{n_labellers}-{think}"
    with PreferenceStore(folder) as store:
        store.post(make_queries(n_labellers * n_each // n_wanted), n_wanted=n_wanted)
    command = [sys.executable, __file__, "--folder", str(folder), "--think", str(think)]
    start = time.perf_counter()
    children = [
        subprocess.Popen(
            [*command, "--labeller", f"labeller-{i}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(n_labellers)
    ]
    outputs = [child.communicate() for child in children]
    seconds = time.perf_counter() - start
    errors = [error for _, error in outputs if error]
    results = [json.loads(out) for out, error in outputs if not error]
    submits = [ms for result in results for ms in result["submit_ms"]]
    with PreferenceStore(folder) as store:
        broken = check(store, n_wanted)
    print(f"{n_labellers} labellers: {quantiles(submits)} {broken}", *errors, flush=True)
    return {
        "n_labellers": n_labellers,
        "n_wanted": n_wanted,
        "think_seconds": think,
        "submit_ms": quantiles(submits),
        "fetch_ms": quantiles([ms for result in results for ms in result["fetch_ms"]]),
        "answers_per_labeller": [len(result["submit_ms"]) for result in results],
        "n_labellers_with_errors": len(errors),
        "errors": errors,
        "seconds": seconds,
        **broken,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labellers", type=int, default=8)
    parser.add_argument("--answers", type=int, default=200, help="of each labeller, on average")
    parser.add_argument("--think", type=float, default=0.5, help="seconds per pair, if paced")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--labeller", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.labeller:
        print(json.dumps(label(args.folder, args.labeller, args.think)))
        return
    parent = Path(tempfile.mkdtemp(prefix="labelling-benchmark-"))
    try:
        figures = {
            "alone": measure(parent, 1, args.answers, 0.0),
            "paced": measure(parent, args.labellers, args.answers, args.think),
            "saturated": measure(parent, args.labellers, args.answers, 1e-9),
        }
    finally:
        shutil.rmtree(parent)
    print(write_result("labelling", None, figures, folder=args.out))


if __name__ == "__main__":
    main()
