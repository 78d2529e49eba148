"""One pair as it stands before a labeller, and what is put on record about the looking."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal, Self

from rlhf_gym.feedback.desk import Question
from rlhf_gym.feedback.viewer.frames import Frames
from rlhf_gym.feedback.viewer.playback import Playback, Watched
from rlhf_gym.text_clips import clip_finished, clip_text

__all__ = ["InputKind", "ShownPair", "TextPair", "read_text_pair"]

InputKind = Literal["key", "mouse"]
"""What an answer was given with."""


@dataclass(frozen=True)
class TextPair:
    """A prompt and the completions on the two sides."""

    prompt: str
    left: str
    right: str
    cut_off: tuple[bool, bool] = (False, False)
    """Whether the left and the right one met a length limit, and did not end by themselves."""


@dataclass(eq=False)
class ShownPair:
    """What is on the screen: pictures or text, never both."""

    question: Question
    pictures: tuple[Frames, Frames] | None
    """Of the left and of the right clip."""
    text: TextPair | None
    shown_at: float
    """Seconds since the epoch, UTC."""
    shown_monotonic: float
    """Seconds of the monotonic clock."""
    playback: Playback | None = None
    """Of pictures."""
    watched: Watched | None = None
    """Of pictures."""
    restarts: int = 0
    """How often the labeller started the clips anew."""
    comment: str = ""

    @classmethod
    def start(
        cls,
        question: Question,
        content: tuple[Frames, Frames] | TextPair,
        shown_at: float,
        shown_monotonic: float,
        play_time: float,
        speed: float,
    ) -> Self:
        """A pair that appears now; pictures play from the first one.

        Args:
            question: The pair.
            content: What is shown.
            shown_at: Now, seconds since the epoch, UTC.
            shown_monotonic: Now, seconds of the monotonic clock.
            play_time: Now, seconds of the clock that the playback is asked about.
            speed: Clip time per time.
        """
        if isinstance(content, TextPair):
            return cls(question, None, content, shown_at, shown_monotonic)
        left, right = content
        playback = Playback(
            (len(left.frames), len(right.frames)),
            (left.seconds_per_frame, right.seconds_per_frame),
            anchor_time=play_time,
            speed=speed,
        )
        pair = cls(question, content, None, shown_at, shown_monotonic, playback)
        pair.watched = Watched(playback)
        return pair

    def details(self, input_kind: InputKind, answered_monotonic: float) -> dict[str, Any]:
        """What goes into the answer's record, JSON values only; see `AnswerRecord.details`.

        Args:
            input_kind: Key or mouse.
            answered_monotonic: Seconds of the monotonic clock, not before `shown_monotonic`.
        """
        details: dict[str, Any] = {
            "shown_monotonic": self.shown_monotonic,
            "answered_monotonic": max(answered_monotonic, self.shown_monotonic),
            "input": input_kind,
            "viewer": _version(),
        }
        if self.playback is not None and self.watched is not None:
            details["replays"] = self.watched.replays + self.restarts
            details["watched_fraction"] = round(self.watched.fraction, 4)
            details["speed"] = self.playback.speed
        if self.comment:
            details["comment"] = self.comment
        return details


@functools.cache
def _version() -> str:
    import importlib.metadata  # a tenth of what starting a labeller loads, and no pair needs it

    return importlib.metadata.version("rlhf_gym")


def read_text_pair(question: Question) -> TextPair:
    """Prompt and completions of a pair of texts.

    Raises:
        DataError: a clip that does not hold text.
    """
    (prompt, left), (_, right) = (clip_text(clip) for clip in question.sides)
    first, second = (not clip_finished(clip) for clip in question.sides)
    return TextPair(prompt, left, right, (first, second))
