"""Which OpenGL MuJoCo draws with: found by itself, or one message that says what to install.

MuJoCo reads `MUJOCO_GL` when it is imported, so `choose_gl` is called before the env is made::

    choose_gl()
    env = gymnasium.make("rlhf_gym/HalfCheetah-v0", render_mode="rgb_array")
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys

from rlhf_gym.errors import MissingDependencyError

__all__ = ["APT_PACKAGES", "choose_gl", "gl_works", "has_display", "why_nobody_sees"]

APT_PACKAGES = {
    "egl": "libegl1 libegl-mesa0 libgl1-mesa-dri",
    "osmesa": "libosmesa6",
    "glfw": "libgl1 libglfw3",
}
"""MuJoCo's renderers, best first, and the Debian packages that bring each."""

_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any()
print("rendered", flush=True)
"""
_PROBE_SECONDS = 30  # a cold start of the driver on a busy machine takes several


def has_display() -> bool:
    """Whether a window could be opened: always assumed on systems without X11 or Wayland."""
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def why_nobody_sees() -> str | None:
    """Why nobody would see a pygame window opened now; None where somebody would."""
    driver = os.environ.get("SDL_VIDEODRIVER")
    if driver in ("dummy", "offscreen"):
        return f"SDL_VIDEODRIVER={driver} draws into memory"
    if driver or has_display():
        return None
    return "neither DISPLAY nor WAYLAND_DISPLAY is set"


@functools.cache
def gl_works(backend: str) -> bool:
    """Whether MuJoCo renders with this `MUJOCO_GL`, tried once, in a process of its own.

    A wrong choice can end a process or spoil its later imports, hence the other process.
    """
    try:
        probe = subprocess.run(
            # -P: what lies in the current folder is not what is tried.
            [sys.executable, "-P", "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    # The picture counts: some drivers fail while they shut down.
    return b"rendered" in probe.stdout


def choose_gl(*, window: bool = True) -> str | None:
    """Set `MUJOCO_GL` where nobody did. Call before making the env.

    Args:
        window: Whether the process may show the env in a window: then a display that is there
            decides. A process that only draws pictures says False, and does not depend on the
            display, which may be a remote or virtual one without OpenGL.

    Returns:
        The renderer set, or found in the environment; None where MuJoCo's own choice (a window
        of the display) is left alone.

    Raises:
        MissingDependencyError: no renderer works; the message says what to install.
    """
    if os.environ.get("MUJOCO_GL"):
        return os.environ["MUJOCO_GL"]
    displayed = has_display()
    if displayed and (window or sys.platform != "linux"):
        return None
    for backend in ("egl", "osmesa", "glfw") if displayed else ("egl", "osmesa"):
        if gl_works(backend):
            os.environ["MUJOCO_GL"] = backend
            return backend
    display = "there is no display" if not displayed else "the display offers no OpenGL"
    raise MissingDependencyError(
        f"MuJoCo cannot render here: {display}, and neither of its off-screen renderers "
        f"works. Install one: `apt-get install {APT_PACKAGES['egl']}` (egl) or "
        f"`apt-get install {APT_PACKAGES['osmesa']}` (osmesa). Training needs none."
    )
