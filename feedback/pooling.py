"""What several labellers say about one pair, made one soft label before a fit."""

from __future__ import annotations

from typing import Literal

from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.feedback.quality.dawid_skene import soft_labels
from rlhf_gym.feedback.records import AnswerRecord

__all__ = ["Pooling", "pool_labellers"]

Pooling = Literal["none", "dawid-skene"]
"""none: every answer is trained on as it is. dawid-skene: one soft label per pair, each labeller
weighed by how far the others bear them out (Dawid and Skene 1979)."""


def pool_labellers(preferences: PreferenceSet, pooling: Pooling) -> PreferenceSet:
    """The answers as a reward model is to be fitted to them.

    Args:
        preferences: The answers that stand.
        pooling: See `Pooling`. With fewer than three labellers nobody can be borne out by others,
            and every answer is trained on as it is.
    """
    if pooling == "none" or len(set(preferences.answers.labellers)) < 3:
        return preferences
    answers = preferences.answers
    records = [
        AnswerRecord(
            sequence=row + 1,
            uuid=str(row),
            query_id=query_id,
            round=int(answers.rounds[row]),
            kind="pairwise",
            choice=answers.choices[row],
            teacher=answers.teachers[row],
            labeller=answers.labellers[row],
            shown_at=0.0,
            answered_at=0.0,
        )
        for row, query_id in enumerate(answers.query_ids)
    ]
    return preferences.pooled(soft_labels(records))
