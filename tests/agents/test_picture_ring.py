"""The recorder with envs that show pictures; what a picture is of can be read from its bytes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from rlhf_gym.agents.model_state import load_arrays, save_arrays
from rlhf_gym.agents.picture_ring import PictureRing
from rlhf_gym.agents.recorder import Recorder
from rlhf_gym.agents.vec_env import SerialVecEnv
from rlhf_gym.errors import DataError


class Named(gym.Env):
    """Observation [env, episode, step]; the "picture" is the same three numbers as text."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, number: int, length: int = 7, shows: bool = True) -> None:
        self.number, self.length, self.shows = number, length, shows
        self.episode, self.t = -1, 0

    def _seen(self):
        obs = np.array([self.number, self.episode, self.t], np.float32)
        return obs, {
            "rlhf_gym.picture": text_of(obs),
            "rlhf_gym.step_seconds": 0.04,
        } if self.shows else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._seen()

    def step(self, action):
        self.t += 1
        obs, info = self._seen()
        return obs, 0.0, False, self.t >= self.length, info


def text_of(obs) -> bytes:
    return " ".join(str(int(number)) for number in obs).encode()


def recorder_of(n_envs: int = 2, n_steps: int = 20, shows: bool = True, kind=SerialVecEnv):
    venv = kind([lambda i=i: Named(i, 7 + i, shows) for i in range(n_envs)])
    return Recorder(venv, context_id="Named-v0", n_steps=n_steps, horizon=None)


def play(recorder: Recorder, n_steps: int, *, reset: bool = True) -> None:
    if reset:
        recorder.reset()
    for _ in range(n_steps):
        recorder.step(np.zeros((recorder.num_envs, 1), np.float32))


def all_clips(recorder: Recorder, length: int):
    return recorder.clips(10_000, length, np.random.default_rng(0))


@pytest.mark.parametrize("kind", [SerialVecEnv, DummyVecEnv])
@pytest.mark.parametrize("n_played", [6, 19, 53])
def test_the_pictures_of_a_clip_are_those_of_its_observations(kind, n_played) -> None:
    recorder = recorder_of(kind=kind)
    play(recorder, n_played)
    clips = all_clips(recorder, 4)
    assert clips
    for clip in clips:
        assert list(clip.pictures.encoded) == [text_of(obs) for obs in clip.obs]
        assert clip.pictures.step_seconds == 0.04


def test_a_reset_in_mid_episode_does_not_mix_pictures() -> None:
    recorder = recorder_of()
    play(recorder, 3)
    play(recorder, 5)
    for clip in all_clips(recorder, 2):
        assert list(clip.pictures.encoded) == [text_of(obs) for obs in clip.obs]


def test_the_same_clips_are_drawn_with_and_without_pictures() -> None:
    drawn = []
    for shows in (True, False):
        recorder = recorder_of(shows=shows)
        play(recorder, 33)
        drawn.append(recorder.clips(12, 4, np.random.default_rng(3)))
    assert [clip.id for clip in drawn[0]] == [clip.id for clip in drawn[1]]
    assert all(clip.pictures is None for clip in drawn[1])
    assert not any(name.startswith("picture") for name in recorder.state())


def test_a_checkpoint_brings_the_pictures_back_and_goes_on(tmp_path) -> None:
    recorder, other = recorder_of(), recorder_of()
    play(recorder, 33)
    save_arrays(tmp_path / "recorder.npz", recorder.state())
    other.set_state(load_arrays(tmp_path / "recorder.npz"))
    for length in (1, 4):
        before, after = all_clips(recorder, length), all_clips(other, length)
        assert [clip.id for clip in before] == [clip.id for clip in after]
        for clip in after:
            assert list(clip.pictures.encoded) == [text_of(obs) for obs in clip.obs]
    play(other, 15)
    for clip in all_clips(other, 3):
        assert list(clip.pictures.encoded) == [text_of(obs) for obs in clip.obs]


def test_a_checkpoint_of_before_pictures_is_drawn_from_without_them() -> None:
    old, new = recorder_of(shows=False), recorder_of()
    play(old, 12)
    new.set_state(old.state())
    assert all(clip.pictures is None for clip in all_clips(new, 4))
    play(new, 6)
    clips = all_clips(new, 4)
    assert clips and all(clip.pictures is not None for clip in clips)


def test_an_env_that_shows_nothing_any_more_has_clips_without_pictures() -> None:
    first, second = recorder_of(), recorder_of(shows=False)
    play(first, 12)
    second.set_state(first.state())
    play(second, 12)
    assert all(clip.pictures is None for clip in all_clips(second, 4))


def infos_of(step: int, size: int):
    return [{"rlhf_gym.picture": bytes([step]) * size, "rlhf_gym.step_seconds": 0.1}]


def test_the_oldest_pictures_go_beyond_the_bound() -> None:
    ring = PictureRing(infos_of(0, 10), capacity=8, max_bytes=35)
    for step in range(1, 6):
        ring.record(step - 1, infos_of(step, 10))
    # Each step counts the 10 bytes of the picture it led to: three fit into 35.
    assert ring.has(np.arange(8)).tolist() == [False, False, True, True, True, False, False, False]
    assert ring.cut(np.array([1, 2]), 0) is None
    kept = ring.cut(np.array([2, 3]), 0)
    assert kept is not None and [p[0] for p in kept.encoded] == [2, 3, 4]
    again = PictureRing.from_state(ring.state(np.arange(5)), capacity=8)
    assert again.has(np.arange(5)).tolist() == [False, False, True, True, True]


def test_clips_are_only_drawn_where_all_pictures_are_kept() -> None:
    recorder = recorder_of(1)
    play(recorder, 6)
    assert recorder._pictures is not None
    for row in range(3):
        recorder._pictures._in_use.remove(row)
        recorder._pictures._drop(row)
    starts = sorted(int(clip.obs[0, 2]) for clip in all_clips(recorder, 2))
    assert starts == [3, 4]  # of 0 to 4
    with pytest.raises(DataError, match="clip_length"):
        all_clips(recorder, 4)


def test_clips_longer_than_all_that_is_kept_are_refused() -> None:
    recorder = recorder_of(1)
    play(recorder, 2)
    with pytest.raises(DataError, match="`clip_length` is 6"):
        all_clips(recorder, 6)
