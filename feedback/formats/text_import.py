"""Files of text pairs as a snapshot: a row is a query, with an answer for each of its labellers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rlhf_gym.data import Query
from rlhf_gym.feedback.formats.chosen_rejected import hh_pair, trl_pair
from rlhf_gym.feedback.formats.panda_lm import panda_lm_pairs
from rlhf_gym.feedback.formats.rows import BadRow, parse_rows
from rlhf_gym.feedback.formats.snapshot import Snapshot, StoredQuery
from rlhf_gym.feedback.formats.text_pairs import TextPair
from rlhf_gym.feedback.records import AnswerRecord
from rlhf_gym.text_clips import text_clip

__all__ = ["TEXT_FORMATS", "TextFormat", "TextImport", "pairs_snapshot", "read_text_pairs"]

TextFormat = Literal["hh", "pandalm", "pairs"]
"""HH-RLHF's dialogues, PandaLM's test set, or TRL's preference format in any of its forms."""

TEXT_FORMATS: tuple[TextFormat, ...] = get_args(TextFormat)
"""Every format of text pairs."""

_PARSERS: Mapping[TextFormat, Callable[[dict[str, Any]], list[TextPair]]] = {
    "hh": lambda row: [hh_pair(row)],
    "pandalm": panda_lm_pairs,
    "pairs": lambda row: [trl_pair(row)],
}


@dataclass(frozen=True)
class TextImport:
    """What a file of text pairs holds."""

    snapshot: Snapshot
    """Round 0 of a store; the index of a query is the number of its row."""
    bad: list[BadRow]
    """Rows that cannot be used."""
    n_duplicates: int
    """Rows that repeat an earlier one in all that matters."""
    n_identical: int
    """Rows whose two texts are equal: there is nothing to compare."""


def read_text_pairs(
    path: Path, text_format: TextFormat, *, skip_bad_rows: bool = False
) -> TextImport:
    """Read a file of text pairs, gzip or plain, one JSON object per line.

    Args:
        path: The file.
        text_format: How its rows are to be understood.
        skip_bad_rows: Leave out the rows that cannot be used, and list them.

    Raises:
        DataError: bad rows, by number, where they are not to be skipped; or no row at all.
        OSError: the file cannot be read.
    """
    parse = _PARSERS[text_format]

    def parse_checked(row: dict[str, Any]) -> list[TextPair]:
        pairs = parse(row)
        _text_clips(pairs[0])  # what cannot be stored is a bad row, with its number
        return pairs

    rows = parse_rows(path, parse_checked, skip_bad_rows=skip_bad_rows)
    return pairs_snapshot(rows.good, rows.bad)


def pairs_snapshot(
    rows: Sequence[tuple[int, Sequence[TextPair]]], bad: Sequence[BadRow] = ()
) -> TextImport:
    """Queries and answers from rows of text pairs.

    Queries, answers and their uuids follow from the rows alone: importing a file twice into a store
    adds nothing the second time.

    Args:
        rows: Row number, and the answers to the row's pair: at least one, all on the same texts.
        bad: Passed on.

    Raises:
        DataError: a text is not Unicode.
    """
    queries: list[StoredQuery] = []
    answers: list[AnswerRecord] = []
    seen: set[tuple[object, ...]] = set()
    n_duplicates = n_identical = 0
    for number, pairs in rows:
        key = tuple(
            (p.prompt, p.first, p.second, p.choice, p.labeller, p.teacher, p.margin) for p in pairs
        )
        if pairs[0].first == pairs[0].second:
            n_identical += 1
            continue
        if key in seen:
            n_duplicates += 1
            continue
        seen.add(key)
        query = Query(_text_clips(pairs[0]), seed=0, round=0, index=number)
        queries.append(StoredQuery(query, n_wanted=len(pairs)))
        for pair in pairs:
            answers.append(_record(len(answers) + 1, query, pair))
    snapshot = Snapshot(tuple(queries), tuple(answers))
    return TextImport(snapshot, list(bad), n_duplicates, n_identical)


def _text_clips(pair: TextPair) -> tuple[Any, Any]:
    return text_clip(pair.prompt, pair.first), text_clip(pair.prompt, pair.second)


def _record(sequence: int, query: Query, pair: TextPair) -> AnswerRecord:
    content = f"{query.id}|{pair.teacher}|{pair.labeller}|{pair.choice.value}"
    return AnswerRecord(
        sequence=sequence,
        uuid=hashlib.sha256(content.encode()).hexdigest()[:32],
        query_id=query.id,
        round=query.round,
        kind="pairwise",
        choice=pair.choice,
        teacher=pair.teacher,
        labeller=pair.labeller,
        shown_at=0.0,
        answered_at=0.0,
        details=dict(pair.details),
    )
