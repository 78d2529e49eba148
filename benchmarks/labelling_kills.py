"""What a kill costs a labeller: a scripted one answers as fast as it can, and is killed 200 times.

Each process opens the store, asks for its first pair, and answers; after every answer that came
back it writes the answer's uuid to a file, before it asks for the next. SIGKILL comes at a random
moment, now and then while it still starts. After each kill:

- lost: acknowledged answers that the store does not hold (must be 0);
- duplicates: pairs with more than one answer of the labeller (must be 0);
- integrity: SQLite's integrity_check and foreign_key_check of the whole file (must be ok).

Serving again is the time from the start of the next process, Python's own start included, to its
first pair.

    python benchmarks/labelling_kills.py

Targets: lost 0, duplicates 0, integrity ok 200 times of 200, serving again within 2 s.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid as uuids
from contextlib import closing
from pathlib import Path
from typing import Any

from common import RESULTS, spread, write_result
from labelling import AHEAD, SETTINGS, make_queries

from rlhf_gym.feedback.desk import LabelDesk
from rlhf_gym.feedback.store import PreferenceStore

READY = b"ready\n"
SHARE_KILLED_AT_START = 0.1
_STARTS_WITHIN = 60.0  # seconds; a process that takes longer is a failure of the measurement


def label(folder: Path, log: Path) -> None:
    """The labeller: says that it is ready, then each uuid that was acknowledged."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    with PreferenceStore(folder, create=False) as store:
        desk = LabelDesk(store, "ann", SETTINGS)
        upcoming = desk.upcoming(AHEAD)
        os.write(descriptor, READY)
        while upcoming:
            uuid = uuids.uuid4().hex
            desk.answer(upcoming[0], "left", shown_at=time.time(), uuid=uuid)
            os.write(descriptor, f"{uuid}\n".encode())
            upcoming = desk.upcoming(AHEAD)
        time.sleep(3600)  # all pairs are answered: wait for the kill


def live(folder: Path, log: Path, rng: random.Random) -> float | None:
    """Start a labeller and kill it: seconds to its first pair; None: killed before that."""
    size = log.stat().st_size
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, __file__, "--folder", str(folder), "--log", str(log)],
        stderr=subprocess.PIPE,
    )
    seconds = None
    if rng.random() < SHARE_KILLED_AT_START:
        time.sleep(rng.uniform(0, 1.0))
    else:
        while READY not in log.read_bytes()[size:]:
            if child.poll() is not None or time.perf_counter() - start > _STARTS_WITHIN:
                child.kill()
                raise RuntimeError(f"the labeller did not start: {child.communicate()[1]!r}")
            time.sleep(0.002)
        seconds = time.perf_counter() - start
        time.sleep(rng.uniform(0, 0.3))
    child.send_signal(signal.SIGKILL)
    _, error = child.communicate()
    if child.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the labeller ended by itself ({child.returncode}): {error!r}")
    return seconds


def look(folder: Path, acknowledged: set[str]) -> dict[str, int]:
    """What is wrong with the store after a kill, and how many answers it holds."""
    with PreferenceStore(folder, create=False) as store:
        kept = [(record.uuid, record.query_id) for record in store.answer_records(superseded=True)]
    with closing(sqlite3.connect(folder / "preferences.db")) as connection:
        is_sound = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
    return {
        "lost": len(acknowledged - {uuid for uuid, _ in kept}),
        "duplicates": len(kept) - len({query for _, query in kept}),
        "unsound": int(not is_sound or bool(dangling)),
        "kept": len(kept),
    }


def measure(parent: Path, n_kills: int, n_pairs: int, seed: int) -> dict[str, Any]:
    folder, log = parent / "store", parent / "acknowledged"
    log.touch()
    with PreferenceStore(folder) as store:
        store.post(make_queries(n_pairs))
    rng = random.Random(seed)
    starts, looks = [], []
    for n in range(n_kills):
        starts.append(live(folder, log, rng))
        words = log.read_text().split()
        looks.append(look(folder, {word for word in words if word != READY.decode().strip()}))
        if (n + 1) % 20 == 0:
            print(f"{n + 1} kills: {looks[-1]}", flush=True)
    n_acknowledged = len([word for word in words if word != READY.decode().strip()])
    seconds = [s for s in starts if s is not None]
    return {
        "n_kills": n_kills,
        "n_killed_at_start": n_kills - len(seconds),
        "n_pairs": n_pairs,
        "n_acknowledged": n_acknowledged,
        "n_kept_without_acknowledgement": looks[-1]["kept"] - n_acknowledged,
        "n_acknowledged_lost": max(each["lost"] for each in looks),
        "n_duplicates": max(each["duplicates"] for each in looks),
        "n_integrity_ok": sum(not each["unsound"] for each in looks),
        "serving_again_seconds": spread(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.log:
        label(args.folder, args.log)
        return
    parent = Path(tempfile.mkdtemp(prefix="kills-benchmark-"))
    try:
        figures = measure(parent, args.kills, args.pairs, args.seed)
    finally:
        shutil.rmtree(parent)
    print({key: value for key, value in figures.items() if key != "serving_again_seconds"})
    print(write_result("labelling_kills", None, figures, [args.seed], folder=args.out))


if __name__ == "__main__":
    main()
