"""Pendulum: Gymnasium's v1 task with a state to render from."""

from __future__ import annotations

import numpy as np
from gymnasium.envs.classic_control.pendulum import PendulumEnv as GymnasiumPendulumEnv

from rlhf_gym.data import Array

__all__ = ["PendulumEnv"]


class PendulumEnv(GymnasiumPendulumEnv):
    """A motor too weak to lift a pendulum at once swings it up and keeps it there (Pendulum-v1).

    ## Description
    A rod of 1 m and 1 kg on a driven hinge, by its own equations of motion at 0.05 s per action;
    it needs no MuJoCo. Everything is Pendulum-v1's, inherited unchanged: returns compare with
    published ones.

    What differs from Pendulum-v1, in full:

    - `info["rlhf_gym.sim_state"]`, after `reset` and every `step`: what the picture is drawn
      from, float64 (3,): angle, angular velocity, torque; any clip is rendered from it later.
    - The id is `rlhf_gym/Pendulum-v0`. The horizon is the same, 200 steps.

    ## Action Space
    `Box(-2, 2, (1,), float32)`; what lies outside is put at the bounds.

    | Num | Action | Range | Unit |
    | --- | --- | --- | --- |
    | 0 | torque, positive counter-clockwise | -2 to 2 | N m |

    ## Observation Space
    `Box((-1, -1, -8), (1, 1, 8), (3,), float32)`.

    | Num | Observation | Range | Unit |
    | --- | --- | --- | --- |
    | 0 | cosine of the angle from upright | -1 to 1 | 1 |
    | 1 | sine of the same | -1 to 1 | 1 |
    | 2 | angular velocity | -8 to 8 | rad/s |

    ## Rewards
    -(angle² + 0.1 velocity² + 0.001 torque²), with angle from upright within pi (rad) and velocity
    (rad/s) before the step: between -16.3 and 0. Uniformly random actions return -1246 ± 270
    (mean and deviation of 20 episodes, resets seeded 0 to 19, `action_space.seed(0)`).

    ## Starting State
    Angle uniform over the circle, angular velocity uniform within 1 rad/s.

    ## Episode End
    Truncated after 200 steps; never terminated.

    ## Arguments
    Those of Pendulum-v1: `render_mode`, and `g`, the gravity in m/s² (default 10.0).

    ## Version History
    - v0: first version.
    """

    def __init__(self, render_mode: str | None = None, g: float = 10.0) -> None:
        super().__init__(render_mode, g)
        # v1 has neither before its first reset, yet a stored clip is drawn by an env never reset.
        self.state, self.last_u = np.zeros(2), None

    def get_extra_state(self) -> Array:
        """What a picture is drawn from, (3,): angle (rad), angular velocity (rad/s), torque (N m).

        The torque is the last one applied, 0.0 before the first.
        """
        return np.array([*self.state, self.last_u or 0.0])

    def set_extra_state(self, state: Array) -> None:
        """Restore what `get_extra_state` returned."""
        self.state, self.last_u = state[:2].copy(), float(state[2])
