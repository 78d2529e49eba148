"""PointMass: the smallest control task that is worth labelling, with a known optimum."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rlhf_gym.data import Array
from rlhf_gym.errors import ConfigError

__all__ = ["PointMassEnv", "draw_point_mass"]

Vector = npt.NDArray[np.float32]

_PICTURE_SIZE = 160  # pixels per side
_WINDOW_SCALE = 3  # screen pixels per pixel
_VIEW = 1.15  # half the width of the picture, in the arena's units
_HAND = 3.0  # length of the hand, in velocities


class PointMassEnv(gym.Env[Vector, Vector]):
    """A point in a square arena moves to a goal and stays there; its optimum is known exactly.

    ## Description
    A point and a goal lie in the square [-1, 1] x [-1, 1]. The action is the point's velocity:

        position <- position + step_size * action, held within the arena.

    Both axes are driven independently (a square, not a disc, of velocities), so that after k steps
    the gap along each axis is at least max(0, |gap| - k * step_size), and driving each axis
    straight at the goal attains that bound on both axes at every step: it is optimal, and its
    return has a closed form (`optimal_action`, `optimal_return`).

    ## Action Space
    `Box(-1, 1, (2,), float32)`; what lies outside is put at the bounds.

    | Num | Action | Range | Unit |
    | --- | --- | --- | --- |
    | 0 | velocity to the right | -1 to 1 | step_size per step |
    | 1 | velocity upwards | -1 to 1 | step_size per step |

    ## Observation Space
    `Box(-1, 1, (4,), float32)`. Lengths are in units of half the arena's width.

    | Num | Observation | Range | Unit |
    | --- | --- | --- | --- |
    | 0, 1 | position of the point, right and up | -1 to 1 | length |
    | 2, 3 | position of the goal, right and up | -1 to 1 | length |

    ## Rewards
    Minus the distance from the point to the goal after the step: between -2.83 and 0. Over 50 steps
    the optimum averages near -4.3, uniformly random actions near -50.

    ## Starting State
    Point and goal, each uniform over [-0.9, 0.9] x [-0.9, 0.9]; at rest.

    ## Episode End
    Truncated after 50 steps (by the registered time limit); never terminated.

    ## Arguments
    - `render_mode`: None, "rgb_array" (160 x 160 pixels) or "human" (a window).
    - `step_size`: distance per step at full speed, above 0 and at most 1; default 0.1.

    ## Version History
    - v0: first version.

    Raises:
        ConfigError: `step_size` or `render_mode` is not one of the above.
    """

    # Gymnasium declares this as an instance variable, so ClassVar would not fit.
    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["human", "rgb_array"],
        "render_fps": 10,
    }

    def __init__(self, render_mode: str | None = None, step_size: float = 0.1) -> None:
        if not 0 < step_size <= 1:
            raise ConfigError(f"`step_size` is {step_size}, expected above 0 and at most 1.")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(
                f"`render_mode` is {render_mode!r}, expected None or one of "
                f"{self.metadata['render_modes']}."
            )
        self.render_mode = render_mode
        self.step_size = np.float32(step_size)
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        # All float32: a state stored in a clip (float32) restores these numbers exactly.
        self._position: Vector = np.zeros(2, np.float32)
        self._velocity: Vector = np.zeros(2, np.float32)
        self._goal: Vector = np.zeros(2, np.float32)
        self._window: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        """Draw a new start and a new goal; `options` are not used."""
        super().reset(seed=seed)
        start = self.np_random.uniform(-0.9, 0.9, 4).astype(np.float32)
        self._position, self._goal = start[:2], start[2:]
        self._velocity = np.zeros(2, np.float32)
        if self.render_mode == "human":
            self.render()
        return self._observe(), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Move the point by `step_size * action`."""
        before = self._position
        velocity = np.minimum(np.maximum(np.asarray(action, np.float32), -1), 1)
        self._position = np.minimum(np.maximum(before + self.step_size * velocity, -1), 1)
        self._velocity = self._position - before
        gap = self._position - self._goal
        if self.render_mode == "human":
            self.render()
        return self._observe(), -math.hypot(gap[0], gap[1]), False, False, {}

    def _observe(self) -> Vector:
        return np.concatenate((self._position, self._goal))

    def optimal_action(self, obs: Array) -> Vector:
        """The best action: each axis at full speed towards the goal, stopping on it.

        Args:
            obs: (..., 4) observations.

        Returns:
            (..., 2) float32.
        """
        gap = obs[..., 2:] - obs[..., :2]
        return np.clip(gap / self.step_size, -1, 1).astype(np.float32)

    def optimal_return(self, obs: Array, n_steps: int) -> float:
        """The highest sum of rewards that any n_steps actions can reach from `obs`, (4,).

        Minus the sum over k = 1..n_steps of the length of max(0, |gap| - k * step_size), taken
        per axis; see the class for why no policy does better.
        """
        gap = np.abs(obs[2:].astype(np.float64) - obs[:2])
        moved = np.arange(1, n_steps + 1) * float(self.step_size)
        left = np.maximum(0.0, gap - moved[:, None])  # (n_steps, 2)
        return -float(np.hypot(left[:, 0], left[:, 1]).sum())

    def get_extra_state(self) -> Array:
        """What a picture is drawn from, (6,): position, velocity over the last step, goal."""
        return np.concatenate((self._position, self._velocity, self._goal))

    def set_extra_state(self, state: Array) -> None:
        """Restore what `get_extra_state` returned."""
        values = state.astype(np.float32)
        self._position, self._velocity, self._goal = values[:2], values[2:4], values[4:]

    def render(self) -> Array | None:
        """The picture, (160, 160, 3) uint8, for "rgb_array"; None otherwise."""
        if self.render_mode is None:
            gym.logger.warn(
                "render() needs a render_mode: make the env with render_mode='rgb_array'."
            )
            return None
        frame = draw_point_mass(self._position, self._velocity, self._goal)
        if self.render_mode == "rgb_array":
            return frame
        self._show(frame)
        return None

    def _show(self, frame: Array) -> None:
        import pygame  # only a window needs it

        if self._window is None:
            pygame.display.init()
            side = _PICTURE_SIZE * _WINDOW_SCALE
            self._window = pygame.display.set_mode((side, side))
            pygame.display.set_caption("PointMass")
            self._clock = pygame.time.Clock()
        surface = pygame.surfarray.make_surface(frame.transpose(1, 0, 2))
        pygame.transform.scale(surface, self._window.get_size(), self._window)
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self.metadata["render_fps"])

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            import pygame

            pygame.display.quit()
            self._window = None


def draw_point_mass(position: Vector, velocity: Vector, goal: Vector) -> npt.NDArray[np.uint8]:
    """Draw the arena: a blue point, an orange hand showing its velocity, a green goal.

    Args:
        position: (2,) the point, right and up, in [-1, 1].
        velocity: (2,) its last displacement.
        goal: (2,) the goal.

    Returns:
        (160, 160, 3) uint8; up is up.
    """
    ticks = (np.arange(_PICTURE_SIZE, dtype=np.float32) + 0.5) / _PICTURE_SIZE * 2 - 1
    x, y = np.meshgrid(ticks * _VIEW, -ticks * _VIEW)
    from_goal = np.hypot(x - goal[0], y - goal[1])
    from_point = np.hypot(x - position[0], y - position[1])
    tip = position + _HAND * velocity
    # Signed distances (negative inside), painted in this order.
    shapes = [
        (np.maximum(np.abs(x), np.abs(y)) - 1.02, (255, 255, 255)),  # floor
        (np.abs(from_goal - 0.11) - 0.025, (40, 160, 70)),
        (from_goal - 0.03, (40, 160, 70)),
    ]
    if velocity.any():
        shapes.append((_from_line(x, y, position, tip) - 0.022, (240, 130, 20)))
        shapes.append((np.hypot(x - tip[0], y - tip[1]) - 0.04, (240, 130, 20)))
    shapes.append((from_point - 0.07, (40, 80, 200)))
    picture = np.full((_PICTURE_SIZE, _PICTURE_SIZE, 3), 190, np.float32)  # outside the arena
    pixel = 2 * _VIEW / _PICTURE_SIZE
    for distance, colour in shapes:
        cover = np.clip(0.5 - distance / pixel, 0, 1)[..., None]  # soft edges
        picture += cover * (np.array(colour, np.float32) - picture)
    return np.rint(picture).astype(np.uint8)


def _from_line(x: Array, y: Array, start: Vector, end: Vector) -> Array:
    """Distance of every pixel from the line between two points; `start` and `end` differ."""
    dx, dy = end - start
    along = ((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy)
    along = np.clip(along, 0, 1)
    distance: Array = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
    return distance
