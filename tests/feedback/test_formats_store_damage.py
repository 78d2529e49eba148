"""Damaged JSON lines and Parquet never get in, and the place is named."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_gym.errors import CorruptDataError
from rlhf_gym.feedback.formats import parquet
from rlhf_gym.feedback.formats.jsonl import read_jsonl, write_jsonl
from rlhf_gym.feedback.formats.parquet import read_parquet, write_parquet
from tests.feedback.store_example import example


def change_line(path: Path, number: int, change: Callable[[dict[str, Any]], None]) -> None:
    lines = path.read_text().splitlines()
    row = json.loads(lines[number])
    change(row)
    lines[number] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


# Line 0 is the header, 1 to 3 are clips, 4 and 5 queries, 6 to 9 answers.
@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, {"format": "other"}, "its format is 'other'"),
        (0, {"version": 2}, "reads 1"),
        (0, {"n_answers": 5}, r"n_answers = 5 .* holds 4"),
        (1, {"type": "clipp"}, "line 2: `type` is 'clipp'"),
        (1, {"obs": None}, "no observations"),
        (1, {"obs": {"dtype": "|O", "shape": [1], "base64": "AAAAAAAAAAA="}}, "neither float"),
        (1, {"obs": {"dtype": "<f4", "shape": [9, 9], "base64": "AAAA"}}, "line 2: `obs`"),
        (1, {"obs": {"dtype": "<f4", "shape": [1], "base64": "***"}}, "line 2: `obs`"),
        (1, {"obs": [1, 2]}, "line 2: `obs`"),
        (1, {"true_rewards": {"dtype": "<f4", "shape": [1], "base64": "AAAAAA=="}}, "one per act"),
        (1, {"context_id": "Other-v0"}, "line 2: the clip's id is .* changed or damaged"),
        (1, {"context_id": 3}, "`context_id` is 3, str is expected"),
        (4, {"clip_ids": ["x", "y"]}, "line 5: clip 'x' of the query is not in the file"),
        (4, {"clip_ids": []}, "at least 2 are needed"),
        (4, {"index": 9}, "line 5: the query's id"),
        (4, {"round": True}, "`round` is True"),
        (4, {"round": 1 << 70}, "64 bits"),
        (4, {"seed": "-1"}, "`seed` is '-1'"),
        (4, {"n_wanted": 0}, "`n_wanted` is 0"),
        (4, {"expected": "left"}, "a choice is 'left'"),
        (6, {"choice": "third"}, "a choice is 'third'; accepted are first, second, tie, skip"),
        (6, {"kind": "bronze"}, "`kind` is 'bronze'"),
        (6, {"query_id": "x"}, "query 'x' of the answer"),
        (6, {"supersedes": "x"}, "supersedes 'x', which is not before it"),
        (6, {"shown_at": None}, "`shown_at` is None, a finite number"),
        (6, {"labeller": "\ud800"}, "not Unicode"),
        (6, {"details": {"margin": float("nan")}}, "line 7: the `details` of .* are not JSON"),
        (6, {"details": []}, r"`details` is \[\], dict is expected"),
    ],
)
def test_a_changed_line_is_refused_by_its_number(
    tmp_path: Path, number: int, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "out.jsonl"
    write_jsonl(example(tmp_path), path)
    change_line(path, number, lambda row: row.update(change))
    with pytest.raises(CorruptDataError, match=message):
        read_jsonl(path)


def test_lines_that_are_missing_or_doubled_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_jsonl(example(tmp_path), path)
    lines = path.read_text().splitlines(keepends=True)
    damaged = {
        "half-written": "".join(lines)[:-5],
        "n_answers": "".join(lines[:-1]),
        "was there before": "".join([*lines, lines[-1]]),
        "is empty": "",
        "is not JSON": lines[0] + "{\n",
    }
    for message, text in damaged.items():
        path.write_text(text)
        with pytest.raises(CorruptDataError, match=message):
            read_jsonl(path)
    path.write_bytes(gzip.compress("".join(lines).encode())[:-9])
    with pytest.raises(CorruptDataError, match="compressed data ends"):
        read_jsonl(path)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_single_damaged_byte_raises_anything_but_a_clear_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "whole.jsonl"
    if not path.exists():
        write_jsonl(example(tmp_path), path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(content)
    try:
        read_jsonl(damaged)
    except CorruptDataError as error:
        assert str(damaged) in str(error)


@pytest.mark.parametrize("name", ["answers", "queries", "clips"])
def test_a_damaged_or_missing_table_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    write_parquet(example(tmp_path), folder)
    path = folder / f"{name}.parquet"
    content = path.read_bytes()
    (folder / f"{name}.whole").write_bytes(content)
    path.write_bytes(content[:-20])
    with pytest.raises(CorruptDataError, match=f"{name}.parquet` is damaged"):
        read_parquet(folder)
    column = pq.ParquetFile(folder / f"{name}.whole").metadata.row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    flipped = bytearray(content)
    flipped[start + column.total_compressed_size - 1] ^= 0x10  # the last byte of a page
    path.write_bytes(flipped)
    with pytest.raises(CorruptDataError, match=f"{name}.parquet` is damaged"):
        read_parquet(folder)
    path.unlink()
    with pytest.raises(CorruptDataError, match=f"{name}.parquet` is missing"):
        read_parquet(folder)


def test_tables_of_two_exports_or_of_others_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_parquet(example(tmp_path), folder)
    answers = pq.read_table(folder / "answers.parquet")
    pq.write_table(answers.slice(0, 2), folder / "answers.parquet")
    with pytest.raises(CorruptDataError, match="not of one export"):
        read_parquet(folder)
    pq.write_table(answers.replace_schema_metadata(None), folder / "answers.parquet")
    with pytest.raises(CorruptDataError, match="its format is None"):
        read_parquet(folder)
    pq.write_table(answers.drop_columns(["details"]), folder / "answers.parquet")
    with pytest.raises(CorruptDataError, match=r"answers.parquet, row 1: `details`"):
        read_parquet(folder)


def test_a_table_that_promises_more_rows_than_its_ids_take_is_refused(tmp_path: Path) -> None:
    write_parquet(example(tmp_path / "store"), tmp_path / "export")
    path = tmp_path / "export" / "answers.parquet"
    table = pq.read_table(path)
    # A million equal rows: run lengths and dictionaries make some kilobytes of them.
    rows = pa.concat_tables([table] * 2).take(pa.array([0] * 1_000_000))
    pq.write_table(rows.replace_schema_metadata(table.schema.metadata), path)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(CorruptDataError, match=r"1,000,000 rows in .* fewer than their ids take"):
        read_parquet(tmp_path / "export")


def test_a_column_that_would_unpack_to_more_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(example(tmp_path / "store"), tmp_path / "export")
    read_parquet(tmp_path / "export")
    monkeypatch.setattr(parquet, "_GROUP_NUMBERS", 8)
    with pytest.raises(CorruptDataError, match=r"in the column obs.* 18 numbers; at most 8"):
        read_parquet(tmp_path / "export")
