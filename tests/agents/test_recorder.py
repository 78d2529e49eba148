from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlhf_gym.agents.recorder import Recorder, find_recorder
from rlhf_gym.data import Array
from rlhf_gym.envs.hide_reward import hide_reward
from rlhf_gym.envs.horizon import HorizonWarning
from rlhf_gym.errors import ConfigError, DataError, NotHiddenError, NumericalError


class CountingEnv(gym.Env[Array, Array]):
    """Observation [episode, step]; reward = 100 * episode + step of the state it leaves."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, lengths: list[int], terminates: bool = False, nan_at: int = -1) -> None:
        self.lengths, self.terminates, self.nan_at = lengths, terminates, nan_at
        self.episode, self.t, self.executed = -1, 0, []

    def _obs(self) -> Array:
        obs = np.array([self.episode, self.t], np.float32)
        return obs * np.nan if self.t == self.nan_at else obs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._obs(), {"rlhf_gym.sim_state": np.array([self.episode, 0.0])}

    def step(self, action):
        self.executed.append(float(action[0]))
        reward = 100.0 * self.episode + self.t
        self.t += 1
        done = self.t >= self.lengths[self.episode % len(self.lengths)]
        info = {"rlhf_gym.sim_state": np.array([self.episode, float(self.t)])}
        return self._obs(), reward, done and self.terminates, done and not self.terminates, info


def make_recorder(n_envs: int = 2, n_steps: int = 40, lengths=(5, 7), **env_kwargs) -> Recorder:
    venv = DummyVecEnv(
        [lambda: hide_reward(CountingEnv(list(lengths), **env_kwargs)) for _ in range(n_envs)]
    )
    return Recorder(venv, context_id="Counting-v0", n_steps=n_steps)


def play(recorder: Recorder, n_steps: int, action: float = 0.5) -> None:
    recorder.reset()
    for _ in range(n_steps):
        recorder.step(np.full((recorder.num_envs, 1), action, np.float32))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 60),
    st.integers(1, 6),
)
def test_no_clip_crosses_an_episode_end_and_every_step_is_consecutive(
    lengths, n_envs, n_played, clip_length
) -> None:
    recorder = make_recorder(n_envs, 25, lengths)
    play(recorder, n_played)
    kept = min(n_played, 25)
    # Every window of consecutive steps of one episode, counted by walking the episodes.
    windows = 0
    for _ in range(n_envs):
        episode_of, t = [], 0
        for step in range(n_played):
            episode_of.append(len(episode_of) and episode_of[-1])
            if step == 0:
                episode_of[-1], t = 0, 0
            elif t >= lengths[episode_of[-1] % len(lengths)]:
                episode_of[-1], t = episode_of[-1] + 1, 0
            t += 1
        last = episode_of[-kept:]
        windows += sum(
            len(set(last[s : s + clip_length])) == 1 for s in range(kept - clip_length + 1)
        )
    rng = np.random.default_rng(0)
    if windows == 0:
        with pytest.raises(DataError, match="clip_length"):
            recorder.clips(10_000, clip_length, rng)
        return
    clips = recorder.clips(10_000, clip_length, rng)
    assert len(clips) == windows
    for clip in clips:
        assert len(set(clip.obs[:, 0])) == 1, "one episode"
        assert (np.diff(clip.obs[:, 1]) == 1).all(), "consecutive steps, terminal one included"
        assert (clip.true_rewards == 100 * clip.obs[:-1, 0] + clip.obs[:-1, 1]).all()
        assert (clip.sim_states == clip.obs).all()


def test_executed_actions_lie_in_the_box_and_equal_what_the_env_did() -> None:
    recorder = make_recorder()
    recorder.reset()
    for action in (3.0, -2.0, 0.25):
        recorder.step(np.full((2, 1), action, np.float32))
    batch, _, _ = recorder.rollout(3)
    assert batch.actions[0, :, 0].tolist() == [1.0, -1.0, 0.25]


def test_observations_are_raw_under_vec_normalize() -> None:
    recorder = make_recorder()
    venv = VecNormalize(recorder, norm_reward=False)
    venv.reset()
    for _ in range(4):
        normalised, *_ = venv.step(np.zeros((2, 1), np.float32))
    batch, _, _ = recorder.rollout(4)
    assert batch.next_obs[0, -1].tolist() == [0.0, 4.0]
    assert not np.allclose(normalised[0], [0.0, 4.0])
    assert find_recorder(venv) is recorder


def test_a_reset_breaks_the_recording_so_that_no_clip_spans_it() -> None:
    recorder = make_recorder(1, 40, lengths=(30,))
    play(recorder, 10)
    play(recorder, 10)
    clips = recorder.clips(1000, 10, np.random.default_rng(0))
    assert sorted(int(clip.obs[0, 0]) for clip in clips) == [0, 1]


def test_clips_are_copies_that_do_not_pin_the_ring() -> None:
    recorder = make_recorder()
    play(recorder, 6)
    clip = recorder.clips(1, 3, np.random.default_rng(0))[0]
    before = clip.id, clip.obs.copy()
    play(recorder, 40)
    assert clip.obs.base is None or clip.obs.base.nbytes == clip.obs.nbytes
    assert (clip.obs == before[1]).all()


def test_the_bound_in_bytes_is_kept() -> None:
    with pytest.raises(ConfigError, match=r"above\s+the bound of 1,000"):
        Recorder(
            DummyVecEnv([lambda: CountingEnv([5])]), context_id="x", n_steps=500, max_bytes=1000
        )


def test_a_nan_observation_stops_before_anything_learns_from_it() -> None:
    recorder = make_recorder(1, lengths=(9,), nan_at=3)
    with pytest.raises(
        NumericalError, match=r"Counting-v0 .* nan at recorded step 2 \(env 0, comp"
    ):
        play(recorder, 5)


def test_a_nan_in_a_terminal_observation_is_noticed() -> None:
    envs = [hide_reward(CountingEnv([3], nan_at=at)) for at in (-1, 3)]
    venv = DummyVecEnv([lambda env=env: env for env in envs])
    with pytest.raises(NumericalError, match=r"nan at recorded step 2 \(env 1, component 0\)"):
        play(Recorder(venv, context_id="Counting-v0", n_steps=9), 5)


def test_a_substituted_reward_below_the_recorder_is_refused() -> None:
    venv = DummyVecEnv([lambda: CountingEnv([9])])
    recorder = Recorder(venv, context_id="x", n_steps=9)
    play(recorder, 5)
    with pytest.raises(NotHiddenError, match=r"other than 0\.0"):
        recorder.rollout(5)


def test_the_ring_shrinks_to_its_bound_but_not_below_a_rollout() -> None:
    def make(min_steps: int) -> Recorder:
        venv = DummyVecEnv([lambda: hide_reward(CountingEnv([5]))])
        return Recorder(venv, context_id="x", n_steps=500, min_steps=min_steps, max_bytes=1000)

    assert 10 <= make(10).capacity < 500
    with pytest.raises(ConfigError, match="above the bound"):
        make(400)


def test_an_episode_cut_short_of_the_horizon_warns_however_it_ends() -> None:
    for terminates, horizon, warns in ((False, 9, True), (True, 5, False), (True, 9, True)):
        venv = DummyVecEnv([lambda t=terminates: hide_reward(CountingEnv([5], terminates=t))])
        recorder = Recorder(venv, context_id="x", n_steps=40, horizon=horizon)
        if warns:
            with pytest.warns(HorizonWarning):
                play(recorder, 12)
        else:
            play(recorder, 12)


def test_early_termination_warns_once_and_can_be_switched_off() -> None:
    recorder = make_recorder(1, terminates=True)
    with pytest.warns(HorizonWarning) as caught:
        play(recorder, 30)
    assert len(caught) == 1
    venv = DummyVecEnv([lambda: hide_reward(CountingEnv([5], terminates=True))])
    silent = Recorder(venv, context_id="x", n_steps=40, allow_variable_horizon=True)
    play(silent, 30)


def test_state_round_trip_gives_the_same_clips() -> None:
    recorder, other = make_recorder(), make_recorder()
    play(recorder, 33)
    other.set_state(recorder.state())
    a, b = (r.clips(20, 4, np.random.default_rng(3)) for r in (recorder, other))
    assert [clip.id for clip in a] == [clip.id for clip in b]
    assert all((x.sim_states == y.sim_states).all() for x, y in zip(a, b, strict=True))


def test_spaces_that_cannot_be_recorded_are_refused_by_name() -> None:
    class TextEnv(CountingEnv):
        observation_space = spaces.Dict({"x": spaces.Box(0, 1, (1,))})

    with pytest.raises(ConfigError, match="it takes Box"):
        Recorder(DummyVecEnv([lambda: TextEnv([5])]), context_id="x", n_steps=5)
