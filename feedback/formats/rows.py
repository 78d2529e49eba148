"""Lines of JSON from files of any origin: each is an object, or is named with its row number."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rlhf_gym.documents import parse_json
from rlhf_gym.errors import CorruptDataError, DataError
from rlhf_gym.reading import limited, read_lines

__all__ = ["BadRow", "ParsedRows", "Row", "list_bad_rows", "parse_rows", "read_rows"]

_N_SHOWN = 5
_MOST_BAD_ROWS = 100_000

_T = TypeVar("_T")


@dataclass(frozen=True)
class Row:
    """A line that holds a JSON object."""

    number: int
    """The line's number, from 1; empty lines count."""
    content: dict[str, Any]
    """The object."""


@dataclass(frozen=True)
class BadRow:
    """A line that cannot be used."""

    number: int
    """The line's number, from 1."""
    reason: str
    """What is wrong with it."""
    ends_file: bool = False
    """Whether what follows cannot be read either, however many lines it was."""


@dataclass(frozen=True)
class ParsedRows(Generic[_T]):
    """What a file holds."""

    good: list[tuple[int, _T]]
    """Row number and content."""
    bad: list[BadRow]
    """What cannot be used."""


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """The lines of a file, one after the other; empty ones are left out.

    A file that ends in the middle of a line, as a process leaves it that was killed, or in the
    middle of its compressed data, ends in a `BadRow`.

    Raises:
        CorruptDataError: it is no regular file, or beyond the limits of `read_lines`.
        OSError: the file cannot be read.
    """
    number = 0
    try:
        for number, line in read_lines(path):
            yield _parse(number, line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = f"the compressed data ends or is damaged here ({error})"
        yield BadRow(number + 1, reason, ends_file=True)


def _parse(number: int, line: bytes) -> Row | BadRow:
    try:
        # A byte order mark is no part of the text, though some editors write one.
        content = parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"), "it")
    except UnicodeDecodeError as error:
        return BadRow(number, f"it is not UTF-8 (byte {error.start} is {line[error.start]:#04x})")
    except CorruptDataError as error:
        # What is cut off is no JSON; what is JSON and refused is named as it is.
        if not line.endswith(b"\n") and "is not JSON (" in str(error):
            return BadRow(number, "the file ends in the middle of it: it is half-written")
        return BadRow(number, str(error).removesuffix("."))
    if not isinstance(content, dict):
        return BadRow(number, f"it holds {type(content).__name__}, a JSON object is expected")
    return Row(number, content)


def parse_rows(path: Path, parse: Callable[[dict[str, Any]], _T]) -> ParsedRows[_T]:
    """Read a file by a function of one row; rows that cannot be used are listed.

    Args:
        path: The file, one JSON object per line, gzip or plain.
        parse: Makes something of a row, or raises `DataError` with the reason.

    Raises:
        DataError: no row can be used, or there is none.
        CorruptDataError: the compressed data is damaged: nobody knows how many rows are lost.
        OSError: the file cannot be read.
    """
    good: list[tuple[int, _T]] = []
    bad: list[BadRow] = []
    for row in read_rows(path):
        if len(bad) > _MOST_BAD_ROWS:
            what = f"`{path}` holds at least"
            limited(len(bad), _MOST_BAD_ROWS, what, "rows that cannot be used")
        if isinstance(row, BadRow):
            if row.ends_file:
                raise CorruptDataError(
                    f"`{path}`, row {row.number}: {row.reason}. Nothing was imported: copy it "
                    "again."
                )
            bad.append(row)
            continue
        try:
            good.append((row.number, parse(row.content)))
        except DataError as error:
            bad.append(BadRow(row.number, str(error)))
    if not good:
        what = (
            f"none of the {len(bad):,} rows of `{path}` can be used"
            if bad
            else (f"`{path}` holds no row")
        )
        raise DataError("\n  ".join([f"{what}; nothing was imported.", *list_bad_rows(bad)]))
    return ParsedRows(good, bad)


def list_bad_rows(bad: Sequence[BadRow]) -> list[str]:
    """A line for each reason, the first ones, with the rows that it holds for; and a count."""
    rows: dict[str, list[int]] = {}
    for row in bad:
        rows.setdefault(row.reason, []).append(row.number)
    lines = []
    for reason, numbers in list(rows.items())[:_N_SHOWN]:
        more = f" and {len(numbers) - _N_SHOWN:,} more" if len(numbers) > _N_SHOWN else ""
        shown = ", ".join(map(str, numbers[:_N_SHOWN]))
        lines.append(f"row{'s' if len(numbers) > 1 else ''} {shown}{more}: {reason}")
    n_rest = sum(map(len, list(rows.values())[_N_SHOWN:]))
    return lines + [f"and {n_rest:,} more rows"] * (n_rest > 0)
