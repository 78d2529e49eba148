from __future__ import annotations

import math

import pytest

from rlhf_gym.envs.upright import turned_over_cost, upright_reward


@pytest.mark.parametrize(
    ("height", "angle", "expected"),
    [
        (1.25, 0.0, 3.0),  # standing: 2 m/s and the bonus
        (1.1, 0.0, 3.0),  # low enough to stand: nothing to pay yet
        (1.0, 0.0, 2.8),  # 0.1 m too low
        (1.25, -0.3, 2.7),  # leaning backward costs as leaning forward
        (1.25, 0.3, 2.7),
        (0.1, math.pi / 2, 1.0 - math.pi / 2),  # lying: 3 - 2 * 1.0 - pi / 2
        (1.25, 2 * math.pi, 3.0 - 2 * math.pi),  # whole turns are not taken off
    ],
)
def test_the_reward_by_hand(height: float, angle: float, expected: float) -> None:
    reward, terms = upright_reward(
        forward=2.0, bonus=1.0, control_cost=0.0, height=height, angle=angle
    )
    assert reward == pytest.approx(expected, abs=1e-12)
    assert sum(terms.values()) == reward


def test_a_control_cost_is_taken_off() -> None:
    reward, terms = upright_reward(forward=2.0, bonus=1.0, control_cost=0.5, height=1.25, angle=0.0)
    assert reward == 2.5
    assert terms["reward_ctrl"] == -0.5


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("angle", [0.0, 0.5, math.pi / 2, 2.0, math.pi])
def test_turning_over_costs_one_less_the_cosine_of_the_tilt(axis: int, angle: float) -> None:
    vector = [0.0, 0.0, 0.0]
    vector[axis] = math.sin(angle / 2)
    cost = turned_over_cost(math.cos(angle / 2), *vector)
    assert cost == pytest.approx(1 - math.cos(angle), abs=1e-12)


def test_turning_around_the_vertical_costs_nothing() -> None:
    assert turned_over_cost(math.cos(1.0), 0.0, 0.0, math.sin(1.0)) == 0.0


def test_a_quaternion_need_not_have_length_one() -> None:
    assert turned_over_cost(3.0, 3.0, 0.0, 0.0) == pytest.approx(1.0, abs=1e-12)
