"""Prompts with their columns, from a list or from a text or JSON-lines file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_gym.documents import parse_json
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError
from rlhf_gym.reading import MIB, read_text

__all__ = ["PromptTable", "read_prompts"]

_MOST_BYTES = 256 * MIB

_RESERVED = ("prompts", "completions", "finished")


@dataclass(frozen=True, eq=False)
class PromptTable:
    """N prompts, and what a reward may want to know of each.

    Raises:
        ConfigError: a column has a reserved name.
        DataError: no prompt, a prompt that is no text, a column of another length.
    """

    prompts: Sequence[str]
    """N texts."""
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """N values each, by the name under which a reward function gets them."""

    def __post_init__(self) -> None:
        if isinstance(self.prompts, str) or not self.prompts:
            raise DataError(
                f"`prompts` is {self.prompts!r}, expected a list of at least one prompt."
            )
        for row, prompt in enumerate(self.prompts):
            if not isinstance(prompt, str):
                raise DataError(
                    f"prompt {row} is a {type(prompt).__name__}, {prompt!r}; expected a string."
                )
        for name, values in self.columns.items():
            if name in _RESERVED:
                raise ConfigError(
                    f"a column is called {name!r}, which every reward is given already; rename it "
                    f"(reserved: {', '.join(_RESERVED)})."
                )
            if len(values) != len(self.prompts):
                raise DataError(
                    f"column {name!r} has {len(values)} values for {len(self.prompts)} prompts; "
                    "each prompt needs one."
                )

    def __len__(self) -> int:
        return len(self.prompts)


def read_prompts(path: str | Path) -> PromptTable:
    """Read prompts from a file in UTF-8.

    Args:
        path: `.jsonl`: one object per line with "prompt" and, the same for all rows, any other
            columns. Any other ending: one prompt per line. Blank lines at the end are ignored.

    Raises:
        FileNotFoundError: the file is not there.
        DataError: it is not UTF-8, a row is no object or lacks a column, a prompt is empty; the
            message names the line.
    """
    path = Path(path)
    lines = _read_text(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    lines = lines or [""]
    if path.suffix.lower() != ".jsonl":
        prompts = [line.removesuffix("\r") for line in lines]
        _refuse_empty(path, prompts)
        return PromptTable(prompts)
    rows = [_parse(path, number, line) for number, line in enumerate(lines, 1)]
    names = ["prompt", *(name for name in rows[0] if name != "prompt")]
    for number, row in enumerate(rows, 1):
        missing = [name for name in names if name not in row]
        extra = [name for name in row if name not in names]
        if missing:
            raise DataError(
                f"{path.name}, line {number}: the column {missing[0]!r} is missing; every row "
                f"needs {names}, found {sorted(row)}."
            )
        if extra:
            raise DataError(
                f"{path.name}, line {number}: the column {extra[0]!r} is missing in line 1; every "
                "row needs the same columns."
            )
        if not isinstance(row["prompt"], str):
            raise DataError(
                f"{path.name}, line {number}: the prompt is {row['prompt']!r}, expected a string."
            )
    prompts = [row["prompt"] for row in rows]
    _refuse_empty(path, prompts)
    return PromptTable(prompts, {name: [row[name] for row in rows] for name in names[1:]})


def _read_text(path: Path) -> str:
    text = read_text(path, _MOST_BYTES)
    if not text.strip():
        raise DataError(f"{path.name} holds no prompt.")
    return text


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = parse_json(line, "it")
    except CorruptDataError as error:
        raise DataError(f"{path.name}, line {number}: {error}") from error
    if not isinstance(row, dict):
        raise DataError(
            f"{path.name}, line {number}: a {type(row).__name__}, expected an object such as "
            '{"prompt": "3+4=", "answer": "7"}.'
        )
    return row


def _refuse_empty(path: Path, prompts: Sequence[str]) -> None:
    for number, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise DataError(f"{path.name}, line {number}: the prompt is empty; remove the line.")
