from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from rlhf_gym.data import Choice, Clip, Query
from rlhf_gym.errors import ConfigError, DataError, UnknownNameError
from rlhf_gym.feedback.teachers import PRESETS, SyntheticTeacher, make_teacher

FIRST, SECOND, TIE, SKIP = Choice.FIRST, Choice.SECOND, Choice.TIE, Choice.SKIP
Rewards = Sequence[float]


def clip(rewards: Rewards, tag: float) -> Clip:
    """A clip of the given true rewards; the tag makes it distinct from any other."""
    n = len(rewards)
    obs = np.full((n + 1, 1), tag, np.float32)
    return Clip(obs, np.zeros((n, 1), np.float32), "test", np.array(rewards, np.float32))


def queries(*pairs: tuple[Rewards, Rewards]) -> list[Query]:
    return [
        Query((clip(first, 2.0 * i), clip(second, 2.0 * i + 1.0)), seed=0, round=0, index=i)
        for i, (first, second) in enumerate(pairs)
    ]


def single_steps(*pairs: tuple[float, float]) -> list[Query]:
    return queries(*(([first], [second]) for first, second in pairs))


def repeated(first: Rewards, second: Rewards, n: int) -> list[Query]:
    """The same pair asked n times: n queries with noise of their own."""
    clips = (clip(first, 0.0), clip(second, 1.0))
    return [Query(clips, seed=0, round=0, index=i) for i in range(n)]


def choices(teacher: SyntheticTeacher, asked: Sequence[Query]) -> list[Choice]:
    return [preference.choice for preference in teacher.answer(asked)]


def assert_share(teacher: SyntheticTeacher, asked: Sequence[Query], expected: float) -> None:
    """FIRST is answered within the central 99.9 % of a binomial (the seed is fixed)."""
    count = choices(teacher, asked).count(FIRST)
    low, high = binom.interval(0.999, len(asked), expected)
    assert low <= count <= high


def test_the_oracle_prefers_the_greater_return_and_ties_exact_equals() -> None:
    asked = queries(([1, 1], [3, 0]), ([0, 5], [4, 0]), ([1, 2], [2, 1]), ([-1], [-2, -1]))
    assert choices(SyntheticTeacher(), asked) == [SECOND, FIRST, TIE, FIRST]


def test_answers_keep_the_order_and_name_the_teacher_and_no_time() -> None:
    asked = single_steps((1, 0), (0, 1))
    answers = SyntheticTeacher(name="mine").answer(asked)
    assert [answer.query for answer in answers] == asked
    assert {(a.teacher, a.labeller, a.shown_at, a.answered_at) for a in answers} == {
        ("mine", "", 0.0, 0.0)
    }
    assert SyntheticTeacher().answer(asked)[0].teacher == "synthetic"
    assert SyntheticTeacher(eps_skip=0.1, eps_equal=0.1).answer([]) == []


# Sorted returns 0 0 1 2 3 4 5 6 8 8: the quantiles lie at positions .45 and 8.55, between equal
# neighbours, so q05 = 0, q95 = 8 exactly, and a share of one half is 4.
SPREAD = [(0.0, 4.0), (0.0, 8.0), (8.0, 5.0), (2.0, 3.0), (6.0, 1.0)]


@pytest.mark.parametrize("shift", [0.0, -1000.0])
@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, [SECOND, SECOND, FIRST, SECOND, FIRST]),
        ({"eps_skip": 0.5}, [SKIP, SECOND, FIRST, SKIP, FIRST]),  # max <= 4: 4 itself is skipped
        ({"eps_skip": 0.375}, [SECOND, SECOND, FIRST, SKIP, FIRST]),  # max <= 3
        ({"eps_equal": 0.5}, [SECOND, SECOND, TIE, TIE, FIRST]),  # |d| < 4: 4 itself is no tie
        ({"eps_equal": 0.375}, [SECOND, SECOND, FIRST, TIE, FIRST]),  # |d| < 3
        ({"eps_skip": 0.5, "eps_equal": 0.5}, [SKIP, SECOND, TIE, SKIP, FIRST]),  # skip first
    ],
)
def test_quantile_thresholds_by_hand_for_positive_and_negative_returns(
    shift: float, knobs: dict[str, Any], expected: list[Choice]
) -> None:
    asked = single_steps(*((first + shift, second + shift) for first, second in SPREAD))
    assert choices(SyntheticTeacher(**knobs), asked) == expected


@pytest.mark.parametrize(("eps", "close"), [(0.25, TIE), (0.24, SECOND)])
def test_the_spread_reaches_from_the_5th_to_the_95th_percentile(eps: float, close: Choice) -> None:
    # Returns 0, 1, ..., 9: the p-quantile is 9 p, the spread 9 * .9 = 8.1. A quarter of it is 2.025
    # and ties a difference of 2; .24 of it is 1.944 and does not.
    asked = single_steps((0, 2), (1, 4), (3, 9), (5, 7), (6, 8))
    expected = [close, SECOND, SECOND, close, close]
    assert choices(SyntheticTeacher(eps_equal=eps), asked) == expected


# Mean true return (0 + 2 + 1 + 3 + 10 + 8) / 6 = 4.
PUBLISHED = [(0.0, 2.0), (1.0, 3.0), (10.0, 8.0)]


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({"eps_skip": 0.5}, [SKIP, SECOND, FIRST]),  # max <= 2
        ({"eps_skip": 0.75}, [SKIP, SKIP, FIRST]),  # max <= 3; eps twice would give 2.25
        ({"eps_equal": 0.5}, [SECOND, SECOND, FIRST]),  # |d| < 2
        ({"eps_equal": 0.625}, [TIE, TIE, TIE]),  # |d| < 2.5; eps twice would give 1.5625
    ],
)
def test_published_thresholds_are_eps_times_the_mean_return_applied_once(
    knobs: dict[str, Any], expected: list[Choice]
) -> None:
    teacher = SyntheticTeacher(threshold="bpref", **knobs)
    assert choices(teacher, single_steps(*PUBLISHED)) == expected


@pytest.mark.parametrize(("pair", "mean"), [((-3.0, 1.0), "-1"), ((-2.0, 2.0), "0")])
@pytest.mark.parametrize("knob", ["eps_skip", "eps_equal"])
def test_published_thresholds_refuse_a_mean_return_that_is_not_positive(
    pair: tuple[float, float], mean: str, knob: str
) -> None:
    teacher = SyntheticTeacher(threshold="bpref", **{knob: 0.1})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"which is {mean} over.*quantile"):
        teacher.answer(single_steps(pair))
    # Without a knob that needs the threshold there is nothing to refuse.
    assert len(choices(SyntheticTeacher(threshold="bpref"), single_steps(pair))) == 1


def test_a_skipper_still_answers_where_all_clips_are_alike() -> None:
    assert choices(SyntheticTeacher(eps_skip=0.5), single_steps((1, 1), (1, 1))) == [TIE, TIE]


def test_a_myopic_teacher_weighs_the_end_of_each_clip_most() -> None:
    asked = queries(
        ([8, 0, 0], [0, 0, 3]),  # 8/4 < 3, though 8 > 3
        ([4, 1], [8, 0, 0]),  # 4/2 + 1 = 3 > 8/4 = 2: each clip from its own end
        ([4, 0, 0], [0, 0, 1]),  # both 1
    )
    assert choices(SyntheticTeacher(gamma=0.5), asked) == [SECOND, FIRST, TIE]
    assert choices(SyntheticTeacher(), asked) == [FIRST, SECOND, FIRST]


def test_skip_looks_at_raw_returns_not_at_myopic_ones() -> None:
    # Mean (8 + 1 + 2 + 1) / 4 = 3, skip at 2.7: the first pair's raw 8 exceeds it, its myopic 2
    # does not.
    asked = queries(([8, 0, 0], [0, 0, 1]), ([2, 0, 0], [0, 0, 1]))
    teacher = SyntheticTeacher(gamma=0.5, eps_skip=0.9, threshold="bpref")
    assert choices(teacher, asked) == [FIRST, SKIP]


def test_equal_looks_at_raw_returns_not_at_myopic_ones() -> None:
    # Mean 29/4, equal below 3.625: myopic 4 against 5 differ by 1 but raw 16 against 5 by 11; raw
    # 4 against 4 are equal though myopic 1 against 4 are not.
    asked = queries(([16, 0, 0], [0, 0, 5]), ([4, 0, 0], [0, 0, 4]))
    teacher = SyntheticTeacher(gamma=0.5, eps_equal=0.5, threshold="bpref")
    assert choices(teacher, asked) == [SECOND, TIE]
    assert choices(SyntheticTeacher(gamma=0.5), asked) == [SECOND, SECOND]


def test_equal_overrides_mistakes_and_irrationality() -> None:
    asked = [*single_steps((0.0, 100.0)), *repeated([10.0], [10.5], 200)]
    # Mean (100 + 200 * 20.5) / 402 = 10.4, equal below 5.2.
    teacher = SyntheticTeacher(eps_equal=0.5, eps_mistake=0.5, beta=1.0, threshold="bpref")
    assert choices(teacher, asked)[1:] == [TIE] * 200
    without = choices(dataclasses.replace(teacher, eps_equal=0.0), asked)[1:]
    assert set(without) == {FIRST, SECOND}


def test_skip_overrides_mistakes_and_equality() -> None:
    asked = [*single_steps((0.0, 100.0)), *repeated([1.0], [1.5], 50)]
    # Mean (100 + 50 * 2.5) / 102 = 2.2, skip at 1.98.
    teacher = SyntheticTeacher(eps_skip=0.9, eps_equal=0.9, eps_mistake=0.5, threshold="bpref")
    assert choices(teacher, asked)[1:] == [SKIP] * 50


def test_a_mistake_has_nothing_to_swap_in_an_exact_tie() -> None:
    assert choices(SyntheticTeacher(eps_mistake=0.9), repeated([1, 2], [2, 1], 50)) == [TIE] * 50


@pytest.mark.parametrize("eps", [0.1, 0.4])
def test_mistakes_happen_at_their_rate(eps: float) -> None:
    assert_share(SyntheticTeacher(eps_mistake=eps, seed=1), repeated([2], [1], 4000), 1.0 - eps)


@pytest.mark.parametrize(("beta", "difference"), [(1.0, 1.0), (1.0, -2.0), (4.0, 0.25), (0.0, 9.0)])
def test_noisy_answers_follow_the_logistic_of_beta_times_the_difference(
    beta: float, difference: float
) -> None:
    expected = 1.0 / (1.0 + math.exp(-beta * difference))
    asked = repeated([3.0 + difference], [3.0], 4000)
    assert_share(SyntheticTeacher(beta=beta, seed=2), asked, expected)


def test_noise_of_label_and_mistake_are_independent() -> None:
    # s = sigmoid(1): right and kept, or wrong and swapped. One shared draw would give another rate.
    s = 1.0 / (1.0 + math.exp(-1.0))
    teacher = SyntheticTeacher(beta=1.0, eps_mistake=0.3, seed=3)
    assert_share(teacher, repeated([1.0], [0.0], 4000), 0.7 * s + 0.3 * (1.0 - s))


def test_noisy_answers_use_myopic_returns() -> None:
    # 8/4 - 3 = -1, while the raw difference is +5
    expected = 1.0 / (1.0 + math.exp(1.0))
    asked = repeated([8, 0, 0], [0, 0, 3], 4000)
    assert_share(SyntheticTeacher(beta=1.0, gamma=0.5, seed=4), asked, expected)


def test_an_immense_difference_neither_overflows_nor_warns() -> None:
    for size, beta in [(1e30, 1e300), (1e4, 1.0)]:
        asked = single_steps((size, -size), (-size, size))
        assert choices(SyntheticTeacher(beta=beta), asked) == [FIRST, SECOND]


NOISY = SyntheticTeacher(beta=1.0, eps_mistake=0.3, seed=5)
MANY = queries(*(([i % 3], [i % 5, 1.0]) for i in range(30)))
ALONE = {query.id: NOISY.answer([query])[0].choice for query in MANY}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(MANY), unique_by=lambda query: query.id))
def test_any_batch_in_any_order_is_answered_as_one_by_one(batch: list[Query]) -> None:
    assert [(p.query.id, p.choice) for p in NOISY.answer(batch)] == [
        (query.id, ALONE[query.id]) for query in batch
    ]


@settings(deadline=None, max_examples=30)
@given(st.permutations(MANY), st.sampled_from(["quantile", "bpref"]))
def test_the_order_of_a_round_changes_no_threshold(shuffled: list[Query], threshold: Any) -> None:
    teacher = dataclasses.replace(NOISY, eps_skip=0.7, eps_equal=0.7, threshold=threshold)
    expected = {p.query.id: p.choice for p in teacher.answer(MANY)}
    assert {p.query.id: p.choice for p in teacher.answer(shuffled)} == expected
    assert {SKIP, TIE} <= set(expected.values())


def test_noise_is_the_documented_function_of_seed_and_query_id() -> None:
    # The recipe written out once more: a change of it would break the replay of stored runs.
    for query in repeated([1.0], [0.0], 50):
        digest = hashlib.sha256(f"7|{query.id}".encode()).digest()
        label, mistake = np.random.default_rng(int.from_bytes(digest, "big")).random(2)
        first = (label < 1.0 / (1.0 + math.exp(-1.0))) != (mistake < 0.3)
        teacher = SyntheticTeacher(beta=1.0, eps_mistake=0.3, seed=7)
        assert choices(teacher, [query]) == [FIRST if first else SECOND]


def test_another_seed_makes_other_mistakes() -> None:
    asked = repeated([1.0], [0.0], 100)
    teachers = [SyntheticTeacher(eps_mistake=0.5, seed=seed) for seed in (0, 1)]
    assert choices(teachers[0], asked) != choices(teachers[1], asked)


def test_clips_without_true_rewards_are_refused_naming_the_remedy() -> None:
    blind = dataclasses.replace(clip([1.0], 0.0), true_rewards=None)
    query = Query((clip([1.0], 1.0), blind), seed=0, round=0, index=0)
    with pytest.raises(DataError, match=r"carries no `true_rewards`.*needs an env's reward"):
        SyntheticTeacher().answer([query])


def test_queries_of_three_clips_are_refused() -> None:
    three = tuple(clip([1.0], tag) for tag in (0.0, 1.0, 2.0))
    with pytest.raises(DataError, match="holds 3 clips"):
        SyntheticTeacher().answer([Query(three, seed=0, round=0, index=0)])


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("beta", -1.0),
        ("beta", math.nan),
        ("gamma", 0.0),
        ("gamma", 1.1),
        ("eps_mistake", 1.0),
        ("eps_skip", -0.1),
        ("eps_equal", math.nan),
        ("threshold", "mean"),
    ],
)
def test_knobs_out_of_range_are_refused_by_name(knob: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"`{knob}` is"):
        SyntheticTeacher(**{knob: value})


def test_presets_are_the_published_teachers() -> None:
    changed = {
        name: {
            field.name: getattr(teacher, field.name)
            for field in dataclasses.fields(teacher)
            if getattr(teacher, field.name) != field.default
        }
        for name, teacher in PRESETS.items()
    }
    assert changed == {
        "oracle": {},
        "mistake": {"eps_mistake": 0.1},
        "noisy": {"beta": 1.0},
        "skip": {"eps_skip": 0.1},
        "myopic": {"gamma": 0.9},
        "equal": {"eps_equal": 0.1},
    }
    assert SyntheticTeacher().beta == math.inf
    assert make_teacher("mistake", 9) == SyntheticTeacher(eps_mistake=0.1, seed=9)


def test_an_unknown_preset_names_the_nearest_and_all() -> None:
    with pytest.raises(UnknownNameError, match=r"'orakle'.*equal, mistake.*Did you mean 'oracle'"):
        make_teacher("orakle", 0)


def test_a_teacher_is_described_by_its_knobs() -> None:
    made = make_teacher("eps_mistake=0.3, beta=2", 4)
    assert made == SyntheticTeacher(eps_mistake=0.3, beta=2.0, seed=4)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("eps_mistakes=0.3", r"'eps_mistakes' is no knob.*beta, gamma, eps_mistake"),
        ("beta=1,beta=2", "'beta' is no knob or stands twice"),
        ("seed=3", "'seed' is no knob"),
        ("eps_mistake=often", "eps_mistake is 'often'; give a number"),
        ("eps_mistake=1.5", r"`eps_mistake` is 1\.5"),
        ("gamma=nan", "`gamma` is nan"),
    ],
)
def test_wrong_knobs_are_refused_by_name(description: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_teacher(description, 0)
