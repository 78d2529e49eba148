"""The peer's side of against_imitation.py; runs in an environment of its own with imitation 1.0.1.

    ENV/bin/python against_imitation_peer.py train SPEC.json
    ENV/bin/python against_imitation_peer.py check HalfCheetah-v4 REFERENCE.npz

`train` learns a reward from comparisons and an agent on it as the specification says; `check`
replays recorded transitions. Either prints one line of JSON, the last of its output. Nothing of
rlhf_gym is imported here; every setting comes from the specification.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.mujoco.hopper_v4 import HopperEnv
from imitation.algorithms import preference_comparisons
from imitation.policies.base import FeedForward32Policy, NormalizeFeaturesExtractor
from imitation.rewards.reward_nets import BasicRewardNet, NormalizedRewardNet, RewardNet
from imitation.rewards.reward_wrapper import RewardVecEnvWrapper
from imitation.util import logger as imitation_logger
from imitation.util.networks import RunningNorm
from imitation.util.util import make_vec_env
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

_N_ENVS = 8  # imitation's own default
_PACKAGES = ("imitation", "stable-baselines3", "gymnasium", "mujoco", "torch", "numpy")


class Upright(gym.Wrapper):  # type: ignore[type-arg]  # Gymnasium 0.29 runs it, 1.4 checks it
    """The reward of rlhf_gym/Hopper-v0: v + 1 - 2 max(0, 1.1 - height) - |angle|."""

    def step(self, action: Any) -> Any:
        """As Hopper-v4, with the other reward."""
        obs, _, terminated, truncated, info = self.env.step(action)
        height, angle = self.unwrapped.data.qpos[1:3].tolist()  # type: ignore[attr-defined]
        reward = info["x_velocity"] + 1.0 - 2.0 * max(0.0, 1.1 - height) - abs(angle)
        return obs, reward, terminated, truncated, info


def make_upright_hopper(**of_v4: Any) -> Upright:
    return Upright(HopperEnv(terminate_when_unhealthy=False, **of_v4))


gym.register("UprightHopper-v0", entry_point=make_upright_hopper, max_episode_steps=300)


class Counting(VecEnvWrapper):
    """Counts every env step, whoever asks for it."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.n_steps = 0

    def reset(self) -> Any:
        """Start new episodes; a reset is no step."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Step all envs."""
        self.n_steps += self.num_envs
        return self.venv.step_wait()


class WatchedGatherer(preference_comparisons.SyntheticGatherer):
    """imitation's teacher as it stands; notes how many labels it gave, and how many were wrong."""

    n_labels = n_wrong = 0

    def __call__(self, fragment_pairs: Any) -> Any:
        """Label the pairs, 1.0 where the first is preferred."""
        labels = super().__call__(fragment_pairs)
        first, second = self._reward_sums(fragment_pairs)
        self.n_labels += len(labels)
        self.n_wrong += int(((labels - 0.5) * (first - second) < 0).sum())
        return labels


def make_ppo(spec: dict[str, Any], venv: VecEnv) -> PPO:
    policy: Any = "MlpPolicy"
    policy_kwargs: dict[str, Any] = {}
    if spec["policy"] == "FeedForward32Policy":
        policy = FeedForward32Policy
    else:
        policy_kwargs = {
            "activation_fn": torch.nn.ReLU,
            "net_arch": {"pi": [64, 64], "vf": [64, 64]},
        }
    if spec["normalise_obs"]:
        policy_kwargs |= {
            "features_extractor_class": NormalizeFeaturesExtractor,
            "features_extractor_kwargs": {"normalize_class": RunningNorm},
        }
    return PPO(
        policy,
        venv,
        policy_kwargs=policy_kwargs,
        n_steps=spec["rollout"] // _N_ENVS,
        seed=spec["seed"],
        device="cpu",
        **spec["ppo"],
    )


def make_reward_net(spec: dict[str, Any], venv: VecEnv) -> RewardNet:
    net: RewardNet = BasicRewardNet(
        venv.observation_space, venv.action_space, normalize_input_layer=RunningNorm
    )
    return NormalizedRewardNet(net, RunningNorm) if spec["normalise_reward"] else net


def make_comparisons(
    spec: dict[str, Any], venv: VecEnv, agent: PPO, reward_net: RewardNet, folder: str
) -> tuple[preference_comparisons.PreferenceComparisons, WatchedGatherer]:
    rng = np.random.default_rng(spec["seed"])
    gatherer = WatchedGatherer(rng=rng)
    comparisons = preference_comparisons.PreferenceComparisons(
        preference_comparisons.AgentTrainer(
            algorithm=agent,
            reward_fn=reward_net,
            venv=venv,
            exploration_frac=spec["exploration_frac"],
            rng=rng,
        ),
        reward_net,
        fragmenter=preference_comparisons.RandomFragmenter(warning_threshold=0, rng=rng),
        preference_gatherer=gatherer,
        reward_trainer=preference_comparisons.BasicRewardTrainer(
            preference_comparisons.PreferenceModel(reward_net),
            loss=preference_comparisons.CrossEntropyRewardLoss(),
            epochs=spec["reward_epochs"],
            rng=rng,
        ),
        # Written to a file: a table on the terminal in every iteration costs time.
        custom_logger=imitation_logger.configure(folder, ["csv"]),
        **spec["loop"],
    )
    return comparisons, gatherer


class Runner:
    """Takes the times and the returns of one specification."""

    def __init__(self, spec: dict[str, Any]) -> None:
        torch.manual_seed(spec["seed"])  # draws the reward net's weights
        self.spec = spec
        self.venv = Counting(self._make_venv(spec["seed"]))
        self.figures: dict[str, Any] = {}
        self._seconds = 0.0
        self._agent_steps = 0

    def _make_venv(self, seed: int) -> VecEnv:
        rng = np.random.default_rng(seed)
        return make_vec_env(self.spec["env"], rng=rng, n_envs=_N_ENVS)

    def note(self, name: str, agent: PPO, started: float) -> None:
        """What an agent reached, and all that was spent on the way to it."""
        self._seconds += time.perf_counter() - started
        self._agent_steps += agent.num_timesteps
        venv = self._make_venv(10_000 + self.spec["seed"])
        returns, _ = evaluate_policy(
            agent,
            venv,
            self.spec["final_episodes"],
            deterministic=True,
            return_episode_rewards=True,
        )
        venv.close()
        assert isinstance(returns, list)
        self.figures[name] = {
            "true_return_mean": float(np.mean(returns)),
            "true_return_std": float(np.std(returns)),
            "evaluation_returns": returns,
            "agent_steps": self._agent_steps,
            "env_steps": self.venv.n_steps,
            "seconds": self._seconds,
        }

    def on_true_reward(self) -> None:
        """PPO alone, with the same settings."""
        started = time.perf_counter()
        agent = make_ppo(self.spec, self.venv)
        agent.learn(self.spec["timesteps"])
        self.note("agent", agent, started)

    def on_learned_reward(self) -> None:
        """The whole of preference comparisons and, where the recipe has one, the fresh learner."""
        spec, started = self.spec, time.perf_counter()
        agent = make_ppo(spec, self.venv)
        reward_net = make_reward_net(spec, self.venv)
        with tempfile.TemporaryDirectory() as folder:
            loop, gatherer = make_comparisons(spec, self.venv, agent, reward_net, folder)
            result = loop.train(spec["timesteps"], spec["labels"])
            self.note("agent", agent, started)
        self.figures["n_labels"] = gatherer.n_labels
        self.figures["n_wrong_labels"] = gatherer.n_wrong
        self.figures["reward_accuracy_train"] = float(result["reward_accuracy"])
        if not spec["learner_timesteps"]:
            return
        started = time.perf_counter()
        learner = make_ppo(spec, RewardVecEnvWrapper(self.venv, reward_net.predict_processed))
        learner.learn(spec["learner_timesteps"])
        self.note("learner", learner, started)


def set_state(env: Any, state: Any) -> None:
    if hasattr(env, "model"):
        env.set_state(state[: env.model.nq], state[env.model.nq :])
    else:
        env.state = state.copy()


def get_state(env: Any) -> Any:
    if hasattr(env, "model"):
        return np.concatenate([env.data.qpos, env.data.qvel])
    return np.asarray(env.state)


def check(env_id: str, path: str) -> dict[str, Any]:
    """The largest differences of rewards and next states from recorded ones."""
    with np.load(path, allow_pickle=False) as file:
        recorded = dict(file)
    env = gym.make(env_id)
    rewards, next_states = [], []
    for state, action in zip(recorded["states"], recorded["actions"], strict=True):
        env.reset(seed=0)  # forgets what the solver starts from
        set_state(env.unwrapped, state)
        rewards.append(float(env.step(action)[1]))
        next_states.append(get_state(env.unwrapped))
    return {
        "env": env_id,
        "n_transitions": len(rewards),
        "reward_difference": float(np.abs(recorded["rewards"] - rewards).max()),
        "state_difference": float(np.abs(recorded["next_states"] - next_states).max()),
    }


def train(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        runner = Runner(json.load(file))
    if runner.spec["reward"] == "true":
        runner.on_true_reward()
    else:
        runner.on_learned_reward()
    return runner.figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train").add_argument("spec", help="a .json file")
    checking = commands.add_parser("check")
    checking.add_argument("env", help="a Gymnasium id")
    checking.add_argument("reference", help="a .npz file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = train(args.spec) if args.command == "train" else check(args.env, args.reference)
    figures["versions"] = {name: importlib.metadata.version(name) for name in _PACKAGES}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
