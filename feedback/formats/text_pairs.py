"""Pairs of texts as lines of prompt, chosen and rejected, for TRL and Hugging Face datasets.

That form has no room for a tie, nor for "can't tell", a labeller, a time, or whether a completion
was cut off: it is for training elsewhere, and the lossless formats are for keeping. Ties and "can't
tell" are counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rlhf_gym.data import Choice, Clip, Preference
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.formats.targets import new_file
from rlhf_gym.text_clips import clip_text

__all__ = ["TIES", "PairCounts", "TextPair", "Ties", "text_pairs", "write_pairs"]

Ties = Literal["drop", "margin0", "both"]
"""What becomes of a tie: nothing; one row whose margin is 0 where the others' is 1; or two rows,
one each way, whose gradients pull to P(first preferred) = 0.5."""

TIES: tuple[Ties, ...] = get_args(Ties)
"""Every way with ties."""


@dataclass(frozen=True)
class TextPair:
    """Two completions of one prompt, and which was found better."""

    prompt: str
    """May be empty."""
    first: str
    """A completion, without the prompt."""
    second: str
    """The other one."""
    choice: Choice
    """Which is better."""
    labeller: str = ""
    """A pseudonym; empty where there is none."""
    teacher: str = "human"
    """What answered."""
    margin: float | None = None
    """How much better, at least 0, in units of the reward; None where nobody said."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else belongs to the answer, JSON values only."""


@dataclass(frozen=True)
class PairCounts:
    """What became of the answers, of which each has one of the last four fates."""

    n_rows: int
    """Rows written; a tie may be none, one or two of them."""
    n_decisive: int
    """Answers with a better one: each is a row."""
    n_ties_written: int
    """Ties that became rows."""
    n_ties_dropped: int
    """Ties that were left out."""
    n_skips_dropped: int
    """Answers "can't tell", which are never written."""


def text_pairs(
    preferences: Iterable[Preference], to_text: Callable[[Clip], tuple[str, str]] = clip_text
) -> Iterator[TextPair]:
    """Stored answers to pairs of texts.

    Args:
        preferences: The answers that stand, as a store gives them.
        to_text: Prompt and completion of a clip. The default reads text clips; for token ids pass
            a function that decodes them by their tokenizer.

    Raises:
        DataError: a clip that `to_text` cannot read.
    """
    for preference in preferences:
        prompt, first = to_text(preference.query.first)
        margin = preference.details.get("margin")
        yield TextPair(
            prompt=prompt,
            first=first,
            second=to_text(preference.query.second)[1],
            choice=preference.choice,
            labeller=preference.labeller,
            teacher=preference.teacher,
            margin=None if margin is None else float(margin),
            details=preference.details,
        )


def write_pairs(pairs: Iterable[TextPair], path: Path, *, ties: Ties = "drop") -> PairCounts:
    """Write pairs, one JSON object per line.

    Rows have the keys prompt, chosen and rejected, and all or none of them a `margin`: all where
    `ties` is "margin0" or a pair has one. A decisive pair without a margin then has 1.0, a tie 0.0:
    TRL's reward loss asks for that much distance between the two, as Touvron et al. (2023,
    section 3.2.2) do.

    Args:
        pairs: The answers.
        path: A new file; one that ends in .gz is compressed.
        ties: What becomes of a tie.

    Returns:
        How many went, and how many did not.

    Raises:
        ConfigError: the file exists, or `ties` is none of the three.
        OSError: the disk is full; nothing is left behind.
    """
    if ties not in TIES:
        raise ConfigError(f"`ties` is {ties!r}; accepted are {', '.join(TIES)}.")
    answers = list(pairs)
    n = {choice: sum(pair.choice is choice for pair in answers) for choice in Choice}
    n_ties, n_decisive = n[Choice.TIE], n[Choice.FIRST] + n[Choice.SECOND]
    with_margin = ties == "margin0" or any(pair.margin is not None for pair in answers)
    n_rows = 0
    with new_file(path) as file:
        for pair in answers:
            for chosen, rejected in _orders(pair, ties):
                row: dict[str, Any] = {
                    "prompt": pair.prompt,
                    "chosen": chosen,
                    "rejected": rejected,
                }
                if with_margin:
                    row["margin"] = _margin(pair)
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                n_rows += 1
    written = 0 if ties == "drop" else n_ties
    return PairCounts(n_rows, n_decisive, written, n_ties - written, n[Choice.SKIP])


def _orders(pair: TextPair, ties: Ties) -> list[tuple[str, str]]:
    """The rows of a pair: chosen and rejected of each."""
    forward, backward = (pair.first, pair.second), (pair.second, pair.first)
    if pair.choice is Choice.TIE:
        return {"drop": [], "margin0": [forward], "both": [forward, backward]}[ties]
    return {Choice.FIRST: [forward], Choice.SECOND: [backward]}.get(pair.choice, [])


def _margin(pair: TextPair) -> float:
    if pair.choice is Choice.TIE:
        return 0.0
    return 1.0 if pair.margin is None else pair.margin
