from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest

from rlhf_gym.data import Array
from rlhf_gym.envs import get_sim_state, set_sim_state
from rlhf_gym.envs.backflips import LANDING_CREDIT, Contact, count_backflips
from rlhf_gym.envs.hopper_backflip import LYING_COST, HopperBackflipEnv

TURN = 2 * math.pi
NO_TORQUE = np.zeros(3, np.float32)


def put(height: float, angle: float, spin: float = 0.0) -> HopperBackflipEnv:
    """A robot at rest but for its spin, at a height (m) and an angle (rad), positive forward."""
    env = HopperBackflipEnv()
    env.reset(seed=0)
    qpos, qvel = env.init_qpos.copy(), np.zeros_like(env.init_qvel)
    qpos[1:3], qvel[2] = (height, angle), spin
    env.set_state(qpos, qvel)
    return env


def test_a_positive_angle_leans_the_way_the_foot_points_and_v5s_hopper_runs() -> None:
    env = put(1.25, 0.3)
    lean = env.data.body("torso").xmat.reshape(3, 3)[0, 2]  # along the track, of its z axis
    assert lean == pytest.approx(math.sin(0.3), abs=1e-9)
    upright = put(1.25, 0.0)
    foot, leg = upright.data.geom("foot_geom").xpos[0], upright.data.geom("leg_geom").xpos[0]
    assert foot > leg


def test_a_negative_spin_in_the_air_is_backward_and_earns_its_angle() -> None:
    env = put(5.0, 0.0, spin=-6.0)
    angles, total = [env.body_angle()], 0.0
    for _ in range(50):
        _, reward, _, _, info = env.step(NO_TORQUE)
        angles.append(env.body_angle())
        total += float(reward)
        assert env.contact() is Contact.AIR
    assert angles[-1] < -1.5
    assert total == pytest.approx(angles[0] - angles[-1], abs=1e-9)
    assert info["backflips"] == 0


def test_a_forward_spin_costs_four_thirds_of_its_angle() -> None:
    env = put(5.0, 0.0, spin=6.0)
    start = env.body_angle()
    total = sum(float(env.step(NO_TORQUE)[1]) for _ in range(20))
    assert env.body_angle() > 0.5
    assert total == pytest.approx(4 / 3 * (start - env.body_angle()), abs=1e-9)


def test_the_bodys_angle_is_the_mean_of_its_links_angles() -> None:
    env = put(3.0, 0.0)
    qpos = env.data.qpos.copy()
    qpos[2:6] = 0.3, -0.7, -0.5, 0.4
    env.set_state(qpos, env.data.qvel.copy())
    angles = []
    for link in ("torso", "thigh", "leg", "foot"):
        z_axis = env.data.body(link).xmat.reshape(3, 3)[:, 2]
        angles.append(math.atan2(z_axis[0], z_axis[2]))
    assert np.ptp(angles) > 1.0
    assert env.body_angle() == pytest.approx(float(np.mean(angles)), abs=1e-9)


def test_contacts_tell_air_from_foot_from_body() -> None:
    assert put(3.0, 0.0).contact() is Contact.AIR
    standing = put(1.25, 0.0)
    for _ in range(30):
        standing.step(NO_TORQUE)
    assert standing.contact() is Contact.FOOT
    falling = put(1.25, -0.6)
    seen = []
    for _ in range(250):
        falling.step(NO_TORQUE)
        seen.append(falling.contact())
    assert seen[-1] is Contact.BODY
    assert falling.data.qpos[1] < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_thrashing_on_the_floor_earns_nothing_and_pays_for_lying(seed: int) -> None:
    env = put(0.2, -math.pi / 2)
    env.step(NO_TORQUE)
    while env.contact() is not Contact.BODY:
        env.step(NO_TORQUE)
    credit, total, n_lying = env._counter.credit, 0.0, 0
    rng = np.random.default_rng(seed)
    for _ in range(300):
        total += float(env.step(np.sign(rng.normal(size=3)).astype(np.float32))[1])
        n_lying += env.contact() is Contact.BODY
        assert env._counter.credit <= credit + 1e-12
    assert n_lying > 50
    assert total <= -LYING_COST * n_lying + 1e-9


def test_standing_up_to_the_end_of_a_turn_lands_the_backflip() -> None:
    env = put(1.25, 0.0)
    for _ in range(30):
        env.step(NO_TORQUE)
    env.set_extra_state(np.array([5.5, 5.5, 0, 0, 0, 2]))  # its third attempt, turned by 5.5 rad
    credit = env._counter.credit
    total, counts = 0.0, []
    for _ in range(12):
        before = env.body_angle()
        _, reward, _, _, info = env.step(NO_TORQUE)
        total += float(reward)
        counts.append(info["backflips"])
        if counts[-1] == 2:
            assert env.contact() is Contact.FOOT
            assert abs(before) < 0.5
    # Leaning by less than 0.5 rad, each step adds more than cos 0.5 = 0.88 and at most 1 to the 8.
    assert counts == [2] * 7 + [3] * 5 or counts == [2] * 8 + [3] * 4
    assert credit == pytest.approx(2 * (TURN + LANDING_CREDIT) + 5.5, abs=1e-9)
    # and nothing from what it sways by once it stands
    left = env._counter.credit - 3 * (TURN + LANDING_CREDIT)
    assert total == pytest.approx(TURN + LANDING_CREDIT - 5.5 + left, abs=1e-9)
    assert left <= 0.0


def test_rewards_and_count_follow_from_angles_and_contacts() -> None:
    env = gym.make("rlhf_gym/HopperBackflip-v0")
    robot = env.unwrapped
    assert isinstance(robot, HopperBackflipEnv)
    seen: set[Contact] = set()
    for seed in range(4):
        env.reset(seed=seed)
        angles, contacts, total = [robot.body_angle()], [], 0.0
        rng = np.random.default_rng(seed)
        for n_done in range(150):
            # thrown backward now and then, so that it leaves the floor and turns over
            if n_done % 50 == 10:
                qvel = robot.data.qvel.copy()
                qvel[1:3] += 4.0, -9.0
                robot.set_state(robot.data.qpos.copy(), qvel)
            _, reward, terminated, _, info = env.step(rng.uniform(-1, 1, 3).astype(np.float32))
            assert terminated is False
            total += float(reward)
            angles.append(robot.body_angle())
            contacts.append(robot.contact())
        seen |= set(contacts)
        assert info["backflips"] == count_backflips(angles, contacts)
        lying = LYING_COST * contacts.count(Contact.BODY)
        assert total == pytest.approx(robot._counter.credit - lying, abs=1e-9)
    assert seen == set(Contact)


def test_an_episode_starts_with_no_backflips_counted() -> None:
    env = put(1.25, 0.0)
    env.set_extra_state(np.array([3.0, 2, 4, 1, 2, 2]))
    env.reset(seed=1)
    np.testing.assert_array_equal(env.get_extra_state(), np.zeros(6))
    assert env.step(NO_TORQUE)[4]["backflips"] == 0


def test_a_restored_state_brings_the_counter_along() -> None:
    source, other = put(5.0, -1.0, spin=-6.0), HopperBackflipEnv()
    for _ in range(10):
        source.step(NO_TORQUE)
    source.set_extra_state(source.get_extra_state() + np.array([0, 0, 0, 0, 0, 4]))
    state = get_sim_state(source)
    assert state is not None and state.shape == (19,)
    set_sim_state(other, state)
    np.testing.assert_array_equal(other.get_extra_state(), source.get_extra_state())
    after: list[Array] = []
    for env in (source, other):
        obs, reward, _, _, info = env.step(NO_TORQUE)
        assert info["backflips"] == 4
        after.append(np.append(obs, reward))
    np.testing.assert_allclose(after[0], after[1], atol=1e-9)


def test_observations_are_v5s_with_the_angle_as_sine_and_cosine() -> None:
    env = put(2.0, -7.0, spin=-20.0)
    obs = env._get_obs()
    qpos, qvel = env.data.qpos, env.data.qvel
    expected = [qpos[1], math.sin(qpos[2]), math.cos(qpos[2]), *qpos[3:], *qvel]
    np.testing.assert_allclose(obs, expected, atol=1e-12)
    assert obs[8] == -20.0  # not held within 10
    assert env.observation_space == gym.spaces.Box(-np.inf, np.inf, (12,), np.float64)


# Found by random search on the true reward; ten steps each. The torso leads, the legs fold.
A_BACKFLIP = np.array(
    [
        [0.7, -0.8, -0.8],
        [-0.7, -0.9, -0.8],
        [-0.2, -0.2, -0.3],
        [0.4, -0.6, -0.5],
        [-0.2, -0.4, 1.0],
        [-0.2, -0.8, 0.6],
        [0.5, -1.0, -0.7],
        [0.0, 0.3, -1.0],
    ],
    np.float32,
)


@pytest.mark.parametrize("seed", range(3))
def test_a_backflip_that_the_robot_can_do_is_counted_and_paid(seed: int) -> None:
    env = HopperBackflipEnv()
    env.reset(seed=seed)
    start, total = env.body_angle(), 0.0
    for action in A_BACKFLIP.repeat(10, axis=0):
        _, reward, _, _, info = env.step(action)
        total += float(reward)
        assert env.contact() is not Contact.BODY
    assert info["backflips"] == 1
    # It has turned by one turn, to within a lean, and was paid for no more.
    assert start - env.body_angle() == pytest.approx(TURN, abs=0.8)  # 45 degrees
    assert total == pytest.approx(env._counter.credit, abs=1e-9)
    assert TURN + LANDING_CREDIT - 0.5 < total < TURN + LANDING_CREDIT + 0.5
