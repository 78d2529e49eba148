"""How good predicted preferences are: accuracy, log-loss, calibration, correlation.

Pure functions on NumPy arrays. A prediction is P(first preferred) in [0, 1]; an answer is the same
number as the teacher gave it: 1, 0, or 0.5 for a tie (leave SKIP out). Where there is nothing to
measure on, the figure is NaN, without a warning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from rlhf_gym.data import Array
from rlhf_gym.errors import ConfigError, DataError

__all__ = [
    "CalibrationBin",
    "accuracy",
    "calibration_table",
    "correlation",
    "expected_calibration_error",
    "fit_figures",
    "log_loss",
    "with_noise",
]

_Floats = npt.NDArray[np.float64]


class FitFigures(TypedDict):
    """How well a fit predicts answers, under the names of `FitReport`; NaN without any answer."""

    n_train: int
    n_heldout: int
    n_heldout_decisive: int
    loss_train: float
    loss_heldout: float
    accuracy_train: float
    accuracy_heldout: float
    calibration_error: float


class CalibrationBin(TypedDict):
    """One bin of a reliability diagram; plain numbers, ready for JSON."""

    predicted: float
    """Mean predicted P(first) of the pairs in the bin, in [0, 1]."""
    observed: float
    """Mean answer of the same pairs, in [0, 1]."""
    n: int
    """How many pairs, at least 1."""


def _check_probs(name: str, values: Array) -> _Floats:
    probs = np.asarray(values, dtype=np.float64)
    if probs.ndim != 1:
        raise DataError(
            f"`{name}` has shape {probs.shape}, expected (n,): one probability per pair."
        )
    outside = ~((probs >= 0.0) & (probs <= 1.0))  # catches NaN too
    if outside.any():
        at = int(np.argmax(outside))
        raise DataError(
            f"`{name}[{at}]` is {probs[at]}, expected a probability in [0, 1]; pass sigmoids of "
            "return differences, and leave SKIP answers out."
        )
    return probs


def _check_pair(prob_pred: Array, label_probs: Array) -> tuple[_Floats, _Floats]:
    predicted = _check_probs("prob_pred", prob_pred)
    answers = _check_probs("label_probs", label_probs)
    if len(predicted) != len(answers):
        raise DataError(
            f"`prob_pred` has {len(predicted)} entries but `label_probs` {len(answers)}; "
            "give one answer per prediction."
        )
    return predicted, answers


def accuracy(prob_pred: Array, label_probs: Array) -> float:
    """Share of decisive answers predicted.

    Answers of exactly 0.5 (ties) do not count. A prediction of exactly 0.5 counts half: it is the
    expected score of a coin toss, so that a constant model gets 0.5 and not the share of "second".

    Args:
        prob_pred: (n,) predicted P(first), in [0, 1].
        label_probs: (n,) answers as P(first preferred), in [0, 1].

    Returns:
        A share in [0, 1]; NaN without a decisive answer.

    Raises:
        DataError: lengths differ, or a value is no probability.
    """
    predicted, answers = _check_pair(prob_pred, label_probs)
    decisive = answers != 0.5
    if not decisive.any():
        return math.nan
    predicted, answers = predicted[decisive], answers[decisive]
    hits = np.where(predicted == 0.5, 0.5, (predicted > 0.5) == (answers > 0.5))
    return float(hits.mean())


def log_loss(prob_pred: Array, label_probs: Array) -> float:
    """Mean log-loss, -(p log q + (1 - p) log(1 - q)) for answer p and prediction q.

    A sigmoid that was rounded to exactly 0 or 1 would make the mean infinite by rounding alone, so
    predictions are held one machine epsilon of their own dtype away from both (as in scikit-learn):
    one pair costs at most 16 nats in float32, 36 in float64.

    Args:
        prob_pred: (n,) predicted P(first), in [0, 1].
        label_probs: (n,) answers as P(first preferred), in [0, 1]; ties (0.5) count.

    Returns:
        Nats per pair, never below 0; NaN without an answer.

    Raises:
        DataError: lengths differ, or a value is no probability.
    """
    predicted, answers = _check_pair(prob_pred, label_probs)
    if not len(answers):
        return math.nan
    dtype = np.asarray(prob_pred).dtype
    margin = float(np.finfo(dtype if dtype.kind == "f" else np.float64).eps)
    predicted = np.clip(predicted, margin, 1.0 - margin)
    losses = -(answers * np.log(predicted) + (1.0 - answers) * np.log1p(-predicted))
    return float(losses.mean())


def calibration_table(
    prob_pred: Array, label_probs: Array, n_bins: int = 10
) -> list[CalibrationBin]:
    """The bins behind `expected_calibration_error`, empty ones left out, in rising order.

    Bin b of n holds predictions in [b / n, (b + 1) / n), the last one 1.0 as well.

    Args:
        prob_pred: (n,) predicted P(first), in [0, 1].
        label_probs: (n,) answers as P(first preferred), in [0, 1]; ties (0.5) count.
        n_bins: bins of equal width over [0, 1], at least 1.

    Raises:
        DataError: lengths differ, or a value is no probability.
        ConfigError: `n_bins` is below 1.
    """
    if n_bins < 1:
        raise ConfigError(f"`n_bins` is {n_bins}, expected at least 1; 10 is usual.")
    predicted, answers = _check_pair(prob_pred, label_probs)
    # b / n, not linspace: linspace(0, 1, 11)[3] is 0.30000000000000004 and would misplace 0.3.
    edges = np.arange(1, n_bins) / n_bins
    bins = np.searchsorted(edges, predicted, side="right")
    return [
        CalibrationBin(
            predicted=float(predicted[bins == b].mean()),
            observed=float(answers[bins == b].mean()),
            n=int((bins == b).sum()),
        )
        for b in np.unique(bins)
    ]


def expected_calibration_error(prob_pred: Array, label_probs: Array, n_bins: int = 10) -> float:
    """Expected calibration error: sum over bins of n_b / n |mean prediction - mean answer|.

    Naeini et al. 2015 and Guo et al. 2017, on P(first) itself rather than on the
    confidence of the likelier answer, so that a model biased towards one side shows. The bins are
    those of `calibration_table`.

    Args:
        prob_pred: (n,) predicted P(first), in [0, 1].
        label_probs: (n,) answers as P(first preferred), in [0, 1]; ties (0.5) count.
        n_bins: bins of equal width over [0, 1], at least 1.

    Returns:
        An error in [0, 1]; NaN without an answer.

    Raises:
        DataError: lengths differ, or a value is no probability.
        ConfigError: `n_bins` is below 1.
    """
    table = calibration_table(prob_pred, label_probs, n_bins)
    n_pairs = sum(row["n"] for row in table)
    if n_pairs == 0:
        return math.nan
    return sum(row["n"] * abs(row["predicted"] - row["observed"]) for row in table) / n_pairs


def correlation(a: Array, b: Array) -> float:
    """Pearson's correlation, in float64.

    Args:
        a: (n,) numbers, for instance learned returns of clips.
        b: (n,) numbers, for instance their true returns.

    Returns:
        A number in [-1, 1]. NaN, without a warning, where it is not defined: a constant input,
        fewer than two entries, or an entry that is not finite (unknown true returns are NaN).

    Raises:
        DataError: the shapes differ or are not (n,).
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise DataError(
            f"`a` has shape {x.shape} and `b` {y.shape}, expected two vectors of one length (n,)."
        )
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.nan
    x, y = _unit_vector(x), _unit_vector(y)
    return float(np.clip(x @ y, -1.0, 1.0))  # keeps NaN, unlike min and max


def _unit_vector(values: _Floats) -> _Floats:
    """Centred, of length 1; NaN everywhere for a constant."""
    scale = float(np.abs(values).max())
    if scale > 0.0:
        # No square under- or overflows, and a constant becomes 1, whose mean is exactly 1.
        values = values / scale
    values = values - values.mean()
    length = float(np.linalg.norm(values))
    return values / length if length > 0.0 else np.full_like(values, np.nan)


def with_noise(prob_pred: Array, noise: float) -> Array:
    """P(answered first) where a share of the answers is random (Christiano et al. 2017, 2.2.3).

    Args:
        prob_pred: (N,) P(first preferred) by the rewards alone.
        noise: in [0, 1).
    """
    answered: Array = prob_pred * (1 - noise) + noise / 2
    return answered


def fit_figures(prob_pred: Array, label_probs: Array, heldout: Array, noise: float) -> FitFigures:
    """The figures of a fit over the answers it trained on and over those it did not.

    Args:
        prob_pred: (N,) predicted P(first preferred) by the rewards alone.
        label_probs: (N,) answers.
        heldout: (N,) bool, True for answers that no weight was trained on.
        noise: the share of answers taken to be uniformly random, in [0, 1).
    """
    predicted = with_noise(prob_pred, noise)
    train = ~heldout

    def figure(function: Callable[[Array, Array], float], part: Array) -> float:
        return function(predicted[part], label_probs[part]) if part.any() else float("nan")

    return FitFigures(
        n_train=int(train.sum()),
        n_heldout=int(heldout.sum()),
        n_heldout_decisive=int((label_probs[heldout] != 0.5).sum()),
        loss_train=figure(log_loss, train),
        loss_heldout=figure(log_loss, heldout),
        accuracy_train=figure(accuracy, train),
        accuracy_heldout=figure(accuracy, heldout),
        calibration_error=figure(expected_calibration_error, heldout),
    )
