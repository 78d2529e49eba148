"""Who can be trusted, and what each query's answer most likely is: Dawid & Skene (1979).

Every query has one true class of {first, second, tie}; every labeller answers with probabilities of
their own that depend on that class alone (a confusion matrix). Classes, matrices and class shares
are estimated together by expectation maximisation (EM), from the queries that several labellers
answered. "Can't tell" counts as no answer.

What separates a good labeller from one who always answers the opposite is the company: the majority
is taken to be mostly right. A majority of adversaries cannot be found this way, but for queries
whose answer is known (gold): there the class is given, whatever anybody answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.quality.agreement import CATEGORIES, answer_table, untold
from rlhf_gym.feedback.records import AnswerRecord

__all__ = ["CLASSES", "DawidSkene", "fit_dawid_skene", "soft_labels"]

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

CLASSES = CATEGORIES[:3]
"""K = 3: FIRST, SECOND, TIE."""
_K = len(CLASSES)


@dataclass(frozen=True, eq=False)
class DawidSkene:
    """A fitted model: N queries, R labellers, K = 3 classes."""

    query_ids: tuple[str, ...]
    """N, each with an answer other than "can't tell"."""
    labellers: tuple[str, ...]
    """R, in alphabetical order."""
    priors: _Floats
    """(K,) share of each class among the queries."""
    confusions: _Floats
    """(R, K, K) P(labeller r answers the last index | the true class is the middle one)."""
    posteriors: _Floats
    """(N, K) P(true class | all answers)."""
    objectives: tuple[float, ...]
    """Log-likelihood in nats, plus the logarithm of the smoothing's prior density up to a constant,
    at the start of every iteration; it never falls."""
    converged: bool
    """Whether no posterior moved by more than the tolerance in the last iteration."""
    n_shared: tuple[int, ...]
    """Per labeller: how many of their queries another one answered, too."""
    n_known: tuple[int, ...]
    """Per labeller: how many of their queries have a known answer. Where neither is above 0,
    nothing was learned about the labeller, and the matrix is the one assumed beforehand."""

    def reliabilities(self) -> dict[str, float]:
        """P(the labeller's answer is the true class), in [0, 1]: sum over k of p_k C[r, k, k].

        1 is always right and 0 always wrong; tossing a coin between first and second gives about
        0.5. A labeller near 0 is not worthless: the fit reads their answers the other way round.
        """
        values = np.einsum("k,rkk->r", self.priors, self.confusions)
        return dict(zip(self.labellers, values.tolist(), strict=True))

    def soft_labels(self) -> dict[str, float]:
        """P(first preferred) per query id, in [0, 1]: P(first) + P(tie) / 2."""
        values = self.posteriors[:, 0] + 0.5 * self.posteriors[:, 2]
        # Rounding may leave a sum of shares one bit above 1.
        return dict(zip(self.query_ids, np.minimum(values, 1.0).tolist(), strict=True))


def soft_labels(records: Sequence[AnswerRecord]) -> dict[str, float]:
    """P(first preferred) of each answered query, weighing labellers by how far each can be trusted.

    Args:
        records: Answers as for `fit_dawid_skene`; a query that everybody answered "can't tell" is
            left out.

    Returns:
        Query id to a number in [0, 1], to be used in place of 1, 0.5 and 0 in fitting.
    """
    return fit_dawid_skene(records).soft_labels()


def fit_dawid_skene(
    records: Sequence[AnswerRecord],
    *,
    pseudo_answers: float = 5.0,
    assumed_accuracy: float = 0.8,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> DawidSkene:
    """Fit by EM from the majority vote.

    Smoothing: each row of each confusion matrix starts from `pseudo_answers` made-up answers, of
    which the share `assumed_accuracy` is right and the rest evenly wrong, and the class shares from
    one made-up query per class (Laplace). Plain Laplace smoothing, even over all answers, would not
    do: where most queries have one answer, EM drifts to its prior, and a prior that calls unknown
    labellers random would wash out their answers. Neither the made-up answers nor the tie in a vote
    favour first over second.

    A query whose records carry an `expected` answer is an anchor: its posterior is that class, from
    the start and after every E step. (An expected "can't tell" is no class, and no anchor.)

    Args:
        records: Answers of any kind; only standing "pairwise" and "gold" ones enter: those given
            before a labeller is let in, or after the answer was told, are no measure of their work.
        pseudo_answers: At least 0; 0 is plain maximum likelihood, without smoothing anywhere.
        assumed_accuracy: Of a labeller nothing is known about, in (1/3, 1).
        tolerance: Stop when no posterior moves by more than this; above 0.
        max_iterations: At least 1.

    Raises:
        ConfigError: a setting is out of its range.
    """
    _check(pseudo_answers, assumed_accuracy, tolerance, max_iterations)
    records = untold(records)
    table = answer_table(records, cant_tell=False, kinds=("pairwise", "gold"))
    anchors = _anchors(records, table.query_ids)
    votes = table.codes[:, :, None] == np.arange(_K)  # (N, R, K)
    n_queries, n_labellers = table.codes.shape
    # One row per query, one column per (labeller, answer): both steps of EM are products with it.
    given = sparse.csr_array(votes.reshape(n_queries, n_labellers * _K).astype(np.float64))
    wrong = (1.0 - assumed_accuracy) / (_K - 1)
    assumed = np.where(np.eye(_K, dtype=bool), assumed_accuracy, wrong) * pseudo_answers
    made_up_queries = 1.0 if pseudo_answers > 0 else 0.0

    counts = votes.sum(axis=1)
    posteriors = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (N, K)
    posteriors = np.where(np.isnan(anchors), posteriors, anchors)
    objectives: list[float] = []
    converged = not n_queries
    priors, confusions = _maximise(given, posteriors, assumed, made_up_queries)
    while not converged and len(objectives) < max_iterations:
        updated, log_likelihood = _expect(given, priors, confusions, anchors)
        smoothing = _log_terms(assumed, confusions) + _log_terms(
            np.full(_K, made_up_queries), priors
        )
        objectives.append(log_likelihood + smoothing)
        converged = bool(np.abs(updated - posteriors).max() <= tolerance)
        posteriors = updated
        priors, confusions = _maximise(given, posteriors, assumed, made_up_queries)
    answered = table.codes >= 0
    shared = answered & (answered.sum(axis=1, keepdims=True) >= 2)
    known = answered & ~np.isnan(anchors[:, :1])
    return DawidSkene(
        query_ids=table.query_ids,
        labellers=table.labellers,
        priors=priors,
        confusions=confusions,
        posteriors=posteriors,
        objectives=tuple(objectives),
        converged=converged,
        n_shared=tuple(shared.sum(axis=0).tolist()),
        n_known=tuple(known.sum(axis=0).tolist()),
    )


def _anchors(records: Sequence[AnswerRecord], query_ids: Sequence[str]) -> _Floats:
    """(N, K) 1 for the known class and 0 for the others; NaN in rows without a known answer."""
    known = {r.query_id: r.expected for r in records if r.expected in CLASSES}
    rows = [
        [float(known[key] is choice) if key in known else np.nan for choice in CLASSES]
        for key in query_ids
    ]
    return np.array(rows, np.float64).reshape(-1, _K)


def _check(
    pseudo_answers: float, assumed_accuracy: float, tolerance: float, max_iterations: int
) -> None:
    if not 0.0 <= pseudo_answers < np.inf:
        raise ConfigError(
            f"`pseudo_answers` is {pseudo_answers}, expected a finite number of at least 0; "
            "5 suits a few dozen answers and more."
        )
    if not 1.0 / _K < assumed_accuracy < 1.0:
        raise ConfigError(
            f"`assumed_accuracy` is {assumed_accuracy}, expected 1/3 < assumed_accuracy < 1 "
            "(1/3 is a guess among first, second and tie)."
        )
    if not tolerance > 0.0:
        raise ConfigError(f"`tolerance` is {tolerance}, expected more than 0; 1e-6 is usual.")
    if max_iterations < 1:
        raise ConfigError(f"`max_iterations` is {max_iterations}, expected at least 1.")


def _maximise(
    given: sparse.csr_array, posteriors: _Floats, assumed: _Floats, made_up_queries: float
) -> tuple[_Floats, _Floats]:
    """The M step, eqs. 2.3 and 2.4: class shares (K,) and confusion matrices (R, K, K)."""
    shares = posteriors.sum(axis=0) + made_up_queries  # (K,)
    shares = shares / shares.sum() if shares.sum() > 0 else np.full(_K, 1.0 / _K)
    answered = np.asarray(given.T @ posteriors)  # (R * K answers, K classes)
    answered = answered.reshape(-1, _K, _K).transpose(0, 2, 1) + assumed  # (R, K, K)
    totals = answered.sum(axis=2, keepdims=True)
    # A class the labeller never met, unsmoothed: nothing is known, so any answer is as likely.
    confusions = np.divide(
        answered, totals, out=np.full_like(answered, 1.0 / _K), where=totals > 0.0
    )
    return shares, confusions


def _expect(
    given: sparse.csr_array, priors: _Floats, confusions: _Floats, anchors: _Floats
) -> tuple[_Floats, float]:
    """The E step, eq. 2.5: posteriors (N, K), and the log-likelihood in nats."""
    # The logarithm of 0 is -inf, and so it should be: the class is then ruled out.
    with np.errstate(divide="ignore"):
        log_answers = np.log(confusions).transpose(0, 2, 1).reshape(-1, _K)  # (R * K, K)
        log_joint = given @ log_answers + np.log(priors)  # (N, K)
    log_joint = np.where(anchors == 0.0, -np.inf, log_joint)  # only the known class is left
    highest = log_joint.max(axis=1, keepdims=True)
    scaled = np.exp(log_joint - highest)
    totals = scaled.sum(axis=1, keepdims=True)
    return scaled / totals, float((highest + np.log(totals)).sum())


def _log_terms(weights: _Floats, shares: _Floats) -> float:
    """Sum of w log p, where 0 log 0 is 0: the log-density of the smoothing's Dirichlet prior."""
    weights = np.broadcast_to(weights, shares.shape)
    held = weights > 0.0
    return float((weights[held] * np.log(shares[held])).sum())
