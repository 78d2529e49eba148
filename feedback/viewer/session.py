"""A labelling sitting without any window: what is shown, what may be done, what is recorded.

Whoever draws it calls `tick` many times a second, shows what the properties say, and passes on what
the labeller does. Nothing here waits: not for pictures, not for new pairs.
"""

from __future__ import annotations

import sqlite3
import time
import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from rlhf_gym.errors import RlhfGymError
from rlhf_gym.feedback.desk import DeskProgress, LabelDesk, Question, Side
from rlhf_gym.feedback.viewer.frames import FrameSource
from rlhf_gym.feedback.viewer.pace import Pace
from rlhf_gym.feedback.viewer.pair_source import PairSource
from rlhf_gym.feedback.viewer.playback import Playback
from rlhf_gym.feedback.viewer.shown_pair import InputKind, ShownPair

__all__ = ["LabelSession", "PracticeFeedback", "SessionState"]

T = TypeVar("T")

SessionState = Literal["loading", "showing", "feedback", "waiting", "disqualified", "done"]
"""loading: the pictures are being drawn. showing: a pair wants an answer. feedback: a practice pair
was answered. waiting: no pair is open. disqualified: the qualification was failed. done: nothing is
open and all answers that were wanted are there."""

POLL_SECONDS = 1.0
RENEW_SECONDS = 30.0
_PROGRESS_SECONDS = 5.0  # others answer as well
_LONGEST_TICK = 0.5  # a longer gap is a machine that slept: the clips do not run on meanwhile
_MOST_COMMENT = 2000  # characters
_FAULTS = (OSError, RlhfGymError, sqlite3.Error)


@dataclass(frozen=True)
class PracticeFeedback:
    """What a labeller is told after a practice pair."""

    said: Side
    right_answer: Side

    @property
    def is_right(self) -> bool:
        """Whether the answer was the known one."""
        return self.said == self.right_answer


class LabelSession:
    """One labeller's sitting at one window or terminal.

    Args:
        desk: Where the pairs come from and the answers go.
        frames: Where pictures come from; None where only text is labelled.
        clock: Monotonic seconds.
        wall: Seconds since the epoch, UTC; the desk's clock.
        total: How many answers are wanted of everybody, if that is known.
        rubric: What to judge by, Markdown.
        status: One line on what the trainer does, shown while nothing is open.
        task: What is labelled, the title of the sitting; empty: what the pair says.
    """

    def __init__(
        self,
        desk: LabelDesk,
        frames: FrameSource | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        total: int | None = None,
        rubric: str | None = None,
        status: Callable[[], str] = lambda: "",
        task: str = "",
    ) -> None:
        self.desk = desk
        self.task = task
        self.total = total
        self.rubric = rubric
        self.state: SessionState = "waiting"
        self.question: Question | None = None
        """The pair that wants an answer, shown or still being drawn."""
        self.pair: ShownPair | None = None
        """The pair on the screen; stays there while practice feedback is shown."""
        self.feedback: PracticeFeedback | None = None
        self.progress: DeskProgress | None = None
        self.message = ""
        """What just happened, for a moment."""
        self.error: str | None = None
        """What went wrong; stays until it is put right."""
        self.status_line = ""
        self.last_saved: float | None = None
        """When the last answer of this sitting was on disk, seconds since the epoch, UTC."""
        self.n_answers = 0
        """Answers of this sitting that stand."""
        self.seconds = 0.0
        """How long the sitting took so far."""
        self.seconds_waiting = 0.0
        """How much of that no pair could be shown."""
        self._clock, self._wall, self._status = clock, wall, status
        self._now = clock()
        self._play_time = 0.0
        self._speed = 1.0
        self._is_covered = False
        self._pace = Pace()
        self._failed: tuple[Question, Side, InputKind, str] | None = None
        self._source = PairSource(desk, frames)
        self._ticks_to_work = 0
        self._polled = self._renewed = self._counted = self._now
        self._is_closed = False
        self._advance()

    # --- what is shown ----------------------------------------------------------------------

    @property
    def damaged(self) -> dict[str, str]:
        """Why pairs were left out or put off, by query id."""
        return {**self.desk.damaged, **self._source.damaged}

    @property
    def per_minute(self) -> float | None:
        """Answers per minute over the last 20, waiting not counted; None at the start."""
        return self._pace.per_minute

    @property
    def eta_seconds(self) -> float | None:
        """How long the answers that are still wanted take this labeller; None if not known."""
        if self.total is None or self.progress is None:
            return None
        return self._pace.seconds_for(self.total - self.progress.n_answers)

    @property
    def play_time(self) -> float:
        """The time that `pair.playback` is to be asked about, in seconds."""
        return self._play_time

    @property
    def can_retry(self) -> bool:
        """Whether an answer is waiting to be saved again."""
        return self._failed is not None

    # --- time -------------------------------------------------------------------------------

    def tick(self) -> None:
        """Let time pass: call it before every drawing, at least ten times a second."""
        if self._is_closed:
            return
        before, self._now = self._now, max(self._clock(), self._now)
        passed = min(self._now - before, _LONGEST_TICK)
        self._count(passed)
        self._ticks_to_work -= 1
        if self._ticks_to_work == 0:
            self._work()
        if self._now - self._renewed >= RENEW_SECONDS:
            self._renewed = self._now
            self._try(self.desk.renew)
        if self.state == "loading":
            self._show_if_ready()
        elif self.state in ("waiting", "done"):
            self._poll()
        if self._now - self._counted >= _PROGRESS_SECONDS:
            self._refresh_progress()

    def _count(self, passed: float) -> None:
        self.seconds += passed
        if self.state in ("waiting", "loading") and not self._is_covered:
            self.seconds_waiting += passed
        if self.state in ("showing", "feedback"):
            self._pace.run(passed)
        if self._is_covered:
            return
        before, self._play_time = self._play_time, self._play_time + passed
        pair = self.pair
        if self.state == "showing" and pair and pair.playback and pair.watched:
            pair.watched.look(pair.playback, before, self._play_time)

    def _poll(self) -> None:
        if self._now - self._polled < POLL_SECONDS:
            return
        self._polled = self._now
        self._advance()

    def _read_status(self) -> None:
        try:
            self.status_line = self._status()
        except _FAULTS:  # a run's files may be replaced under the reader
            self.status_line = ""

    def cover(self, is_covered: bool) -> None:
        """Something lies over the clips: they stand still, and count as not shown yet."""
        self._is_covered = is_covered
        if is_covered and self.pair and self.pair.shown_monotonic == self._now:
            self.pair, self.state = None, "loading"  # nobody has seen it yet

    # --- which pair -------------------------------------------------------------------------

    def _advance(self) -> None:
        """Show what the desk gives next, or say why there is nothing."""
        self.pair, self.feedback, self.question = None, None, None
        try:
            self.question = self._source.next()
        except _FAULTS as error:
            self.error, self.state = f"No pair could be fetched: {error}", "waiting"
            return
        self.message = self._source.notice or self.message
        if self.question:
            self.error = None
        self._ticks_to_work = 2  # the next drawing comes first
        if self.question is not None:
            self.state = "loading"
            self._show_if_ready()
        elif self.desk.disqualified:
            self.state = "disqualified"
        else:
            self._refresh_progress()
            self.state = "done" if self._is_complete() else "waiting"
            self._read_status()

    def _is_complete(self) -> bool:
        reached = self.progress.n_answers if self.progress else 0
        return self.total is not None and reached >= self.total and not self._source.damaged

    def _show_if_ready(self) -> None:
        question = self.question
        if question is None or self._is_covered:
            return
        if self._source.damage(question) is not None:
            self._advance()  # puts it off
            return
        content = self._source.content(question)
        if content is None:
            return
        self.pair = ShownPair.start(
            question, content, self._wall(), self._now, self._play_time, self._speed
        )
        self.state = "showing"
        self._source.was_shown(question)

    def _work(self) -> None:
        """What need not be done before the next pair is on the screen."""
        if self.question is not None:
            self._try(self._source.look_ahead)
        self._refresh_progress()

    def _refresh_progress(self) -> None:
        self._counted = self._now
        self.progress = self._try(self.desk.progress) or self.progress

    def _try(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except _FAULTS as error:
            self.error = str(error)
            return None

    # --- what the labeller does -------------------------------------------------------------

    def answer(self, side: Side, input_kind: InputKind = "key") -> bool:
        """Keep an answer and go on; after practice feedback, any answer just goes on.

        Returns:
            Whether an answer was kept. Where it could not be, `error` says why, and the pair stays.
        """
        self.message = ""
        if self.state == "feedback":
            self._advance()
            return False
        if self.state != "showing" or self.pair is None:
            return False
        question, uuid = self.pair.question, uuids.uuid4().hex
        if self._failed and self._failed[:2] == (question, side):
            uuid = self._failed[3]  # if it was kept after all, it is not kept twice
        answered = max(self._clock(), self._now)
        details = self.pair.details(input_kind, answered)
        try:
            self.desk.answer(
                question, side, shown_at=self.pair.shown_at, details=details, uuid=uuid
            )
        except _FAULTS as error:
            self._failed = (question, side, input_kind, uuid)
            self.error = f"The answer could not be saved: {error}"
            return False
        self._failed, self.error = None, None
        self.last_saved = self._wall()
        self.n_answers += 1
        self._pace.add()
        if question.kind == "practice" and question.expected is not None:
            right = question.side(question.expected)
            self.feedback, self.state = PracticeFeedback(side, right), "feedback"
            self.question = None
            self._ticks_to_work = 2
        else:
            self._advance()
        return True

    def retry(self) -> bool:
        """Save the answer again that could not be saved.

        Returns:
            Whether it is kept now.
        """
        return self._failed is not None and self.answer(*self._failed[1:3])

    def proceed(self) -> None:
        """Leave the practice feedback."""
        if self.state == "feedback":
            self._advance()

    def postpone(self) -> None:
        """Show this pair again later in the sitting."""
        if self.question is None or self.state not in ("showing", "loading"):
            return
        self._drop_failed()
        before = self.question
        self.desk.postpone(before)
        self._advance()
        self.message = "This pair comes again later."
        if self.question is before:
            self.message = "This is the only open pair now."

    def undo(self) -> None:
        """Take back the last answer of this sitting; its pair is shown again."""
        self.message = ""
        if self.state == "disqualified":
            self.message = "The answers of the qualification stand."
            return
        self._drop_failed()
        try:
            question = self.desk.undo()
        except _FAULTS as error:
            self.error = f"The answer could not be taken back: {error}"
            return
        if question is None:
            self.message = "Nothing to take back in this sitting."
            return
        self.n_answers -= 1
        self._pace.take_back()
        self._advance()
        self.message = "The last answer was taken back."

    def _drop_failed(self) -> None:
        if self._failed is not None:
            self._failed, self.error = None, None

    def comment(self, text: str) -> None:
        """Write a comment on the present pair; it is kept with the answer. Empty: none."""
        if self.pair is not None and self.state == "showing":
            plain = "".join(c if c.isprintable() else " " for c in text)
            self.pair.comment = plain.strip()[:_MOST_COMMENT]

    # --- playing ----------------------------------------------------------------------------

    def toggle_pause(self) -> None:
        """Stop the clips, or let them go on."""
        self._play(lambda p: p.paused(self._play_time, not p.is_paused))

    def change_speed(self, steps: int) -> None:
        """Play faster, or slower where negative, by so many of `playback.SPEEDS`; it stays so."""
        self._play(lambda p: p.faster(self._play_time, steps))
        if self.pair and self.pair.playback:
            self._speed = self.pair.playback.speed

    def scrub(self, share: float) -> None:
        """Move both clips to a share of the loop, in [0, 1]."""
        self._play(lambda p: p.scrubbed(self._play_time, share))

    def step(self, n: int) -> None:
        """Pause, and move n frames on, or back where negative."""
        self._play(lambda p: p.stepped(self._play_time, n))

    def restart(self) -> None:
        """Play from the first frame."""
        if self.pair and self.pair.playback and self.state == "showing":
            self.pair.restarts += 1
        self._play(lambda p: p.restarted(self._play_time))

    def _play(self, change: Callable[[Playback], Playback]) -> None:
        pair = self.pair
        if pair is None or pair.playback is None or self.state not in ("showing", "feedback"):
            return
        pair.playback = change(pair.playback)
        if pair.watched is not None and self.state == "showing":
            pair.watched.look(pair.playback, self._play_time, self._play_time)

    # --- the end ----------------------------------------------------------------------------

    def close(self) -> None:
        """Give back what was not answered, so that others get it; may be called twice.

        Where that fails, the leases run out by themselves.
        """
        if not self._is_closed:
            self._is_closed = True
            self._try(self.desk.close)
