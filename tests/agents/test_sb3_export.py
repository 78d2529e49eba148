from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlhf_gym.agents.model_state import save_model
from rlhf_gym.agents.ppo import PPOAgent
from rlhf_gym.agents.sb3_export import rescale_policy
from rlhf_gym.agents.settings import load_settings
from rlhf_gym.data import Array
from rlhf_gym.errors import ConfigError
from rlhf_gym.protocols import Signal
from rlhf_gym.seeding import stream
from tests.agents.lever import ENV

SMALL = {"n_envs": 2, "n_steps": 40, "batch_size": 40, "n_epochs": 4, "learning_rate": 0.01}
ODD = {"low": (0.0, -3.0), "high": (5.0, 1.0), "dtype": "uint8"}


def trained(env_kwargs: dict[str, Any] = ODD, **overrides: Any) -> PPOAgent:
    agent = PPOAgent(
        ENV,
        n_run_steps=400,
        settings=load_settings("ppo", ENV, {**SMALL, **overrides}),
        env_kwargs=env_kwargs,
    )
    agent.begin_round(stream(0, "round", 0))
    agent.warm_up(80)
    agent.improve(Signal(source="true"), 320)
    return agent


def stock_episodes(
    zip_path: Path, make: Any, seed: np.random.SeedSequence, n_episodes: int
) -> list[tuple[Array, float]]:
    """Actions and return of each episode, by nothing but Gymnasium and Stable-Baselines3."""
    venv: Any = DummyVecEnv([make])
    statistics = zip_path.with_name(f"{zip_path.stem}_vecnormalize.pkl")
    if statistics.exists():
        venv = VecNormalize.load(str(statistics), venv)
        venv.training = False
    model = PPO.load(zip_path, env=venv, device="cpu")
    episodes = []
    for reset_seed in seed.generate_state(n_episodes):
        venv.seed(int(reset_seed))
        obs, done, actions, total = venv.reset(), False, [], 0.0
        while not done:
            action, _ = model.predict(obs, deterministic=True)
            obs, rewards, dones, _ = venv.step(action)
            done = bool(dones[0])
            actions.append(action[0])
            total += float(rewards[0])
        episodes.append((np.stack(actions), total))
    return episodes


@pytest.mark.filterwarnings("ignore:.*A Box action space maximum and minimum values are equal")
@pytest.mark.parametrize(
    ("env_kwargs", "overrides"),
    [
        (ODD, {}),
        (ODD, {"normalize": False}),
        (ODD, {"use_sde": True}),
        (ODD, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
        ({"dtype": "float64"}, {}),
        ({"low": (2.0, -3.0), "high": (2.0, 1.0)}, {}),  # a lever that is locked
    ],
)
def test_the_export_acts_in_stock_sb3_on_the_stock_env_as_it_does_here(
    env_kwargs: dict[str, Any], overrides: dict[str, Any], tmp_path: Path
) -> None:
    agent = trained(env_kwargs, **overrides)
    agent.export_sb3(tmp_path / "agent.zip")
    assert agent.export_note is None
    seed = stream(0, "evaluation")
    stock = stock_episodes(tmp_path / "agent.zip", lambda: gym.make(ENV, **env_kwargs), seed, 4)
    ours = agent.evaluate(4, seed)
    assert np.ptp(np.concatenate([e.actions for e in ours])[:, 1]) > 0.1, "it does something"
    for (actions, true_return), episode in zip(stock, ours, strict=True):
        np.testing.assert_allclose(actions, episode.actions, rtol=1e-5, atol=1e-5)
        assert true_return == pytest.approx(episode.true_return, abs=1e-3)


def test_the_exported_policy_explores_as_ours_does_in_the_envs_units(tmp_path: Path) -> None:
    agent = trained()
    before = copy.deepcopy(agent.model.policy.state_dict())
    agent.export_sb3(tmp_path / "agent.zip")
    for name, tensor in agent.model.policy.state_dict().items():
        assert torch.equal(tensor, before[name]), "the agent itself goes on as it was"
    stock: Any = PPO.load(tmp_path / "agent.zip", device="cpu").policy
    ours: Any = agent.model.policy
    obs = torch.randn(9, 2)
    theirs, mine = (p.get_distribution(obs).distribution for p in (stock, ours))
    center, half = torch.tensor([2.5, -1.0]), torch.tensor([2.5, 2.0])
    torch.testing.assert_close(theirs.mean, center + half * mine.mean)
    torch.testing.assert_close(theirs.stddev, half * mine.stddev)


def test_flattened_observations_are_said_and_act_alike_once_the_env_is_made_ready(
    tmp_path: Path,
) -> None:
    from rlhf_gym.envs import make_preference_ready

    kwargs = {"dtype": "Dict", "low": (0.0, 0.0), "high": (1.0, 9.0)}
    agent = trained({**kwargs, "obs_keys": ["right", "left"]})
    agent.export_sb3(tmp_path / "agent.zip")
    assert agent.export_note is not None and "obs_keys=['right', 'left']" in agent.export_note
    seed = stream(0, "evaluation")

    def ready() -> Any:
        return make_preference_ready(gym.make(ENV, **kwargs), obs_keys=["right", "left"])

    stock = stock_episodes(tmp_path / "agent.zip", ready, seed, 2)
    for (actions, true_return), episode in zip(stock, agent.evaluate(2, seed), strict=True):
        np.testing.assert_allclose(actions, episode.actions, rtol=1e-5, atol=1e-5)
        assert true_return == pytest.approx(episode.true_return, abs=1e-3)


@pytest.mark.parametrize("option", [{"full_std": False}, {"use_expln": True}])
def test_noise_that_cannot_be_rescaled_is_refused_by_name(
    option: dict[str, Any], tmp_path: Path
) -> None:
    agent = trained(use_sde=True, policy_kwargs=option)
    with pytest.raises(ConfigError, match=next(iter(option))):
        agent.export_sb3(tmp_path / "agent.zip")
    assert not list(tmp_path.iterdir())


def test_the_optimiser_of_a_rescaled_policy_goes_on_where_it_was() -> None:
    # After one step Adam's mean is 0.1 of the gradient, its square mean 0.001 of the squared one.
    torch.manual_seed(0)
    policy: Any = trained().model.policy
    policy.optimizer.state.clear()
    obs, target = torch.randn(7, 2), torch.randn(7, 2)
    center, half = np.array([2.5, -1.0]), np.array([2.5, 2.0])

    def gradient(of: Any, actions: torch.Tensor) -> None:
        of.optimizer.zero_grad()
        (actions - target).square().sum().backward()

    gradient(policy, policy.get_distribution(obs).distribution.mean)
    weight, bias = policy.action_net.weight, policy.action_net.bias
    for tensor in (weight, bias):
        policy.optimizer.state[tensor] = {
            "step": torch.tensor(1.0),
            "exp_avg": 0.1 * tensor.grad,
            "exp_avg_sq": 0.001 * tensor.grad**2,
        }
    rescale_policy(policy, center, half)
    mean = policy.get_distribution(obs).distribution.mean
    gradient(policy, (mean - torch.tensor(center).float()) / torch.tensor(half).float())
    for tensor in (weight, bias):
        moments = policy.optimizer.state[tensor]
        torch.testing.assert_close(moments["exp_avg"], 0.1 * tensor.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            moments["exp_avg_sq"], 0.001 * tensor.grad**2, rtol=1e-4, atol=1e-5
        )


def test_a_checkpoint_of_a_policy_in_the_envs_units_acts_as_it_did(tmp_path: Path) -> None:
    agent = trained()
    expected = agent.evaluate(2, stream(0, "e"))
    agent.save(tmp_path)
    old: Any = copy.copy(agent.model)
    rescale_policy(old.policy, np.array([2.5, -1.0]), np.array([2.5, 2.0]))
    save_model(old, tmp_path / "agent.safetensors")
    counters = json.loads((tmp_path / "agent.json").read_text())
    del counters["acts_within"]
    (tmp_path / "agent.json").write_text(json.dumps(counters))
    loaded = trained()
    loaded.load(tmp_path)
    for a, b in zip(expected, loaded.evaluate(2, stream(0, "e")), strict=True):
        np.testing.assert_allclose(a.actions, b.actions, rtol=1e-5, atol=1e-5)
