"""A robot of your own, simulated by MuJoCo and observed as a Dict, trained from preferences."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from rlhf_gym.train_config import TrainConfig
from rlhf_gym.training import train

GANTRY = """<mujoco><option timestep="0.02"/>
<default><geom contype="0" conaffinity="0"/><joint type="slide" damping="5"/></default>
<worldbody><light pos="0 0 3"/><camera name="top" pos="0 0 3"/>
  <body><joint name="x" axis="1 0 0" range="-1 1"/><joint name="y" axis="0 1 0" range="-1 1"/>
    <geom type="capsule" fromto="0 0 0.1 0 0 0.3" size="0.05" mass="1"/></body>
  <body name="mark" mocap="true"><geom type="cylinder" size="0.1 0.01" rgba="1 0 0 1"/></body>
</worldbody><actuator><motor joint="x" gear="5"/><motor joint="y" gear="5"/></actuator></mujoco>"""


class Gantry(gym.Env[dict[str, Any], Any]):
    """Bring the tool of a gantry robot over a mark, ten actions a second."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.model = mujoco.MjModel.from_xml_string(GANTRY)  # clips are drawn from model and data
        self.data = mujoco.MjData(self.model)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)  # share of 5 N
        vector = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        names = ("position", "velocity", "to_mark", "motor_temperature")
        self.observation_space = gym.spaces.Dict({name: vector for name in names})

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Draw where tool and mark are."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.mocap_pos[0, :2] = self.np_random.uniform(-1, 1, (2, 2))
        mujoco.mj_forward(self.model, self.data)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The true reward is the negative distance in metres; no episode ends early."""
        self.data.ctrl[:] = np.clip(action, -1.0, 1.0)
        mujoco.mj_step(self.model, self.data, nstep=5)
        obs = self._observe()
        return obs, -float(np.linalg.norm(obs["to_mark"])), False, False, {}

    def _observe(self) -> dict[str, Any]:
        parts = {"position": self.data.qpos.copy(), "velocity": self.data.qvel.copy()}
        parts["motor_temperature"] = self.np_random.normal(40.0, 5.0, 2)  # of no use: not chosen
        return {**parts, "to_mark": self.data.mocap_pos[0, :2] - self.data.qpos}

    def render(self) -> Any:
        """(240, 320, 3) uint8, from above."""
        with mujoco.Renderer(self.model, 240, 320) as renderer:
            renderer.update_scene(self.data, camera="top")
            return renderer.render()


if "Gantry-v0" not in gym.registry:
    gym.register("Gantry-v0", entry_point="own_robot:Gantry", max_episode_steps=50)


def main(steps: int = 24_000, seed: int = 0) -> tuple[float, float]:
    """True return of random actions, and of the agent trained from 200 answers."""
    keys = ("position", "velocity", "to_mark")
    config = TrainConfig(
        env="own_robot:Gantry-v0", obs_keys=keys, labels=200, steps=steps, clip_length=10, seed=seed
    )
    summary = json.loads(train(config, quiet=True).summary_path.read_text())
    return summary["reference"]["random_return_mean"], summary["true_return_mean"]


if __name__ == "__main__":
    print("true return: {:.1f} at random, {:.1f} after training".format(*main()))
