"""Reacher: Gymnasium's v5 robot without control cost."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv as GymnasiumReacherEnv
from gymnasium.utils import EzPickle

from rlhf_gym.data import Array
from rlhf_gym.envs.cameras import still

__all__ = ["ReacherEnv"]

_FROM_ABOVE = {"distance": 0.85, "elevation": -90.0, "azimuth": 90.0, "lookat": np.zeros(3)}


class ReacherEnv(GymnasiumReacherEnv):
    """An arm of two links brings its fingertip to a target and keeps it there (Reacher-v5).

    ## Description
    Two links of 0.1 m on a table, driven at both hinges, simulated by MuJoCo at 0.01 s per
    simulation step and 2 simulation steps per action (0.02 s). Robot, dynamics, actions and
    starting states are Reacher-v5's, inherited unchanged.

    What differs from Reacher-v5, in full:

    - No control cost: nobody can see one in a clip. The return is therefore higher than v5's.
    - The fingertip's place, in observation and reward, belongs to the state after the step. v5
      reads it where MuJoCo's integration left it, up to about 1 mm off.
    - `info["rlhf_gym.sim_state"]`, after `reset` and every `step`: the simulator state that belongs
      to the observation beside it: float64 (9,), time, 4 positions, 4 velocities in MuJoCo's
      order, from which any clip is rendered later.
      The target's place is two of the positions: a restored state shows the right target.
    - The camera looks straight down, so that distances are seen as they are.
    - The id is `rlhf_gym/Reacher-v0`. The horizon is the same, 50 steps: every episode is
      truncated there and none ever terminates.

    ## Action Space
    `Box(-1, 1, (2,), float32)`: torques, scaled by the joints' gear. The simulator bounds them.

    | Num | Action | Range | Unit |
    | --- | --- | --- | --- |
    | 0 | hinge at the table | -1 to 1 | torque / 200 N m |
    | 1 | hinge between the links | -1 to 1 | torque / 200 N m |

    ## Observation Space
    `Box(-inf, inf, (10,), float64)`.

    | Num | Observation | Unit |
    | --- | --- | --- |
    | 0, 1 | cosines of the two angles | 1 |
    | 2, 3 | sines of the two angles | 1 |
    | 4, 5 | place of the target, x and y | m |
    | 6, 7 | angular velocities of the two hinges | rad/s |
    | 8, 9 | from the target to the fingertip, x and y | m |

    ## Rewards
    Minus the distance from the fingertip to the target after the step (m), between about -0.41
    and 0. Uniformly random actions return -10.1 ± 2.7 (mean and deviation of 20 episodes,
    resets seeded 0 to 19, `action_space.seed(0)`).

    ## Starting State
    Both angles uniform within 0.1 rad of stretched along x, angular velocities within 0.005 rad/s;
    the target uniform over the disc of radius 0.2 m around the first hinge, at rest.

    ## Episode End
    Truncated after 50 steps; never terminated.

    ## Arguments
    Those of Reacher-v5, by name: `xml_file`, `frame_skip`, `reward_dist_weight`,
    `reward_control_weight` (default 0.0), and the camera's.

    ## Version History
    - v0: first version.
    """

    def __init__(self, **of_v5: Any) -> None:
        arguments = {"reward_control_weight": 0.0} | still(of_v5, _FROM_ABOVE)
        super().__init__(**arguments)
        EzPickle.__init__(self, **arguments)

    def do_simulation(self, ctrl: Array, n_frames: int) -> None:
        """Simulate, then place the bodies where the state says they are."""
        super().do_simulation(ctrl, n_frames)
        # MuJoCo leaves them at the last stage of its integration, up to a millimetre off.
        mujoco.mj_kinematics(self.model, self.data)
