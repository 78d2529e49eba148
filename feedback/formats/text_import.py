"""Files of text pairs as a snapshot: a row is a query, with an answer for each of its labellers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rlhf_gym.data import Choice, Query
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.formats.chosen_rejected import read_hh, read_trl
from rlhf_gym.feedback.formats.columns import Columns
from rlhf_gym.feedback.formats.panda_lm import read_panda_lm
from rlhf_gym.feedback.formats.read_row import ReadRow, Remark
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


@dataclass(frozen=True)
class TextImport:
    """What a file of text pairs holds."""

    snapshot: Snapshot
    """Round 0 of a store; the index of a query is the number of its row."""
    bad: list[BadRow] = field(default_factory=list)
    """Rows that cannot be used."""
    n_duplicates: int = 0
    """Rows that repeat an earlier one in all that matters."""
    n_identical: int = 0
    """Rows whose two texts are equal: there is nothing to compare."""
    contradicting: tuple[int, ...] = ()
    """Rows that answer the pair of an earlier row otherwise than it, by number; they are kept."""
    unused: tuple[str, ...] = ()
    """Columns that no row was read by, in the file's order."""
    remarks: Mapping[Remark, int] = field(default_factory=dict)
    """How many rows each remark is about."""


def read_text_pairs(
    path: Path, text_format: TextFormat, columns: Columns | None = None
) -> TextImport:
    """Read a file of text pairs, gzip or plain, one JSON object per line.

    Args:
        path: The file.
        text_format: How its rows are to be understood.
        columns: Which columns hold what, for "pairs"; default: those of the usual names.

    Raises:
        ConfigError: `columns` for a format that has its own.
        DataError: no row can be used, or there is none.
        OSError: the file cannot be read.
    """
    if columns is not None and columns != Columns() and text_format != "pairs":
        raise ConfigError(
            f"`--columns` and `--no-prompt` are for pairs; `{path}` is read as {text_format}, "
            "which has columns of its own: add `--format pairs`, or leave them out."
        )
    names: dict[str, None] = {}
    used: set[str] = set()

    def parse(row: dict[str, Any]) -> ReadRow:
        names.update(dict.fromkeys(row))
        read = _read_row(row, text_format, columns)
        _text_clips(read.pairs[0])  # what cannot be stored is a bad row, with its number
        used.update(read.used)
        return read

    rows = parse_rows(path, parse)
    found = pairs_snapshot([(number, read.pairs) for number, read in rows.good])
    remarks = Counter(remark for _, read in rows.good for remark in read.remarks)
    unused = tuple(name for name in names if name not in used)
    return replace(found, bad=rows.bad, unused=unused, remarks=remarks)


def _read_row(row: dict[str, Any], text_format: TextFormat, columns: Columns | None) -> ReadRow:
    if text_format == "hh":
        return read_hh(row)
    if text_format == "pandalm":
        return read_panda_lm(row)
    return read_trl(row, columns or Columns())


def pairs_snapshot(rows: Sequence[tuple[int, Sequence[TextPair]]]) -> TextImport:
    """Queries and answers from rows of text pairs.

    Queries, answers and their uuids follow from the rows alone: importing a file twice into a store
    adds nothing the second time.

    Args:
        rows: Row number, and the answers to the row's pair: at least one, all on the same texts.

    Raises:
        DataError: a text is not Unicode.
    """
    queries: list[StoredQuery] = []
    answers: list[AnswerRecord] = []
    seen: set[tuple[object, ...]] = set()
    said: dict[tuple[object, ...], Choice] = {}
    contradicting: list[int] = []
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
        judged = [_judgement(pair) for pair in pairs]
        if any(said.setdefault(who, choice) is not choice for who, choice in judged):
            contradicting.append(number)
        query = Query(_text_clips(pairs[0]), seed=0, round=0, index=number)
        queries.append(StoredQuery(query, n_wanted=len(pairs)))
        for pair in pairs:
            answers.append(_record(len(answers) + 1, query, pair))
    snapshot = Snapshot(tuple(queries), tuple(answers))
    return TextImport(snapshot, [], n_duplicates, n_identical, tuple(contradicting))


def _judgement(pair: TextPair) -> tuple[tuple[object, ...], Choice]:
    """Who judges which two texts, and how, whichever of the two stands first."""
    choice, texts = pair.choice, (pair.first, pair.second)
    if texts[0] > texts[1]:
        texts = texts[::-1]
        choice = {Choice.FIRST: Choice.SECOND, Choice.SECOND: Choice.FIRST}.get(choice, choice)
    return (pair.prompt, *texts, pair.labeller, pair.teacher), choice


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
