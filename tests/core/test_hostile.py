"""A sample of `benchmarks/hostile.py`: every door, the kinds of input that are quick to refuse."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from rlhf_gym.cli import main

PER_DOOR = 1
DOORS = (
    "config: ", "benchmark: ", "keys: ", "rubric: ", "config.yaml: ", "metrics.jsonl: ",
    "summary.json: ", "state.json: ", "sealed state", "preferences.db as ", "npz: ",
    "safetensors: ", "npy: ", "import auto: ", "import pairs: ", "import parquet ", "store, ",
    "path ", "argument: ", "texts: ", "labellers: ",
)  # fmt: skip
SLOW = ("large", "bomb", "values", "blank", "not json", "sparse", "long line", ": train", "20 MB")


@pytest.fixture(scope="module")
def hostile(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("hostile")


@pytest.fixture(scope="module")
def sample(load: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> object:
    return load("hostile_inputs").make_sample(tmp_path_factory.mktemp("sample"), main)


def test_hostile_inputs_end_in_one_sentence_at_every_door(
    hostile: ModuleType, load: Callable[[str], ModuleType], sample: object, tmp_path: Path
) -> None:
    hostile.import_everything()
    cases = [
        case
        for case in load("hostile_inputs").all_cases(sample)
        if not any(word in case.name for word in SLOW)
    ]
    rng = random.Random(0)
    chosen = []
    for door in DOORS:
        found = [case for case in cases if case.name.startswith(door)]
        assert found, door
        chosen += rng.sample(found, min(PER_DOOR, len(found)))
    findings = hostile.run_all(chosen, tmp_path, seed=0, n_workers=2)
    assert [finding for finding in findings if finding["wrong"]] == []
    assert sum(finding["status"] == 2 for finding in findings) > len(findings) / 2


def test_what_the_campaign_counts_is_found(
    hostile: ModuleType,
    load: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = load("hostile_inputs")

    def behave(arguments: list[str]) -> int:
        kind = arguments[0]
        if kind == "execution":
            Path(os.environ[inputs.MARK]).write_text("was here")
        elif kind == "traceback":
            print("Traceback (most recent call last)")
        elif kind == "hang":
            time.sleep(60)
        elif kind == "crash":
            os.abort()
        elif kind == "half-written":
            Path("left").mkdir()
        elif kind == "steering":
            print("\x1b[2J")
        return 70 if kind == "bug" else 2

    monkeypatch.setattr(hostile, "call", behave)
    monkeypatch.setattr(hostile, "LIMIT_SECONDS", 1.0)
    kinds = [*hostile.COUNTED, "nothing"]
    cases = [inputs.Case(kind, lambda folder, rng: None, [kind]) for kind in kinds]
    findings = hostile.run_all(cases, tmp_path, seed=0, n_workers=2)
    assert [finding["wrong"] for finding in findings] == [[kind] for kind in hostile.COUNTED] + [[]]
    counts = hostile.count(findings)
    assert counts["n_inputs"] == len(kinds)
    assert all(counts[f"n_{kind.replace('-', '_')}"] == 1 for kind in hostile.COUNTED)
