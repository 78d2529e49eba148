"""Ant: Gymnasium's v5 robot, never terminated, with a cost of turning over."""

from __future__ import annotations

from typing import Any

from gymnasium.envs.mujoco.ant_v5 import AntEnv as GymnasiumAntEnv
from gymnasium.utils import EzPickle

from rlhf_gym.data import Array
from rlhf_gym.envs.cameras import following
from rlhf_gym.envs.upright import turned_over_cost

__all__ = ["AntEnv"]

_DEFAULTS: dict[str, Any] = {
    "ctrl_cost_weight": 0.0,
    "contact_cost_weight": 0.0,
    "healthy_reward": 0.0,
    "terminate_when_unhealthy": False,
    "include_cfrc_ext_in_observation": False,
}


class AntEnv(GymnasiumAntEnv):
    """A robot with four legs runs forward as fast as it can, on its feet (Ant-v5).

    ## Description
    A ball with four legs of two links, eight driven hinges (Schulman et al. 2015), free in space,
    simulated by MuJoCo at 0.01 s per simulation step and 5 simulation steps per action (0.05 s).
    Robot, dynamics, actions and starting states are Ant-v5's, inherited unchanged.

    What differs from Ant-v5, in full:

    - Never terminated, where v5 ends an episode as soon as the torso is lower than 0.2 m or higher
      than 1 m: that would tell the agent about the task through the episode's length. In its place
      stands a cost that is seen in any clip, of turning over: 1 - up, with up the vertical
      component of the torso's own vertical axis. It is 0 upright, 1 on the side and 2 on the back,
      twice what a slow run of 1 m/s earns, and smooth, so that every turn back pays at once.
    - No bonus for being alive, which cannot be lost any more, and no cost of control or contact
      forces, which nobody can see in a clip.
    - The contact forces are left out of the observation: 27 numbers of v5's 105.
    - 300 steps (15 s) per episode in place of 1000.
    - `info["rlhf_gym.sim_state"]`, after `reset` and every `step`: the simulator state that belongs
      to the observation beside it: float64 (30,), time, 15 positions, 14 velocities in MuJoCo's
      order, from which any clip is rendered later.
    - Pictures are taken by the model's camera that follows the robot; Gymnasium's stands still.
    - The id is `rlhf_gym/Ant-v0`.

    ## Action Space
    `Box(-1, 1, (8,), float32)`: torques, scaled by the joints' gear. The simulator bounds them.

    | Num | Action | Range | Unit |
    | --- | --- | --- | --- |
    | 0, 1 | hip and ankle of the right back leg | -1 to 1 | torque / 150 N m |
    | 2, 3 | hip and ankle of the left front leg | -1 to 1 | torque / 150 N m |
    | 4, 5 | hip and ankle of the right front leg | -1 to 1 | torque / 150 N m |
    | 6, 7 | hip and ankle of the left back leg | -1 to 1 | torque / 150 N m |

    ## Observation Space
    `Box(-inf, inf, (27,), float64)`; the position in the plane is left out.

    | Num | Observation | Unit |
    | --- | --- | --- |
    | 0 | height of the torso | m |
    | 1 to 4 | orientation of the torso, a quaternion w, x, y, z | 1 |
    | 5 to 12 | angles of hip and ankle, leg by leg as in the model | rad |
    | 13 to 15 | velocity of the torso along x, y, z | m/s |
    | 16 to 18 | angular velocity of the torso around its own x, y, z | rad/s |
    | 19 to 26 | angular velocities of hip and ankle, leg by leg | rad/s |

    The legs in the model's order: front left, front right, back left, back right.

    ## Rewards
    Velocity of the torso along x over the step (m/s) minus (1 - up). Uniformly random actions
    return -351 ± 145 (mean and deviation of 20 episodes, resets seeded 0 to 19,
    `action_space.seed(0)`).

    ## Starting State
    Standing at 0.75 m, positions disturbed uniformly by up to 0.1, velocities by normal noise of
    standard deviation 0.1.

    ## Episode End
    Truncated after 300 steps; never terminated.

    ## Arguments
    Those of Ant-v5, by name, and the camera's. Other defaults than v5's: `ctrl_cost_weight`,
    `contact_cost_weight` and `healthy_reward` are 0.0, `terminate_when_unhealthy` and
    `include_cfrc_ext_in_observation` are False.

    ## Version History
    - v0: first version.
    """

    def __init__(self, **of_v5: Any) -> None:
        arguments = _DEFAULTS | following(of_v5)
        super().__init__(**arguments)
        EzPickle.__init__(self, **arguments)

    def _get_rew(self, x_velocity: float, action: Array) -> tuple[float, dict[str, float]]:
        reward, terms = super()._get_rew(x_velocity, action)
        cost = turned_over_cost(*self.data.qpos[3:7].tolist())
        return reward - cost, {**terms, "reward_upright": -cost}
