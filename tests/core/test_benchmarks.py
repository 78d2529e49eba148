from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rlhf_gym.errors import DataError

# The benchmarks are scripts beside each other: their folder is where they import from.
SCRIPTS = ("common", "overhead", "reward_fit", "time_split")


@pytest.fixture(scope="module")
def load(repository: Path) -> Iterator[Callable[[str], ModuleType]]:
    folder = str(repository / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module
    sys.path.remove(folder)
    for name in SCRIPTS:
        sys.modules.pop(name, None)


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
