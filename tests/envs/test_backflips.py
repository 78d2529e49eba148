from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.envs.backflips import LANDING_CREDIT, BackflipCounter, Contact, count_backflips

AIR, FOOT, BODY = Contact.AIR, Contact.FOOT, Contact.BODY
TURN = 2 * math.pi

# (angle in degrees, positive forward; what touches the floor), step by step from upright
Steps = list[tuple[float, Contact]]


def flight(start: float, end: float, n_steps: int = 20) -> Steps:
    return [(start + (end - start) * k / n_steps, AIR) for k in range(1, n_steps + 1)]


def on_foot(angle: float, n_steps: int = 10) -> Steps:
    return [(angle, FOOT)] * n_steps


def run(steps: Steps) -> list[BackflipCounter]:
    """The counter after each step, from upright."""
    counters = [BackflipCounter()]
    angles = [0.0, *(math.radians(angle) for angle, _ in steps)]
    for (before, after), (_, contact) in zip(pairwise(angles), steps, strict=True):
        counters.append(counters[-1].after(before, after, contact))
    assert counters[-1].n_backflips == count_backflips(angles, [c for _, c in steps])
    return counters


def test_a_whole_turn_in_the_air_landed_on_the_foot_is_a_backflip() -> None:
    counters = run(on_foot(0) + flight(0, -360) + on_foot(-360))
    # one turn, then an eighth of the landing per upright step on the foot, the last counting it
    assert counters[10].credit == 0.0
    assert counters[20].credit == pytest.approx(math.pi, abs=1e-9)
    assert counters[30].credit == pytest.approx(TURN, abs=1e-9)
    assert counters[34].credit == pytest.approx(TURN + LANDING_CREDIT / 2, abs=1e-9)
    assert [c.n_backflips for c in counters[36:]] == [0, 0, 1, 1, 1]
    assert counters[38] == BackflipCounter(n_backflips=1)
    assert counters[-1].credit == pytest.approx(TURN + LANDING_CREDIT, abs=1e-9)


def test_leaning_back_at_take_off_and_forward_on_landing_is_allowed() -> None:
    # on the foot to 40 degrees back, 280 degrees in the air, landing 40 degrees short of upright
    steps = [*on_foot(-20), (-40.0, FOOT), *flight(-40, -320), *on_foot(-320, 11)]
    assert run(steps)[-1].n_backflips == 1


def test_less_than_three_quarters_of_a_turn_in_the_air_is_none() -> None:
    # the first 100 degrees on the foot, which then touches no body: only 260 in the air
    steps = [*on_foot(0, 8), (-100.0, FOOT), *flight(-100, -360), *on_foot(-360, 8)]
    counters = run(steps)
    assert counters[-1] == BackflipCounter()
    assert counters[-1].credit == 0.0


def test_a_forward_somersault_is_none_and_costs_until_it_is_landed() -> None:
    counters = run(on_foot(0, 8) + flight(0, 360) + on_foot(360, 8))
    assert counters[28].credit == pytest.approx(-TURN * 4 / 3, abs=1e-9)
    assert counters[-1].credit == 0.0


def test_a_landing_that_does_not_hold_for_eight_steps_is_none() -> None:
    falls = run([*flight(0, -360), *on_foot(-360, 7), (-380.0, BODY)])
    assert falls[-1].n_backflips == 0
    assert falls[-1].fallen
    spins_on = run([*flight(0, -360), *on_foot(-360, 7), (-460.0, FOOT)])
    assert spins_on[-1].n_backflips == 0
    assert spins_on[-1].steadiness == 0.0  # 100 degrees past upright: it begins anew
    assert run([*flight(0, -360), *on_foot(-360, 8)])[-1].n_backflips == 1


def test_leaning_takes_longer_to_be_standing_by_the_cosine_of_the_lean() -> None:
    leaning = run([*flight(0, -300), *on_foot(-300, 17)])
    assert leaning[30].steadiness == pytest.approx(10 * 0.5, abs=1e-9)  # cos 60 degrees
    # rounding decides whether 16 times a half reach 8
    assert [c.n_backflips for c in (leaning[35], leaning[37])] == [0, 1]
    sideways = run([*flight(0, -271), *on_foot(-271, 400)])  # 89 degrees short
    assert sideways[-1].n_backflips == 0


def test_a_bounce_on_the_foot_does_not_spoil_a_landing() -> None:
    steps = [*flight(0, -355), *on_foot(-355, 4), (-356.0, AIR), *on_foot(-358, 5)]
    assert run(steps)[-1].n_backflips == 1


def test_touching_the_floor_with_the_body_voids_the_attempt() -> None:
    counters = run([*flight(0, -200), (-210.0, BODY), *flight(-210, -360), *on_foot(-360, 8)])
    assert counters[20].credit == pytest.approx(math.radians(200), abs=1e-9)
    assert {c.credit for c in counters[20:-1]} == {counters[20].credit}  # nothing more
    assert counters[-1] == BackflipCounter()  # it came to stand, and what it had earned is gone


def test_a_fall_while_landing_keeps_the_part_of_the_landing_that_was_made() -> None:
    counters = run([*flight(0, -360), *on_foot(-360, 4), (-370.0, BODY), (-390.0, AIR)])
    assert counters[-1].credit == pytest.approx(TURN + LANDING_CREDIT / 2, abs=1e-9)


def test_rotation_beyond_a_turn_is_taken_off_again() -> None:
    counters = run(flight(0, -450))
    assert counters[-1].credit == pytest.approx(TURN - math.pi / 2, abs=1e-9)


def test_a_double_backflip_counts_two() -> None:
    assert run(flight(0, -720) + on_foot(-720))[-1].n_backflips == 2


def test_one_backflip_after_another_is_counted_once_each() -> None:
    steps: Steps = on_foot(0)
    for turn in range(3):
        steps += flight(-360 * turn, -360 * (turn + 1)) + on_foot(-360 * (turn + 1), 25)
    counters = run(steps)
    assert counters[-1].n_backflips == 3
    assert counters[-1].credit == pytest.approx(3 * (TURN + LANDING_CREDIT), abs=1e-9)


def test_hopping_back_and_rocking_forward_on_the_foot_does_not_add_up() -> None:
    # leaning back by 95 to 125 degrees, never standing: back in the air, forward on the foot
    steps = flight(0, -95, 5)
    for _ in range(20):
        steps += [*flight(-95, -125, 3), (-95.0, FOOT)]
    counters = run(steps)
    assert max(c.credit for c in counters) <= math.radians(125) + 1e-9
    assert counters[-1].credit == pytest.approx(math.radians(95), abs=1e-9)
    assert run([*steps, *on_foot(0)])[-1].credit == 0.0


def test_spinning_on_the_ground_earns_nothing() -> None:
    spin = [(-10.0 * k, BODY if k % 3 else AIR) for k in range(1, 500)]  # it bounces as it spins
    counters = run([(0.0, BODY), *spin])
    assert {c.credit for c in counters} == {0.0}
    on_its_foot = run([(-10.0 * k, FOOT) for k in range(1, 500)])
    assert {c.credit for c in on_its_foot} == {0.0}


steps_of = st.lists(
    st.tuples(st.floats(-60, 60), st.sampled_from(Contact)), min_size=1, max_size=80
)


@given(steps_of)
def test_whatever_leads_back_to_standing_has_earned_its_backflips_and_nothing_else(
    moves: Steps,
) -> None:
    angle, steps = 0.0, []
    for change, contact in moves:
        angle += change
        steps.append((angle, contact))
    level = 360.0 * round(angle / 360)
    last = run([*steps, (level, FOOT), *on_foot(level, 8)])[-1]
    assert not last.fallen
    assert last.turned == 0.0 and last.kept == 0.0
    assert last.credit == (TURN + LANDING_CREDIT) * last.n_backflips


@given(st.lists(st.tuples(st.floats(-134, 134), st.sampled_from(Contact)), max_size=80))
def test_a_robot_that_never_leaves_a_window_of_270_degrees_has_made_no_backflip(
    steps: Steps,
) -> None:
    assert run(steps)[-1].n_backflips == 0


@given(steps_of)
def test_without_air_nothing_is_ever_earned(moves: Steps) -> None:
    angle, steps = 0.0, []
    for change, contact in moves:
        angle += change
        steps.append((angle, FOOT if contact == AIR else contact))
    assert max(c.credit for c in run(steps)) <= 0.0


def test_angles_and_contacts_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        count_backflips([0.0, 1.0], [AIR, AIR])
