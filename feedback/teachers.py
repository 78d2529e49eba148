"""The synthetic teacher: answers pairs of clips from the task's true reward, with human failings.

The knobs and their order are B-Pref's (Lee et al. 2021; `RewardModel.get_label` of its code). What
differs is numbered in docs/decisions.md: thresholds (1, 2), exact ties (3), skips (4)
and where the noise comes from (5).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import ConfigError, DataError, UnknownNameError

__all__ = ["PRESETS", "SyntheticTeacher", "make_teacher"]


@dataclass(frozen=True)
class _Thresholds:
    """What the skip and equal knobs compare raw true returns with, for one round."""

    skip_at_most: float = -math.inf
    equal_below: float = 0.0


@dataclass(frozen=True)
class SyntheticTeacher:
    """Prefers the clip with the higher true return, as rationally as its knobs allow.

    In this order, with R a clip's raw true return and H its number of steps:

    1. skip: SKIP when neither R exceeds the skip threshold (nothing worth judging happens);
    2. equal: remembers whether |R1 - R2| lies below the equal threshold;
    3. myopia: S = sum over steps t of gamma^(H - 1 - t) r_t, the last step weighing 1;
    4. label: FIRST with probability sigmoid(beta (S1 - S2)); for infinite beta the greater S, and
       TIE when they are exactly equal;
    5. mistake: FIRST and SECOND are swapped with probability `eps_mistake`;
    6. equal: a pair remembered in 2 becomes TIE, whatever 4 and 5 said.

    Each query has noise of its own, from the teacher's seed and the query's id: order, batches and
    restarts change no draw. The two thresholds are properties of a round: give `answer` all its
    queries at once.

    Raises:
        ConfigError: a knob is out of its range.
    """

    beta: float = math.inf
    """Rationality per unit of return, at least 0: infinite is an oracle, 0 a coin toss."""
    gamma: float = 1.0
    """Discount towards a clip's beginning, in (0, 1]: below 1, what came last counts most."""
    eps_mistake: float = 0.0
    """Probability of the opposite answer, in [0, 1)."""
    eps_skip: float = 0.0
    """How good the better clip must be to be judged at all, in [0, 1), see `threshold`."""
    eps_equal: float = 0.0
    """Up to which difference two clips look the same, in [0, 1), see `threshold`."""
    threshold: Literal["quantile", "bpref"] = "quantile"
    """What eps_skip and eps_equal are shares of, taken over the true returns of the round's clips.
    "quantile": the spread q95 - q05, skip measured from q05; the same for any shift of the reward.
    "bpref": the mean, as published (eps x mean episode return x H / T_max); it must be positive."""
    seed: int = 0
    """Seed of the noise."""
    name: str = "synthetic"
    """What its answers are stored under."""

    def __post_init__(self) -> None:
        if not self.beta >= 0.0:
            raise ConfigError(
                f"`beta` is {self.beta}, expected at least 0: inf is the oracle (B-Pref's -1), "
                "0 answers at random."
            )
        if not 0.0 < self.gamma <= 1.0:
            raise ConfigError(
                f"`gamma` is {self.gamma}, expected 0 < gamma <= 1; 1 weighs all steps alike."
            )
        for knob in ("eps_mistake", "eps_skip", "eps_equal"):
            value = getattr(self, knob)
            if not 0.0 <= value < 1.0:
                raise ConfigError(f"`{knob}` is {value}, expected 0 <= {knob} < 1; 0 is off.")
        if self.threshold not in ("quantile", "bpref"):
            raise ConfigError(f"`threshold` is {self.threshold!r}, expected 'quantile' or 'bpref'.")

    def answer(self, queries: Sequence[Query]) -> list[Preference]:
        """Answer all queries of one round, in their order.

        `shown_at` and `answered_at` stay 0.0: a synthetic teacher reads no clock, so that a
        replayed round is stored alike to the bit.

        Raises:
            DataError: a query is no pair, or a clip carries no true rewards.
            ConfigError: `threshold="bpref"` is needed and the mean true return is not positive.
        """
        returns = [self._raw_returns(query) for query in queries]
        thresholds = self._thresholds([value for pair in returns for value in pair])
        return [
            Preference(query, self._choose(query, *pair, thresholds), teacher=self.name)
            for query, pair in zip(queries, returns, strict=True)
        ]

    @staticmethod
    def _raw_returns(query: Query) -> tuple[float, float]:
        if len(query.clips) != 2:
            raise DataError(
                f"query {query.id[:12]} holds {len(query.clips)} clips; the synthetic teacher "
                "answers pairs only, so ask about two clips at a time."
            )
        return _weighted_return(query.first, 1.0), _weighted_return(query.second, 1.0)

    def _thresholds(self, returns: list[float]) -> _Thresholds:
        if not returns or (self.eps_skip == 0.0 and self.eps_equal == 0.0):
            return _Thresholds()
        if self.threshold == "bpref":
            # fsum is exact, so that the order of the queries cannot move the threshold by a bit.
            base, scale = 0.0, math.fsum(returns) / len(returns)
            if scale <= 0.0:
                raise ConfigError(
                    f'`threshold="bpref"` takes shares of the mean true return, which is {scale:g} '
                    'over this round\'s clips and must be positive; use `threshold="quantile"`, '
                    "which works for any reward."
                )
        else:
            low, high = (float(q) for q in np.quantile(returns, [0.05, 0.95]))
            base, scale = low, high - low
        # Where all clips are alike none is poor, and a skipper would answer nothing at all.
        skips = self.eps_skip > 0.0 and scale > 0.0
        return _Thresholds(
            skip_at_most=base + self.eps_skip * scale if skips else -math.inf,
            equal_below=self.eps_equal * scale,
        )

    def _choose(self, query: Query, raw1: float, raw2: float, thresholds: _Thresholds) -> Choice:
        if max(raw1, raw2) <= thresholds.skip_at_most:
            return Choice.SKIP
        if abs(raw1 - raw2) < thresholds.equal_below:
            return Choice.TIE
        seen1, seen2 = raw1, raw2
        if self.gamma < 1.0:
            seen1 = _weighted_return(query.first, self.gamma)
            seen2 = _weighted_return(query.second, self.gamma)
        choice_draw, mistake_draw = self._draws(query)
        choice = self._label(seen1 - seen2, choice_draw)
        return _OPPOSITE[choice] if mistake_draw < self.eps_mistake else choice

    def _label(self, difference: float, draw: float) -> Choice:
        if math.isinf(self.beta):
            if difference == 0.0:
                return Choice.TIE
            return Choice.FIRST if difference > 0.0 else Choice.SECOND
        return Choice.FIRST if draw < _sigmoid(self.beta * difference) else Choice.SECOND

    def _draws(self, query: Query) -> tuple[float, float]:
        """Two uniform numbers in [0, 1) that belong to this query: for the label, for a mistake."""
        if math.isinf(self.beta) and self.eps_mistake == 0.0:
            return 0.0, 0.0  # never looked at; seeding a generator costs more than an answer
        digest = hashlib.sha256(f"{self.seed}|{query.id}".encode()).digest()
        label, mistake = np.random.default_rng(int.from_bytes(digest, "big")).random(2)
        return float(label), float(mistake)


_OPPOSITE = {Choice.FIRST: Choice.SECOND, Choice.SECOND: Choice.FIRST, Choice.TIE: Choice.TIE}


def _sigmoid(x: float) -> float:
    # exp only of what is not positive, so that no difference overflows.
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0.0 else math.exp(x) / (1.0 + math.exp(x))


def _weighted_return(clip: Clip, gamma: float) -> float:
    """Sum of gamma^(H - 1 - t) r_t in float64, each clip with its own H."""
    if clip.true_rewards is None:
        raise DataError(
            f"clip {clip.id[:12]} of {clip.context_id!r} carries no `true_rewards`: a synthetic "
            "teacher needs an env's reward; record the clips from an env that returns one, or let "
            "people answer (`--teacher human`)."
        )
    rewards = clip.true_rewards.astype(np.float64)
    if gamma == 1.0:
        return float(rewards.sum())
    return float((rewards * gamma ** np.arange(len(rewards) - 1, -1, -1)).sum())


PRESETS: Mapping[str, SyntheticTeacher] = MappingProxyType(
    {
        "equal": SyntheticTeacher(eps_equal=0.1),
        "mistake": SyntheticTeacher(eps_mistake=0.1),
        "myopic": SyntheticTeacher(gamma=0.9),
        "noisy": SyntheticTeacher(beta=1.0),
        "oracle": SyntheticTeacher(),
        "skip": SyntheticTeacher(eps_skip=0.1),
    }
)
"""B-Pref's teachers by name ("noisy" is its "Stoc"), all with seed 0."""


_KNOBS = ("beta", "gamma", "eps_mistake", "eps_skip", "eps_equal")


def make_teacher(name: str, seed: int) -> SyntheticTeacher:
    """One of `PRESETS`, or one described by its knobs, with its own seed.

    Args:
        name: `mistake`, or knobs as `eps_mistake=0.3` or `beta=2,gamma=0.9`; knobs that are not
            named are the oracle's.
        seed: Seed of its noise.

    Raises:
        UnknownNameError: no preset has that name.
        ConfigError: an unknown knob, or a value out of its range.

    >>> make_teacher("eps_mistake=0.3", seed=1).eps_mistake
    0.3
    """
    if "=" in name:
        return replace(_from_knobs(name), seed=seed)
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(
            f"no synthetic teacher is called {name!r}; there are {', '.join(PRESETS)}, and knobs "
            f"like eps_mistake=0.3.{hint}"
        )
    return replace(PRESETS[name], seed=seed)


def _from_knobs(description: str) -> SyntheticTeacher:
    knobs: dict[str, Any] = {}  # numbers; the constructor has fields of other types too
    for part in description.split(","):
        knob, _, value = (text.strip() for text in part.partition("="))
        if knob not in _KNOBS or knob in knobs:
            raise ConfigError(
                f"`teacher` is {description!r}, and {knob!r} is no knob or stands twice; the knobs "
                f"are {', '.join(_KNOBS)}, as in eps_mistake=0.3,eps_skip=0.1."
            )
        try:
            knobs[knob] = float(value)
        except ValueError:
            raise ConfigError(
                f"`teacher` is {description!r}, and {knob} is {value!r}; give a number, as in "
                f"{knob}=0.1."
            ) from None
    return SyntheticTeacher(**knobs)
