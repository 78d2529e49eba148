"""Walker2d: Gymnasium's v5 robot, never terminated, with a cost of height and angle instead."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv as GymnasiumWalker2dEnv
from gymnasium.utils import EzPickle

from rlhf_gym.data import Array
from rlhf_gym.envs.cameras import following
from rlhf_gym.envs.upright import upright_reward

__all__ = ["Walker2dEnv"]

_DEFAULTS: dict[str, Any] = {"ctrl_cost_weight": 0.0, "terminate_when_unhealthy": False}


class Walker2dEnv(GymnasiumWalker2dEnv):
    """A robot with two legs walks forward as fast as it can, upright (Walker2d-v5).

    ## Description
    A torso on two legs of thigh, leg and foot, six driven hinges, in a plane, simulated by MuJoCo
    at 0.002 s per simulation step and 4 simulation steps per action (0.008 s). Robot, dynamics,
    observations, actions and starting states are Walker2d-v5's, inherited unchanged.

    What differs from Walker2d-v5, in full:

    - Never terminated. v5 ends an episode when the robot falls, a random one within 10 to 57 steps:
      that would tell the agent about the task through the episode's length, and without it the task
      is another one. In termination's place stand two dense costs that are seen in any clip, of a
      low and of a tilted torso; the bonus for being alive is paid at every step.
    - No control cost: nobody can see one in a clip.
    - 300 steps (2.4 s) per episode in place of 1000.
    - `info["rlhf_gym.sim_state"]`, after `reset` and every `step`: the simulator state that belongs
      to the observation beside it: float64 (19,), time, 9 positions, 9 velocities in MuJoCo's
      order, from which any clip is rendered later.
    - Pictures are taken by the model's camera that follows the robot; Gymnasium's stands still.
    - The id is `rlhf_gym/Walker2d-v0`.

    ## Action Space
    `Box(-1, 1, (6,), float32)`: torques, scaled by the joints' gear. The simulator bounds them.

    | Num | Action | Range | Unit |
    | --- | --- | --- | --- |
    | 0 to 2 | thigh, leg, foot of the right leg | -1 to 1 | torque / 100 N m |
    | 3 to 5 | thigh, leg, foot of the left leg | -1 to 1 | torque / 100 N m |

    ## Observation Space
    `Box(-inf, inf, (17,), float64)`; the position along the track is left out.

    | Num | Observation | Unit |
    | --- | --- | --- |
    | 0 | height of the torso | m |
    | 1 | angle of the torso, positive forward; whole turns are not taken off | rad |
    | 2 to 4 | angles of thigh, leg, foot of the right leg | rad |
    | 5 to 7 | angles of thigh, leg, foot of the left leg | rad |
    | 8, 9 | velocity of the torso along the track and upwards, within 10 | m/s |
    | 10 | angular velocity of the torso, within 10 | rad/s |
    | 11 to 13 | angular velocities of thigh, leg, foot of the right leg, within 10 | rad/s |
    | 14 to 16 | angular velocities of thigh, leg, foot of the left leg, within 10 | rad/s |

    ## Rewards
    v + 1 - 2 max(0, 1.1 - height) - |angle|, with v the velocity over the step (m/s), height
    (m) and angle (rad) those of the torso after it. Standing still earns 1 per step, lying on
    the floor about -2.5. Whole turns are not taken off the angle: rolling forward does not pay.
    Uniformly random actions return -1043 ± 422 (mean and deviation of 20 episodes, resets
    seeded 0 to 19, `action_space.seed(0)`).

    ## Starting State
    Upright, the torso at 1.25 m, positions and velocities disturbed uniformly by up to 0.005.

    ## Episode End
    Truncated after 300 steps; never terminated.

    ## Arguments
    Those of Walker2d-v5, by name, and the camera's. Other defaults than v5's: `ctrl_cost_weight` is
    0.0, `terminate_when_unhealthy` False. `healthy_reward` is the bonus of every step.

    ## Version History
    - v0: first version.
    """

    def __init__(self, **of_v5: Any) -> None:
        arguments = _DEFAULTS | following(of_v5)
        super().__init__(**arguments)
        EzPickle.__init__(self, **arguments)

    def _get_rew(self, x_velocity: float, action: Array) -> tuple[float, dict[str, float]]:
        height, angle = self.data.qpos[1:3].tolist()
        return upright_reward(
            forward=self._forward_reward_weight * x_velocity,
            bonus=self._healthy_reward,
            control_cost=self._ctrl_cost_weight * float(np.square(action).sum()),
            height=height,
            angle=angle,
        )
