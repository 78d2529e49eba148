"""What a reader of one row hands back: its answers, the columns it used, and what to remark."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rlhf_gym.feedback.formats.text_pairs import TextPair

__all__ = ["ReadRow", "Remark"]


class Remark(enum.Enum):
    """What the owner of a file should know of a row that was used; the value is for a count."""

    REPEATED = "rows whose texts repeated the prompt: it is kept once"
    OTHER_PROMPT = "rows whose prompt is not in their conversations: these were followed"
    EQUAL = "ties by equal scores, or a margin of 0"
    AGAINST_SCORES = "answers that their scores contradict: kept as labelled"


@dataclass(frozen=True)
class ReadRow:
    """A row of text pairs."""

    pairs: tuple[TextPair, ...]
    """The answers, at least one, all on the same texts."""
    used: frozenset[str]
    """The columns that count."""
    remarks: frozenset[Remark] = frozenset()
    """What to count."""
