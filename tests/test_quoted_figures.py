"""Rows of figures that the documents quote, seed by seed, are those of the result files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_ROW = re.compile(rf"{_NUMBER}(?:\s·\s{_NUMBER})+")


def rows_on_file(node: Any) -> Iterator[list[float]]:
    """Every list of numbers in a JSON file, and every field of its tables by seed."""
    if isinstance(node, dict):
        for part in node.values():
            yield from rows_on_file(part)
    elif isinstance(node, list):
        if node and all(type(value) in (int, float) for value in node):
            yield node
        elif all(isinstance(entry, dict) and "seed" in entry for entry in node):
            yield from columns(node)
        for part in node:
            yield from rows_on_file(part)


def columns(table: list[dict[str, Any]]) -> Iterator[list[float]]:
    """The numbers of a table's rows that have the same texts, in order of their seeds."""

    def texts(row: dict[str, Any]) -> str:
        return json.dumps({k: v for k, v in row.items() if isinstance(v, str | bool)})

    for _, group in groupby(sorted(table, key=lambda row: (texts(row), row["seed"])), texts):
        rows = list(group)
        for name in rows[0]:
            values = [row.get(name) for row in rows]
            if all(type(value) in (int, float) for value in values):
                yield values  # type: ignore[misc]  # numbers all


def is_rounded(quoted: list[str], values: list[float]) -> bool:
    """Whether the texts are these values, rounded to as many places as they show."""
    return len(quoted) == len(values) and all(
        abs(float(text) - value) <= 0.5001 * 10 ** -len(text.partition(".")[2])
        for text, value in zip(quoted, values, strict=True)
    )


def rows_quoted(text: str) -> list[list[str]]:
    return [re.split(r"\s·\s", row.group().replace(",", "")) for row in _ROW.finditer(text)]


@pytest.fixture(scope="module")
def on_file(repository: Path) -> list[list[float]]:
    results = repository / "benchmarks" / "results"
    # `work` holds what a benchmark has not made yet.
    paths = [p for p in results.rglob("*.json") if "work" not in p.relative_to(results).parts]
    singly = [path for path in paths if "-seed" in path.stem]
    summaries = [path for path in paths if "-seed" not in path.stem]
    rows = [row for path in summaries for row in rows_on_file(json.loads(path.read_text()))]
    # Runs that no summary holds any more.
    replaced = [
        {"of": str(path)[: str(path).rindex("-seed")], **json.loads(path.read_text())["figures"]}
        for path in singly
        if "replaced" in path.parts
    ]
    return rows + [
        [row["true_return_mean"] for row in sorted(group, key=lambda row: int(row["seed"]))]
        for _, group in groupby(sorted(replaced, key=lambda row: row["of"]), lambda row: row["of"])
    ]


@pytest.mark.parametrize("page", ["docs/benchmarks.md", "README.md"])
def test_every_row_of_figures_on_a_page_is_on_file(
    page: str, repository: Path, on_file: list[list[float]]
) -> None:
    quoted = rows_quoted((repository / page).read_text())
    lost = [row for row in quoted if not any(is_rounded(row, values) for values in on_file)]
    assert not lost and len(quoted) >= 4


def test_a_wrong_digit_is_found() -> None:
    (row,) = rows_quoted("| 1,250 ·\n-3.40 · 12 |")
    assert is_rounded(row, [1250.4, -3.396, 12])
    assert not is_rounded(row, [1250.6, -3.396, 12]) and not is_rounded(row, [1250.4, -3.39, 12])
    table = [{"who": "a", "seed": 1, "x": 2.0}, {"who": "a", "seed": 0, "x": 1.0}]
    assert [1.0, 2.0] in list(rows_on_file({"runs": table}))


def test_the_yardsticks_are_those_of_their_sources(repository: Path) -> None:
    yardsticks = json.loads((repository / "rlhf_gym" / "yardsticks.json").read_text())
    assert len(yardsticks) == 8
    for task, yardstick in yardsticks.items():
        figures = json.loads((repository / yardstick["source"]).read_text())["tasks"][task]
        assert figures["reference"] == yardstick["setting"]
        own = figures["settings"][yardstick["setting"]]
        assert (own["mean"], own["seeds"]) == (yardstick["return_mean"], yardstick["seeds"])
