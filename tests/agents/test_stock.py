from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlhf_gym.agents.settings import load_settings
from rlhf_gym.agents.stock import StockAgent, train_stock
from rlhf_gym.envs.make import make_env
from rlhf_gym.errors import ConfigError
from rlhf_gym.seeding import stream, torch_seed

ENV = "rlhf_gym/PointMass-v0"
SMALL = {"n_envs": 2, "n_steps": 50, "batch_size": 50, "n_epochs": 2}


def small(**overrides):
    return load_settings("ppo", ENV, {**SMALL, **overrides})


def test_it_learns_what_plain_sb3_learns_bit_for_bit() -> None:
    result = train_stock(ENV, settings=small(), n_steps=450, n_points=3, seed=7, final_episodes=3)
    venv = VecNormalize(
        DummyVecEnv([lambda: Monitor(make_env(ENV))] * 2), norm_reward=True, gamma=0.99
    )
    seed = torch_seed(stream(7, "agent"))
    plain = PPO("MlpPolicy", venv, seed=seed, device="cpu", **small().algorithm)
    plain.learn(400)  # 450 rounded down to whole rollouts of 100
    assert result.env_steps == 400
    # The final episodes, played one by one.
    returns = []
    for start in stream(7, "final evaluation").generate_state(3):
        env = make_env(ENV)
        obs, done, total = env.reset(seed=int(start))[0], False, 0.0
        while not done:
            normalised = venv.normalize_obs(obs[None])
            action = plain.predict(normalised, deterministic=True)[0][0]
            obs, reward, terminated, truncated, _ = env.step(action)
            done, total = terminated or truncated, total + float(reward)
        returns.append(total)
    assert result.returns == pytest.approx(returns, rel=1e-5)  # float32 sums


def test_evaluations_are_spread_over_the_run_and_do_not_disturb_it() -> None:
    often = train_stock(ENV, settings=small(), n_steps=400, n_points=4, seed=3, final_episodes=2)
    once = train_stock(ENV, settings=small(), n_steps=400, n_points=1, seed=3, final_episodes=2)
    assert [point["env_steps"] for point in often.curve] == [100, 200, 300, 400]
    assert [point["env_steps"] for point in once.curve] == [400]
    assert often.returns == once.returns
    assert set(often.seconds) == {"setup", "improve", "evaluate"}
    assert all(value > 0 for value in often.seconds.values())


@pytest.mark.parametrize("normalize", [True, False])
def test_rewards_are_normalised_and_observations_as_the_settings_say(normalize: bool) -> None:
    agent = StockAgent(ENV, settings=small(normalize=normalize), seed=0)
    assert (agent.normaliser.norm_obs, agent.normaliser.norm_reward) == (normalize, True)
    obs = np.full((3, *agent.normaliser.observation_space.shape), 0.5, np.float32)
    assert agent.act(obs).shape == (3, *agent.normaliser.action_space.shape)
    agent.close()


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match="less than one rollout of 100"):
        train_stock(ENV, settings=small(), n_steps=99, n_points=1, seed=0)
    with pytest.raises(ConfigError, match=r"n_epoch.*agents/ppo\.yml"):
        StockAgent(ENV, settings=small(n_epoch=3))
