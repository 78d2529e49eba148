"""Your own Stable-Baselines3 model and your own `learn` call, trained from preferences."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlhf_gym.agents.preference_callback import PreferenceLearning
from rlhf_gym.agents.recorder import Recorder
from rlhf_gym.envs import hide_reward, make_env, space_info
from rlhf_gym.feedback.acquisition import uniform
from rlhf_gym.feedback.reward_model import EnsembleRewardModel
from rlhf_gym.feedback.teachers import SyntheticTeacher

ENV = "rlhf_gym/PointMass-v0"


def main(steps: int = 30_000, seed: int = 0) -> tuple[float, float]:
    """True return of the untrained and of the trained policy."""
    torch.set_num_threads(1)  # small networks are no faster with more
    # hide_reward stands outside Monitor: rollout/ep_rew_mean stays the true return.
    hidden = DummyVecEnv([lambda: hide_reward(Monitor(make_env(ENV)))] * 8)
    recorder = Recorder(hidden, context_id=ENV, n_steps=250)  # below VecNormalize: raw steps
    venv = VecNormalize(recorder, norm_reward=False)
    model = PPO("MlpPolicy", venv, n_steps=250, batch_size=250, seed=seed, device="cpu")

    measured = VecNormalize(DummyVecEnv([lambda: Monitor(make_env(ENV))]), training=False)
    measured.obs_rms = venv.obs_rms  # the same statistics, as they grow

    def true_return() -> float:
        measured.seed(seed + 1)
        mean, _ = evaluate_policy(model, measured, n_eval_episodes=20)
        return float(np.mean(mean))

    before = true_return()
    reward_model = EnsembleRewardModel(space_info(make_env(ENV)), seed=seed)
    learning = PreferenceLearning(
        reward_model,
        SyntheticTeacher(),  # or anything with `name` and `answer(queries)`
        uniform,
        labels=[75] + [45] * 5,
        rollouts_per_round=2,
        clip_length=10,
        seed=seed,
    )
    model.learn(steps, callback=learning)
    return before, true_return()


if __name__ == "__main__":
    before, after = main()
    print(f"true return: {before:.1f} untrained, {after:.1f} after 300 answers (optimum near -4.3)")
