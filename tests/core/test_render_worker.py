from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import pytest

from rlhf_gym import render_worker
from rlhf_gym.clip_frames import ClipFrames
from rlhf_gym.data import Clip
from rlhf_gym.errors import ConfigError
from rlhf_gym.frame_cache import FrameCache
from rlhf_gym.render_worker import RenderWorker

PATIENCE_SECONDS = 60.0
SIZE = (480, 480)

# An env whose state tells it what to do when it is drawn, and what colour to be.
LAMP = """
import os, time
import gymnasium as gym
import numpy as np

class Lamp(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    def __init__(self, render_mode=None, side=4):
        self.render_mode, self.side, self.state = render_mode, side, np.zeros(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}
    def get_extra_state(self):
        return self.state
    def set_extra_state(self, state):
        self.state = np.array(state)
    def render(self):
        print("a word that nobody asked for")
        colour, order = self.state
        if order == 1:
            raise KeyError("lamp")
        if order == 2:
            os.kill(os.getpid(), 11)
        if order == 3:
            time.sleep(600)
        if order == 4:
            time.sleep(0.1)
        return np.full((self.side, self.side, 3), int(colour), np.uint8)

gym.register("Lamp-v0", Lamp, max_episode_steps=9)
"""
ENV = "lamp_of_tests:Lamp-v0"
FINE, RAISES, DIES, HANGS, SLOW = range(5)


def a_clip(colour: int, order: int = FINE) -> Clip:
    states = np.array([[colour, order]] * 3, np.float32)
    obs = np.full((3, 1), colour, np.float32)
    return Clip(obs=obs, actions=np.zeros((2, 1)), context_id="Lamp-v0", sim_states=states)


@pytest.fixture
def lamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "lamp_of_tests.py").write_text(LAMP)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("MUJOCO_GL", "disable")  # no renderer is looked for: the lamp needs none


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "cache")


@pytest.fixture
def worker(lamp: None, cache: FrameCache) -> Iterator[RenderWorker]:
    with RenderWorker(ENV, {"side": 5}, cache, n_in_memory=3) as worker:
        yield worker
    assert children() == []


def children() -> list[psutil.Process]:
    """What runs, or lies about as a zombie, of this process's own."""
    return [p for p in psutil.Process().children() if "render_process" in " ".join(p.cmdline())]


T = TypeVar("T")


def wait_for(look: Callable[[], T]) -> T:
    """What `look` finds, as soon as it finds anything."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.005)
    return found


def pictures(worker: RenderWorker, clip: Clip) -> ClipFrames:
    def look() -> ClipFrames | None:
        assert worker.error(clip.id) is None
        return worker.get(clip.id)

    found = wait_for(look)
    assert found is not None
    return found


def test_clips_are_drawn_with_the_envs_arguments_and_kept_on_disk(
    worker: RenderWorker, cache: FrameCache
) -> None:
    clips = [a_clip(50), a_clip(100)]
    assert worker.get(clips[0].id) is None
    worker.request(clips)
    for clip, colour in zip(clips, (50, 100), strict=True):
        drawn = pictures(worker, clip)
        np.testing.assert_array_equal(drawn.frames, np.full((3, 5, 5, 3), colour))
        assert drawn.seconds == pytest.approx(1.5)  # three pictures of three steps' ends
        kept = cache.get(clip.id, SIZE)
        assert kept is not None
        np.testing.assert_array_equal(kept.frames, drawn.frames)
    assert (worker.notices(), worker.failure) == ([], None)


def test_what_lies_in_the_cache_needs_no_process(worker: RenderWorker, cache: FrameCache) -> None:
    clip = a_clip(50)
    cache.put(clip.id, SIZE, ClipFrames(np.full((2, 3, 3, 3), 7, np.uint8), 0.5))
    worker.request([clip])
    assert pictures(worker, clip).frames[0, 0, 0, 0] == 7
    assert children() == []


def test_a_new_request_goes_before_what_still_waits(
    worker: RenderWorker, cache: FrameCache
) -> None:
    slow = [a_clip(colour, SLOW) for colour in range(1, 9)]  # 0.3 s each
    worker.request(slow)
    wait_for(lambda: (slow[0].id, SIZE) in cache)
    urgent = a_clip(200)
    worker.request([urgent])
    pictures(worker, urgent)
    drawn = [clip for clip in slow if (clip.id, SIZE) in cache]
    assert len(drawn) <= 3  # the one at work, perhaps; the others were dropped


def test_memory_is_bounded_and_keeps_what_is_wanted_soonest(worker: RenderWorker) -> None:
    clips = [a_clip(colour) for colour in range(10, 16)]
    worker.request(clips)
    for clip in clips[:3]:  # n_in_memory
        pictures(worker, clip)
    wait_for(lambda: all((clip.id, SIZE) in worker._cache for clip in clips))
    assert [worker.get(clip.id) is not None for clip in clips] == [True] * 3 + [False] * 3
    worker.request(clips[3:])
    for clip in clips[3:]:
        pictures(worker, clip)
    assert [worker.get(clip.id) is not None for clip in clips] == [False] * 3 + [True] * 3


def test_a_clip_that_cannot_be_drawn_says_so_and_holds_up_no_other(worker: RenderWorker) -> None:
    raises, fine = a_clip(10, RAISES), a_clip(20)
    nan = a_clip(30)
    assert nan.sim_states is not None
    nan.sim_states[1, 0] = np.nan
    bare = Clip(nan.obs + 1, nan.actions, "Lamp-v0")
    odd = Clip(nan.obs + 2, nan.actions, "Lamp-v0", sim_states=np.zeros((3, 7)))
    worker.request([raises, nan, bare, odd, fine])
    pictures(worker, fine)
    messages = [worker.error(clip.id) or "" for clip in (raises, nan, bare, odd)]
    parts = ("KeyError: 'lamp'", "damaged", "no simulator state", "(steps + 1, 2)")
    for clip, message, part in zip((raises, nan, bare, odd), messages, parts, strict=True):
        assert clip.id in message
        assert part in message
    assert (worker.failure, worker.notices(), len(children())) == (None, [], 1)


def test_a_process_that_is_killed_is_noted_once_and_started_again(worker: RenderWorker) -> None:
    worker.request([a_clip(10)])
    pictures(worker, a_clip(10))
    children()[0].kill()
    worker.request([a_clip(20)])
    pictures(worker, a_clip(20))
    (notice,) = worker.notices()
    assert "SIGKILL" in notice
    assert "1 of 3" in notice
    assert (worker.notices(), worker.failure) == ([], None)
    assert len(children()) == 1  # the dead one is no zombie


def test_a_clip_that_kills_the_renderer_twice_is_left_out(worker: RenderWorker) -> None:
    worker.request([a_clip(10, DIES), a_clip(20)])
    pictures(worker, a_clip(20))
    message = worker.error(a_clip(10, DIES).id)
    assert message is not None
    assert "SIGSEGV" in message
    assert len(worker.notices()) == 2
    assert worker.failure is None


def test_a_process_that_keeps_dying_is_given_up(worker: RenderWorker) -> None:
    deadly = [a_clip(colour, DIES) for colour in (10, 20)]
    worker.request([*deadly, a_clip(30)])
    message = wait_for(lambda: worker.failure)
    assert "died 4 times" in message
    assert "SIGSEGV" in message
    assert wait_for(lambda: worker.error(a_clip(30).id)) == message
    notices = worker.notices()
    assert (len(notices), notices[-1]) == (4, message)  # three starts, and the end
    assert children() == []


def test_an_env_that_cannot_be_made_says_why_once(lamp: None, cache: FrameCache) -> None:
    with RenderWorker(ENV, {"sidee": 5}, cache) as worker:
        worker.request([a_clip(10), a_clip(20)])
        message = wait_for(lambda: worker.error(a_clip(20).id))
        assert "sidee" in message
        assert worker.failure == message
        assert worker.notices() == [message]


def test_arguments_that_no_other_process_can_have_are_refused(
    lamp: None, cache: FrameCache
) -> None:
    with RenderWorker(ENV, {"side": object()}, cache) as worker:
        worker.request([a_clip(10)])
        assert "env_kwargs" in wait_for(lambda: worker.error(a_clip(10).id))


def test_without_opengl_one_message_says_what_to_install(cache: FrameCache) -> None:
    states = np.zeros((3, 9), np.float32)
    clip = Clip(np.zeros((3, 1)), np.zeros((2, 1)), "rlhf_gym/Reacher-v0", sim_states=states)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUJOCO_GL", "disable")
        with RenderWorker("rlhf_gym/Reacher-v0", None, cache) as worker:
            worker.request([clip])
            message = wait_for(lambda: worker.error(clip.id))
            assert "libegl1" in message
            assert worker.notices() == [message]


def test_a_folder_that_cannot_be_written_is_named(lamp: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with RenderWorker(ENV, None, FrameCache(tmp_path / "file" / "cache")) as worker:
        worker.request([a_clip(10)])
        assert "make room there" in wait_for(lambda: worker.error(a_clip(10).id))


def test_closing_in_the_middle_of_a_clip_that_hangs_leaves_no_process(
    lamp: None, cache: FrameCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render_worker, "_JOIN_SECONDS", 0.3)
    with RenderWorker(ENV, None, cache) as worker:
        worker.request([a_clip(10), a_clip(20, HANGS)])
        pictures(worker, a_clip(10))
    assert children() == []
    worker.close()  # twice does no harm
    assert worker.get(a_clip(10).id) is None


def test_the_process_ends_when_its_parent_is_killed(
    lamp: None, tmp_path: Path, cache: FrameCache
) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(tmp_path / "modules")!r})
from pathlib import Path
import numpy as np
from rlhf_gym.data import Clip
from rlhf_gym.frame_cache import FrameCache
from rlhf_gym.render_worker import RenderWorker
worker = RenderWorker({ENV!r}, None, FrameCache(Path({str(cache.folder)!r})))
clip = Clip(np.zeros((3, 1)), np.zeros((2, 1)), "Lamp-v0", sim_states=np.zeros((3, 2)))
worker.request([clip])
while worker.get(clip.id) is None:
    time.sleep(0.005)
print(worker._process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()

    def gone() -> bool:  # it belongs to init now, which may take its time to fetch it
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"

    wait_for(gone)


def test_fewer_clips_in_memory_than_a_pair_are_refused(cache: FrameCache) -> None:
    with pytest.raises(ConfigError, match="a pair"):
        RenderWorker(ENV, None, cache, n_in_memory=1)


def test_the_window_of_the_parent_is_not_loaded_with_what_draws() -> None:
    code = (
        "import rlhf_gym.render_worker, sys; print('mujoco' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ.copy()
    )
    assert done.stdout.split() == ["False", "False"]
