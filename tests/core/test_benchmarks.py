from __future__ import annotations

import importlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.errors import ConfigError, DataError

# The benchmarks are scripts beside each other: their folder is where they import from.
SCRIPTS = ("common", "label_efficiency", "overhead", "reward_fit", "time_split")


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


def enumerated_quantiles(
    learned: list[float], true: list[float], random: float
) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles over all equally likely resamples: the exact bootstrap."""
    fractions = sorted(
        (np.mean(a) - random) / (np.mean(b) - random)
        for a in itertools.product(learned, repeat=len(learned))
        for b in itertools.product(true, repeat=len(true))
    )
    n = len(fractions)
    low, high = fractions[int(0.025 * n)], fractions[int(0.975 * n)]
    # An interval of 10,000 draws can only be compared where the quantile lies well inside an atom.
    for quantile, value in ((0.025, low), (0.975, high)):
        assert fractions[int((quantile - 0.006) * n)] == pytest.approx(value, rel=1e-12)
        assert fractions[min(int((quantile + 0.006) * n), n - 1)] == pytest.approx(value, rel=1e-12)
    return low, high


def test_the_fraction_is_the_learned_gain_over_the_true_gain(common: ModuleType) -> None:
    # Random 10; learned mean 40, a gain of 30; true mean 50, a gain of 40.
    point, low, high = common.fraction_interval([30.0, 50.0], [50.0, 50.0], 10.0)
    assert point == pytest.approx(0.75, abs=1e-12)
    # Both learned draws are the worse seed in 1 of 4 resamples, above 2.5 %: (30 - 10) / 40.
    assert (low, high) == pytest.approx((0.5, 1.0), abs=1e-12)


def test_both_sides_are_resampled_independently(common: ModuleType) -> None:
    # Worst learned over best true, and the reverse, each come up in 1 of 16 resamples, above 2.5 %.
    # Seeds resampled in pairs, (3, 4) and (1, 2), would end at 1/2 and 3/4 instead.
    _, low, high = common.fraction_interval([3.0, 1.0], [4.0, 2.0], 0.0)
    assert (low, high) == pytest.approx((1 / 4, 3 / 2), abs=1e-12)


@pytest.mark.parametrize(
    ("learned", "true", "random"),
    [
        ([4.0, 8.0, 8.0, 8.0], [12.0], 1.0),
        ([2.0, 2.0, 6.0, 6.0], [9.0, 9.0, 18.0], 0.0),
        ([5.0, 5.0, 9.0], [10.0, 14.0, 14.0], 0.0),
    ],
)
def test_the_interval_is_that_of_all_resamples(
    common: ModuleType, learned: list[float], true: list[float], random: float
) -> None:
    _, low, high = common.fraction_interval(learned, true, random)
    assert (low, high) == pytest.approx(enumerated_quantiles(learned, true, random), rel=1e-9)


returns = st.lists(st.floats(1.0, 100.0), min_size=1, max_size=6)


@given(learned=returns, true=returns, scale=st.floats(0.1, 10.0), shift=st.floats(-50.0, 50.0))
def test_the_unit_and_the_zero_of_the_return_do_not_matter(
    common: ModuleType, learned: list[float], true: list[float], scale: float, shift: float
) -> None:
    here = common.fraction_interval(learned, true, 0.0, n_boot=200)
    there = common.fraction_interval(
        [scale * value + shift for value in learned],
        [scale * value + shift for value in true],
        shift,
        n_boot=200,
    )
    assert there == pytest.approx(here, rel=1e-6)


def test_the_interval_is_reproducible_and_a_single_seed_has_no_width(common: ModuleType) -> None:
    arguments = ([3.0, 4.0, 8.0], [9.0, 7.0], 1.0)
    assert common.fraction_interval(*arguments) == common.fraction_interval(*arguments)
    assert common.fraction_interval([5.0], [9.0], 1.0) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("learned", "true", "message"),
    [
        ([], [5.0], "finish the runs"),
        ([5.0], [], "finish the runs"),
        ([5.0, float("nan")], [5.0], "finish the runs"),
        ([5.0], [9.0, 1.0], "not above `random`"),
    ],
)
def test_a_fraction_without_a_meaning_is_refused(
    common: ModuleType, learned: list[float], true: list[float], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        common.fraction_interval(learned, true, 1.0)


def test_spread_keeps_every_measurement_in_order(common: ModuleType) -> None:
    assert common.spread([3.0, 1.0, 2.0, 10.0]) == {
        "min": 1.0, "median": 2.5, "max": 10.0, "all": [3.0, 1.0, 2.0, 10.0],
    }  # fmt: skip
    with pytest.raises(DataError, match="measure at least once"):
        common.spread([])


@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        ("rlhf_gym/HalfCheetah-v0", "halfcheetah"),
        ("Swimmer-v5", "swimmer"),
        ("my.envs:Robot-Arm-v12", "robot-arm"),
    ],
)
def test_a_task_has_a_short_name(common: ModuleType, env_id: str, expected: str) -> None:
    assert common.slug(env_id) == expected


def test_a_result_says_what_it_was_made_with(common: ModuleType, tmp_path: Path) -> None:
    figures = {"rate": np.float32(2.5), "missing": float("nan")}
    path = common.write_result("x", ["bench.py", "--n", "3"], figures, [1, 2], folder=tmp_path)
    content = json.loads(path.read_text())
    assert path == tmp_path / "x.json"
    assert content["figures"] == {"rate": 2.5, "missing": None}
    assert content["seeds"] == [1, 2]
    assert content["command"] == "bench.py --n 3"
    assert {"versions", "git", "machine", "time_utc", "load_average_1min"} <= content.keys()


def make_record(seed: int, value: float, random: float | None = None) -> dict[str, Any]:
    return {
        "seed": seed, "true_return_mean": value, "random_return_mean": random, "seconds": 1.0,
        "env_steps": 100, "n_labels": 70, "reward_accuracy_heldout": 0.9,
        "reward_correlation": 0.8,
    }  # fmt: skip


@pytest.mark.parametrize(("true", "stock", "best"), [(9.0, 11.0, "stock"), (11.0, 9.0, "true")])
def test_the_denominator_is_the_better_of_the_two_yardsticks(
    load: Callable[[str], ModuleType], true: float, stock: float, best: str
) -> None:
    summary = load("label_efficiency").summarise({
        "learned-70": [make_record(0, 5.0, 0.0), make_record(1, 9.0, 2.0)],
        "true": [make_record(0, true, 1.0), make_record(1, true, 1.0)],
        "stock": [make_record(0, stock), make_record(1, stock)],
    })  # fmt: skip
    learned = summary["settings"]["learned-70"]
    assert (summary["denominator"], summary["random_return_mean"]) == (best, 1.0)
    # (7 - 1) / (11 - 1), and the worst seed's (5 - 1) / 10.
    assert learned["fraction"] == pytest.approx(0.6, abs=1e-12)
    assert learned["worst_seed_fraction"] == pytest.approx(0.4, abs=1e-12)
    assert learned["interval_95"] == pytest.approx([0.4, 0.8], abs=1e-12)
    assert (learned["returns"], learned["mean"], learned["worst"]) == ([5.0, 9.0], 7.0, 5.0)


def test_runs_too_short_to_learn_leave_their_returns_without_a_fraction(
    load: Callable[[str], ModuleType],
) -> None:
    rows = [make_record(0, 0.0, 1.0)]
    summary = load("label_efficiency").summarise({"learned-5": rows, "true": rows, "stock": rows})
    learned = summary["settings"]["learned-5"]
    assert learned["fraction"] is None
    assert "train longer" in learned["why_not"]


def test_a_run_is_repeated_when_anything_it_was_asked_to_do_changes(
    load: Callable[[str], ModuleType],
) -> None:
    bench, training = load("label_efficiency"), importlib.import_module("rlhf_gym.training")

    def fingerprint(setting: str, seed: int, steps: int) -> str:
        options = bench.Options(env="rlhf_gym/PointMass-v0", steps=steps, labels=(70, 35))
        prepared = training.prepare(bench.config_for(options, setting, seed))
        assert prepared.config.reward == ("learned" if "learned" in setting else "true")
        result: str = bench.fingerprint(setting, prepared)
        return result

    cases = [
        ("learned-70", 0, 9000), ("learned-35", 0, 9000), ("true", 0, 9000), ("stock", 0, 9000),
        ("stock", 1, 9000), ("stock", 0, 12_000),
    ]  # fmt: skip
    assert len({fingerprint(*case) for case in cases}) == len(cases)
    assert fingerprint(*cases[0]) == fingerprint(*cases[0])


def test_an_unknown_setting_is_refused_with_those_there_are(
    load: Callable[[str], ModuleType],
) -> None:
    bench = load("label_efficiency")
    assert bench.settings_of(bench.Options()) == ["learned-700", "learned-350", "true", "stock"]
    with pytest.raises(ConfigError, match=r"learned-70.*accepted.*learned-700"):
        bench.settings_of(bench.Options(only="learned-70"))


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
