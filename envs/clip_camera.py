"""The camera that clips are drawn by: the env's own, and one that follows a robot that runs away.

Gymnasium 1.4 draws with a camera of the model where the env names one (`camera_id`,
`camera_name`), and otherwise with a free camera set by `default_camera_config`. The free one never
follows anything, though most configurations name a body to track; here it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from rlhf_gym.data import Array

__all__ = ["ClipCamera", "floor_planes"]

_FLOORS = (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_HFIELD)


class ClipCamera:
    """From where one env is drawn.

    In this order: the camera that Gymnasium's `MujocoRenderer` of the env uses; one named by an
    attribute `camera_id` or `camera_name` of the env; the model's camera "track"; the model's only
    camera; a free camera that sees the whole model.

    A free camera follows the body `trackbodyid` of the configuration, horizontally. Where neither
    `trackbodyid` nor `lookat` is configured, it follows the heaviest body that can leave the
    picture: one that hangs on the world by a free joint, or by a slide without limits.

    Args:
        env: An env whose unwrapped class holds a MuJoCo `model` and `data`.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        bare: Any = env.unwrapped
        self._model: Any = bare.model
        theirs = getattr(bare, "mujoco_renderer", None)
        self.options = mujoco.MjvOption()
        """What of the model is drawn: MuJoCo's defaults with the env's `visual_options`."""
        for flag, value in (getattr(theirs, "_vopt", None) or {}).items():
            self.options.flags[flag] = value
        config = dict(getattr(theirs, "default_cam_config", None) or {})
        self._at_rest = mujoco.MjData(self._model)
        mujoco.mj_kinematics(self._model, self._at_rest)
        self._camera = mujoco.MjvCamera()
        camera_id = _model_camera(self._model, bare) if theirs is None else theirs.camera_id
        if camera_id >= 0:
            self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera_id
            self._followed = 0
        else:
            self._set_free(config, gymnasium=theirs is not None)
            self._followed = _followed_body(self._model, config)
        self._lookat = np.array(self._camera.lookat)

    @property
    def follows(self) -> bool:
        """Whether the camera goes along with a body."""
        if self._camera.type == mujoco.mjtCamera.mjCAMERA_FIXED:
            mode = self._model.cam_mode[self._camera.fixedcamid]
            mounted = self._model.cam_bodyid[self._camera.fixedcamid] > 0
            return bool(mounted) or mode != mujoco.mjtCamLight.mjCAMLIGHT_FIXED
        return self._followed > 0

    def view(self, data: Any) -> Any:
        """The `mujoco.MjvCamera` for a state, valid until the next call."""
        if self._followed > 0:
            moved = data.xpos[self._followed] - self._at_rest.xpos[self._followed]
            # Not up and down: how high a robot jumps must be seen.
            self._camera.lookat[:] = self._lookat + moved * (1.0, 1.0, 0.0)
        return self._camera

    def _set_free(self, config: Mapping[str, Any], *, gymnasium: bool) -> None:
        if gymnasium:  # as its OffScreenViewer begins, for a robot at rest
            self._camera.lookat[:] = np.median(self._at_rest.geom_xpos, axis=0)
            self._camera.distance = self._model.stat.extent
        else:
            mujoco.mjv_defaultFreeCamera(self._model, self._camera)
        for name, value in config.items():
            if name == "lookat":
                self._camera.lookat[:] = value
            elif name not in ("type", "trackbodyid", "fixedcamid"):
                setattr(self._camera, name, value)
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE


def floor_planes(model: Any) -> list[tuple[int, bool]]:
    """The floors fixed to the world (planes, height fields), and which of them have a texture.

    Args:
        model: A `mujoco.MjModel`.

    Returns:
        (geom id, whether it has a texture), in the model's order.
    """
    floors = []
    for geom_id in range(model.ngeom):
        at_rest = model.body_weldid[model.geom_bodyid[geom_id]] == 0
        if model.geom_type[geom_id] in _FLOORS and at_rest:
            material = model.geom_matid[geom_id]
            textured = material >= 0 and bool((model.mat_texid[material] >= 0).any())
            floors.append((geom_id, textured))
    return floors


def _model_camera(model: Any, env: Any) -> int:
    """The number of the model's camera for an env without Gymnasium's renderer; -1 for none."""
    camera_id = getattr(env, "camera_id", None)
    if isinstance(camera_id, int):
        return camera_id
    for name in (getattr(env, "camera_name", None), "track"):
        if isinstance(name, str):
            found = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)
            if found >= 0:
                return int(found)
    return 0 if model.ncam == 1 else -1


def _followed_body(model: Any, config: Mapping[str, Any]) -> int:
    """The body a free camera follows; 0, the world, for none."""
    if "trackbodyid" in config:
        return max(int(config["trackbodyid"]), 0)
    # Without a floor to see, a robot that stays in the middle of the picture seems to stand still.
    if "lookat" in config or not floor_planes(model):
        return 0
    roots = sorted({int(model.jnt_bodyid[k]) for k in range(model.njnt) if _leaves(model, k)})
    return max(roots, key=lambda body: float(model.body_subtreemass[body]), default=0)


def _leaves(model: Any, joint: int) -> bool:
    """Whether a joint lets a body that hangs on the world leave any picture."""
    if model.body_parentid[model.jnt_bodyid[joint]] != 0:
        return False
    kind: Array = model.jnt_type[joint]
    if kind == mujoco.mjtJoint.mjJNT_FREE:
        return True
    return bool(kind == mujoco.mjtJoint.mjJNT_SLIDE and not model.jnt_limited[joint])
