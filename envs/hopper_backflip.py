"""HopperBackflip: Gymnasium's v5 Hopper, rewarded for backflips."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv as GymnasiumHopperEnv
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle

from rlhf_gym.data import Array
from rlhf_gym.envs.backflips import BackflipCounter, Contact
from rlhf_gym.envs.cameras import following

__all__ = ["LYING_COST", "HopperBackflipEnv"]

LYING_COST = 0.005
"""What each step costs in which anything but the foot touches the floor."""


class HopperBackflipEnv(GymnasiumHopperEnv):
    """A robot with one leg turns backflips and lands them on its foot (Hopper-v5's body).

    ## Description
    Torso, thigh, leg and foot with three driven hinges, in a plane (Erez et al. 2011), simulated
    by MuJoCo at 0.002 s per simulation step and 4 simulation steps per action (0.008 s). Christiano
    et al. 2017 taught this robot backflips from 900 answers, because nobody could write the reward
    down; here is one that is written down, to answer with, and to count by. Robot, dynamics,
    actions and starting states are Hopper-v5's, inherited unchanged.

    What differs from Hopper-v5, in full:

    - The reward: backward rotation in the air, followed by landing (below).
    - `info["backflips"]`, after every `step`, counts those landed in this episode.
    - Never terminated; 300 steps (2.4 s) per episode in place of 1000.
    - The observation has sine and cosine of the torso's angle in place of the angle, which grows
      by 6.28 with every turn, and its velocities are not held within 10: a flip turns at 20 rad/s.
    - `info["rlhf_gym.sim_state"]`, after `reset` and every `step`: the simulator state that belongs
      to the observation beside it: float64 (19,), time, 6 positions, 6 velocities in MuJoCo's
      order, and the 6 numbers of the counter of backflips, from which any clip is rendered later.
    - Pictures are taken by the model's camera that follows the robot; Gymnasium's stands still.
    - The id is `rlhf_gym/HopperBackflip-v0`.

    ## Action Space
    `Box(-1, 1, (3,), float32)`: torques, scaled by the joints' gear. The simulator bounds them.

    | Num | Action | Range | Unit |
    | --- | --- | --- | --- |
    | 0 | thigh | -1 to 1 | torque / 200 N m |
    | 1 | leg | -1 to 1 | torque / 200 N m |
    | 2 | foot | -1 to 1 | torque / 200 N m |

    ## Observation Space
    `Box(-inf, inf, (12,), float64)`; the position along the track is left out.

    | Num | Observation | Unit |
    | --- | --- | --- |
    | 0 | height of the torso | m |
    | 1, 2 | sine and cosine of the torso's angle, positive forward | 1 |
    | 3 to 5 | angles of thigh, leg, foot | rad |
    | 6, 7 | velocity of the torso along the track and upwards | m/s |
    | 8 | angular velocity of the torso, negative in a backflip | rad/s |
    | 9 to 11 | angular velocities of thigh, leg, foot | rad/s |

    ## Rewards
    The gain in credit over the step, less 0.005 where anything but the foot touches the floor.
    Credit is 2 pi + 5 for each backflip landed, and for the attempt under way

    - backward rotation since the robot last stood, in rad, less what goes beyond one turn; or 4/3
      of the backward rotation in the air, if that is less;
    - after a turn with three quarters in the air, 5/8 times the cosine of the angle for every step
      on the foot, unless the robot is upside down.

    The angle is the mean of torso, thigh, leg and foot: this robot folds its torso by a turn while
    its foot still points up.

    When these cosines add up to 8 (0.064 s upright, 0.128 s leaning by 60 degrees) the robot
    stands, and the attempt ends: with a turn, three quarters of it in the air, it was a backflip,
    and anything else is worth nothing. Once the body touches the floor nothing more is earned until
    the robot stands again, which takes back what the attempt had earned. So spinning on the floor,
    rocking to and fro and forward somersaults earn nothing, and an episode without a backflip
    earns less than 2 pi + 5. `rlhf_gym.envs.backflips` does the arithmetic. Uniformly random
    actions return -0.1 ± 0.6 (mean and deviation of 20 episodes, resets seeded 0 to 19,
    `action_space.seed(0)`).

    ## Starting State
    Upright, the torso at 1.25 m, positions and velocities disturbed uniformly by up to 0.005.

    ## Episode End
    Truncated after 300 steps; never terminated.

    ## Arguments
    Those of Hopper-v5, by name, and the camera's. `terminate_when_unhealthy` is False by default;
    the weights of v5's reward have no effect.

    ## Version History
    - v0: first version.
    """

    def __init__(self, **of_v5: Any) -> None:
        arguments = {"terminate_when_unhealthy": False} | following(of_v5)
        super().__init__(**arguments)
        EzPickle.__init__(self, **arguments)
        self._counter = BackflipCounter()
        self._angle_before = 0.0
        self._floor = self.model.geom("floor").id
        self._foot = self.model.geom("foot_geom").id
        n_values = len(self._get_obs())
        self.observation_space = Box(-np.inf, np.inf, (n_values,), np.float64)

    def _get_obs(self) -> Array:
        qpos, qvel = self.data.qpos, self.data.qvel
        angle = qpos[2]
        return np.concatenate(([qpos[1], np.sin(angle), np.cos(angle)], qpos[3:], qvel))

    def body_angle(self) -> float:
        """Mean angle of the four links from upright in rad, positive forward, not wrapped.

        The torso alone would do for a robot of one piece; this one folds its torso by a turn while
        its foot still points up.
        """
        torso, thigh, leg, foot = self.data.qpos[2:6].tolist()
        # Joints count backward: the thigh leans by torso - thigh, the leg by that - leg, and so on.
        return float(torso - (3 * thigh + 2 * leg + foot) / 4)

    def contact(self) -> Contact:
        """What of the robot touches the floor now."""
        pairs = self.data.contact.geom
        on_floor = pairs[(pairs == self._floor).any(axis=1)]
        if not len(on_floor):
            return Contact.AIR
        return Contact.FOOT if (on_floor == self._foot).any(axis=1).all() else Contact.BODY

    def do_simulation(self, ctrl: Array, n_frames: int) -> None:
        """Simulate, having noted the body's angle before."""
        self._angle_before = self.body_angle()
        super().do_simulation(ctrl, n_frames)

    def _get_rew(self, x_velocity: float, action: Array) -> tuple[float, dict[str, float]]:
        contact = self.contact()
        counter = self._counter.after(self._angle_before, self.body_angle(), contact)
        earned = counter.credit - self._counter.credit
        lying = LYING_COST if contact == Contact.BODY else 0.0
        self._counter = counter
        terms = {"reward_flip": earned, "reward_lying": -lying, "backflips": counter.n_backflips}
        return earned - lying, terms

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode, with no backflips counted."""
        self._counter = BackflipCounter()
        started: tuple[Array, dict[str, Any]] = super().reset(seed=seed, options=options)
        return started

    def get_extra_state(self) -> Array:
        """The fields of the counter of backflips in their order, (6,)."""
        return np.array(astuple(self._counter), np.float64)

    def set_extra_state(self, state: Array) -> None:
        """Restore what `get_extra_state` returned."""
        turned, in_air, steadiness, fallen, kept, n_backflips = state.tolist()
        self._counter = BackflipCounter(
            turned, in_air, steadiness, bool(fallen), kept, int(n_backflips)
        )
