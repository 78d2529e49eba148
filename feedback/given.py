"""Answers of an earlier run or store, given to a new run before its first question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlhf_gym.data import Preference, Query
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.store import PreferenceStore

__all__ = ["add_given", "read_given"]

_FIRST_INDEX = 1_000_000  # beyond every question that a run asks itself in round 0


def add_given(store: PreferenceStore, source: Path, context_id: str) -> int:
    """Copy the answers that stand in another store, as if they had been given in round 0.

    The pairs keep their clips, with true rewards and simulator states, and get new ids: they are
    asked anew here. Doing it again adds nothing.

    Args:
        store: The run's own.
        source: Folder of a run or a store.
        context_id: What this run's clips are compared within: its env id.

    Returns:
        How many answers were given.

    Raises:
        As `read_given`.
    """
    given, queries = read_given(source, context_id)
    here = {q.id: Query(q.clips, q.seed, 0, _FIRST_INDEX + i) for i, q in enumerate(queries)}
    store.post(list(here.values()))
    store.answer(
        [
            replace(p, query=here[p.query.id], details={**p.details, "given_as": p.query.id})
            for p in given
        ]
    )
    return len(given)


def read_given(source: Path, context_id: str) -> tuple[list[Preference], list[Query]]:
    """The answers of a run or store, and what they are about.

    Raises:
        ConfigError: the answers are about another env, or there are none.
        DataError: there is no store, or its clips have another shape.
    """
    with PreferenceStore(source, create=False) as other:
        given = list(other.preferences())
        queries = other.queries(list(dict.fromkeys(p.query.id for p in given)))
    if not given:
        raise ConfigError(
            f"`preferences` names {source}, whose store holds no answer; answer some, or leave "
            "the option away."
        )
    if foreign := sorted({q.context_id for q in queries} - {context_id}):
        raise ConfigError(
            f"`preferences` names {source}, whose answers are about {', '.join(foreign)}; this "
            f"run is about {context_id}, and answers do not carry over to another env."
        )
    return given, queries
