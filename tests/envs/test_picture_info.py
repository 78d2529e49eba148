from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from rlhf_gym.agents.ppo import PPOAgent
from rlhf_gym.agents.settings import load_settings
from rlhf_gym.envs.picture_info import PictureInfo, has_sim_states, make_pictured_env
from rlhf_gym.envs.preference_ready import make_preference_ready
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.pictures import Pictures


class Clock(gym.Env):
    """Shows how many steps were taken as a shade of grey, 10 per step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None, fault=None) -> None:
        self.render_mode, self.fault, self.t = render_mode, fault, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 0.0, False, False, {"mine": self.t}

    def render(self):
        if self.fault is not None:
            raise self.fault
        return np.full((16, 16, 3), 10 * self.t, np.uint8)


class Stateful(Clock):
    def get_extra_state(self):
        return np.array([float(self.t)])

    def set_extra_state(self, state):
        self.t = int(state[0])


class Blind(Clock):
    metadata = {"render_modes": []}  # noqa: RUF012


class Flat(Clock):
    def render(self):
        return np.zeros((16, 16), np.uint8)


@pytest.fixture(autouse=True)
def registered():
    kinds = {"Clock-v0": Clock, "Stateful-v0": Stateful, "Blind-v0": Blind, "Flat-v0": Flat}
    for name, kind in kinds.items():
        gym.register(name, entry_point=kind, max_episode_steps=5)
    yield
    for name in kinds:
        del gym.registry[name]


def test_each_info_holds_what_the_env_shows_beside_its_observation() -> None:
    env = make_pictured_env("Clock-v0")
    for _ in range(2):  # also after the end of an episode
        infos = [env.reset()[1]] + [env.step(0)[4] for _ in range(5)]
        frames = Pictures([info["rlhf_gym.picture"] for info in infos], 0.04).decode(range(6))
        for t, frame in enumerate(frames):
            assert np.abs(frame.astype(int) - 10 * t).max() <= 2  # JPEG's rounding
    assert infos[0]["rlhf_gym.step_seconds"] == pytest.approx(0.04)  # 25 pictures per second
    assert [info["mine"] for info in infos[1:]] == [1, 2, 3, 4, 5]


def test_only_an_env_without_simulator_state_needs_pictures() -> None:
    assert has_sim_states(make_preference_ready(Stateful(), horizon=5))
    assert not has_sim_states(make_preference_ready(Clock(), horizon=5))


def test_an_env_without_pictures_is_refused_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match="Blind-v0 has nothing to show people"):
        make_pictured_env("Blind-v0")


def test_a_driver_that_fails_is_named_when_the_env_is_made() -> None:
    with pytest.raises(ConfigError, match=r"picture of Clock-v0.*OSError: no screen.*=dummy"):
        make_pictured_env("Clock-v0", {"fault": OSError("no screen")})


@pytest.mark.filterwarnings("ignore:.*RGB-array rendering")  # Gymnasium's own checker says it too
def test_a_render_that_returns_no_picture_is_refused_when_the_env_is_made() -> None:
    with pytest.raises(ConfigError, match=r"Flat-v0.*\(16, 16\)"):
        make_pictured_env("Flat-v0")


def test_a_render_that_breaks_later_says_whose_it_is() -> None:
    env = make_pictured_env("Clock-v0")
    env.unwrapped.render = lambda: None
    with pytest.raises(DataError, match=r"Clock-v0.*NoneType"):
        env.step(0)


def test_another_render_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="render_mode=None"):
        PictureInfo(gym.make("Clock-v0"))


def test_an_env_that_keeps_its_state_but_draws_nothing_is_refused_before_people_wait() -> None:
    class Hidden(Stateful):
        metadata = {"render_modes": []}  # noqa: RUF012

    gym.register("Hidden-v0", entry_point=Hidden, max_episode_steps=5)
    try:
        settings = load_settings("ppo", "default", {"n_envs": 1, "n_steps": 10, "batch_size": 10})
        options = {"n_run_steps": 100, "settings": settings, "device": "cpu"}
        with pytest.raises(ConfigError, match="Hidden-v0 has nothing to show people"):
            PPOAgent("Hidden-v0", record_pictures=True, **options)
        PPOAgent("Hidden-v0", **options).close()
        PPOAgent("Stateful-v0", record_pictures=True, **options).close()
    finally:
        gym.registry.pop("Hidden-v0")
