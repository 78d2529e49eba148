"""The process that draws clips: what runs in it, and the handle by which another process holds it.

A process of its own, since a driver that crashes must not take the labeller's window along, and
since MuJoCo reads `MUJOCO_GL` once, when it is imported. It is started by `subprocess` rather than
`multiprocessing`, which would run the caller's main module again, whose imports may have chosen an
OpenGL already.

Over the pipes go JSON lines, and after a task's line the raw bytes of its states. Pictures go
through the cache's files. The process ends when its input does, however the other one ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml

from rlhf_gym.clip_frames import ClipRenderer
from rlhf_gym.data import Clip
from rlhf_gym.documents import parse_json, parse_yaml
from rlhf_gym.errors import ConfigError, MissingDependencyError, RlhfGymError
from rlhf_gym.frame_cache import FrameCache
from rlhf_gym.gl import choose_gl

__all__ = ["RenderProcess", "RenderProcessDied", "serve"]

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rlhf_gym.render_process import serve; serve()"
)
_PATIENCE_SECONDS = 120.0  # for one clip, or for a start: longer, and the driver hangs
_END_SECONDS = 3.0
_REASON_CHARACTERS = 300


class RenderProcessDied(RuntimeError):
    """The process ended, or had to be ended; the message says why."""


class RenderProcess:
    """A process that draws clips into a cache, one at a time. One thread may use it.

    Args:
        env_id: As for `make_env`.
        env_kwargs: As for `make_env`: values that YAML can hold.
        cache: Where the pictures go.
        size: (height, width) in pixels of MuJoCo robots.
        gl: The `MUJOCO_GL` that an earlier process found to work; empty to let this one choose.

    Raises:
        ConfigError: `env_kwargs` holds what YAML cannot.
        OSError: the process cannot be started.
    """

    def __init__(
        self,
        env_id: str,
        env_kwargs: Mapping[str, Any],
        cache: FrameCache,
        size: tuple[int, int],
        gl: str = "",
    ) -> None:
        task = {
            "env_id": env_id,
            "env_kwargs": dict(env_kwargs),
            "folder": str(cache.folder.absolute()),
            "max_bytes": cache.max_bytes,
            "size": list(size),
        }
        try:
            self._task = yaml.safe_dump(task).encode()
        except yaml.YAMLError as error:
            raise ConfigError(
                f"`env_kwargs` of {env_id} cannot be handed to the process that draws clips "
                f"({error}); keep to numbers, text, lists and mappings."
            ) from error
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            # -P: modules come from where this process finds them, not first from where one stands.
            [sys.executable, "-P", "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "MUJOCO_GL": gl} if gl else None,
            start_new_session=True,  # Ctrl-C is for the viewer, which then ends us
        )
        self._started = False
        self.gl = gl
        """The `MUJOCO_GL` that it draws with, once it has drawn; empty where none was chosen."""
        self._overdue = False

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def draw(self, clip: Clip) -> dict[str, Any]:
        """Draw a clip into the cache; returns when it is done.

        Returns:
            {"drawn": id}; {"error": text} where this clip cannot be drawn; {"fatal": text} where
            none can.

        Raises:
            RenderProcessDied: it ended before it answered.
        """
        if not self._started:
            ready = self._ask(json.dumps({"n_bytes": len(self._task)}).encode(), self._task)
            if "fatal" in ready:
                return ready
            self._started, self.gl = True, ready["gl"]
        states = clip.sim_states
        content = b"" if states is None else np.ascontiguousarray(states).tobytes()
        head: dict[str, Any] = {"clip": clip.id, "n_bytes": len(content)}
        if states is not None:
            head |= {"shape": list(states.shape), "dtype": states.dtype.str}
        return self._ask(json.dumps(head).encode(), content)

    def _ask(self, head: bytes, content: bytes) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        watchdog = threading.Timer(_PATIENCE_SECONDS, self._give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            self._process.stdin.write(head + b"\n" + content)
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except (OSError, ValueError):  # ValueError: closed meanwhile
            answer = b""
        finally:
            watchdog.cancel()
        if not answer.endswith(b"\n"):
            raise RenderProcessDied(self._reason())
        found: dict[str, Any] = parse_json(answer, "an answer")
        return found

    def _give_up(self) -> None:
        self._overdue = True
        self._process.kill()

    def kill(self) -> None:
        """End the process at once; any thread may."""
        self._process.kill()

    def _reason(self) -> str:
        if self._overdue:
            return f"it did not answer for {_PATIENCE_SECONDS:.0f} s"
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return "it closed its output"
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"{how}: {lines[-1][:_REASON_CHARACTERS]}" if lines else how

    def close(self) -> None:
        """End the process and wait until it is gone."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except OSError:  # it is gone, and what was not written with it
            pass
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def serve() -> None:
    """What the process does, until its input ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what envs and drivers print must not come between the answers
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame's envs draw without a window
    if hasattr(os, "nice"):
        os.nice(5)  # the window goes first

    def answer(**values: str) -> None:
        answers.write(json.dumps(values).encode() + b"\n")

    task = _read(sys.stdin.buffer)
    if task is None:
        return
    without_gl = ""
    try:
        choose_gl(window=False)
    except MissingDependencyError as error:  # many envs need none
        without_gl = str(error)
    config = parse_yaml(task[1].decode(), "the task")
    size = (config["size"][0], config["size"][1])
    cache = FrameCache(Path(config["folder"]), config["max_bytes"])
    try:
        renderer = ClipRenderer(config["env_id"], config["env_kwargs"], size)
    except RlhfGymError as error:
        answer(fatal=str(error))
        return
    answer(gl=os.environ.get("MUJOCO_GL", ""))
    while (task := _read(sys.stdin.buffer)) is not None:
        head, content = task
        try:
            answer(**_draw(renderer, cache, size, head, content))
        except MissingDependencyError as error:
            answer(fatal=without_gl or str(error))
    renderer.close()


def _read(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """A task's line and its bytes; None at the end of the input."""
    head = stream.readline()
    if not head.endswith(b"\n"):
        return None
    values: dict[str, Any] = parse_json(head, "a task")
    content = stream.read(values["n_bytes"])
    return (values, content) if len(content) == values["n_bytes"] else None


def _draw(
    renderer: ClipRenderer,
    cache: FrameCache,
    size: tuple[int, int],
    head: Mapping[str, Any],
    content: bytes,
) -> dict[str, str]:
    clip_id, states = head["clip"], None
    if "shape" in head:
        states = np.frombuffer(content, np.dtype(head["dtype"])).reshape(head["shape"])
    try:
        clip_frames = renderer.render_states(clip_id, states)
    except MissingDependencyError:
        raise
    except RlhfGymError as error:
        return {"error": str(error)}
    except Exception as error:  # the env's own code, on states it never saw
        return {"error": f"clip {clip_id} cannot be drawn: {type(error).__name__}: {error}"}
    try:
        cache.put(clip_id, size, clip_frames)
    except OSError as error:
        return {
            "error": f"the pictures of clip {clip_id} cannot be kept in {cache.folder} ({error}); "
            "make room there, or give the cache another folder."
        }
    return {"drawn": clip_id}
