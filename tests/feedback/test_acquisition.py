from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from rlhf_gym.data import Array, Clip, Preference, RewardBatch
from rlhf_gym.errors import ConfigError, DataError, NumericalError
from rlhf_gym.feedback.acquisition import ACQUISITIONS, disagreement, entropy, uniform
from rlhf_gym.protocols import Acquisition, FitReport

Pairs = list[tuple[Clip, Clip]]


class KnownReturns:
    """A reward model whose members' clip returns are written down; it counts its calls."""

    def __init__(self, returns: Mapping[Clip, Sequence[float]]) -> None:
        self.returns = returns
        self.calls: list[list[Clip]] = []

    def clip_returns(self, clips: Sequence[Clip]) -> Array:
        self.calls.append(list(clips))
        return np.array([self.returns[clip] for clip in clips], np.float32).T

    def member_rewards(self, batch: RewardBatch) -> Array:
        raise NotImplementedError

    def rewards(self, batch: RewardBatch) -> Array:
        raise NotImplementedError

    def fit(self, preferences: Sequence[Preference], rng: np.random.Generator) -> FitReport:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        raise NotImplementedError


UNASKED = KnownReturns({})


def clips_of(context: str, n: int) -> list[Clip]:
    return [
        Clip(np.full((2, 1), i, np.float32), np.zeros((1, 1), np.float32), context)
        for i in range(n)
    ]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def unordered(pairs: Pairs) -> set[frozenset[Clip]]:
    return {frozenset(pair) for pair in pairs}


@settings(deadline=None)
@given(st.lists(st.integers(0, 7), max_size=4), st.data())
def test_uniform_pairs_are_distinct_within_one_context_and_disjoint_while_possible(
    sizes: list[int], data: st.DataObject
) -> None:
    clips = [clip for c, size in enumerate(sizes) for clip in clips_of(f"context {c}", size)]
    possible = sum(math.comb(size, 2) for size in sizes)
    n = data.draw(st.integers(0, possible))
    pairs = uniform(clips, UNASKED, n, rng(data.draw(st.integers(0, 99))))
    assert len(pairs) == len(unordered(pairs)) == n
    assert all(first != second for first, second in pairs)
    assert all(first.context_id == second.context_id for first, second in pairs)
    assert {clip for pair in pairs for clip in pair} <= set(clips)
    if n <= sum(size // 2 for size in sizes):
        assert max(Counter(clip for pair in pairs for clip in pair).values(), default=1) == 1


@pytest.mark.parametrize("n_clips", [2, 3, 4, 9])
def test_asking_for_every_pair_gives_every_pair(n_clips: int) -> None:
    clips = clips_of("a", n_clips) + clips_of("b", 3)
    pairs = uniform(clips, UNASKED, math.comb(n_clips, 2) + 3, rng())
    expected = [*combinations(clips[:n_clips], 2), *combinations(clips[n_clips:], 2)]
    assert unordered(pairs) == unordered(expected)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_uniform_gives_every_ordered_pair_the_same_chance(n: int) -> None:
    # 4 clips make 12 ordered pairs; of 1,000 draws of n pairs each should appear n/12 of the time.
    clips, generator = clips_of("a", 4), rng(1)
    counts = Counter(pair for _ in range(1000) for pair in uniform(clips, UNASKED, n, generator))
    low, high = binom.interval(0.9999, 1000, n / 12)  # 99.9 % for the 12 together
    assert len(counts) == 12
    assert all(low <= count <= high for count in counts.values())


def test_uniform_draws_alike_from_the_same_seed_and_otherwise_from_another() -> None:
    clips = clips_of("a", 20)
    for n in (5, 60):  # disjoint, and beyond
        drawn = uniform(clips, UNASKED, n, rng(3))
        assert drawn == uniform(clips, UNASKED, n, rng(3))
        assert drawn != uniform(clips, UNASKED, n, rng(4))


def test_a_clip_given_twice_is_never_paired_with_itself() -> None:
    pairs = uniform(clips_of("a", 3) + clips_of("a", 3), UNASKED, 3, rng())
    assert unordered(pairs) == unordered(list(combinations(clips_of("a", 3), 2)))


@pytest.mark.parametrize("acquire", ACQUISITIONS.values(), ids=ACQUISITIONS)
def test_more_pairs_than_exist_are_refused_with_the_numbers(acquire: Acquisition) -> None:
    # 3 clips of "a" make 3 pairs, 2 of "b" one, and 1 of "c" none
    clips = clips_of("a", 3) + clips_of("b", 2) + clips_of("c", 1) + clips_of("a", 1)
    with pytest.raises(DataError) as error:
        acquire(clips, UNASKED, 5, rng())
    for part in ("5 pairs", "7 clips", "6 distinct", "3 context", "only 4 distinct pairs"):
        assert part in str(error.value)
    with pytest.raises(DataError, match="`n` is -1"):
        acquire(clips, UNASKED, -1, rng())


@pytest.mark.parametrize("acquire", ACQUISITIONS.values(), ids=ACQUISITIONS)
def test_no_pairs_asked_for_are_no_pairs_and_no_call(acquire: Acquisition) -> None:
    assert acquire([], UNASKED, 0, rng()) == []
    assert acquire(clips_of("a", 4), UNASKED, 0, rng()) == []


def slow_score(name: str, differences: Sequence[float]) -> float:
    probs = [1.0 / (1.0 + math.exp(-d)) for d in differences]
    if name == "disagreement":
        mean = sum(probs) / len(probs)
        return math.sqrt(sum((p - mean) ** 2 for p in probs) / len(probs))
    return sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in probs) / len(probs)


@pytest.mark.parametrize("name", ["disagreement", "entropy"])
def test_the_best_pairs_of_all_are_chosen_best_first(name: str) -> None:
    # 8 clips make 28 pairs: a pool of 10 n = 40 holds them all, so the answer is known.
    clips = clips_of("a", 8)
    table = dict(zip(clips, rng(5).normal(size=(8, 3)).round(3).tolist(), strict=True))

    def score(pair: Sequence[Clip]) -> float:
        first, second = (table[clip] for clip in pair)
        return slow_score(name, [a - b for a, b in zip(first, second, strict=True)])

    model = KnownReturns(table)
    pairs = ACQUISITIONS[name](clips, model, 4, rng())
    scores = [score(pair) for pair in pairs]
    assert scores == sorted(scores, reverse=True)
    best = sorted(combinations(clips, 2), key=score, reverse=True)[:4]
    assert unordered(pairs) == unordered(best)
    assert len(model.calls) == 1
    assert sorted(clip.id for clip in model.calls[0]) == sorted(clip.id for clip in clips)


def two_pairs(a: Sequence[float], b: Sequence[float]) -> tuple[list[Clip], KnownReturns]:
    """Two contexts of two clips, hence two pairs, whose return differences are a and b."""
    clips = clips_of("a", 2) + clips_of("b", 2)
    zero = [0.0] * len(a)
    return clips, KnownReturns(dict(zip(clips, [a, zero, b, zero], strict=True)))


def test_disagreement_is_about_probabilities_not_returns() -> None:
    # Returns differ by 10 around a certainty (a), by 1 around a toss-up (b).
    clips, model = two_pairs([20.0, 40.0], [-1.0, 1.0])
    ((first, _),) = disagreement(clips, model, 1, rng())
    assert first.context_id == "b"


def test_entropy_wants_doubt_in_each_member_and_disagreement_between_them() -> None:
    # a: both members a little unsure (H(.62) = .66 nats); b: each sure of the opposite (H(.05) =
    # .19), though their mean of 1/2 would have the greatest entropy of all.
    clips, model = two_pairs([0.5, 0.5], [-3.0, 3.0])
    assert entropy(clips, model, 1, rng())[0][0].context_id == "a"
    assert disagreement(clips, model, 1, rng())[0][0].context_id == "b"


def test_entropy_still_ranks_pairs_that_round_to_certainty() -> None:
    # 1 - sigmoid(40) is exactly 0 in float64; sigmoid(-40) is not.
    clips, model = two_pairs([45.0], [40.0])
    assert entropy(clips, model, 1, rng())[0][0].context_id == "b"
    clips, model = two_pairs([40.0], [45.0])
    assert entropy(clips, model, 1, rng())[0][0].context_id == "a"


@pytest.mark.parametrize("name", ["disagreement", "entropy"])
def test_equal_scores_keep_the_order_of_a_pool_of_ten_times_n(name: str) -> None:
    clips = clips_of("a", 60)
    alike = KnownReturns({clip: [0.0, 0.0] for clip in clips})
    pool = uniform(clips, alike, 30, rng(6))
    assert ACQUISITIONS[name](clips, alike, 3, rng(6)) == pool[:3]
    assert len(alike.calls[0]) == 60  # 30 disjoint candidates, each clip scored once


def test_the_sort_by_score_is_stable_in_a_large_pool() -> None:
    clips = clips_of("a", 400)
    table = dict(zip(clips, rng(7).integers(0, 2, size=(400, 2)).tolist(), strict=True))

    def score(pair: tuple[Clip, Clip]) -> float:
        first, second = (table[clip] for clip in pair)
        return slow_score("disagreement", [a - b for a, b in zip(first, second, strict=True)])

    pool = uniform(clips, UNASKED, 200, rng(8))  # few distinct scores, hence many equal ones
    best = sorted(pool, key=lambda pair: -round(score(pair), 6))[:20]
    assert disagreement(clips, KnownReturns(table), 20, rng(8)) == best


def test_a_single_member_cannot_disagree_but_can_doubt() -> None:
    clips, model = two_pairs([0.1], [9.0])
    with pytest.raises(ConfigError, match="at least 2 members, found 1"):
        disagreement(clips, model, 1, rng())
    assert entropy(clips, model, 1, rng())[0][0].context_id == "a"


@pytest.mark.parametrize("acquire", [disagreement, entropy])
def test_a_diverged_or_misshapen_reward_model_is_refused(acquire: Acquisition) -> None:
    clips, model = two_pairs([math.nan, 0.0], [0.0, 1.0])
    with pytest.raises(NumericalError, match="diverged"):
        acquire(clips, model, 1, rng())

    class OneRow(KnownReturns):
        def clip_returns(self, clips: Sequence[Clip]) -> Array:
            return np.zeros(len(clips))

    with pytest.raises(DataError, match=r"shape \(4,\) for 4 clips"):
        acquire(clips, OneRow({}), 1, rng())


def test_acquisitions_are_listed_by_the_names_users_type() -> None:
    assert dict(ACQUISITIONS) == {
        "disagreement": disagreement,
        "entropy": entropy,
        "uniform": uniform,
    }
