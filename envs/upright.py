"""What stands in termination's place for robots that fall: a cost of being low or tilted."""

from __future__ import annotations

__all__ = ["turned_over_cost", "upright_reward"]

_STANDING_HEIGHT = 1.1  # m, of the torso's middle; Hopper and Walker2d start at 1.25 m


def upright_reward(
    *, forward: float, bonus: float, control_cost: float, height: float, angle: float
) -> tuple[float, dict[str, float]]:
    """The reward of Hopper and Walker2d, and its terms.

    forward + bonus - control_cost - 2 max(0, 1.1 - height) - |angle|.

    Args:
        forward: What the velocity earns.
        bonus: What each step earns.
        control_cost: What the action costs, at least 0.
        height: Height of the torso's middle above the floor, in m.
        angle: Angle of the torso from upright in rad, as the hinge counts it: whole turns are not
            taken off, so that rolling along the floor does not pay.

    Returns:
        The reward, and its terms by the names of Gymnasium's v5 robots.
    """
    terms = {
        "reward_forward": forward,
        "reward_ctrl": -control_cost,
        "reward_survive": bonus,
        "reward_height": -2.0 * max(0.0, _STANDING_HEIGHT - height),
        "reward_angle": -abs(angle),
    }
    return sum(terms.values()), terms


def turned_over_cost(w: float, x: float, y: float, z: float) -> float:
    """1 - up: 0 upright, 1 on the side, 2 on the back.

    `up` is the vertical component of the torso's own vertical axis, 1 - 2 (x² + y²) for a unit
    quaternion.

    Args:
        w: Scalar part of the torso's orientation, a quaternion of any length above 0.
        x: First component of its vector part.
        y: Second component.
        z: Third component.
    """
    tilted = x * x + y * y
    return 2.0 * tilted / (tilted + w * w + z * z)
