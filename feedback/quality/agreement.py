"""How well labellers agree, from their answers; the figures are `agreement_figures`'.

Of the answers that are trained on ("pairwise"), the newest of each labeller to each query counts.
A tie is a category of its own. "Can't tell" is a fourth category, or a missing answer, as the
caller asks. Only queries that two labellers or more answered say anything about agreement.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from rlhf_gym.data import Choice
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.quality.agreement_figures import (
    NO_OVERLAP,
    ONE_CATEGORY,
    Figure,
    cohen_figures,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    pairable,
    percent_agreement,
    resample,
    sampled_figures,
    undefined_reason,
    with_interval,
)
from rlhf_gym.feedback.records import AnswerKind, AnswerRecord
from rlhf_gym.seeding import generator

__all__ = [
    "CATEGORIES",
    "Agreement",
    "AnswerTable",
    "PairAgreement",
    "agreement",
    "answer_table",
    "labeller_name",
    "standing_answers",
    "standing_records",
    "untold",
]

_Ints = npt.NDArray[np.int64]
_TRAINED_ON: tuple[AnswerKind, ...] = ("pairwise",)

CATEGORIES: tuple[Choice, ...] = (Choice.FIRST, Choice.SECOND, Choice.TIE, Choice.SKIP)
"""The columns of every table of counts, in this order."""


@dataclass(frozen=True)
class PairAgreement:
    """Two labellers, by the queries that both answered."""

    labellers: tuple[str, str]
    n_queries: int
    """Answered by both."""
    percent: Figure
    """Share of them answered alike, in [0, 1]."""
    kappa: Figure
    """Cohen's kappa, in [-1, 1]."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of all labellers on the queries that at least two of them answered."""

    cant_tell: bool
    """Whether "can't tell" counts as a category of its own; otherwise it is a missing answer."""
    n_queries: int
    """Answered by two labellers or more."""
    n_answers: int
    """Given to those queries."""
    n_labellers: int
    """Who gave them."""
    percent: Figure
    """See `percent_agreement`."""
    fleiss: Figure
    """See `fleiss_kappa`."""
    alpha: Figure
    """See `krippendorff_alpha`."""
    pairs: tuple[PairAgreement, ...]
    """Every two labellers who answered a query in common, in alphabetical order."""
    n_resamples: int
    """Of the bootstrap behind every interval."""


@dataclass(frozen=True, eq=False)
class AnswerTable:
    """Who answered what: one row per query, one column per labeller."""

    query_ids: tuple[str, ...]
    """N, in the order of their first answer."""
    labellers: tuple[str, ...]
    """R, in alphabetical order."""
    codes: _Ints
    """(N, R) index into `CATEGORIES`, or -1 where there is no answer."""

    def counts(self) -> _Ints:
        """(N, 4) how many labellers gave each answer to each query."""
        given = self.codes[:, :, None] == np.arange(len(CATEGORIES))  # (N, R, 4)
        counts: _Ints = given.sum(axis=1)
        return counts


def labeller_name(record: AnswerRecord) -> str:
    """The labeller's pseudonym, or the teacher's name where an answer has none."""
    return record.labeller or record.teacher


def standing_records(records: Sequence[AnswerRecord]) -> list[AnswerRecord]:
    """Answers of every kind that were neither replaced nor taken back, in the order of giving."""
    superseded = {record.supersedes for record in records}
    standing = (
        record
        for record in records
        if record.kind != "retraction" and record.sequence not in superseded
    )
    return sorted(standing, key=lambda record: record.sequence)


def standing_answers(
    records: Sequence[AnswerRecord], kinds: Collection[AnswerKind] = _TRAINED_ON
) -> list[AnswerRecord]:
    """Each labeller's standing answer, of some kinds, to each query, in the order of giving."""
    newest = {
        (record.query_id, labeller_name(record)): record
        for record in standing_records(records)
        if record.kind in kinds
    }
    return sorted(newest.values(), key=lambda record: record.sequence)


def untold(records: Sequence[AnswerRecord]) -> list[AnswerRecord]:
    """Without answers to pairs whose right answer practice had told that labeller before."""
    told = {(r.query_id, labeller_name(r)) for r in records if r.kind == "practice"}
    return [
        r for r in records if r.kind == "practice" or (r.query_id, labeller_name(r)) not in told
    ]


def answer_table(
    records: Sequence[AnswerRecord],
    *,
    cant_tell: bool,
    kinds: Collection[AnswerKind] = _TRAINED_ON,
) -> AnswerTable:
    """The standing answers as a table.

    Args:
        records: Answers of any kind; only standing ones of `kinds` enter.
        cant_tell: Whether "can't tell" is an answer; otherwise it is left out, and so are queries
            and labellers that nothing else is known of.
        kinds: Of answers to take.
    """
    answers = [
        record
        for record in standing_answers(records, kinds)
        if cant_tell or record.choice is not Choice.SKIP
    ]
    query_ids = tuple(dict.fromkeys(record.query_id for record in answers))
    labellers = tuple(sorted({labeller_name(record) for record in answers}))
    rows = {query_id: row for row, query_id in enumerate(query_ids)}
    columns = {name: column for column, name in enumerate(labellers)}
    codes = np.full((len(query_ids), len(labellers)), -1, dtype=np.int64)
    for record in answers:
        at = rows[record.query_id], columns[labeller_name(record)]
        codes[at] = CATEGORIES.index(record.choice)
    return AnswerTable(query_ids, labellers, codes)


def agreement(
    records: Sequence[AnswerRecord],
    *,
    cant_tell: bool = False,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Agreement:
    """All agreement figures with 95 % bootstrap intervals over queries.

    Args:
        records: Answers of any kind; only standing "pairwise" ones enter.
        cant_tell: Whether "can't tell" is a category of its own or a missing answer.
        n_resamples: Bootstrap samples, at least 100.
        seed: Of the bootstrap.

    Raises:
        ConfigError: `n_resamples` is below 100.
    """
    if n_resamples < 100:
        raise ConfigError(
            f"`n_resamples` is {n_resamples}, expected at least 100; 2000 give stable intervals."
        )
    answers = answer_table(records, cant_tell=cant_tell)
    shared = (answers.codes >= 0).sum(axis=1) >= 2
    codes = answers.codes[shared]
    table = pairable(answers.counts())
    patterns, weights = resample(table, n_resamples, generator(seed, "agreement"))
    percent, fleiss, alpha = sampled_figures(patterns, weights)
    reason = undefined_reason(table)
    return Agreement(
        cant_tell=cant_tell,
        n_queries=len(table),
        n_answers=int(table.sum()),
        n_labellers=int((codes >= 0).any(axis=0).sum()),
        percent=with_interval(percent_agreement(table), percent, NO_OVERLAP),
        fleiss=with_interval(fleiss_kappa(table), fleiss, reason),
        alpha=with_interval(krippendorff_alpha(table), alpha, reason),
        pairs=_pairs(codes, answers.labellers, n_resamples, seed),
        n_resamples=n_resamples,
    )


def _pairs(
    codes: _Ints, labellers: tuple[str, ...], n_samples: int, seed: int
) -> tuple[PairAgreement, ...]:
    found = []
    n_categories = len(CATEGORIES)
    for i, j in combinations(range(len(labellers)), 2):
        both = (codes[:, i] >= 0) & (codes[:, j] >= 0)
        if not both.any():
            continue
        cells = codes[both, i] * n_categories + codes[both, j]
        matrix = np.bincount(cells, minlength=n_categories**2)
        rng = generator(seed, "agreement", labellers[i], labellers[j])
        draws = rng.multinomial(len(cells), matrix / len(cells), size=n_samples)
        shape = (n_samples, n_categories, n_categories)
        percent, kappa = cohen_figures(draws.reshape(shape) / len(cells))  # (S, K, K)
        observed = float((codes[both, i] == codes[both, j]).mean())
        found.append(
            PairAgreement(
                labellers=(labellers[i], labellers[j]),
                n_queries=len(cells),
                percent=with_interval(observed, percent, ""),
                kappa=with_interval(
                    cohen_kappa(codes[both, i], codes[both, j]), kappa, ONE_CATEGORY
                ),
            )
        )
    return tuple(found)
