"""A window, or one clear sentence on why there can be none."""

from __future__ import annotations

import os
import sys

import pygame

from rlhf_gym.errors import MissingDependencyError

__all__ = ["NO_DISPLAY", "check_pygame", "open_window"]

NO_DISPLAY = (
    "there is no display for the labelling window ({reason}). Pairs of texts can be answered "
    "without one: add `--terminal`. Clips need one: start it on a desktop, over `ssh -X`, or under "
    "`xvfb-run`."
)
"""What to say where nobody would see the window."""


def check_pygame() -> None:
    """Refuse another package than pygame-ce under the name pygame.

    Raises:
        MissingDependencyError: pygame-ce is not what was imported.
    """
    if not getattr(pygame, "IS_CE", False):
        version = getattr(pygame, "__version__", "unknown")
        raise MissingDependencyError(
            f"the module `pygame` is version {version} of the package pygame, not pygame-ce: both "
            "install under one name, and the last one wins. `pip uninstall -y pygame pygame-ce`, "
            "then `pip install pygame-ce`."
        )


def open_window(size: tuple[int, int], caption: str) -> pygame.Surface:
    """Open a window that can be resized.

    Args:
        size: Width and height, in pixels.
        caption: Its title.

    Raises:
        MissingDependencyError: no display, or not pygame-ce.
    """
    check_pygame()
    chosen = os.environ.get("SDL_VIDEODRIVER")
    has_screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not chosen and not has_screen:
        # SDL would draw off-screen or on a console, and nobody would see it.
        raise MissingDependencyError(
            NO_DISPLAY.format(reason="neither DISPLAY nor WAYLAND_DISPLAY is set")
        )
    # SDL would put the window through OpenGL, which without a GPU draws all of it anew, by
    # software, for every frame, instead of handing over the parts that changed.
    os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")
    try:
        pygame.display.init()
        pygame.font.init()
        pygame.display.set_caption(caption)
        surface = pygame.display.set_mode(size, pygame.RESIZABLE)
    except pygame.error as error:
        pygame.quit()
        raise MissingDependencyError(NO_DISPLAY.format(reason=error)) from error
    pygame.key.stop_text_input()  # else the key that opens the comment line is written into it
    return surface
