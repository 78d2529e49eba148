"""Answers of an earlier run or store, given to a new run before its first question."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_gym.data import Query
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.records import AnswerRecord
from rlhf_gym.feedback.store import PreferenceStore

__all__ = ["Given", "add_given", "count_given", "read_given"]

_COUNT = (
    "SELECT count(*) FROM answers AS a"
    " WHERE CASE WHEN json_valid(a.payload)"  # who reads the answer itself says what is damaged
    " THEN json_extract(a.payload, '$.details.given_as') END IS NOT NULL"
    " AND NOT EXISTS (SELECT 1 FROM answers AS b WHERE b.supersedes = a.sequence)"
)
_FIRST_INDEX = 1_000_000  # beyond every question that a run asks itself in round 0


@dataclass(frozen=True)
class Given:
    """Answers that stand in a store, and what they are about."""

    records: list[AnswerRecord]
    queries: list[Query]


def add_given(store: PreferenceStore, given: Given) -> int:
    """Copy answers of another store, as if they had been given in round 0.

    The pairs keep their clips, with true rewards and simulator states; pairs and answers get new
    ids, which follow from the old ones: doing it again adds nothing, and a replay of this run,
    which is given the same answers, finds those that the recording holds.

    Args:
        store: The run's own.
        given: Of another store.

    Returns:
        How many answers were given.
    """
    here = {q.id: Query(q.clips, q.seed, 0, _index_of(q.id)) for q in given.queries}
    store.post(list(here.values()))
    store.restore_answers(
        [
            replace(
                record,
                uuid=_digest(record.uuid)[:32],
                query_id=here[record.query_id].id,
                details={**record.details, "given_as": record.query_id},
                supersedes=None,
            )
            for record in given.records
        ]
    )
    return len(given.records)


def _digest(name: str) -> str:
    return hashlib.sha256(f"given|{name}".encode()).hexdigest()


def _index_of(query_id: str) -> int:
    return _FIRST_INDEX + int(_digest(query_id)[:12], 16)


def count_given(store: PreferenceStore) -> int:
    """How many answers of a run's own store were given to it, and stand."""
    number: int = store.rows(_COUNT)[0][0]
    return number


def read_given(source: Path, context_id: str) -> Given:
    """The answers that stand in a run or store, and what they are about.

    Args:
        source: Folder of a run or a store.
        context_id: What this run's clips are compared within: its env id.

    Raises:
        ConfigError: the answers are about another env, or there are none.
        DataError: there is no store.
    """
    with PreferenceStore(source, create=False) as other:
        records = [r for r in other.answer_records() if r.kind == "pairwise"]
        queries = other.queries(list(dict.fromkeys(r.query_id for r in records)))
    if not records:
        raise ConfigError(
            f"`preferences` names {source}, whose store holds no answer; answer some, or leave "
            "the option away."
        )
    if foreign := sorted({q.context_id for q in queries} - {context_id}):
        raise ConfigError(
            f"`preferences` names {source}, whose answers are about {', '.join(foreign)}; this "
            f"run is about {context_id}, and answers do not carry over to another env."
        )
    return Given(records, queries)
