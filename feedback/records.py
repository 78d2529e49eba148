"""One stored answer with all that is known about how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from rlhf_gym.data import Choice

__all__ = ["KINDS", "AnswerKind", "AnswerRecord"]

AnswerKind = Literal[
    "pairwise", "gold", "repeat", "practice", "qualification", "surplus", "retraction"
]
"""What an answer is for. Only "pairwise" ones are trained on. Some measure a labeller: "gold" is
asked for its known answer alone, "repeat" shows an answered pair again with the sides swapped,
"practice" and "qualification" come before the first real pair. "surplus" came when the pair had all
the answers it wanted; "retraction" takes an answer back, and repeats its choice."""

KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)
"""Every kind of answer."""


@dataclass(frozen=True)
class AnswerRecord:
    """An answer as the store keeps it: who, what, when, and how it was looked at."""

    sequence: int
    """Its place among all answers ever given, from 1."""
    uuid: str
    """Hex, unique."""
    query_id: str
    """The pair that was asked about."""
    round: int
    """The pair's round."""
    kind: AnswerKind
    """What the answer is for."""
    choice: Choice
    """In terms of the query's first and second clip, wherever they stood on the screen."""
    teacher: str
    """What answered: "synthetic", "human", or a name of the caller's."""
    labeller: str
    """A pseudonym; empty where there is none."""
    shown_at: float
    """Seconds since the epoch, UTC."""
    answered_at: float
    """Seconds since the epoch, UTC."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON values. A viewer writes: left ("first" or "second": which clip stood there), side_seed,
    sitting, shown_monotonic, answered_monotonic (s), replays, watched_fraction (of one loop),
    speed, input ("key" or "mouse"), viewer (its version), comment."""
    supersedes: int | None = None
    """The sequence number of the same labeller's answer that this one replaces or takes back."""
    expected: Choice | None = None
    """The known answer, where the pair is a gold one, whatever `kind` the answer is."""
    return_gap: float | None = None
    """True return of the first clip less the second's, where the task has a true reward."""

    @property
    def seconds(self) -> float | None:
        """From shown to answered, at least 0: by the monotonic clock where the viewer gave it.

        None where neither clock was read (synthetic teachers).
        """
        start, stop = (self.details.get(f"{k}_monotonic") for k in ("shown", "answered"))
        if start is not None and stop is not None:
            return max(float(stop) - float(start), 0.0)
        return max(self.answered_at - self.shown_at, 0.0) if self.answered_at > 0 else None

    @property
    def chose_left(self) -> bool | None:
        """Whether the clip on the left won; None for a tie, "can't tell" or unrecorded sides."""
        left = self.details.get("left")
        if left not in ("first", "second") or self.choice not in (Choice.FIRST, Choice.SECOND):
            return None
        return bool(self.choice.value == left)
