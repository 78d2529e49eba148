"""One labeller of five says the opposite: what is lost, and what Dawid-Skene's weights bring back.

`rlhf-gym train --teacher human` asks for three answers to each of 700 pairs. Five scripted
labellers give them through desks of their own; honest ones are wrong once in twenty. Three ways:

- honest: all five are honest, every answer is trained on as it is;
- adversary: one of them always says the opposite;
- adversary-dawid-skene: the same, with `--pooling dawid-skene`.

    python benchmarks/adversary.py --env rlhf_gym/HalfCheetah-v0 --seeds 10 11 12

Stopped, it goes on from the runs that its result has; remove the result to have them made again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import RESULTS, write_result
from trainer import final_figures, right_choice, training

from rlhf_gym.data import Choice
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk
from rlhf_gym.feedback.quality.dawid_skene import fit_dawid_skene
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.provenance import commit_of, provenance

N_LABELLERS, PER_PAIR, ERRORS = 5, 3, 0.05
WAYS = {
    "honest": (False, "none"),
    "adversary": (True, "none"),
    "adversary-dawid-skene": (True, "dawid-skene"),
}
DESK = DeskSettings(gold_share=0.0, repeat_share=0.0, n_practice=0)
OPPOSITE = {Choice.FIRST: Choice.SECOND, Choice.SECOND: Choice.FIRST, Choice.TIE: Choice.TIE}


def label(folder: Path, trainer: subprocess.Popen[bytes], has_adversary: bool, seed: int) -> None:
    """All five answer in turn, in another order each time, until the trainer has ended."""
    rng = random.Random(seed)
    with ExitStack() as stack:
        store = stack.enter_context(PreferenceStore(folder))
        desks = [
            stack.enter_context(LabelDesk(store, f"labeller-{i}", DESK)) for i in range(N_LABELLERS)
        ]
        while trainer.poll() is None:
            for i in rng.sample(range(N_LABELLERS), N_LABELLERS):
                if not (upcoming := desks[i].upcoming()):
                    continue
                wrong = (has_adversary and i == 0) or rng.random() < ERRORS
                choice = right_choice(store, upcoming[0].query.id)
                choice = OPPOSITE[choice] if wrong else choice
                desks[i].answer(upcoming[0], upcoming[0].side(choice), shown_at=time.time())
            if not any(desk.upcoming() for desk in desks):
                time.sleep(0.1)


def run(env: str, way: str, seed: int, pairs: int, steps: int | None) -> dict[str, Any]:
    """One training with its five labellers."""
    has_adversary, pooling = WAYS[way]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        arguments = [
            "--env", env, "--seed", str(seed), "--teacher", "human", "--label-slack", "0",
            "--labels", str(pairs * PER_PAIR), "--answers-per-query", str(PER_PAIR),
            "--pooling", pooling,
        ]  # fmt: skip
        arguments += ["--steps", str(steps)] if steps else []
        with training(folder, *arguments) as trainer:
            label(folder, trainer, has_adversary, seed)
        figures = final_figures(folder)
        with PreferenceStore(folder) as store:
            found = fit_dawid_skene(store.answer_records()).reliabilities()
    return {
        "env": env,
        "way": way,
        "seed": seed,
        "commit": commit_of(provenance()["git"]),
        **figures,
        "reliabilities": dict(sorted(found.items())),
    }


def main() -> None:
    """Train all ways on all seeds, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="rlhf_gym/HalfCheetah-v0")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--pairs", type=int, default=700)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", default="adversary")
    options = parser.parse_args()
    path = RESULTS / f"{options.out}.json"
    runs = there(path, vars(options))
    if runs is None:
        parser.error(f"{path} holds runs of other options; remove it, or give another --out")
    done = {(one["way"], one["seed"]) for one in runs}
    wanted = [(seed, way) for seed in dict.fromkeys(options.seeds) for way in WAYS]
    missing = [(seed, way) for seed, way in wanted if (way, seed) not in done]
    print(f"{len(missing)} runs to make; {len(runs)} are in {path}", flush=True)
    for seed, way in missing:
        runs.append(run(options.env, way, seed, options.pairs, options.steps))
        print(json.dumps(runs[-1]), flush=True)
        seeds = sorted({one["seed"] for one in runs})
        figures = {"options": {**vars(options), "seeds": seeds}, "runs": runs}
        print(write_result(options.out, None, figures, seeds), flush=True)


def there(path: Path, options: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The runs of a result, of whichever seeds; None where it was begun with other options."""
    if not path.exists():
        return []
    figures = json.loads(path.read_text())["figures"]
    alike = {**figures["options"], "seeds": None} == {**options, "seeds": None}
    begun: list[dict[str, Any]] = figures["runs"]
    return begun if alike else None


if __name__ == "__main__":
    main()
