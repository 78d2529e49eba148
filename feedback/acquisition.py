"""Which pairs of clips are worth an answer.

`uniform` is the default. Choosing by the ensemble's disagreement is "a crude approximation [...] in
some tasks it actually impairs performance" (Christiano et al. 2017, 2.2.4), so it is opt-in.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy.special import entr, expit

from rlhf_gym.data import Clip
from rlhf_gym.errors import ConfigError, DataError, NumericalError
from rlhf_gym.protocols import Acquisition, RewardModel

__all__ = ["ACQUISITIONS", "count_pairs", "disagreement", "entropy", "uniform"]

Pair = tuple[Clip, Clip]
_Floats = npt.NDArray[np.float64]

_CANDIDATES_PER_PAIR = 10  # Christiano's and B-Pref's pool


def uniform(
    clips: Sequence[Clip],
    reward_model: RewardModel | None,
    n: int,
    rng: np.random.Generator,
) -> list[Pair]:
    """Random pairs of distinct clips of one context, no pair twice in either order.

    While there are clips enough (2 n of one context), none is used twice; beyond that any n of the
    possible pairs are drawn. Which clip comes first is random. The reward model is never called.

    Args:
        clips: clips of one or several contexts; a clip given twice counts once.
        reward_model: not used.
        n: pairs to draw, at least 0.
        rng: the only source of randomness.

    Returns:
        n pairs.

    Raises:
        DataError: n is negative, or fewer than n distinct pairs exist.
    """
    groups = _by_context(clips)
    _require_pairs(n, clips, groups)
    if n <= sum(len(group) // 2 for group in groups):
        return _disjoint_pairs(groups, n, rng)
    return _any_pairs(groups, n, rng)


def disagreement(
    clips: Sequence[Clip],
    reward_model: RewardModel | None,
    n: int,
    rng: np.random.Generator,
) -> list[Pair]:
    """The pairs on which the ensemble's members differ most (Christiano et al. 2017, 2.2.4).

    Draws a pool of 10 n uniform candidates (or all pairs, where fewer exist) and keeps the n with
    the greatest standard deviation over members of P(first) = sigmoid(return difference).

    Args:
        clips: as for `uniform`.
        reward_model: an ensemble of at least 2 members; called once.
        n: pairs to choose, at least 0.
        rng: draws the pool.

    Returns:
        n pairs, the greatest disagreement first; among equals, the order of the pool.

    Raises:
        DataError: as for `uniform`, or returns of the wrong shape.
        ConfigError: the reward model has one member, which cannot disagree.
        NumericalError: a predicted return is not finite.
    """
    pool = _pool(clips, reward_model, n, rng)
    differences = _return_differences(pool, reward_model)
    if pool and len(differences) < 2:
        raise ConfigError(
            "`--acquisition disagreement` needs a reward model of at least 2 members, found "
            f"{len(differences)}; fit an ensemble, or use `entropy` or `uniform`."
        )
    return _best(pool, expit(differences).std(axis=0), n)


def entropy(
    clips: Sequence[Clip],
    reward_model: RewardModel | None,
    n: int,
    rng: np.random.Generator,
) -> list[Pair]:
    """The pairs whose answer the members find least certain (B-Pref's `entropy_sampling`).

    Draws the pool of `disagreement` and keeps the n with the greatest mean over members of the
    binary entropy of P(first). It cannot tell ignorance from a true tie: an ensemble that agrees on
    0.5 scores highest.

    Args:
        clips: as for `uniform`.
        reward_model: any number of members; called once.
        n: pairs to choose, at least 0.
        rng: draws the pool.

    Returns:
        n pairs, the greatest entropy first; among equals, the order of the pool.

    Raises:
        DataError: as for `uniform`, or returns of the wrong shape.
        NumericalError: a predicted return is not finite.
    """
    pool = _pool(clips, reward_model, n, rng)
    differences = _return_differences(pool, reward_model)
    # sigmoid(-d) rather than 1 - sigmoid(d), which loses the small probability to rounding.
    nats = entr(expit(differences)) + entr(expit(-differences))
    return _best(pool, nats.mean(axis=0), n)


ACQUISITIONS: Mapping[str, Acquisition] = MappingProxyType(
    {"disagreement": disagreement, "entropy": entropy, "uniform": uniform}
)
"""Every acquisition by the name that `--acquisition` takes."""


def _by_context(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Distinct clips by context, both in the order given."""
    groups: dict[str, list[Clip]] = {}
    for clip in dict.fromkeys(clips):
        groups.setdefault(clip.context_id, []).append(clip)
    return list(groups.values())


def count_pairs(clips: Sequence[Clip]) -> int:
    """How many distinct pairs of one context there are among clips."""
    return _n_pairs(_by_context(clips))


def _n_pairs(groups: Sequence[Sequence[Clip]]) -> int:
    return sum(math.comb(len(group), 2) for group in groups)


def _require_pairs(n: int, clips: Sequence[Clip], groups: Sequence[Sequence[Clip]]) -> None:
    if n < 0:
        raise DataError(f"`n` is {n}, expected at least 0 pairs.")
    possible = _n_pairs(groups)
    if n > possible:
        raise DataError(
            f"{n} pairs asked for, but {len(clips)} clips ({sum(map(len, groups))} distinct, "
            f"{len(groups)} context(s)) make only {possible} distinct pairs within one context; "
            "collect more or shorter clips, or ask fewer questions a round."
        )


def _disjoint_pairs(
    groups: Sequence[Sequence[Clip]], n: int, rng: np.random.Generator
) -> list[Pair]:
    """Pair up each shuffled context and draw n of the pairs: no clip is used twice."""
    pairs: list[Pair] = []
    for group in groups:
        order = rng.permutation(len(group))
        pairs += [(group[i], group[j]) for i, j in zip(order[0::2], order[1::2], strict=False)]
    return [pairs[k] for k in rng.choice(len(pairs), size=n, replace=False)] if n else []


def _any_pairs(groups: Sequence[Sequence[Clip]], n: int, rng: np.random.Generator) -> list[Pair]:
    """Draw n of all pairs by their number, without ever listing them all."""
    starts = [0, *accumulate(math.comb(len(group), 2) for group in groups)]
    numbers = rng.choice(starts[-1], size=n, replace=False)
    swaps = rng.random(n) < 0.5
    pairs: list[Pair] = []
    for number, swap in zip(numbers.tolist(), swaps.tolist(), strict=True):
        at = bisect_right(starts, number) - 1
        first, second = (groups[at][i] for i in _pair_at(number - starts[at]))
        pairs.append((second, first) if swap else (first, second))
    return pairs


def _pair_at(number: int) -> tuple[int, int]:
    """The i < j of pair `number` in the order (0,1) (0,2) (1,2) (0,3) ...: exact for any size."""
    j = (1 + math.isqrt(8 * number + 1)) // 2
    return number - j * (j - 1) // 2, j


def _pool(
    clips: Sequence[Clip], reward_model: RewardModel | None, n: int, rng: np.random.Generator
) -> list[Pair]:
    groups = _by_context(clips)
    _require_pairs(n, clips, groups)
    size = min(_CANDIDATES_PER_PAIR * n, _n_pairs(groups))
    return uniform(clips, reward_model, size, rng)


def _return_differences(pool: Sequence[Pair], reward_model: RewardModel | None) -> _Floats:
    """(E, N) float64, each member's R(first) - R(second); every clip is scored once."""
    if reward_model is None:
        raise ConfigError(
            "this acquisition asks where the reward model is unsure, but the run fits none; use "
            "`--acquisition uniform`."
        )
    if not pool:
        return np.zeros((1, 0))
    rows = {clip: row for row, clip in enumerate(dict.fromkeys(c for pair in pool for c in pair))}
    returns = np.asarray(reward_model.clip_returns(list(rows)), dtype=np.float64)
    if returns.ndim != 2 or returns.shape[1] != len(rows) or not len(returns):
        raise DataError(
            f"`clip_returns` gave shape {returns.shape} for {len(rows)} clips, expected "
            f"(members, {len(rows)}); correct the reward model."
        )
    if not np.isfinite(returns).all():
        raise NumericalError(
            "`clip_returns` gave a return that is not finite; the reward model has diverged: lower "
            "its learning rate or fit it again."
        )
    first = [rows[pair[0]] for pair in pool]
    second = [rows[pair[1]] for pair in pool]
    differences: _Floats = returns[:, first] - returns[:, second]
    return differences


def _best(pool: Sequence[Pair], scores: _Floats, n: int) -> list[Pair]:
    return [pool[k] for k in np.argsort(-scores, kind="stable")[:n]]
