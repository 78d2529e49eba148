"""Clips drawn ahead of time, so that a labeller never waits for the next pair.

Two threads serve a waiting list: one has clips drawn into the cache by a process of its own
(`rlhf_gym.render_process`), the other reads pictures from the cache into memory. Both take the
nearest clip first; the caller only ever looks into memory. A clip that carries pictures of its own
is not drawn: it goes straight into memory.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rlhf_gym.clip_frames import ClipFrames, recorded_frames
from rlhf_gym.data import Clip
from rlhf_gym.errors import ConfigError, RlhfGymError
from rlhf_gym.frame_cache import FrameCache
from rlhf_gym.render_process import RenderProcess, RenderProcessDied

__all__ = ["RenderWorker"]

_MOST_RESTARTS = 3
_MOST_DEATHS_BY_ONE_CLIP = 2
_MOST_UNREADABLE = 3
_JOIN_SECONDS = 2.0


class RenderWorker:
    """Draws the clips of one env in the background. No method waits for a picture.

    The process is started with the first clip that is not in the cache. If it dies, that is noted
    once with its reason (`notices`) and it is started again, at most 3 times. If nothing can be
    drawn at all (no OpenGL, an unknown env), `failure` says why and what to do.

    Args:
        env_id: As for `make_env`.
        env_kwargs: As for `make_env`; the same as when the clips were recorded.
        cache: Where pictures are kept; one cache holds the clips of one env and its arguments.
        size: (height, width) in pixels of MuJoCo robots; other envs have their own size.
        n_in_memory: How many clips are kept in memory, at least 2; one of 51 pictures of 480 x 480
            pixels takes 35 MB.

    Raises:
        ConfigError: `n_in_memory` is below 2.
    """

    def __init__(
        self,
        env_id: str,
        env_kwargs: Mapping[str, Any] | None,
        cache: FrameCache,
        size: tuple[int, int] = (480, 480),
        *,
        n_in_memory: int = 10,
    ) -> None:
        if n_in_memory < 2:
            raise ConfigError(f"`n_in_memory` is {n_in_memory}, expected at least 2: a pair.")
        self._env_id, self._env_kwargs = env_id, dict(env_kwargs or {})
        self._cache, self._size, self._n_in_memory = cache, size, n_in_memory
        self._changed = threading.Condition()  # guards everything below
        self._wanted: list[Clip] = []
        self._memory: OrderedDict[str, ClipFrames] = OrderedDict()  # least recently used first
        self._on_disk: set[str] = set()
        self._errors: dict[str, str] = {}
        self._notices: list[str] = []
        self._failure: str | None = None
        self._closed = False
        self._process: RenderProcess | None = None
        self._gl = ""  # looking for one that works takes a second or two: once is enough
        self._deaths: Counter[str] = Counter()
        self._unreadable: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._serve, args=work, daemon=True)
            for work in ((self._next_to_load, self._load), (self._next_to_draw, self._draw))
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- the caller's side: never blocks ------------------------------------------------------

    def request(self, clips: Sequence[Clip]) -> None:
        """Replace the waiting list, nearest first. The first ones are also brought into memory."""
        with self._changed:
            self._wanted = list({clip.id: clip for clip in clips}.values())
            self._changed.notify_all()

    def get(self, clip_id: str) -> ClipFrames | None:
        """The pictures of a clip, or None if they are not there yet (or never will: `error`)."""
        with self._changed:
            found = self._memory.get(clip_id)
            if found is not None:
                self._memory.move_to_end(clip_id)
            return found

    def error(self, clip_id: str) -> str | None:
        """Why a requested clip cannot be drawn; None if it can, or nobody knows yet."""
        with self._changed:
            return self._errors.get(clip_id)

    @property
    def failure(self) -> str | None:
        """Why nothing can be drawn, and what to do; clips in the cache are shown all the same."""
        with self._changed:
            return self._failure

    def notices(self) -> list[str]:
        """What happened since the last call that a person should know; each is told once."""
        with self._changed:
            told, self._notices = self._notices, []
            return told

    def close(self) -> None:
        """End the threads and the process. What was drawn stays in the cache."""
        with self._changed:
            self._closed = True
            self._wanted = []
            self._memory.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        with self._changed:
            process = self._process
        if process is not None and self._threads[1].is_alive():  # in the middle of a slow clip
            process.kill()
            self._threads[1].join(_JOIN_SECONDS)
        if process is not None:
            process.close()
            self._process = None

    # --- the threads' side --------------------------------------------------------------------

    def _serve(self, choose: Callable[[], Clip | None], work: Callable[[Clip], None]) -> None:
        while True:
            with self._changed:
                while (clip := choose()) is None and not self._closed:
                    self._changed.wait()
                if self._closed or clip is None:
                    return
            try:
                work(clip)
            except RlhfGymError as error:
                with self._changed:
                    self._errors[clip.id] = str(error)
            except Exception as error:  # a thread that ended would leave a labeller waiting forever
                with self._changed:
                    self._errors[clip.id] = f"clip {clip.id} cannot be shown: {error!r}"

    def _near(self) -> list[Clip]:
        """What belongs into memory: the nearest clips that can be drawn."""
        drawable = [clip for clip in self._wanted if clip.id not in self._errors]
        return drawable[: self._n_in_memory]

    def _next_to_load(self) -> Clip | None:
        for clip in self._near():
            is_ready = clip.pictures is not None or clip.id in self._on_disk
            if is_ready and clip.id not in self._memory:
                return clip
        return None

    def _next_to_draw(self) -> Clip | None:
        done = {*self._on_disk, *self._memory, *self._errors}
        wanted = (clip for clip in self._wanted if clip.pictures is None)
        return next((clip for clip in wanted if clip.id not in done), None)

    def _load(self, clip: Clip) -> None:
        recorded = clip.pictures is not None
        found = recorded_frames(clip) if recorded else self._cache.get(clip.id, self._size)
        with self._changed:
            if found is None:  # removed to make room, or damaged: draw it again
                self._on_disk.discard(clip.id)
                self._unreadable[clip.id] += 1
                if self._unreadable[clip.id] >= _MOST_UNREADABLE:
                    self._errors[clip.id] = (
                        f"the pictures of clip {clip.id} vanish from {self._cache.folder} before "
                        "they can be read; give the cache more `max_bytes` or another folder."
                    )
            elif not self._closed:
                self._unreadable.pop(clip.id, None)
                self._memory[clip.id] = found
                self._forget()
            self._changed.notify_all()

    def _forget(self) -> None:
        """Keep memory within its bound; what is wanted soon goes last."""
        near = {clip.id for clip in self._near()}
        while len(self._memory) > self._n_in_memory:
            del self._memory[next(key for key in self._memory if key not in near)]

    def _draw(self, clip: Clip) -> None:
        answer: dict[str, Any] = {"drawn": clip.id}
        if (clip.id, self._size) not in self._cache:
            answer = self._ask(clip) if self._failure is None else {"fatal": self._failure}
        with self._changed:
            if "drawn" in answer:
                self._on_disk.add(clip.id)
            elif "fatal" in answer:
                if self._failure is None:
                    self._failure = answer["fatal"]
                    self._notices.append(answer["fatal"])
                self._errors[clip.id] = answer["fatal"]
            elif "error" in answer:
                self._errors[clip.id] = answer["error"]
            self._changed.notify_all()

    def _ask(self, clip: Clip) -> dict[str, Any]:
        try:
            process = self._running_process()
            return {} if process is None else process.draw(clip)
        except (ConfigError, OSError) as error:
            return {"fatal": f"the process that draws clips cannot be started: {error}"}
        except RenderProcessDied as death:
            return self._after_death(clip, str(death))

    def _running_process(self) -> RenderProcess | None:
        """The process, started if need be; None once everything is being closed."""
        with self._changed:
            if self._process is None and not self._closed:
                self._process = RenderProcess(
                    self._env_id, self._env_kwargs, self._cache, self._size, self._gl
                )
            return self._process

    def _after_death(self, clip: Clip, reason: str) -> dict[str, Any]:
        with self._changed:
            if self._closed:
                return {}
            process, self._process = self._process, None
            self._gl = process.gl if process is not None else ""
            self._deaths[clip.id] += 1
            n_deaths, n_by_clip = self._deaths.total(), self._deaths[clip.id]
        if process is not None:
            process.close()
        if n_deaths > _MOST_RESTARTS:
            return {
                "fatal": f"the process that draws clips died {n_deaths} times, the last time with "
                f"{reason}. `rlhf-gym doctor` checks the renderer; MUJOCO_GL=osmesa is another one."
            }
        with self._changed:
            self._notices.append(
                f"The process that draws clips died ({reason}); it is started again "
                f"({n_deaths} of {_MOST_RESTARTS})."
            )
        if n_by_clip >= _MOST_DEATHS_BY_ONE_CLIP:
            return {"error": f"drawing clip {clip.id} ends the renderer ({reason}); leave it out."}
        return {}
