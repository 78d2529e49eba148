"""HalfCheetah: Gymnasium's v5 robot, registered for learning from preferences."""

from __future__ import annotations

from typing import Any

from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv as GymnasiumHalfCheetahEnv
from gymnasium.utils import EzPickle

from rlhf_gym.envs.cameras import following

__all__ = ["HalfCheetahEnv"]


class HalfCheetahEnv(GymnasiumHalfCheetahEnv):
    """A two-legged planar robot runs forward as fast as it can (Gymnasium's HalfCheetah-v5).

    ## Description
    Nine rigid links with six driven hinges (Wawrzyński 2009), simulated by MuJoCo at 0.01 s per
    simulation step and 5 simulation steps per action (0.05 s). Robot, dynamics, observations,
    actions, starting states and reward are HalfCheetah-v5's, inherited unchanged: returns compare
    with published HalfCheetah-v5 returns made with the same MuJoCo version.

    What differs from HalfCheetah-v5, in full:

    - `info["rlhf_gym.sim_state"]`, after `reset` and every `step`: the simulator state that belongs
      to the observation beside it: float64 (19,), time, 9 positions, 9 velocities in MuJoCo's
      order, from which any clip is rendered later.
    - Pictures are taken by the model's camera that follows the robot; Gymnasium's stands still.
    - The id is `rlhf_gym/HalfCheetah-v0`. The horizon is the same, 1000 steps: every episode is
      truncated there and none ever terminates, so that its length says nothing about the task.

    ## Action Space
    `Box(-1, 1, (6,), float32)`: torques, scaled by each joint's gear.

    | Num | Action | Range | Unit |
    | --- | --- | --- | --- |
    | 0 | back thigh | -1 to 1 | torque / 120 N m |
    | 1 | back shin | -1 to 1 | torque / 90 N m |
    | 2 | back foot | -1 to 1 | torque / 60 N m |
    | 3 | front thigh | -1 to 1 | torque / 120 N m |
    | 4 | front shin | -1 to 1 | torque / 60 N m |
    | 5 | front foot | -1 to 1 | torque / 30 N m |

    The simulator bounds the torques; the control cost below counts the action as it was given.

    ## Observation Space
    `Box(-inf, inf, (17,), float64)`; the position along the track is left out.

    | Num | Observation | Unit |
    | --- | --- | --- |
    | 0 | height of the front tip | m |
    | 1 | angle of the front tip | rad |
    | 2 to 4 | angles of back thigh, shin, foot | rad |
    | 5 to 7 | angles of front thigh, shin, foot | rad |
    | 8 | velocity of the front tip along the track | m/s |
    | 9 | vertical velocity of the front tip | m/s |
    | 10 | angular velocity of the front tip | rad/s |
    | 11 to 13 | angular velocities of back thigh, shin, foot | rad/s |
    | 14 to 16 | angular velocities of front thigh, shin, foot | rad/s |

    ## Rewards
    Forward velocity over the step (m/s) minus 0.1 times the sum of the squared actions. Returns of
    random actions lie near -280 per episode.

    ## Starting State
    The robot's rest pose with positions disturbed uniformly by up to 0.1 and velocities by
    normal noise of standard deviation 0.1.

    ## Episode End
    Truncated after 1000 steps; never terminated.

    ## Arguments
    Those of HalfCheetah-v5: `xml_file`, `frame_skip`, `forward_reward_weight`, `ctrl_cost_weight`,
    `reset_noise_scale`, `exclude_current_positions_from_observation`, and the camera's. By default
    pictures of 480 x 480 pixels are taken by the camera that follows the robot.

    ## Version History
    - v0: first version.
    """

    def __init__(self, **of_v5: Any) -> None:
        arguments = following(of_v5)
        super().__init__(**arguments)
        EzPickle.__init__(self, **arguments)
