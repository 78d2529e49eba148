from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.feedback.metrics import (
    accuracy,
    calibration_table,
    correlation,
    expected_calibration_error,
    log_loss,
)

PROBS = st.floats(0.0, 1.0)
PAIRS = st.lists(st.tuples(PROBS, st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=40)
NUMBERS = st.lists(st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000)), max_size=20)
EMPTY = np.zeros(0)


def test_accuracy_leaves_ties_out_and_counts_an_even_prediction_half() -> None:
    predicted = np.array([0.9, 0.2, 0.6, 0.5, 0.9])
    answers = np.array([1.0, 0.0, 0.0, 1.0, 0.5])
    # right, right, wrong, half, not counted: 2.5 of 4
    assert accuracy(predicted, answers) == 2.5 / 4


def test_a_constant_model_scores_one_half_on_any_decisive_answers() -> None:
    assert accuracy(np.full(4, 0.5), np.array([0.0, 0.0, 0.0, 1.0])) == 0.5


def test_accuracy_without_a_decisive_answer_is_nan() -> None:
    assert math.isnan(accuracy(np.array([0.9]), np.array([0.5])))
    assert math.isnan(accuracy(EMPTY, EMPTY))


def test_log_loss_is_the_mean_surprise() -> None:
    # -log 3/4, -log 3/4, and for the tie -(log 1/4 + log 3/4) / 2
    expected = (2 * -math.log(3 / 4) - (math.log(1 / 4) + math.log(3 / 4)) / 2) / 3
    got = log_loss(np.array([0.75, 0.25, 0.25]), np.array([1.0, 0.0, 0.5]))
    assert got == pytest.approx(expected, abs=1e-12)
    assert math.isnan(log_loss(EMPTY, EMPTY))


@pytest.mark.parametrize(("dtype", "bits"), [(np.float32, 23), (np.float64, 52)])
@pytest.mark.parametrize("predicted", [0.0, 1.0])
def test_a_rounded_certainty_that_is_wrong_costs_the_bits_of_its_dtype(
    dtype: type[np.floating], bits: int, predicted: float
) -> None:
    # machine epsilon is 2^-bits, so the loss is bits * log 2: 15.9 and 36.0 nats
    got = log_loss(np.array([predicted], dtype), np.array([1.0 - predicted]))
    assert got == pytest.approx(bits * math.log(2.0), rel=1e-12)


def test_calibration_error_of_a_hand_worked_table() -> None:
    predicted = np.array([0.1, 0.15, 0.72, 0.78, 1.0])
    answers = np.array([0.0, 1.0, 1.0, 0.5, 1.0])
    # [.1, .2): 2 pairs, mean .125 vs .5;  [.7, .8): 2 pairs, .75 vs .75;  [.9, 1]: 1 pair, 1 vs 1
    table = calibration_table(predicted, answers)
    assert [row["n"] for row in table] == [2, 2, 1]
    assert [row["predicted"] for row in table] == pytest.approx([0.125, 0.75, 1.0])
    assert [row["observed"] for row in table] == pytest.approx([0.5, 0.75, 1.0])
    assert expected_calibration_error(predicted, answers) == pytest.approx(2 / 5 * 0.375)


def test_a_bias_towards_one_side_shows_as_calibration_error() -> None:
    # Always 80 % sure of FIRST while it wins half: measured on P(first), the error is .3.
    predicted, answers = np.full(10, 0.8), np.array([1.0, 0.0] * 5)
    assert expected_calibration_error(predicted, answers) == pytest.approx(0.3)


@pytest.mark.parametrize("b", range(10))
def test_a_prediction_on_an_edge_belongs_to_the_bin_above(b: int) -> None:
    # b / 10 and the middle of the bin above it share a bin; the middle of the one below does not.
    predicted = np.array([b / 10, b / 10 + 0.05, b / 10 - 0.05 if b else 0.0])
    table = calibration_table(predicted, np.ones(3))
    assert [row["n"] for row in table] == ([1, 2] if b else [3])


@settings(deadline=None)
@given(PAIRS, st.integers(1, 12))
def test_calibration_error_equals_a_loop_over_bins(
    pairs: list[tuple[float, float]], n_bins: int
) -> None:
    expected = 0.0
    for b in range(n_bins):
        low, high = b / n_bins, (b + 1) / n_bins
        inside = [(p, y) for p, y in pairs if low <= p < high or (b == n_bins - 1 and p == 1.0)]
        if inside:
            gap = sum(p for p, _ in inside) / len(inside) - sum(y for _, y in inside) / len(inside)
            expected += len(inside) / len(pairs) * abs(gap)
    predicted, answers = np.array(pairs).T
    got = expected_calibration_error(predicted, answers, n_bins)
    assert got == pytest.approx(expected, abs=1e-12)


def test_the_calibration_table_is_plain_json() -> None:
    table = calibration_table(np.array([0.25], np.float32), np.array([1.0], np.float32))
    assert json.loads(json.dumps(table)) == [{"predicted": 0.25, "observed": 1.0, "n": 1}]


def test_nothing_to_calibrate_on_is_nan_and_an_empty_table() -> None:
    assert math.isnan(expected_calibration_error(EMPTY, EMPTY))
    assert calibration_table(EMPTY, EMPTY) == []
    with pytest.raises(ConfigError, match="`n_bins` is 0"):
        calibration_table(EMPTY, EMPTY, 0)


def test_probabilities_that_are_none_are_refused_with_their_place() -> None:
    good = np.array([0.5, 0.5])
    for measure in (accuracy, log_loss, expected_calibration_error):
        with pytest.raises(DataError, match=r"`prob_pred\[1\]` is 1.5"):
            measure(np.array([0.5, 1.5]), good)
        with pytest.raises(DataError, match=r"`label_probs\[0\]` is nan"):
            measure(good, np.array([np.nan, 0.5]))
        with pytest.raises(DataError, match="2 entries but `label_probs` 3"):
            measure(good, np.ones(3))
        with pytest.raises(DataError, match=r"`prob_pred` has shape \(1, 2\)"):
            measure(good[None], good)


def test_correlation_of_hand_worked_vectors() -> None:
    # centred (-1, 0, 1) and (-1, 1, 0): inner product 1, lengths sqrt 2 each, so 1/2
    assert correlation(np.array([1, 2, 3]), np.array([4, 6, 5])) == pytest.approx(0.5)
    assert correlation(np.array([1.0, 2.0, 3.0]), np.array([5.0, 3.0, 1.0])) == pytest.approx(-1.0)


@settings(deadline=None)
@given(NUMBERS)
def test_correlation_equals_the_textbook_sum_and_stays_within_one(
    pairs: list[tuple[int, int]],
) -> None:
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    got = correlation(np.array(xs, np.float64), np.array(ys, np.float64))
    n = len(pairs)
    # In integers, hence exact: n Sxy - Sx Sy over the root of its squares.
    sxy = n * sum(x * y for x, y in pairs) - sum(xs) * sum(ys)
    sxx = n * sum(x * x for x in xs) - sum(xs) ** 2
    syy = n * sum(y * y for y in ys) - sum(ys) ** 2
    if sxx == 0 or syy == 0:
        assert math.isnan(got)
    else:
        assert got == pytest.approx(sxy / math.sqrt(sxx * syy), abs=1e-9)
        assert -1.0 <= got <= 1.0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([0.1, 0.1, 0.1], [1.0, 2.0, 3.0]),  # the mean of three 0.1 is not 0.1 in float64
        ([1.0, 2.0, 3.0], [7.0, 7.0, 7.0]),
        ([0.0, 0.0], [1.0, 2.0]),
        ([1.0], [2.0]),
        ([], []),
        ([1.0, 2.0], [math.nan, 1.0]),
        ([1.0, math.inf], [2.0, 1.0]),
    ],
)
def test_correlation_that_is_not_defined_is_nan(a: list[float], b: list[float]) -> None:
    assert math.isnan(correlation(np.array(a), np.array(b)))


def test_correlation_survives_the_ends_of_the_number_range() -> None:
    assert correlation(np.array([1e-300, 2e-300]), np.array([1e300, 2e300])) == pytest.approx(1.0)


def test_correlation_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(DataError, match=r"\(2,\).*\(3,\)"):
        correlation(np.zeros(2), np.zeros(3))
