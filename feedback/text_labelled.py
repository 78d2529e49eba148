"""Texts that were each called good or bad, as comparisons: what data without pairs can teach.

Each good text of a group is better than each bad one of it. Under Bradley-Terry with scores on one
scale this estimates the log-odds of "good" up to a constant, as logistic regression does, so that a
threshold makes the reward model a classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_gym.data import Array
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.text_data import PairTable, TextLimits, encode_texts

__all__ = ["labelled_table", "midpoint"]


def labelled_table(
    tokenizer: Any,
    texts: Sequence[str],
    good: Sequence[bool] | Array,
    limits: TextLimits,
    rng: np.random.Generator,
    *,
    group_texts: int = 32,
) -> PairTable:
    """Compare good and bad texts, in random groups, for `TextRewardModel.fit_table`.

    Texts that the tokenizer cannot write are left out; `left_out` of the table lists them.

    Args:
        tokenizer: The reward model's.
        texts: M whole texts, as completions of the empty prompt that ended by themselves.
        good: (M,) whether each is good.
        limits: The reward model's.
        rng: Draws the groups.
        group_texts: Texts in a group, at least 2; g good and b bad ones make g b comparisons.

    Raises:
        DataError: other counts, or not both kinds.
    """
    labels = np.asarray(good, bool)
    if labels.shape != (len(texts),) or not 0 < labels.sum() < len(labels):
        raise DataError(
            f"{len(texts)} texts with labels of shape {labels.shape}, {int(labels.sum())} of them "
            "good; one label per text and both kinds are needed."
        )
    empty, ended = [""] * len(texts), [True] * len(texts)
    rows = encode_texts(tokenizer, empty, texts, ended, limits, on_bad="mark")
    usable = np.array([row for row in range(len(texts)) if row not in rows.bad], np.int64)
    rows, labels = rows.select(usable), labels[usable]
    n_groups = -(-len(labels) // group_texts)
    groups = rng.permutation(len(labels)) % n_groups
    pairs = []
    for group in range(n_groups):
        members = np.flatnonzero(groups == group)
        a, b = members[labels[members]], members[~labels[members]]
        pairs.append(np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2))
    both = np.concatenate(pairs).astype(np.int64)
    differ = np.array([rows.rows[a] != rows.rows[b] for a, b in both], bool)
    kept = both[differ]
    if not len(kept):
        raise DataError("no group has a good and a bad text that differ; raise `group_texts`.")
    return PairTable(
        texts=rows,
        groups=groups.astype(np.int64),
        pairs=kept,
        probs=np.ones(len(kept), np.float32),
        margins=np.zeros(len(kept), np.float32),
        query_ids=[f"{a} {b}" for a, b in kept],
        context_ids=[f"group {groups[a]}" for a in kept[:, 0]],
        n_identical=int((~differ).sum()),
        left_out=sorted(rows.bad.items()),
    )


def midpoint(scores: Array, good: Sequence[bool] | Array) -> float:
    """Half-way between the mean score of the good and of the bad texts: the classifier's threshold.

    Args:
        scores: (M,) finite numbers.
        good: (M,) both kinds.
    """
    labels = np.asarray(good, bool)
    return float((scores[labels].mean() + scores[~labels].mean()) / 2)
