"""Which preferences a member trains on, decided by the query id alone.

Order, restarts and later answers therefore change nothing about earlier ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy import stats

from rlhf_gym.data import Array

__all__ = ["bootstrap_weights", "heldout_mask", "member_weights"]


def _uniforms(query_ids: Sequence[str], purpose: str, n: int) -> Array:
    """(N, n) float64 in (0, 1), independent over ids and columns."""
    digests = (hashlib.shake_256(f"{purpose}|{q}".encode()).digest(4 * n) for q in query_ids)
    words = np.frombuffer(b"".join(digests), dtype="<u4").reshape(len(query_ids), n)
    return (words + 0.5) / 2.0**32


def heldout_mask(query_ids: Sequence[str], fraction: float) -> Array:
    """(N,) bool: True for the share of queries kept back for validation."""
    return np.asarray(_uniforms(query_ids, "heldout", 1)[:, 0] < fraction)


def bootstrap_weights(query_ids: Sequence[str], n_members: int) -> Array:
    """(E, N) float32 Poisson(1) counts: sampling with replacement, one decision per query.

    A resample of |D| from D (Christiano et al. 2017, section 2.2.3) counts each item
    Binomial(|D|, 1/|D|) times, which tends to Poisson(1); drawing each count on its own is the
    online bootstrap of Oza and Russell (2001) and lets new answers leave old draws alone.
    """
    uniforms = _uniforms(query_ids, "bootstrap", n_members)
    return np.asarray(stats.poisson.ppf(uniforms, 1.0).T, dtype=np.float32)


def member_weights(
    query_ids: Sequence[str], n_members: int, heldout: Array, *, bootstrap: bool
) -> Array:
    """(E, N) float32: how often each member trains on each preference.

    Args:
        query_ids: N, of the preferences.
        n_members: E.
        heldout: (N,) bool, those that nobody trains on.
        bootstrap: Whether each member has a resample of its own. A member whose resample of a
            handful comes out empty trains on all of them.
    """
    everything = np.broadcast_to(~heldout, (n_members, len(query_ids))).astype(np.float32)
    if not bootstrap:
        return everything
    drawn = bootstrap_weights(query_ids, n_members) * everything
    return np.where(drawn.any(axis=1, keepdims=True), drawn, everything)
