"""Which pair can be shown next: open for this labeller, drawn, and not damaged."""

from __future__ import annotations

from rlhf_gym.errors import DataError
from rlhf_gym.feedback.desk import LabelDesk, Question
from rlhf_gym.feedback.viewer.frames import Frames, FrameSource
from rlhf_gym.feedback.viewer.shown_pair import TextPair, read_text_pair
from rlhf_gym.text_clips import is_text_clip

__all__ = ["N_AHEAD", "PairSource"]

N_AHEAD = 3
"""Pairs beside the present one whose pictures are made in advance."""

_MOST_DAMAGED = 10  # in a row: then it is the renderer, and no more pairs are kept from others

_TRIALS = {"practice": "practice pair", "qualification": "test pair"}

_NO_FRAMES = "it holds clips of an environment, and nothing here can draw them."


class PairSource:
    """The desk's pairs, without those that cannot be shown.

    Ordinary ones are put off to the end of the sitting; in place of one that measures the labeller
    another is taken.

    Args:
        desk: Where the pairs come from.
        frames: Where pictures come from; None where only text is labelled.
    """

    def __init__(self, desk: LabelDesk, frames: FrameSource | None) -> None:
        self.damaged: dict[str, str] = {}
        """Why pairs were put off, by query id; one that could be shown later is not here."""
        self.notice = ""
        """What the last `next` came upon for the first time, in words; empty: no damage."""
        self._desk, self._frames = desk, frames
        self._n_damaged_in_row = 0

    def next(self) -> Question | None:
        """The next pair not known to be damaged; None: there is none now.

        Raises:
            RlhfGymError, OSError: the store cannot be read or written.
        """
        found, cut_short = None, ""
        self.notice = ""
        passed_over: set[str] = set()
        while found is None and (upcoming := self._desk.upcoming(1)):
            question = upcoming[0]
            reason = self.damage(question)
            if reason is None:
                found = question
            elif question.kind != "pairwise" and reason != _NO_FRAMES:
                self._desk.set_aside(question, reason)
                # Of the others nobody is told that they measure.
                what = _TRIALS.get(question.kind, "pair")
                self.notice = f"A {what} was left out, it cannot be shown: {reason}"
                cut_short = question.kind if question.kind in _TRIALS else cut_short
            elif question.query.id in passed_over or self._n_damaged_in_row >= _MOST_DAMAGED:
                break
            else:
                passed_over.add(question.query.id)
                self._put_off(question, reason)
        if cut_short and (found is None or found.kind != cut_short):
            self.notice = f"No {_TRIALS[cut_short]} is left that can be shown: they end here."
        return found

    def _put_off(self, question: Question, reason: str) -> None:
        self._n_damaged_in_row += 1
        if question.query.id not in self.damaged:
            self.notice = f"A pair was put off, it cannot be shown: {reason}"
        self.damaged[question.query.id] = reason
        self._desk.postpone(question)

    def damage(self, question: Question) -> str | None:
        """Why a pair cannot be shown, as far as that is known yet."""
        try:
            if is_text_clip(question.query.first):
                read_text_pair(question)
                return None
        except DataError as error:
            return str(error)
        if self._frames is None:
            return _NO_FRAMES
        reasons = (self._frames.error(clip.id) for clip in question.sides)
        return next((reason for reason in reasons if reason), None)

    def content(self, question: Question) -> tuple[Frames, Frames] | TextPair | None:
        """What to show of an undamaged pair; None while its pictures are being drawn."""
        if is_text_clip(question.query.first):
            return read_text_pair(question)
        if self._frames is None:
            return None
        left, right = (self._frames.get(clip.id) for clip in question.sides)
        return None if left is None or right is None else (left, right)

    def was_shown(self, question: Question) -> None:
        """A pair is on the screen: the pictures can be made, so others get their chance again."""
        self._n_damaged_in_row = 0
        self.damaged.pop(question.query.id, None)

    def look_ahead(self) -> None:
        """Fetch the pairs behind the present one, and have the pictures of all of them drawn.

        Raises:
            RlhfGymError, OSError: the store cannot be read or written.
        """
        upcoming = self._desk.upcoming(1 + N_AHEAD)
        if self._frames is not None:
            pairs = [q.sides for q in upcoming if not is_text_clip(q.query.first)]
            self._frames.request([clip for sides in pairs for clip in sides])
