"""Pictures of MuJoCo robots, fast enough on a processor that nobody waits for a clip.

Gymnasium's renderer draws 15 to 18 frames per second without a GPU, because of what nobody needs
to judge a clip. Left out here, with `mujoco.Renderer` (benchmarks/rendering.py has the figures):

- multisampling: `vis.quality.offsamples = 0`, edges are not smoothed;
- shadows: `mjRND_SHADOW` off, and no shadow map is kept (`vis.quality.shadowsize = 0`);
- reflections: `mjRND_REFLECTION` off, the floor is drawn once instead of twice;
- the sky: `mjRND_SKYBOX` and `mjRND_HAZE` off; one plain wall far behind stands in its place, since
  a black background swallows dark robots.

The model's visual settings are put back, so that the env's own pictures stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import numpy.typing as npt

from rlhf_gym.data import Array
from rlhf_gym.envs.clip_camera import ClipCamera, floor_planes
from rlhf_gym.envs.sim_state import SimStateReader, missing_renderer
from rlhf_gym.errors import ConfigError, MissingDependencyError

__all__ = ["FastRenderer", "has_mujoco_model"]

_OFF = ("SHADOW", "REFLECTION", "SKYBOX", "HAZE")
_WALL = (0.28, 0.34, 0.41, 1.0)
_WALL_PLACE = 0.98  # of the distance beyond which nothing is drawn
_LINES = 25  # of the floor's grid, on either side of what the camera looks at
_LINES_PER_EXTENT = 6
_DARK, _LIGHT = (0.15, 0.15, 0.15, 1.0), (0.8, 0.8, 0.8, 1.0)


def has_mujoco_model(env: gym.Env[Any, Any]) -> bool:
    """Whether the unwrapped env holds what `FastRenderer` draws: a MuJoCo `model` and `data`."""
    bare = env.unwrapped
    model, data = getattr(bare, "model", None), getattr(bare, "data", None)
    return isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData)


class FastRenderer:
    """Draws an env's simulator state, seen as the env's own `render` sees it.

    The camera is the env's own (`rlhf_gym.envs.clip_camera`). Where it follows a robot over floors
    without a texture, lines are drawn on them, 1/6 of the model's extent apart: without a mark on
    the floor nobody sees whether a robot moves. They are in the picture only, not in the model.

    Gymnasium's renderer does not say which OpenGL context it draws into: once this has drawn,
    pictures that an env draws itself in the same process are black. Keep clips in a process of
    their own (`rlhf_gym.render_worker`).

    One object belongs to one thread, and needs `MUJOCO_GL` to be right when mujoco is imported:
    `rlhf_gym.gl.choose_gl` sets it.

    Args:
        env: Any env whose unwrapped class holds a MuJoCo `model` and `data`; Gymnasium's robots and
            their kin do. It may swap its model.
        size: (height, width) of the pictures in pixels.

    Raises:
        ConfigError: the env has no MuJoCo model, or the size is not positive.
    """

    def __init__(self, env: gym.Env[Any, Any], size: tuple[int, int] = (480, 480)) -> None:
        if not has_mujoco_model(env):
            raise ConfigError(
                f"{env} holds no MuJoCo `model` and `data`, which this renderer draws; use "
                "`rlhf_gym.envs.render_state`, which asks the env to draw itself."
            )
        if min(size) < 1:
            raise ConfigError(f"`size` is {size}, expected (height, width) of 1 pixel or more.")
        self._env: Any = env.unwrapped
        self._size = size
        self._reader = SimStateReader(env)
        self._model: Any = None
        self._renderer: Any = None
        self._camera: ClipCamera | None = None
        self._plain_floors: list[int] = []

    def render_state(self, state: Array) -> npt.NDArray[np.uint8]:
        """Put the env into a stored state and draw it.

        Args:
            state: (S,) of any float dtype, from `get_sim_state` of an env of the same kind.

        Returns:
            (H, W, 3) uint8.

        Raises:
            DataError: the state's shape is not this env's.
            MissingDependencyError: MuJoCo finds no OpenGL library to draw with.
        """
        self._reader.write(state)
        return self.render()

    def render(self) -> npt.NDArray[np.uint8]:
        """Draw the env as it is, (H, W, 3) uint8.

        Raises:
            MissingDependencyError: MuJoCo finds no OpenGL library to draw with.
        """
        if self._env.model is not self._model:
            self._open()
        assert self._camera is not None
        # gymnasium-robotics puts its goal markers into the model here, before every picture.
        before_drawing = getattr(self._env, "_render_callback", None)
        if callable(before_drawing):
            before_drawing()
        data = self._env.data
        self._renderer.update_scene(data, self._camera.view(data), self._camera.options)
        scene = self._renderer.scene
        for geom_id in self._plain_floors:
            self._draw_grid(scene, geom_id)
        _draw_wall(scene)
        frame: npt.NDArray[np.uint8] = self._renderer.render()
        return frame

    def close(self) -> None:
        """Free the OpenGL context; the next picture opens another."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = self._model = None

    def _open(self) -> None:
        self.close()
        model = self._env.model
        height, width = self._size
        # A missing library surfaces as any of these, depending on where the backend trips over it.
        try:
            with _cheap_quality(model, height, width):
                self._renderer = mujoco.Renderer(model, height, width)
        except (ImportError, AttributeError, RuntimeError, mujoco.FatalError) as error:
            if isinstance(error, MissingDependencyError):
                raise
            raise missing_renderer(error) from error
        for name in _OFF:
            self._renderer.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{name}")] = False
        self._model = model
        self._camera = ClipCamera(self._env)
        floors = floor_planes(model) if self._camera.follows else []
        # A texture on one floor already shows the motion.
        self._plain_floors = (
            [] if any(textured for _, textured in floors) else [f for f, _ in floors]
        )

    def _draw_grid(self, scene: Any, geom_id: int) -> None:
        """Lines on a floor plane around what the camera looks at, fixed to the floor."""
        model, data = self._env.model, self._env.data
        centre, frame = data.geom_xpos[geom_id], data.geom_xmat[geom_id].reshape(3, 3)
        spacing = float(model.stat.extent) / _LINES_PER_EXTENT
        looked_at = (_looked_at(scene, centre, frame[:, 2]) - centre) @ frame[:, :2]
        middle = np.round(looked_at / spacing)
        colour = _DARK if model.geom_rgba[geom_id, :3].mean() > 0.5 else _LIGHT
        thin, long = 0.02 * spacing, _LINES * spacing
        for axis in (0, 1):
            half = np.full(3, 0.1 * thin)
            half[axis], half[1 - axis] = long, thin
            for k in range(-_LINES, _LINES + 1):
                place = np.zeros(3)
                place[axis] = middle[axis] * spacing
                place[1 - axis] = (middle[1 - axis] + k) * spacing
                _draw_box(scene, half, centre + frame @ place, frame, colour)


@contextmanager
def _cheap_quality(model: Any, height: int, width: int) -> Iterator[None]:
    """Settings that a context copies when it is made; put back afterwards."""
    quality, screen = model.vis.quality, model.vis.global_
    kept = (quality.offsamples, quality.shadowsize, screen.offheight, screen.offwidth)
    quality.offsamples = quality.shadowsize = 0
    screen.offheight, screen.offwidth = height, width
    try:
        yield
    finally:
        quality.offsamples, quality.shadowsize, screen.offheight, screen.offwidth = kept


def _looked_at(scene: Any, centre: Array, normal: Array) -> Array:
    """Where the camera's axis meets a plane; below the camera where it looks past the plane."""
    eye, forward = np.array(scene.camera[0].pos), np.array(scene.camera[0].forward)
    height, descent = (eye - centre) @ normal, -(forward @ normal)
    if descent > 0.05:  # rad above the horizon: beyond, the point runs off into the distance
        point: Array = eye + forward * height / descent
        return point
    below: Array = eye - height * normal
    return below


def _draw_wall(scene: Any) -> None:
    """A plain wall behind everything, always facing the camera."""
    camera = scene.camera[0]
    eye, forward, up = (np.array(v) for v in (camera.pos, camera.forward, camera.up))
    far = _WALL_PLACE * camera.frustum_far
    frame = np.stack([np.cross(forward, up), up, -forward], axis=1)
    half = np.array([2.0 * far, 2.0 * far, 1e-3 * far])
    _draw_box(scene, half, eye + far * forward, frame, _WALL)
    scene.geoms[scene.ngeom - 1].emission = 1.0  # the model's lights do not reach it


def _draw_box(
    scene: Any, half: Array, place: Array, frame: Array, colour: tuple[float, ...]
) -> None:
    if scene.ngeom >= scene.maxgeom:  # a huge model: its own parts come first
        return
    geom = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(
        geom, mujoco.mjtGeom.mjGEOM_BOX, half, place, frame.ravel(), np.asarray(colour, np.float32)
    )
    geom.category = mujoco.mjtCatBit.mjCAT_DECOR
    geom.specular = 0.0
    scene.ngeom += 1
