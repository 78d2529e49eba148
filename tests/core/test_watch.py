from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image, ImageSequence
from rich.console import Console

from rlhf_gym.data import Array
from rlhf_gym.errors import ConfigError, DataError, MissingDependencyError
from rlhf_gym.watch import watch_policy, write_video

HEIGHT, WIDTH = 33, 47  # odd on purpose: H.264 wants even sides


def ramp(n: int) -> list[Array]:
    """n grey frames, each brighter than the one before."""
    return [np.full((HEIGHT, WIDTH, 3), 10 + 20 * k, np.uint8) for k in range(n)]


class Lamp(gym.Env[Array, Array]):
    """Rewards 1, 2, 3 in its three steps; frames show the step number."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.t = 0
        self.n_rendered = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.full(1, action[0], np.float32), float(self.t), False, self.t == 3, {}

    def render(self) -> Any:
        self.n_rendered += 1
        return np.full((HEIGHT, WIDTH, 3), 60 * self.t, np.uint8)


def stay(_: Any) -> Array:
    return np.zeros(1, np.float32)


def read_gif(path: Path) -> tuple[list[Array], list[int]]:
    """The frames of a GIF and how long each is shown, in milliseconds."""
    with Image.open(path) as gif:
        images = [image.copy() for image in ImageSequence.Iterator(gif)]
    frames = [np.asarray(image.convert("RGB")) for image in images]
    return frames, [int(image.info["duration"]) for image in images]


def a_console() -> Console:
    return Console(file=io.StringIO(), width=100)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_mp4_holds_every_frame_at_the_given_rate(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "agent.mp4"
    write_video(ramp(12), path, fps=25)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 25
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 12
    assert frames[0].shape == (34, 48, 3)  # padded to even
    for k, frame in enumerate(frames):
        assert abs(float(frame.mean()) - (10 + 20 * k)) < 4  # 8-bit colour conversion, lossy codec


def test_a_gif_holds_every_frame_for_its_time(tmp_path: Path) -> None:
    path = tmp_path / "agent.gif"
    write_video(iter(ramp(5)), path, fps=20)
    frames, durations = read_gif(path)
    assert [frame.shape for frame in frames] == [(HEIGHT, WIDTH, 3)] * 5
    assert durations == [50] * 5  # 1000 ms / 20
    for k, frame in enumerate(frames):
        np.testing.assert_array_equal(frame, 10 + 20 * k)


def test_a_gif_faster_than_viewers_play_leaves_frames_out_and_keeps_its_length(
    tmp_path: Path,
) -> None:
    path = tmp_path / "fast.gif"
    write_video(ramp(12), path, fps=100)  # every second frame for 20 ms: 12 / 100 = 6 * 0.02 s
    frames, durations = read_gif(path)
    assert durations == [20] * 6
    assert [frame[0, 0, 0] for frame in frames] == [10, 50, 90, 130, 170, 210]


@pytest.mark.parametrize("name", ["agent.avi", "agent", "agent.mp4.txt"])
def test_other_endings_are_refused_before_a_frame_is_taken(tmp_path: Path, name: str) -> None:
    frames = iter(ramp(2))
    with pytest.raises(ConfigError, match=r"\.mp4 or \.gif"):
        write_video(frames, tmp_path / name, fps=30)
    assert len(list(frames)) == 2


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_not_positive_is_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(ConfigError, match="fps"):
        write_video(ramp(2), tmp_path / "a.gif", fps=fps)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        write_video(ramp(2), tmp_path / "nowhere" / "a.gif", fps=30)


@pytest.mark.parametrize("name", ["agent.mp4", "agent.gif"])
def test_a_failure_half_way_keeps_the_old_file_and_leaves_no_piece(
    tmp_path: Path, name: str
) -> None:
    if name.endswith("mp4"):
        pytest.importorskip("av")
    path = tmp_path / name
    path.write_bytes(b"old")
    frames = [*ramp(3), np.zeros((5, 5, 3), np.uint8)]
    with pytest.raises(DataError, match="frame 3"):
        write_video(frames, path, fps=30)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["agent.mp4", "agent.gif"])
def test_a_video_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="at least one frame"):
        write_video([], tmp_path / name, fps=30)
    assert list(tmp_path.iterdir()) == []


def test_frames_of_floats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="float64"):
        write_video([np.zeros((4, 4, 3))], tmp_path / "a.gif", fps=30)


def test_without_pyav_the_message_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def no_av(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "av":
            raise ImportError("No module named 'av'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_av)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rlhf_gym\[video\]'"):
        write_video(ramp(2), tmp_path / "a.mp4", fps=30)
    assert list(tmp_path.iterdir()) == []


def test_watching_prints_the_true_return_of_each_episode_and_films_all(tmp_path: Path) -> None:
    console = a_console()
    path = tmp_path / "lamp.gif"
    returns = watch_policy(Lamp("rgb_array"), stay, 2, path, console=console)
    assert returns == [6.0, 6.0]  # 1 + 2 + 3
    assert printed(console).splitlines() == [
        "episode 1/2: TRUE return 6.00, 3 steps",
        "episode 2/2: TRUE return 6.00, 3 steps",
    ]
    frames, durations = read_gif(path)
    assert [frame[0, 0, 0] for frame in frames] == [0, 60, 120, 180, 0, 60, 120, 180]
    assert durations == [100] * 8  # the env's render_fps of 10


def test_a_window_env_draws_by_itself() -> None:
    env = Lamp("human")
    assert watch_policy(env, stay, 1, console=a_console()) == [6.0]
    assert env.n_rendered == 0


def test_the_same_seed_shows_the_same_episodes() -> None:
    class Dice(Lamp):
        def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
            obs, _, terminated, truncated, info = super().step(action)
            return obs, self.np_random.random(), terminated, truncated, info

    def play(seed: int) -> list[float]:
        return watch_policy(Dice("human"), stay, 2, seed=seed, console=a_console())

    first, second = play(1)
    assert first != second
    assert play(1) == [first, second]
    assert play(2) != [first, second]


@pytest.mark.parametrize(
    ("made_with", "modes", "video", "says"),
    [
        (None, [], True, "only `watch` needs a renderer"),
        (None, [], False, "only `watch` needs a renderer"),
        (None, ["rgb_array"], True, 'render_mode="rgb_array"'),
        ("rgb_array", ["rgb_array"], False, "--video"),
        ("rgb_array", ["rgb_array", "human"], False, 'render_mode="human"'),
    ],
)
def test_an_unfit_render_mode_is_refused_with_the_way_out(
    tmp_path: Path, made_with: str | None, modes: list[str], video: bool, says: str
) -> None:
    env = Lamp(made_with)
    env.metadata = {"render_modes": modes}
    with pytest.raises(ConfigError) as caught:
        watch_policy(env, stay, 1, tmp_path / "a.gif" if video else None)
    assert says in str(caught.value)
    assert "Lamp" in str(caught.value)


def test_an_env_that_promises_pictures_and_draws_none_is_named(tmp_path: Path) -> None:
    class Dark(Lamp):
        render = gym.Env.render

    with pytest.raises(ConfigError, match=r"Dark names render mode 'rgb_array'.*has no `render`"):
        watch_policy(Dark("rgb_array"), stay, 1, tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_no_episodes_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_episodes"):
        watch_policy(Lamp("human"), stay, 0)
