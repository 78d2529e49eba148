"""Counting backflips, and what they are worth: plain arithmetic, knowing no simulator.

A backflip is a whole turn made in the air, from the foot to the foot, and a landing that holds. Its
reward is a difference of credits, so that whatever leads back to standing without a backflip has
earned exactly nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

__all__ = ["LANDING_CREDIT", "BackflipCounter", "Contact", "count_backflips"]

LANDING_CREDIT = 5.0
"""What landing a backflip is worth beyond its 2 pi of rotation."""

_TURN = 2 * math.pi
_ENOUGH = 0.75 * _TURN  # in the air; taking off and landing, the torso turns on the foot as well
_STEADY = 8.0  # 0.064 s of Hopper on its foot: one that spins on does not stay up that long


class Contact(IntEnum):
    """What of the robot touches the floor."""

    AIR = 0
    """Nothing."""
    FOOT = 1
    """The foot and nothing else."""
    BODY = 2
    """Something other than the foot."""


@dataclass(frozen=True)
class BackflipCounter:
    """How far the robot is in its current attempt, and how many backflips it has landed.

    Args:
        turned: Backward rotation in rad since the robot last stood, forward rotation taken off.
        in_air: The part of it that was made in the air.
        steadiness: Sum of the cosine of the angle over the steps on the foot since the robot was
            last upside down or the body on the floor. At 8, which is 8 steps upright or 16 leaning
            by 60 degrees, the robot stands, and the attempt ends.
        fallen: Whether anything but the foot has touched the floor since it last stood: the attempt
            is void, and earns nothing more.
        kept: What the void attempt had earned until then, which standing up takes back.
        n_backflips: Backflips landed.
    """

    turned: float = 0.0
    in_air: float = 0.0
    steadiness: float = 0.0
    fallen: bool = False
    kept: float = 0.0
    n_backflips: int = 0

    @property
    def credit(self) -> float:
        """What the episode has earned, below 2 pi + LANDING_CREDIT beyond its backflips.

        2 pi + LANDING_CREDIT for each backflip; for the attempt under way the lesser of its
        rotation in rad, up to one turn and down again beyond, and 4/3 of that made in the air;
        after a turn LANDING_CREDIT in proportion to its steadiness.
        """
        return (_TURN + LANDING_CREDIT) * self.n_backflips + self._attempt_credit

    @property
    def _n_turns(self) -> int:
        """Whole turns of the attempt, each with three quarters in the air."""
        return max(0, min(round(self.turned / _TURN), math.floor(self.in_air / _ENOUGH)))

    @property
    def _attempt_credit(self) -> float:
        if self.fallen:
            return self.kept
        # Each alone could be had by rocking: back on the foot, or back in the air and forward on
        # the foot. The smaller one is lost with every movement back to where the attempt began.
        rotation = min(_TURN - abs(_TURN - self.turned), self.in_air * _TURN / _ENOUGH)
        landing = self.steadiness / _STEADY if self._n_turns else 0.0
        return rotation + LANDING_CREDIT * landing

    def after(self, before: float, angle: float, contact: Contact) -> BackflipCounter:
        """The counter after one step.

        Args:
            before: Angle of the robot before the step, in rad, positive forward, not wrapped.
            angle: The same after the step.
            contact: What touches the floor after the step.
        """
        up = math.cos(angle)
        steadiness = 0.0
        if up > 0.0 and contact != Contact.BODY:
            steadiness = self.steadiness + (up if contact == Contact.FOOT else 0.0)
        if self.fallen or contact == Contact.BODY:
            if steadiness >= _STEADY:
                return BackflipCounter(n_backflips=self.n_backflips)
            kept = self._attempt_credit
            return replace(self, steadiness=steadiness, fallen=True, kept=kept)
        backward = before - angle
        now = replace(
            self,
            turned=self.turned + backward,
            in_air=self.in_air + (backward if contact == Contact.AIR else 0.0),
            steadiness=steadiness,
        )
        if steadiness < _STEADY:
            return now
        return BackflipCounter(n_backflips=self.n_backflips + now._n_turns)


def count_backflips(angles: Iterable[float], contacts: Iterable[Contact]) -> int:
    """How many backflips an episode shows.

    Args:
        angles: (T+1,) angles of the robot in rad, positive forward, not wrapped; first at reset.
        contacts: (T,) what touched the floor after each step.
    """
    counter = BackflipCounter()
    remaining = iter(angles)
    before = next(remaining)
    for angle, contact in zip(remaining, contacts, strict=True):
        counter = counter.after(before, angle, contact)
        before = angle
    return counter.n_backflips
