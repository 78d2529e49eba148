"""From where the robots are drawn, so that a person can judge a clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["following", "still"]

_CAMERA_ARGUMENTS = {"camera_id", "camera_name", "default_camera_config"}


def following(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A v5 robot's constructor arguments, with the model's camera that follows the robot.

    By default Gymnasium 1.4 draws every robot with a camera that stands still, and a robot that
    runs leaves the picture within seconds.

    Args:
        arguments: What the user gave. A camera of their own is left alone.
    """
    return _with_camera(arguments, {"camera_name": "track"})


def still(arguments: Mapping[str, Any], view: Mapping[str, Any]) -> dict[str, Any]:
    """A v5 robot's constructor arguments, with a camera that stands still.

    Args:
        arguments: What the user gave. A camera of their own is left alone.
        view: Where the camera stands: attributes of MuJoCo's `MjvCamera`.
    """
    return _with_camera(arguments, {"default_camera_config": dict(view)})


def _with_camera(arguments: Mapping[str, Any], camera: Mapping[str, Any]) -> dict[str, Any]:
    if _CAMERA_ARGUMENTS & arguments.keys():
        return dict(arguments)
    return {**arguments, **camera}
