"""Hopper: Gymnasium's v5 robot, never terminated, with a cost of height and angle instead."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv as GymnasiumHopperEnv
from gymnasium.utils import EzPickle

from rlhf_gym.data import Array
from rlhf_gym.envs.cameras import following
from rlhf_gym.envs.upright import upright_reward

__all__ = ["HopperEnv"]

_DEFAULTS: dict[str, Any] = {"ctrl_cost_weight": 0.0, "terminate_when_unhealthy": False}


class HopperEnv(GymnasiumHopperEnv):
    """A robot with one leg hops forward as fast as it can, upright (Hopper-v5).

    ## Description
    Torso, thigh, leg and foot with three driven hinges, in a plane (Erez et al. 2011), simulated
    by MuJoCo at 0.002 s per simulation step and 4 simulation steps per action (0.008 s). Robot,
    dynamics, observations, actions and starting states are Hopper-v5's, inherited unchanged.

    What differs from Hopper-v5, in full:

    - Never terminated. v5 ends an episode when the robot falls, a random one within 10 to 73 steps:
      that would tell the agent about the task through the episode's length, and without it the task
      is another one. In termination's place stand two dense costs that are seen in any clip, of a
      low and of a tilted torso; the bonus for being alive is paid at every step.
    - No control cost: nobody can see one in a clip.
    - 300 steps (2.4 s) per episode in place of 1000.
    - `info["rlhf_gym.sim_state"]`, after `reset` and every `step`: the simulator state that belongs
      to the observation beside it: float64 (13,), time, 6 positions, 6 velocities in MuJoCo's
      order, from which any clip is rendered later.
    - Pictures are taken by the model's camera that follows the robot; Gymnasium's stands still.
    - The id is `rlhf_gym/Hopper-v0`.

    ## Action Space
    `Box(-1, 1, (3,), float32)`: torques, scaled by the joints' gear. The simulator bounds them.

    | Num | Action | Range | Unit |
    | --- | --- | --- | --- |
    | 0 | thigh | -1 to 1 | torque / 200 N m |
    | 1 | leg | -1 to 1 | torque / 200 N m |
    | 2 | foot | -1 to 1 | torque / 200 N m |

    ## Observation Space
    `Box(-inf, inf, (11,), float64)`; the position along the track is left out.

    | Num | Observation | Unit |
    | --- | --- | --- |
    | 0 | height of the torso | m |
    | 1 | angle of the torso, positive forward; whole turns are not taken off | rad |
    | 2 to 4 | angles of thigh, leg, foot | rad |
    | 5, 6 | velocity of the torso along the track and upwards, within 10 | m/s |
    | 7 | angular velocity of the torso, within 10 | rad/s |
    | 8 to 10 | angular velocities of thigh, leg, foot, within 10 | rad/s |

    ## Rewards
    v + 1 - 2 max(0, 1.1 - height) - |angle|, with v the velocity over the step (m/s), height
    (m) and angle (rad) those of the torso after it. Standing still earns 1 per step, lying on
    the floor about -2.5. Whole turns are not taken off the angle: rolling forward does not pay.
    Uniformly random actions return -785 ± 470 (mean and deviation of 20 episodes, resets seeded
    0 to 19, `action_space.seed(0)`).

    ## Starting State
    Upright, the torso at 1.25 m, positions and velocities disturbed uniformly by up to 0.005.

    ## Episode End
    Truncated after 300 steps; never terminated.

    ## Arguments
    Those of Hopper-v5, by name, and the camera's. Other defaults than v5's: `ctrl_cost_weight` is
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
