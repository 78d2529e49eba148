from __future__ import annotations

import itertools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_gym.envs.point_mass import PointMassEnv, draw_point_mass
from rlhf_gym.errors import ConfigError

BLUE, GREEN, ORANGE, WHITE = (40, 80, 200), (40, 160, 70), (240, 130, 20), (255, 255, 255)


def start_at(env: PointMassEnv, position: Any, goal: Any) -> npt.NDArray[np.float32]:
    env.reset(seed=0)
    env.set_extra_state(np.array([*position, 0, 0, *goal], np.float64))
    return np.array([*position, *goal], np.float32)


def vector(x: float, y: float) -> npt.NDArray[np.float32]:
    return np.array([x, y], np.float32)


def test_a_step_moves_by_the_step_size_and_pays_the_distance_left() -> None:
    env = PointMassEnv()
    start_at(env, (0.0, 0.0), (0.4, 0.25))
    obs, reward, terminated, truncated, info = env.step(vector(1.0, -0.5))
    np.testing.assert_allclose(obs, [0.1, -0.05, 0.4, 0.25], atol=1e-7)
    # the gap left is (0.3, 0.3)
    assert reward == pytest.approx(-0.3 * math.sqrt(2), abs=1e-6)
    assert (terminated, truncated, info) == (False, False, {})


def test_actions_are_held_in_their_box_and_positions_in_the_arena() -> None:
    env = PointMassEnv()
    start_at(env, (0.95, 0.0), (0.0, 0.0))
    obs = env.step(vector(7.0, -7.0))[0]
    np.testing.assert_allclose(obs[:2], [1.0, -0.1], atol=1e-7)
    np.testing.assert_allclose(env.get_extra_state()[2:4], [0.05, -0.1], atol=1e-7)


def test_starts_vary_stay_in_range_and_follow_the_seed() -> None:
    env = PointMassEnv()
    starts = np.stack([env.reset(seed=seed)[0] for seed in range(200)])
    assert np.abs(starts).max() <= 0.9
    assert (starts.std(axis=0) > 0.4).all()  # uniform over [-0.9, 0.9]: 0.52
    np.testing.assert_array_equal(env.reset(seed=3)[0], starts[3])
    np.testing.assert_array_equal(env.get_extra_state()[2:4], [0, 0])


def test_the_optimal_return_of_a_worked_example() -> None:
    # gaps (0.3, 0.4), then (0.2, 0.3), (0.1, 0.2), (0, 0.1), (0, 0), (0, 0) after each step
    obs = np.array([0.0, 0.0, 0.3, -0.4], np.float32)
    expected = -(math.sqrt(0.13) + math.sqrt(0.05) + 0.1)
    assert PointMassEnv().optimal_return(obs, 5) == pytest.approx(expected, abs=1e-6)


def test_no_sequence_of_actions_on_a_grid_beats_the_optimal_return() -> None:
    # All 25 ** 3 sequences, by the documented rule in float64. The gaps are whole multiples of
    # the grid's moves, so that the best sequence on the grid is the best there is.
    grid = np.array(list(itertools.product((-1, -0.5, 0, 0.5, 1), repeat=2)))
    goal = np.array([0.75, -0.5])
    positions, returns = np.array([[0.0, 0.75]]), np.zeros(1)
    for _ in range(3):
        positions = (positions[:, None] + 0.5 * grid).clip(-1, 1).reshape(-1, 2)
        distances = np.sqrt(((positions - goal) ** 2).sum(-1))
        returns = np.repeat(returns, len(grid)) - distances
    obs = np.array([0.0, 0.75, *goal], np.float32)
    optimum = PointMassEnv(step_size=0.5).optimal_return(obs, 3)
    assert len(returns) == 25**3
    assert returns.max() == pytest.approx(optimum, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), step_size=st.sampled_from([0.03, 0.1, 0.37, 1.0]))
def test_the_optimal_action_attains_the_optimal_return_and_others_do_not_beat_it(
    seed: int, step_size: float
) -> None:
    env = PointMassEnv(step_size=step_size)
    obs, _ = env.reset(seed=seed)
    optimum = env.optimal_return(obs, 20)
    rng = np.random.default_rng(seed)
    for noise in (0.0, 0.1, 2.0):  # optimal, nearly so, and mostly random
        obs, _ = env.reset(seed=seed)
        total = 0.0
        for _ in range(20):
            action = env.optimal_action(obs) + rng.normal(0, noise, 2).astype(np.float32)
            obs, reward, _, _, _ = env.step(action)
            total += reward
        assert total <= optimum + 2e-5  # 20 rewards from float32 positions, error 1e-6 each
        if noise == 0.0:
            assert total == pytest.approx(optimum, abs=2e-5)


def test_optimal_actions_are_given_for_many_observations_at_once() -> None:
    obs = np.array([[0.0, 0.0, 0.05, -0.9], [0.5, 0.5, 0.5, 0.4]], np.float32)
    actions = PointMassEnv().optimal_action(obs)
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions, [[0.5, -1.0], [0.0, -1.0]], atol=1e-5)


def test_the_picture_shows_point_goal_and_velocity_where_they_are() -> None:
    # A picture of 160 pixels spans -1.15..1.15: 69.57 pixels per unit, the middle at 80.
    frame = draw_point_mass(vector(-0.5, 0.5), vector(0.1, 0.0), vector(0.5, -0.5))
    assert frame.shape == (160, 160, 3)
    assert frame.dtype == np.uint8
    left, right = 80 - 35, 80 + 34
    up, down = 80 - 35, 80 + 34
    assert tuple(frame[up, left]) == BLUE
    assert tuple(frame[up, left + 14]) == ORANGE  # the hand: 0.3 to the right is 21 pixels
    assert tuple(frame[down, right]) == GREEN
    assert tuple(frame[down, right + 8]) == GREEN  # the ring: radius 0.11 is 7.7 pixels
    assert tuple(frame[down, left]) == WHITE
    assert tuple(frame[0, 0]) == (190, 190, 190)


def test_a_point_at_rest_has_no_hand() -> None:
    frame = draw_point_mass(vector(0, 0), vector(0, 0), vector(0.5, 0.5))
    assert not (frame == ORANGE).all(axis=-1).any()


def test_render_returns_the_picture_only_in_rgb_array_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = PointMassEnv(render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame is not None
    state = env.get_extra_state().astype(np.float32)
    np.testing.assert_array_equal(frame, draw_point_mass(state[:2], state[2:4], state[4:]))
    blind = PointMassEnv()
    blind.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert blind.render() is None


def test_the_window_opens_shows_the_picture_and_closes_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    import pygame

    env = gym.make("rlhf_gym/PointMass-v0", render_mode="human")
    env.reset(seed=0)
    env.step(vector(1, 1))
    assert env.render() is None
    surface = pygame.display.get_surface()
    assert surface is not None
    window = pygame.surfarray.array3d(surface).transpose(1, 0, 2)
    state = env.unwrapped.get_wrapper_attr("get_extra_state")().astype(np.float32)
    picture = draw_point_mass(state[:2], state[2:4], state[4:])
    np.testing.assert_array_equal(window, picture.repeat(3, axis=0).repeat(3, axis=1))
    env.close()
    env.close()
    assert not pygame.display.get_init()


@pytest.mark.parametrize("step_size", [0.0, -0.1, 1.5, math.nan])
def test_a_step_size_out_of_range_is_refused(step_size: float) -> None:
    with pytest.raises(ConfigError, match="step_size"):
        PointMassEnv(step_size=step_size)


def test_an_unknown_render_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="'ansi'"):
        PointMassEnv(render_mode="ansi")
