from __future__ import annotations

import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecNormalize

from rlhf_gym.agents.ppo import PPOAgent
from rlhf_gym.agents.settings import load_settings
from rlhf_gym.data import Array, RewardBatch
from rlhf_gym.errors import ConfigError, CorruptDataError, UnknownNameError
from rlhf_gym.protocols import Signal
from rlhf_gym.seeding import stream
from tests.agents import lever

ENV = "rlhf_gym/PointMass-v0"
SMALL = {"n_envs": 2, "n_steps": 50, "batch_size": 50, "n_epochs": 2}


class DistanceReward:
    """A fixed stand-in for a reward model."""

    def rewards(self, batch: RewardBatch) -> Array:
        return -np.abs(batch.next_obs[..., :2] - batch.next_obs[..., 2:4]).sum(-1)


def make_agent(seed: int = 0, **overrides) -> PPOAgent:
    settings = load_settings("ppo", ENV, {**SMALL, **overrides})
    return PPOAgent(ENV, n_run_steps=1000, settings=settings, seed=seed)


def weights(agent: PPOAgent) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.model.policy.parameters()])


def signal() -> Signal:
    return Signal(reward_model=DistanceReward())  # type: ignore[arg-type]


def test_steps_are_counted_exactly_and_evaluation_is_not() -> None:
    agent = make_agent()
    agent.begin_round(stream(0, "round", 0))
    agent.warm_up(120)
    assert agent.n_steps_done == 120
    agent.improve(signal(), 200)
    assert agent.n_steps_done == 320
    agent.evaluate(3, stream(0, "evaluation"))
    assert agent.n_steps_done == 320
    assert agent.steps_unit == 100
    with pytest.raises(ConfigError, match="multiple of the rollout's 100"):
        agent.improve(signal(), 150)


def test_a_round_repeats_bit_for_bit_and_resumes_from_a_folder(tmp_path: Path) -> None:
    agent, resumed = make_agent(), make_agent(seed=99)
    agent.begin_round(stream(1, "round", 0))
    agent.warm_up(100)
    agent.improve(signal(), 200)
    agent.save(tmp_path)
    torch.rand(7), np.random.rand(3)  # what happens between rounds must not matter
    for player in (agent, resumed):
        if player is resumed:
            player.load(tmp_path)
        player.begin_round(stream(1, "round", 1))
        player.improve(signal(), 200)
    assert torch.equal(weights(agent), weights(resumed))
    assert agent.n_steps_done == resumed.n_steps_done
    a, b = (p.clips(9, 10, np.random.default_rng(0)) for p in (agent, resumed))
    assert [clip.id for clip in a] == [clip.id for clip in b]
    for x, y in zip(
        agent.evaluate(2, stream(0, "e")), resumed.evaluate(2, stream(0, "e")), strict=True
    ):
        np.testing.assert_array_equal(x.obs, y.obs)


def test_evaluation_does_not_disturb_training() -> None:
    disturbed, calm = make_agent(), make_agent()
    for agent in (disturbed, calm):
        agent.begin_round(stream(1, "round", 0))
        agent.improve(signal(), 100)
        if agent is disturbed:
            agent.evaluate(2, stream(0, "evaluation"))
            agent.evaluate(2, stream(0, "random"), random=True)
        agent.improve(signal(), 100)
    assert torch.equal(weights(disturbed), weights(calm))


def test_evaluation_returns_whole_episodes_with_the_true_return() -> None:
    agent = make_agent()
    episodes = agent.evaluate(12, stream(5, "evaluation"), random=True)
    assert len(episodes) == 12 and all(len(e) == 50 and e.truncated for e in episodes)
    again = make_agent(seed=3).evaluate(12, stream(5, "evaluation"), random=True)
    assert [e.true_return for e in episodes] == [e.true_return for e in again]
    assert len({e.true_return for e in episodes}) == 12, "each episode has its own start"


def test_the_true_reward_source_trains_without_a_reward_model() -> None:
    agent = make_agent()
    before = weights(agent)
    agent.begin_round(stream(0, "round", 0))
    agent.warm_up(100)
    agent.improve(Signal(source="true"), 100)
    assert not torch.equal(before, weights(agent))
    with pytest.raises(ConfigError, match="reward model"):
        agent.improve(Signal(), 100)


def test_a_linear_decay_runs_over_the_whole_run_and_not_over_each_round() -> None:
    agent = make_agent(learning_rate="lin_0.01")
    rollout, used = agent.model.n_steps * agent.settings.n_envs, []
    n_rounds = 1000 // rollout
    for seed in range(n_rounds):
        agent.begin_round(np.random.SeedSequence(seed))
        agent.improve(Signal(source="true"), rollout)
        used.append(agent.model.policy.optimizer.param_groups[0]["lr"])
    # SB3 sets the rate after the rollout, when its steps have been counted.
    expected = [0.01 * (1 - (i + 1) * rollout / 1000) for i in range(n_rounds)]
    assert n_rounds > 2
    np.testing.assert_allclose(used, expected, rtol=1e-12)


def test_the_export_is_a_stock_sb3_file(tmp_path: Path) -> None:
    agent = make_agent()
    agent.begin_round(stream(0, "round", 0))
    agent.improve(signal(), 100)
    agent.export_sb3(tmp_path / "agent.zip")
    assert isinstance(agent.model, PPO) and type(agent.model) is PPO
    assert zipfile.is_zipfile(tmp_path / "agent.zip")
    model = PPO.load(tmp_path / "agent.zip")
    normaliser = VecNormalize.load(str(tmp_path / "agent_vecnormalize.pkl"), agent.venv)
    obs = agent.evaluate(1, stream(0, "e"))[0].obs
    expected = agent.act(obs)
    actions, _ = model.predict(normaliser.normalize_obs(obs), deterministic=True)
    np.testing.assert_array_equal(actions, expected)


@pytest.mark.parametrize(
    "name", ["agent.safetensors", "recorder.npz", "normaliser.npz", "agent.json"]
)
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_checkpoint_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    agent = make_agent()
    agent.begin_round(stream(0, "round", 0))
    agent.warm_up(100)
    agent.save(tmp_path)
    path = tmp_path / name
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    with pytest.raises(CorruptDataError, match=name):
        agent.load(tmp_path)


def test_bad_settings_and_ids_are_refused() -> None:
    with pytest.raises(ConfigError, match="PPO does not accept"):
        make_agent(no_such_option=1)
    with pytest.raises(UnknownNameError, match="Did you mean"):
        PPOAgent("rlhf_gym/PointMas-v0", n_run_steps=10)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"finds no GPU.*--device cpu"):
        PPOAgent(ENV, n_run_steps=10, device="cuda")


def restarts(agent: PPOAgent, signal: Signal, n_rounds: int) -> list[bool]:
    """Per round of 200 steps, whether weights moved by 0.01: at a rate of 1e-12 by a restart."""
    moved = []
    for k in range(n_rounds):
        agent.begin_round(stream(3, "round", k))
        before = weights(agent)
        agent.improve(signal, 200)
        moved.append(bool((before - weights(agent)).abs().max() > 0.01))
    return moved


def test_networks_are_drawn_anew_once_when_their_share_of_the_run_is_over(tmp_path: Path) -> None:
    # 1,000 steps in rounds of 200: a quarter is over when the third round begins.
    agent = make_agent(restart_at=0.25, learning_rate=1e-12)
    assert restarts(agent, signal(), 5) == [False, False, True, False, False]
    agent.save(tmp_path)
    resumed = make_agent(seed=99, restart_at=0.25, learning_rate=1e-12)
    resumed.load(tmp_path)
    assert restarts(resumed, signal(), 2) == [False, False]


def test_a_restart_due_before_anything_is_learned_waits(tmp_path: Path) -> None:
    agent = make_agent(restart_at=0.25, learning_rate=1e-12)
    agent.begin_round(stream(3, "round", 0))
    agent.warm_up(400)  # of 1,000: more than the quarter
    assert restarts(agent, signal(), 3) == [False, True, False]


def test_networks_stay_without_a_restart_and_on_the_true_reward() -> None:
    assert not any(restarts(make_agent(learning_rate=1e-12), signal(), 4))
    agent = make_agent(restart_at=0.25, learning_rate=1e-12)
    agent.begin_round(stream(3, "round", 0))
    agent.warm_up(200)
    assert not any(restarts(agent, Signal(source="true"), 4))


def test_what_a_restart_draws_comes_from_the_rounds_seed_and_forgets_the_optimiser() -> None:
    agents = [make_agent(seed=k, restart_at=0.25) for k in range(2)]
    for agent in agents:
        restarts(agent, signal(), 2)
        agent.begin_round(stream(4, "round", 2))
        agent._draw_networks_anew()
        assert not agent.model.policy.optimizer.state
    assert torch.equal(weights(agents[0]), weights(agents[1]))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    "dtype",
    [
        *("uint8", "int8", "int16", "int64", "bool", "float16", "float32", "float64"),
        *("Discrete", "MultiBinary", "Dict"),
    ],
)
def test_what_the_policy_saw_is_what_the_buffer_keeps_and_clips_hold_the_raw_numbers(
    dtype: str, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {**SMALL, "n_steps": 20, "batch_size": 20, "normalize": normalize}
    settings = load_settings("ppo", lever.ENV, small)
    agent = PPOAgent(lever.ENV, n_run_steps=80, settings=settings, env_kwargs={"dtype": dtype})
    gaps, seen = [], []
    add = RolloutBuffer.add

    def checked_add(self: RolloutBuffer, obs: Array, *args: object, **kwargs: object) -> None:
        at = self.pos
        add(self, obs, *args, **kwargs)  # type: ignore[arg-type]
        gaps.append(np.abs(obs.astype(np.float64) - self.observations[at]).max())
        seen.append(obs)

    monkeypatch.setattr(RolloutBuffer, "add", checked_add)
    agent.begin_round(stream(0, "round", 0))
    agent.improve(Signal(source="true"), 40)
    # float64 without a normaliser: the network reads float32, the buffer keeps what it was given.
    assert max(gaps) == 0.0 and len(gaps) == 20
    if normalize:
        assert (np.concatenate(seen) % 1 != 0).any() and np.concatenate(seen).min() < 0
    clips = agent.clips(50, 20, np.random.default_rng(0))
    env = gym.make(lever.ENV, dtype=dtype)
    assert all(clip.obs.dtype == np.float32 for clip in clips)
    for clip in clips:
        assert (clip.obs % 1 == 0).all()
        flat = spaces.flatten_space(env.observation_space)
        assert flat.low.min() <= clip.obs.min() and clip.obs.max() <= flat.high.max()
    assert np.unique(np.concatenate([clip.obs for clip in clips])).size > 1
