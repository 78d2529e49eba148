"""InvertedDoublePendulum: Gymnasium's v5 robot, never terminated, rewarded by its tip's height."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
from gymnasium.envs.mujoco.inverted_double_pendulum_v5 import (
    InvertedDoublePendulumEnv as GymnasiumInvertedDoublePendulumEnv,
)
from gymnasium.utils import EzPickle

from rlhf_gym.data import Array
from rlhf_gym.envs.cameras import still

__all__ = ["InvertedDoublePendulumEnv"]

_FROM_THE_SIDE = {"distance": 4.0, "elevation": -5.0, "azimuth": 90.0, "lookat": np.zeros(3)}


class InvertedDoublePendulumEnv(GymnasiumInvertedDoublePendulumEnv):
    """A cart keeps two poles upright, one standing on the other (InvertedDoublePendulum-v5).

    ## Description
    A cart on a rail of 2 m carries a pole of 0.6 m, and that one another, on free hinges (Barto et
    al. 1983, with a second pole), simulated by MuJoCo at 0.01 s per simulation step and 5
    simulation steps per action (0.05 s). Robot, dynamics, observations, actions and starting states
    are InvertedDoublePendulum-v5's, inherited unchanged.

    What differs from InvertedDoublePendulum-v5, in full:

    - Never terminated. v5 ends an episode when the tip is at most 1 m above the rail, a random one
      within 5 to 12 steps: that would tell the agent about the task through the episode's length.
    - The reward is the height of the tip, in place of a bonus for being alive and costs of
      displacement and velocity. The height belongs to the state after the step; v5 reads it where
      MuJoCo's integration left it.
    - 50 steps (2.5 s) per episode in place of 1000.
    - `info["rlhf_gym.sim_state"]`, after `reset` and every `step`: the simulator state that belongs
      to the observation beside it: float64 (7,), time, 3 positions, 3 velocities in MuJoCo's
      order, from which any clip is rendered later.
      Observation 8, a force, is the one number that a restored state does not bring back.
    - The camera stands before the rail, near enough to see the poles.
    - The id is `rlhf_gym/InvertedDoublePendulum-v0`.

    ## Action Space
    `Box(-1, 1, (1,), float32)`. The simulator bounds it.

    | Num | Action | Range | Unit |
    | --- | --- | --- | --- |
    | 0 | force on the cart | -1 to 1 | force / 500 N |

    ## Observation Space
    `Box(-inf, inf, (9,), float64)`.

    | Num | Observation | Unit |
    | --- | --- | --- |
    | 0 | position of the cart on its rail | m |
    | 1, 2 | sines of the angles of the lower and the upper hinge | 1 |
    | 3, 4 | cosines of the same | 1 |
    | 5 | velocity of the cart, within 10 | m/s |
    | 6, 7 | angular velocities of the lower and the upper hinge, within 10 | rad/s |
    | 8 | force of the rail's ends on the cart, within 10 | N |

    ## Rewards
    Height of the upper pole's tip above the rail after the step (m), between -1.2 and 1.2: 1.2
    per step where both poles stand. Uniformly random actions return 5.7 ± 9.6 (mean and
    deviation of 20 episodes, resets seeded 0 to 19, `action_space.seed(0)`).

    ## Starting State
    Both poles upright in the middle of the rail, positions disturbed uniformly by up to 0.1,
    velocities by normal noise of standard deviation 0.1.

    ## Episode End
    Truncated after 50 steps; never terminated.

    ## Arguments
    Those of InvertedDoublePendulum-v5, by name: `xml_file`, `frame_skip`, `reset_noise_scale`, and
    the camera's. `healthy_reward` has no effect.

    ## Version History
    - v0: first version.
    """

    def __init__(self, **of_v5: Any) -> None:
        arguments = still(of_v5, _FROM_THE_SIDE)
        super().__init__(**arguments)
        EzPickle.__init__(self, **arguments)

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float64], np.float64, bool, bool, dict[str, np.float64]]:
        """Step the robot; `terminated` is always False."""
        step_of_v5: Any = super().step
        obs, reward, _, truncated, info = step_of_v5(action)
        return obs, reward, False, truncated, info

    def do_simulation(self, ctrl: Array, n_frames: int) -> None:
        """Simulate, then place the poles where the state says they are."""
        super().do_simulation(ctrl, n_frames)
        # MuJoCo leaves them at the last stage of its integration, slightly off.
        mujoco.mj_kinematics(self.model, self.data)

    def _get_rew(
        self, x: float, y: np.float64, terminated: bool
    ) -> tuple[np.float64, dict[str, np.float64]]:
        return y, {"reward_height": y}
