"""Answers of an earlier run or store, given to a new run before its first question."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_gym.data import Query
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.answers import read_answers, select_answers
from rlhf_gym.feedback.formats.snapshot import Snapshot, StoredQuery, add_to_store
from rlhf_gym.feedback.records import AnswerRecord
from rlhf_gym.feedback.schema import ANSWERS_OF_Q
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.protocols import SpaceInfo
from rlhf_gym.text_clips import is_text_clip

__all__ = [
    "Given",
    "add_given",
    "count_asked",
    "count_given",
    "count_late",
    "count_outstanding",
    "count_said",
    "has_given",
    "known_answers",
    "last_answer",
    "read_given",
]

_COUNT = (
    "SELECT count(*) FROM answers AS a"
    " WHERE CASE WHEN json_valid(a.payload)"  # who reads the answer itself says what is damaged
    " THEN json_extract(a.payload, '$.details.given_as') END IS NOT NULL"
    " AND NOT EXISTS (SELECT 1 FROM answers AS b WHERE b.supersedes = a.sequence)"
)
_ASKED = "SELECT count(*) FROM queries WHERE round < ? AND position < ?"
_OUTSTANDING = (
    f"SELECT coalesce(sum(max(q.n_wanted - {ANSWERS_OF_Q}, 0)), 0) FROM queries AS q"
    " WHERE (q.round < :round OR q.round = :round AND q.position < :n) AND q.position < :given"
)
_STANDS = (
    "SELECT count(*) FROM answers AS a JOIN queries AS q USING (query) WHERE a.kind = 'pairwise'"
    " AND NOT EXISTS (SELECT 1 FROM answers AS b WHERE b.supersedes = a.sequence)"
)
_SAID = (
    f"{_STANDS} AND (q.round < :round OR q.round = :round AND q.position < :n"
    " OR q.position >= :given)"
    " AND CASE WHEN json_valid(a.payload)"
    " THEN json_extract(a.payload, '$.choice') <> 'skip' ELSE 1 END"
)
_LATE = f"{_STANDS} AND a.sequence > ? AND q.position < ?"
_HAS_GIVEN = "SELECT 1 FROM queries WHERE round = 0 AND position >= ? LIMIT 1"
_LAST = (
    "SELECT coalesce(max(a.sequence), 0) FROM answers AS a"
    " JOIN queries AS q ON q.query = a.query WHERE q.round <= ?"
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

    Raises:
        DataError, OSError: clips that do not fit into this store, or a full disk; nothing is given.
    """
    here = {q.id: Query(q.clips, q.seed, 0, _index_of(q.id)) for q in given.queries}
    records = tuple(
        replace(
            record,
            uuid=_digest(record.uuid)[:32],
            query_id=here[record.query_id].id,
            details={**record.details, "given_as": record.query_id},
            supersedes=None,
        )
        for record in given.records
    )
    queries = tuple(StoredQuery(query) for query in here.values())
    # In one transaction: questions without their answers would be put to people.
    add_to_store(store, Snapshot(queries, records))
    return len(records)


def _digest(name: str) -> str:
    return hashlib.sha256(f"given|{name}".encode()).hexdigest()


def _index_of(query_id: str) -> int:
    return _FIRST_INDEX + int(_digest(query_id)[:12], 16)


def count_given(store: PreferenceStore) -> int:
    """How many answers of a run's own store were given to it, and stand."""
    number: int = store.rows(_COUNT)[0][0]
    return number


def count_asked(store: PreferenceStore, before_round: int) -> int:
    """How many questions of the rounds before one a store holds, those given left out."""
    number: int = store.rows(_ASKED, (before_round, _FIRST_INDEX))[0][0]
    return number


def count_outstanding(
    store: PreferenceStore, up_to_round: int, n_in_round: int = _FIRST_INDEX
) -> int:
    """Answers that the questions of rounds 0 to this one still want, those given left out.

    Args:
        store: The run's own.
        up_to_round: The last round that counts.
        n_in_round: Only so many questions of that round, the first ones.
    """
    return _number(store, _OUTSTANDING, up_to_round, n_in_round)


def count_said(store: PreferenceStore, up_to_round: int, n_in_round: int = _FIRST_INDEX) -> int:
    """Answers that can be trained on (not "can't tell"), those given with them.

    Args:
        store: The run's own.
        up_to_round: The last round that counts.
        n_in_round: Only about so many questions of that round, the first ones.
    """
    return _number(store, _SAID, up_to_round, n_in_round)


def count_late(store: PreferenceStore, after: int) -> int:
    """Answers that stand and came after the one of this sequence number."""
    number: int = store.rows(_LATE, (after, _FIRST_INDEX))[0][0]
    return number


def _number(store: PreferenceStore, sql: str, round_: int, n: int) -> int:
    number: int = store.rows(sql, {"round": round_, "n": n, "given": _FIRST_INDEX})[0][0]
    return number


def has_given(store: PreferenceStore) -> bool:
    """Whether a run's own store was given answers already, standing or forgotten since."""
    return bool(store.rows(_HAS_GIVEN, (_FIRST_INDEX,)))


def last_answer(store: PreferenceStore, up_to_round: int) -> int:
    """Sequence number of the last answer about the questions of rounds 0 to this one, else 0."""
    number: int = store.rows(_LAST, (up_to_round,))[0][0]
    return number


def known_answers(store: PreferenceStore, last: int, up_to_round: int) -> list[AnswerRecord]:
    """What stands now of the answers up to number `last`, about rounds 0 to this one.

    Of every kind; no true reward is read for it.
    """
    records = read_answers(store.rows(select_answers(superseded=False)), store.path, {})
    return [r for r in records if r.sequence <= last and r.round <= up_to_round]


def read_given(source: Path, context_id: str, info: SpaceInfo, *, is_text: bool = False) -> Given:
    """The answers that stand in a run or store, and what they are about.

    Args:
        source: Folder of a run or a store.
        context_id: What this run's clips are compared within: its env id, as it was given.
        info: This run's spaces, which the clips have to fit.
        is_text: Whether it is a text task: texts are texts, whichever task they answer.

    Raises:
        ConfigError: the answers are about another env or other observations, or there are none.
        DataError: there is no store.
    """
    with PreferenceStore(source, create=False) as other:
        records = [r for r in other.answer_records() if r.kind == "pairwise"]
        queries = other.queries(list(dict.fromkeys(r.query_id for r in records)))
    if not records:
        raise ConfigError(
            f"`preferences` names {source}, whose store holds no answer; answer some, or omit "
            "the option."
        )
    foreign = sorted(
        {
            query.context_id
            for query in queries
            if not (is_text_clip(query.first) if is_text else query.context_id == context_id)
        }
    )
    if foreign:
        others = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise ConfigError(
            f"`preferences` names {source}, whose answers are about {', '.join(foreign[:3])}"
            f"{others}; this run is about {context_id}, and answers do not carry over to another "
            "env."
        )
    if not is_text:
        _check_shapes(queries, info, source)
    return Given(records, queries)


def _check_shapes(queries: Sequence[Query], info: SpaceInfo, source: Path) -> None:
    obs, action = info.observation_space.shape, info.action_space.shape or ()
    for clip in (clip for query in queries for clip in query.clips):
        if (clip.obs.shape[1:], clip.actions.shape[1:]) != (obs, action):
            raise ConfigError(
                f"`preferences` names {source}, whose clips have observations of shape "
                f"{clip.obs.shape[1:]} and actions of shape {clip.actions.shape[1:]}; here they "
                f"have {obs} and {action}. Take the `--obs-keys` and `--env-kwargs` of that run."
            )
