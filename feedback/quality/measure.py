"""The quality of a store's answers: every labeller, how they agree, and what needs a look.

`measure_quality` takes what `PreferenceStore.answer_records()` returns, with superseded answers or
without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_gym.data import Choice
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.quality.agreement import (
    Agreement,
    agreement,
    labeller_name,
    standing_answers,
    standing_records,
)
from rlhf_gym.feedback.quality.dawid_skene import fit_dawid_skene
from rlhf_gym.feedback.quality.labeller import (
    GapShare,
    LabellerQuality,
    gap_bin,
    measure_labeller,
    true_gap_accuracy,
)
from rlhf_gym.feedback.quality.patterns import find_patterns
from rlhf_gym.feedback.records import KINDS, AnswerRecord

__all__ = ["GapAgreement", "StoreQuality", "measure_quality"]

_MIN_QUERIES = 30
_LOW_ALPHA = 0.4
_GOOD_ALPHA = 0.667
_OVERLAP_SHARE = 0.1
_MIN_CROWD = 3


@dataclass(frozen=True)
class GapAgreement:
    """Agreement on the queries whose absolute true return gap lies within bounds."""

    low: float
    """Of |true return of the first clip - of the second|."""
    high: float
    agreement: Agreement
    """ "Can't tell" left out."""


@dataclass(frozen=True)
class StoreQuality:
    """All that is known of the quality of a store's answers."""

    n_answers: dict[str, int]
    """By kind of answer."""
    n_superseded: int
    """Answers that were replaced or taken back; nothing else here counts them."""
    n_queries: int
    """With a standing "pairwise" answer."""
    n_shared_queries: int
    """With those of two labellers or more."""
    choices: dict[str, int]
    """How often each choice was made, among standing "pairwise" answers."""
    labellers: tuple[LabellerQuality, ...]
    """In alphabetical order."""
    agreement: Agreement
    """ "Can't tell" left out."""
    agreement_with_cant_tell: Agreement
    """ "Can't tell" as a category of its own."""
    agreement_by_gap: tuple[GapAgreement, ...]
    """By size of the true return gap; empty where no true reward is known."""
    true_accuracy_by_gap: tuple[GapShare, ...]
    """All labellers' decisive answers against the true return, by size of its gap."""
    dawid_skene_converged: bool
    """Whether the fit behind the reliabilities came to rest."""
    flags: tuple[str, ...]
    """What concerns all labellers, in words; each labeller has flags of their own."""


def measure_quality(
    records: Sequence[AnswerRecord],
    *,
    n_gap_bins: int = 4,
    n_resamples: int = 2000,
    seed: int = 0,
) -> StoreQuality:
    """Measure everything.

    Args:
        records: Answers of every kind; those replaced or taken back are counted and then left out.
        n_gap_bins: Into how many quantiles of |true return gap| to split, at least 1.
        n_resamples: Bootstrap samples behind the intervals of agreement, at least 100.
        seed: Of the bootstrap.

    Raises:
        ConfigError: `n_gap_bins` is below 1, or `n_resamples` below 100.
    """
    if n_gap_bins < 1:
        raise ConfigError(f"`n_gap_bins` is {n_gap_bins}, expected at least 1; 4 makes quarters.")
    kept = standing_records(records)
    standing = standing_answers(kept)
    edges = _gap_edges(standing, n_gap_bins)
    model = fit_dawid_skene(kept)
    reliabilities = model.reliabilities()
    n_shared = dict(zip(model.labellers, model.n_shared, strict=True))
    warnings = find_patterns(kept)
    own: dict[str, list[AnswerRecord]] = {}
    for record in kept:
        own.setdefault(labeller_name(record), []).append(record)
    # Of two who differ nobody can say which one errs: a reliability takes a third.
    crowd = sum(n > 0 for n in model.n_shared) >= _MIN_CROWD
    labellers = tuple(
        measure_labeller(
            name,
            own[name],
            gap_edges=edges,
            reliability=reliabilities.get(name) if crowd else None,
            n_shared=n_shared.get(name, 0),
            warnings=[warning for warning in warnings if warning.who == name],
        )
        for name in sorted(own)
    )
    without, with_it = (
        agreement(standing, cant_tell=cant_tell, n_resamples=n_resamples, seed=seed)
        for cant_tell in (False, True)
    )
    n_by_kind = Counter(record.kind for record in kept)
    n_by_choice = Counter(record.choice for record in standing)
    n_labellers = Counter(record.query_id for record in standing)
    return StoreQuality(
        n_answers={kind: n_by_kind[kind] for kind in KINDS},
        n_superseded=sum(r.kind != "retraction" for r in records) - len(kept),
        n_queries=len(n_labellers),
        n_shared_queries=sum(n >= 2 for n in n_labellers.values()),
        choices={choice.value: n_by_choice[choice] for choice in Choice},
        labellers=labellers,
        agreement=without,
        agreement_with_cant_tell=with_it,
        agreement_by_gap=_agreement_by_gap(standing, edges, n_resamples, seed),
        true_accuracy_by_gap=true_gap_accuracy(standing, edges),
        dawid_skene_converged=model.converged,
        flags=_flags(without, len(n_labellers), len(labellers), model.converged),
    )


def _gap_edges(standing: Sequence[AnswerRecord], n_bins: int) -> tuple[float, ...]:
    """Quantiles of |gap| over distinct queries; fewer where many gaps are equal, empty for none."""
    gaps = {r.query_id: abs(r.return_gap) for r in standing if r.return_gap is not None}
    if not gaps:
        return ()
    edges = np.unique(np.quantile(list(gaps.values()), np.linspace(0.0, 1.0, n_bins + 1)))
    values = edges.tolist()
    return tuple(values * 2) if len(values) == 1 else tuple(values)


def _agreement_by_gap(
    standing: Sequence[AnswerRecord], edges: Sequence[float], n_resamples: int, seed: int
) -> tuple[GapAgreement, ...]:
    bins: list[list[AnswerRecord]] = [[] for _ in edges[1:]]
    for record in standing:
        if record.return_gap is not None:
            bins[gap_bin(record.return_gap, edges)].append(record)
    return tuple(
        GapAgreement(low, high, agreement(members, n_resamples=n_resamples, seed=seed))
        for low, high, members in zip(edges[:-1], edges[1:], bins, strict=True)
    )


def _flags(found: Agreement, n_queries: int, n_labellers: int, converged: bool) -> tuple[str, ...]:
    flags = []
    alpha = found.alpha.value
    if alpha is not None and found.n_queries >= _MIN_QUERIES and alpha < _GOOD_ALPHA:
        advice = (
            "stop and rewrite the rubric"
            if alpha < _LOW_ALPHA
            else "enough to train on, but the rubric may leave cases open"
        )
        flags.append(f"agreement beyond chance is only {alpha:.2f} (alpha): {advice}")
    if n_labellers >= 2 and found.n_queries < _OVERLAP_SHARE * n_queries:
        flags.append(
            f"{found.n_queries} of {n_queries} pairs were answered by two labellers; agreement "
            "and reliability want at least a tenth"
        )
    if not converged:
        flags.append("the reliabilities had not come to rest when fitting was stopped")
    return tuple(flags)
