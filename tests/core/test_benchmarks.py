from __future__ import annotations

import importlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rlhf_gym.errors import DataError


@pytest.fixture(scope="module")
def common(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("common")


def test_spread_keeps_every_measurement_in_order(common: ModuleType) -> None:
    assert common.spread([3.0, 1.0, 2.0, 10.0]) == {
        "min": 1.0, "median": 2.5, "max": 10.0, "all": [3.0, 1.0, 2.0, 10.0],
    }  # fmt: skip
    with pytest.raises(DataError, match="measure at least once"):
        common.spread([])


def test_a_result_says_what_it_was_made_with(common: ModuleType, tmp_path: Path) -> None:
    figures = {"rate": np.float32(2.5), "missing": float("nan")}
    path = common.write_result("x", ["bench.py", "--n", "3"], figures, [1, 2], folder=tmp_path)
    content = json.loads(path.read_text())
    assert path == tmp_path / "x.json"
    assert content["figures"] == {"rate": 2.5, "missing": None}
    assert content["seeds"] == [1, 2]
    assert content["command"] == "bench.py --n 3"
    assert {"versions", "git", "machine", "time_utc", "load_average_1min"} <= content.keys()


def test_results_go_where_make_bench_says(
    common: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        with monkeypatch.context() as patch:
            patch.setenv("BENCH_RESULTS", str(tmp_path))
            assert importlib.reload(common).RESULTS == tmp_path
    finally:
        importlib.reload(common)
    assert common.RESULTS == common.ROOT / "benchmarks" / "results"


def test_make_bench_repeats_every_measurement(repository: Path) -> None:
    folder = repository / "benchmarks"
    lines = (folder / "run_all.sh").read_text().splitlines()
    words = set(re.findall(r"\w+", "\n".join(li for li in lines if not li.startswith("#"))))
    scripts = {path.stem: path.read_text() for path in folder.glob("*.py")}
    measuring = {name for name, text in scripts.items() if "\nif __name__" in text}
    # Run by others: in an environment of the peer's, or a process of its own.
    measuring -= {"against_imitation_peer", "against_trl_ours", "against_trl_peer"}
    measuring -= {"reward_fit_imitation", "trainer"}
    specs = {path.stem for path in (folder / "specs").glob("*.yml")} - {"smoke"}
    assert measuring | specs <= words


def test_make_bench_measures_anew_and_names_at_its_end_what_failed(
    repository: Path, tmp_path: Path
) -> None:
    for folder in ("bin", "benchmarks"):
        (tmp_path / folder).mkdir()
    script = tmp_path / "benchmarks" / "run_all.sh"
    script.write_text((repository / "benchmarks" / "run_all.sh").read_text())
    for program in ("python", "rlhf-gym", "xvfb-run"):  # told what to do, they only write it down
        path = tmp_path / "bin" / program
        path.write_text(
            '#!/bin/sh\necho "$BENCH_RESULTS: $*" >> calls\n'
            'case "$*" in *rendering*) exit 1;; esac\n'
        )
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", str(script)],
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "IMITATION_PYTHON": "x"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "   python benchmarks/rendering.py\n" in done.stdout
    calls = (tmp_path / "calls").read_text().splitlines()
    out = tmp_path / "runs" / "bench"
    assert all(call.startswith(f"{out}: ") for call in calls)
    assert any("backflip.py" in call for call in calls), "the last of them"
    spec = "benchmark benchmarks/specs/label_efficiency.yml --workers 2"
    assert f"{out}: {spec} --out {out}/label-efficiency" in calls


def test_every_instant_is_charged_to_the_innermost_section(
    load: Callable[[str], ModuleType],
) -> None:
    now = [0.0]
    watch = load("time_split").Stopwatch(clock=lambda: now[0])

    def pass_(seconds: float) -> None:
        now[0] += seconds

    pass_(1)
    with watch.section("record"):
        pass_(2)
        with watch.section("physics"):
            pass_(4)
        pass_(8)
    with watch.section("fit", opaque=True):
        pass_(16)
        with watch.section("physics"):
            pass_(32)
    with watch.section("physics"):
        pass_(64)
    pass_(128)
    assert watch.stop() == {"other": 129.0, "physics": 68.0, "fit": 48.0, "record": 10.0}
    assert watch.calls == {"record": 1, "physics": 2, "fit": 1}


def test_a_section_closes_when_its_code_raises(load: Callable[[str], ModuleType]) -> None:
    now = [0.0]
    watch = load("time_split").Stopwatch(clock=lambda: now[0])
    with pytest.raises(KeyError), watch.section("fit", opaque=True):
        raise KeyError
    with watch.section("update"):
        now[0] += 3
    assert watch.stop()["update"] == 3.0


def test_the_peer_gets_the_labels_that_ours_are_fitted_to(
    load: Callable[[str], ModuleType],
) -> None:
    bench = load("reward_fit")
    arrays = bench.make_arrays(20)
    preferences = bench.make_preferences(arrays)
    assert arrays["obs"].shape == (20, 2, 51, 17)
    assert arrays["actions"].shape == (20, 2, 50, 6)
    for index, preference in enumerate(preferences):
        assert preference.preference_prob == arrays["preferences"][index]
        for side, clip in enumerate(preference.query.clips):
            assert np.array_equal(clip.obs, arrays["obs"][index, side])
            assert np.array_equal(clip.actions, arrays["actions"][index, side])
    assert set(arrays["preferences"]) == {0.0, 1.0}


def made_up(kind: str, seed: int, mean: float, **more: object) -> dict[str, object]:
    job = {"robot": "halfcheetah", "kind": kind, "seed": seed, "labels": 0, "steps": 124_928}
    figures = {"recipe": "", "true_return_mean": mean, "seconds": 10.0, "env_steps": 120_000}
    return {**job, **figures, "random_return_mean": 0.0, **more}


def test_the_comparison_with_imitation_takes_runs_that_had_no_more_steps(load) -> None:
    robot = load("against_imitation_settings").ROBOTS["halfcheetah"]
    records = []
    for seed, ours, theirs in ((0, 900.0, 500.0), (1, 700.0, 300.0)):
        for labels, steps in ((700, 124_928), (350, 124_928), (700, 225_280), (350, 225_280)):
            returns = ours if labels == 700 else ours - 350.0
            records.append(made_up("learned", seed, returns, labels=labels, steps=steps))
        records += [made_up("true", seed, 1000.0), made_up("plain", seed, 0.0, seconds=8.0)]
        # Its agent trained for 150,000 steps, its envs took 220,000: below our larger budget.
        agent = {"true_return_mean": theirs, "seconds": 60.0}
        agent |= {"agent_steps": 150_000, "env_steps": 220_000}
        peer = made_up("imitation", seed, theirs, recipe="tuned", steps=0, labels=0, agent=agent)
        records.append({**peer, "n_labels": 700})
    summary = load("against_imitation_summary").summarise({"halfcheetah": robot}, records)
    figures = summary["robots"]["halfcheetah"]
    assert [c["imitation_steps"] for c in figures["comparisons"]] == [150_000, 220_000]
    for found in figures["comparisons"]:
        assert (found["mean_half_labels"], found["imitation_mean"]) == (450.0, 400.0)
        assert found["met"]
    # (800 - 0) / (1000 - 0) of the gain; 10 s over plain PPO's 8 s.
    assert figures["yardsticks"]["fraction"] == pytest.approx(0.8)
    assert figures["yardsticks"]["time_ratio"] == pytest.approx(1.25)
    assert figures["settings"]["learned-700-124928"]["worst_seed"] == 1
    assert all(target["met"] for target in summary["targets"])


def test_what_the_peer_must_repeat_is_what_our_env_did(load) -> None:
    reference = load("against_imitation").record_reference("rlhf_gym/Pendulum-v0", n=5)
    # Pendulum-v1's reward, from its documentation: -(angle^2 + 0.1 speed^2 + 0.001 torque^2).
    angle = (reference["states"][:, 0] + np.pi) % (2 * np.pi) - np.pi
    torque = np.clip(reference["actions"][:, 0], -2.0, 2.0)
    cost = angle**2 + 0.1 * reference["states"][:, 1] ** 2 + 0.001 * torque**2
    assert reference["rewards"] == pytest.approx(-cost, abs=1e-6)
    assert np.allclose(reference["states"][1:], reference["next_states"][:-1], atol=1e-9)


def test_backflips_of_one_kind_leave_those_of_the_other_with_their_commit(load, tmp_path) -> None:
    backflip, path = load("backflip"), tmp_path / "backflip.json"
    assert backflip.others(path, ["true"]) == []
    rows = [{"kind": "learned", "seed": 10}, {"kind": "true", "seed": 10, "commit": "older"}]
    path.write_text(json.dumps({"git": {"commit": "a", "dirty": True}, "figures": {"runs": rows}}))
    assert backflip.others(path, ["true"]) == [{"kind": "learned", "seed": 10, "commit": "a-dirty"}]
    assert backflip.others(path, ["learned"]) == [rows[1]]
    assert backflip.others(path, ["learned", "true"]) == []
