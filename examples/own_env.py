"""An env of your own, trained from preferences.

The command line does the same: PYTHONPATH=examples rlhf-gym train --env own_env:CartToTarget-v0
"""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rlhf_gym.train_config import TrainConfig
from rlhf_gym.training import train

Vector = npt.NDArray[np.float32]


class CartToTarget(gym.Env[Vector, Vector]):
    """Push a cart along a rail to a target, and keep it there."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-2.0, 2.0, (3,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.position = self.velocity = self.target = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        """Draw where the cart and the target are."""
        super().reset(seed=seed)
        self.position, self.target = self.np_random.uniform(-1.0, 1.0, 2)
        self.velocity = 0.0
        return self._observe(), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Push against friction; never end early, so that the length tells nothing of the task."""
        self.velocity = 0.8 * self.velocity + 0.05 * float(np.clip(action[0], -1.0, 1.0))
        self.position = float(np.clip(self.position + self.velocity, -2.0, 2.0))
        return self._observe(), -abs(self.position - self.target), False, False, {}

    def _observe(self) -> Vector:
        return np.array([self.position, self.velocity, self.target], np.float32)


if "CartToTarget-v0" not in gym.registry:
    gym.register("CartToTarget-v0", entry_point="own_env:CartToTarget", max_episode_steps=50)


def main(steps: int = 24_000, seed: int = 0) -> tuple[float, float]:
    """True return of random actions, and of the agent trained from 100 answers."""
    config = TrainConfig(
        env="own_env:CartToTarget-v0",  # module:id, so that evaluate and watch find it as well
        labels=100,
        steps=steps,
        rounds=6,
        clip_length=10,
        seed=seed,
    )
    summary = json.loads(train(config, quiet=True).summary_path.read_text())
    return summary["reference"]["random_return_mean"], summary["true_return_mean"]


if __name__ == "__main__":
    before, after = main()
    print(f"true return: {before:.1f} at random, {after:.1f} after training")
