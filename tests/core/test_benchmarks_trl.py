"""benchmarks/against_trl.py as far as it goes without TRL: our side, the files, the arithmetic."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from rlhf_gym.errors import ConfigError


@pytest.fixture(scope="module")
def folder(load: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs")
    load("against_trl").make_inputs(path, tiny(load), tiny=True)
    return path


def tiny(load: Callable[[str], ModuleType]) -> object:
    return load("against_trl").PARTS["dpo"].sizes.tiny()


@pytest.mark.parametrize("side", ["dpo", "reward", "reward_plain", "ppo"])
def test_our_side_measures_every_part(
    load: Callable[[str], ModuleType], folder: Path, side: str
) -> None:
    job = load("against_trl_shared").Job(side, folder, tiny(load))
    figures = load("against_trl_ours").SIDES[side](job)
    # Two steps of four are timed, behind one that is not.
    assert figures["n_samples"] == 8
    assert figures["seconds"] > 0
    assert figures["peak_mib"] >= figures["libraries_mib"] > 0
    if side == "dpo":
        # Before its first step the policy is the reference: -log sigmoid(0).
        assert figures["first_loss"] == pytest.approx(math.log(2), abs=1e-5)
    if side == "ppo":
        assert 1 <= figures["tokens_per_completion"] <= 6


def test_a_job_and_the_pairs_come_back_from_their_files_as_they_were(
    load: Callable[[str], ModuleType], folder: Path
) -> None:
    shared = load("against_trl_shared")
    job = shared.Job("dpo", folder, tiny(load))
    job.write(folder / "job.json")
    assert shared.Job.read(folder / "job.json") == job
    pairs = shared.Pairs.read(folder)
    assert len(pairs.prompts) == len(pairs.chosen) == len(pairs.rejected) == 12
    assert {len(prompt) for prompt in pairs.prompts} == {4}
    completions = pairs.chosen + pairs.rejected
    assert all(2 <= len(ids) <= 6 for ids in completions)
    # EOS is 2, words are 3 and above.
    assert all(ids[-1] == 2 and min(ids[:-1]) > 2 for ids in completions)


def record(seconds: float, peak: float, **more: object) -> dict[str, object]:
    clocks = {"seconds": seconds, "cpu_seconds": seconds / 2}
    memory = {"peak_mib": peak, "libraries_mib": 400.0}
    return {"n_samples": 100, **clocks, **memory, "versions": {"torch": "2"}, **more}


def test_the_reference_counts_as_our_time_and_targets_are_ratios_of_medians(
    load: Callable[[str], ModuleType],
) -> None:
    bench = load("against_trl")
    apart = {"reference_seconds": 1.0, "reference_cpu_seconds": 0.5}
    found = {
        "ours": [record(s, 500.0, **apart) for s in (1.0, 4.0, 3.0)],  # 50, 20 and 25 samples/s
        "trl": [record(s, 600.0) for s in (5.0, 10.0, 20.0)],  # 20, 10 and 5
    }
    figures = bench.summarise(bench.PARTS["dpo"], found)
    assert figures["samples_per_second"]["ours"]["all"] == [50.0, 20.0, 25.0]
    assert figures["ratios_by_seconds"] == {"trl": pytest.approx(2.5)}
    assert figures["ratios_by_cpu_seconds"] == {"trl": pytest.approx(2.5)}
    assert figures["peak_above_libraries_mib"]["ours"]["median"] == 100.0
    speed, peak, above = figures["targets"]
    assert (speed["found"], speed["met"]) == (pytest.approx(2.5), True)
    assert (peak["found"], peak["met"], above["met"]) == (500.0, True, True)
    slower = {"ours": found["trl"], "trl": found["ours"]}
    assert not any(t["met"] for t in bench.summarise(bench.PARTS["dpo"], slower)["targets"])
    alone = bench.summarise(bench.PARTS["dpo"], {"ours": found["ours"]})
    assert alone["targets"] == []


def test_a_meter_without_its_steps_gives_no_figures(load: Callable[[str], ModuleType]) -> None:
    meter = load("against_trl_shared").Meter(tiny(load))
    meter.step()
    meter.step()
    with pytest.raises(RuntimeError, match="steps are missing"):
        meter.figures()
    meter.step()
    assert meter.figures(more=1)["more"] == 1


def test_a_part_without_the_peer_says_so(
    load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = load("against_trl")
    monkeypatch.setattr(bench, "_measure", lambda python, script, job: record(1.0, 500.0))
    options = replace(bench.Options(repetitions=2, out=tmp_path), smoke=True)
    path = bench.measure_part("reward", options)
    figures = json.loads(path.read_text())["figures"]
    assert path.name == "against_trl_smoke_reward.json"
    assert figures["trl"].startswith("skipped")
    assert figures["samples_per_second"]["plain"]["all"] == [100.0, 100.0]
    with pytest.raises(ConfigError, match="accepted are"):
        bench.Options(only=("grpo",))


def test_the_peers_place_is_not_told(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = load("against_trl")
    for given in (["--peer-python=/home/me/python"], ["--peer-python", "/home/me/python"]):
        monkeypatch.setattr(sys, "argv", ["against_trl.py", *given, "--smoke"])
        told = bench._command()
        assert told == ["against_trl.py", "--peer-python", "ENV/bin/python", "--smoke"]
