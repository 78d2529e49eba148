"""How fast a labeller answers, and how long the rest takes."""

from __future__ import annotations

from collections import deque

__all__ = ["Pace"]

_WINDOW = 20  # answers


class Pace:
    """Answers per minute over the last 20, waiting for new clips not counted."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        self._running = 0.0

    def run(self, seconds: float) -> None:
        """Time that the labeller had a pair before them, or was about to."""
        self._running += max(seconds, 0.0)

    def add(self) -> None:
        """An answer was given."""
        self._seconds.append(self._running)
        self._running = 0.0

    def take_back(self) -> None:
        """The last answer was taken back; its time counts towards the next one."""
        if self._seconds:
            self._running += self._seconds.pop()

    @property
    def per_minute(self) -> float | None:
        """Answers per minute; None before the second answer, which is the first to tell."""
        total = sum(self._seconds)
        return 60 * len(self._seconds) / total if len(self._seconds) > 1 and total > 0 else None

    def seconds_for(self, n: int) -> float | None:
        """How long n more answers take, in seconds; None where the pace is not known yet."""
        rate = self.per_minute
        return None if rate is None else 60 * max(n, 0) / rate
