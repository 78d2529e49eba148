"""Swimmer: Gymnasium's v5 robot without control cost."""

from __future__ import annotations

from typing import Any

from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv as GymnasiumSwimmerEnv
from gymnasium.utils import EzPickle

from rlhf_gym.envs.cameras import following

__all__ = ["SwimmerEnv"]


class SwimmerEnv(GymnasiumSwimmerEnv):
    """A snake of three links swims forward through a viscous fluid as fast as it can (Swimmer-v5).

    ## Description
    Three rigid links with two driven hinges between them (Coulom 2002) in a plane of viscous fluid,
    simulated by MuJoCo at 0.01 s per simulation step and 4 simulation steps per action (0.04 s).
    Robot, dynamics, observations, actions and starting states are Swimmer-v5's, inherited
    unchanged.

    What differs from Swimmer-v5, in full:

    - No control cost: nobody can see one in a clip. It was at most 0.2 per episode.
    - `info["rlhf_gym.sim_state"]`, after `reset` and every `step`: the simulator state that belongs
      to the observation beside it: float64 (11,), time, 5 positions, 5 velocities in MuJoCo's
      order, from which any clip is rendered later.
    - Pictures are taken by the model's camera that follows the robot; Gymnasium's stands still.
    - The id is `rlhf_gym/Swimmer-v0`. The horizon is the same, 1000 steps: every episode is
      truncated there and none ever terminates.

    ## Action Space
    `Box(-1, 1, (2,), float32)`: torques, scaled by the joints' gear. The simulator bounds them.

    | Num | Action | Range | Unit |
    | --- | --- | --- | --- |
    | 0 | first hinge, behind the head | -1 to 1 | torque / 150 N m |
    | 1 | second hinge | -1 to 1 | torque / 150 N m |

    ## Observation Space
    `Box(-inf, inf, (8,), float64)`; the position in the plane is left out.

    | Num | Observation | Unit |
    | --- | --- | --- |
    | 0 | angle of the head against the x axis | rad |
    | 1, 2 | angles of the two hinges | rad |
    | 3, 4 | velocity of the head's tip along x, y | m/s |
    | 5 | angular velocity of the head | rad/s |
    | 6, 7 | angular velocities of the two hinges | rad/s |

    ## Rewards
    Velocity along x over the step (m/s). Uniformly random actions return -3.1 ± 7.9 (mean and
    deviation of 20 episodes, resets seeded 0 to 19, `action_space.seed(0)`).

    ## Starting State
    Stretched along x, positions and velocities each disturbed uniformly by up to 0.1.

    ## Episode End
    Truncated after 1000 steps; never terminated.

    ## Arguments
    Those of Swimmer-v5, by name: `xml_file`, `frame_skip`, `forward_reward_weight`,
    `ctrl_cost_weight` (default 0.0), `reset_noise_scale`,
    `exclude_current_positions_from_observation`, and the camera's.

    ## Version History
    - v0: first version.
    """

    def __init__(self, **of_v5: Any) -> None:
        arguments = {"ctrl_cost_weight": 0.0} | following(of_v5)
        super().__init__(**arguments)
        EzPickle.__init__(self, **arguments)
