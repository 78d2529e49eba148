"""Draw clips, hide their true rewards, choose the pairs worth an answer, and post them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf_gym.data import Clip, Query
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.acquisition import count_pairs
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.protocols import Acquisition, Agent, RewardModel
from rlhf_gym.seeding import generator

__all__ = ["Questions", "post_questions"]

_MOST_DRAWS = 8


@dataclass(frozen=True)
class Questions:
    """What is to be asked."""

    n: int
    """Pairs that are wanted."""
    seed: int
    """The run's root seed."""
    round: int
    first_index: int
    """Questions that this round asked before."""
    clip_length: int
    n_labellers: int
    """Who are to answer each of them."""


def post_questions(
    wanted: Questions,
    agent: Agent,
    store: PreferenceStore,
    choose: Acquisition,
    reward_model: RewardModel | None,
) -> int:
    """Post so many questions, or as many as there are pairs; returns their number.

    Raises:
        DataError: there is no pair, and nothing to learn from either; or the acquisition chose
            other pairs than it was asked for.
    """
    # A round that asks again draws other clips.
    again = ("again", wanted.first_index) if wanted.first_index else ()
    rng = generator(wanted.seed, "queries", wanted.round, *again)
    full = _clips_for(wanted.n, agent, wanted.clip_length, rng)
    # What is missing here, the next round asks.
    n = min(wanted.n, count_pairs(list(full.values())))
    if n == 0:
        if store.last_sequence == 0 or wanted.first_index:
            raise DataError(
                f"the clips of the first round ({len(full)}) hold no two different ones to "
                "compare; raise `--warm-up` for robots; for texts take a model whose completions "
                "of a prompt differ."
            )
        return 0
    blind = [clip.without_true_rewards() for clip in full.values()]
    pairs = choose(blind, reward_model, n, rng)
    _check_pairs(pairs, n, full, choose)
    queries = [
        Query((full[first.id], full[second.id]), wanted.seed, wanted.round, wanted.first_index + i)
        for i, (first, second) in enumerate(pairs)
    ]
    store.post(queries, n_wanted=wanted.n_labellers)
    return len(queries)


def _check_pairs(pairs: object, n: int, clips: dict[str, Clip], choose: Acquisition) -> None:
    """Refuse what an acquisition must not return, by name; nothing was posted."""
    name = getattr(choose, "__name__", type(choose).__name__)
    n_pairs = len(pairs) if isinstance(pairs, (list, tuple)) else None
    if n_pairs != n:
        came = f"{type(pairs).__name__}" if n_pairs is None else f"{n_pairs}"
        raise DataError(
            f"the acquisition {name!r} was asked for {n} pairs and returned {came}; return a list "
            f"of {n} pairs of the clips it is given."
        )
    assert isinstance(pairs, (list, tuple)), "it has a length"
    for pair in pairs:
        is_pair = isinstance(pair, (list, tuple)) and len(pair) == 2
        if not is_pair or not all(isinstance(c, Clip) and c.id in clips for c in pair):
            raise DataError(
                f"the acquisition {name!r} returned something else than two of the {len(clips)} "
                "clips it was given; return pairs of those."
            )


def _clips_for(
    n_queries: int, agent: Agent, length: int, rng: np.random.Generator
) -> dict[str, Clip]:
    """Clips to choose from, by id; drawn again while they hold too few pairs.

    A language model that is sure of itself says the same to most prompts.
    """
    clips: dict[str, Clip] = {}
    for _ in range(_MOST_DRAWS):
        drawn = agent.clips(n_queries * agent.clips_per_query, length, rng)
        clips |= {clip.id: clip for clip in drawn}
        if count_pairs(list(clips.values())) >= n_queries:
            break
    return clips
