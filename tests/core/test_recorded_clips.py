"""People label clips of an env that offers no simulator state: end to end, through the viewer."""

from __future__ import annotations

import _thread
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rlhf_gym import training
from rlhf_gym.clip_frames import ClipRenderer, recorded_frames
from rlhf_gym.config import to_yaml
from rlhf_gym.data import Clip
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError
from rlhf_gym.feedback.answer_sources import People
from rlhf_gym.feedback.settings import FitSettings, RewardModelSettings
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.frame_cache import FrameCache
from rlhf_gym.label_options import LabelOptions
from rlhf_gym.labelling import open_sitting
from rlhf_gym.pictures import Pictures, encode_picture
from rlhf_gym.render_worker import RenderWorker
from rlhf_gym.runs import Run
from rlhf_gym.train_config import TrainConfig
from rlhf_gym.trust import remember_made_here

PATIENCE_SECONDS = 300.0

# The picture says which step it is, and of which episode, by two draws at its start.
TICKER = """
import os
import gymnasium as gym
import numpy as np

class Ticker(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(0, 99, (3,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    n_rendered = 0
    def __init__(self, render_mode=None):
        self.render_mode = render_mode
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.draws = 0, self.np_random.integers(20, size=2)
        return self._obs(), {}
    def _obs(self):
        return np.array([self.t, *self.draws], np.float32)
    def step(self, action):
        self.t += 1
        return self._obs(), float(action[0]), False, False, {}
    def render(self):
        Ticker.n_rendered += 1
        shades = 12 * self._obs().astype(np.uint8)
        return np.repeat(shades, 16)[None, :, None] * np.ones((32, 1, 3), np.uint8)

class Blind(Ticker):
    metadata = {"render_modes": []}

gym.register("Ticker-v0", Ticker, max_episode_steps=20)
gym.register("BlindTicker-v0", Blind, max_episode_steps=20)
"""

SMALL = TrainConfig(
    env="ticker_of_tests:Ticker-v0",
    teacher="human",
    labels=8,
    steps=400,
    rounds=3,
    clip_length=5,
    eval_episodes=1,
    final_episodes=1,
    label_slack=0.0,
    ensemble=RewardModelSettings(hidden=(8,), fit=FitSettings(max_epochs=1)),
    hyperparameters={"n_envs": 2, "n_steps": 20, "batch_size": 20, "n_epochs": 1},
)


@pytest.fixture(scope="module", autouse=True)
def ticker(tmp_path_factory):
    """The env's module, and polls that do not wait as long as for people."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "ticker_of_tests.py").write_text(TICKER)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        build = training._build_answers

        def impatient(config: TrainConfig):
            source = build(config)
            if isinstance(source, People):
                source.poll_seconds = 0.01
            return source

        patch.setattr(training, "_build_answers", impatient)
        yield


def assert_shows(frames, clip: Clip) -> None:
    """One picture per observation, and each shade that of the observation beside it."""
    assert frames.shape == (len(clip) + 1, 32, 48, 3)
    for part in range(3):
        shades = frames[:, 2:-2, 16 * part + 3 : 16 * part + 13].astype(float)
        # JPEG mixes neighbouring shades near their border, and rounds; one step is 12 of 256.
        assert np.abs(shades.mean(axis=(1, 2, 3)) - 12 * clip.obs[:, part]).max() < 3


def label(folder: Path, stop: threading.Event, shown: list[str]) -> None:
    """Look at every pair through the viewer's session, and prefer the larger mean action."""
    while not (folder / "preferences.db").exists() and not stop.is_set():
        time.sleep(0.01)
    options = LabelOptions(gold_share=0.0, repeat_share=0.0)
    with open_sitting(folder, options) as session:
        end = time.monotonic() + PATIENCE_SECONDS
        while not stop.is_set():
            assert time.monotonic() < end, (session.state, session.error, session.damaged)
            session.tick()
            if session.state != "showing":
                time.sleep(0.002)
                continue
            assert session.pair is not None and session.pair.pictures is not None
            left, right = session.pair.question.sides
            for clip, frames in zip((left, right), session.pair.pictures, strict=True):
                assert_shows(frames.frames, clip)
                # 6 states at 10 per second would take 0.6 s: stretched to a second and a half.
                assert frames.seconds_per_frame == pytest.approx(1.5 / 6)
            shown.append(session.pair.question.query.id)
            assert session.answer("left" if left.actions.mean() > right.actions.mean() else "right")


def while_labelled(folder: Path, work) -> list[str]:
    """Do something while somebody labels; returns the pairs that were seen."""
    stop, shown, failed = threading.Event(), [], []

    def sit() -> None:
        try:
            label(folder, stop, shown)
        except BaseException as error:  # a thread's own failure would only be a warning
            failed.append(error)
            if not stop.is_set():  # a run that waits for answers would wait forever
                _thread.interrupt_main()

    thread = threading.Thread(target=sit)
    # Tests that are started in the background of a shell inherit that SIGINT is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread.start()
    try:
        work()
    except KeyboardInterrupt:
        assert failed
    finally:
        signal.signal(signal.SIGINT, before)
        stop.set()
        thread.join()
    if failed:
        raise failed[0]
    return shown


def weights(run: Run) -> dict[str, str]:
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None
    files = sorted(checkpoint.folder.glob("*.safetensors"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> tuple[Run, list[str]]:
    folder = tmp_path_factory.mktemp("recorded") / "run"
    shown = while_labelled(folder, lambda: training.train(SMALL, folder, quiet=True))
    return Run.open(folder), shown


def test_a_labeller_sees_what_the_env_showed_and_no_env_is_made_for_it(labelled) -> None:
    run, shown = labelled
    assert len(shown) == len(set(shown)) == 8 == run.metrics()[-1]["n_labels"]
    assert not (run.folder / "cache").exists(), "nothing was drawn anew"


def test_a_killed_run_goes_on_with_its_pictures_to_the_same_weights(labelled, tmp_path) -> None:
    folder = tmp_path / "killed"
    run = Run.create(folder, {"config.yaml": to_yaml(training.prepare(SMALL).config)})
    remember_made_here(run)  # as `train` does: the env is a module's
    command = [sys.executable, "-m", "rlhf_gym", "train", "--resume", str(folder)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def kill_after_the_first_round() -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not (folder / "checkpoints" / "round-0000").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()

    first = while_labelled(folder, kill_after_the_first_round)
    with PreferenceStore(folder) as store:
        n_asked = store.counts()["n_queries"]
    assert 2 <= len(first) and n_asked < 8, "the kill came in the middle"
    rest = while_labelled(folder, lambda: training.resume(folder, quiet=True))
    assert len({*first, *rest}) == 8
    assert weights(Run.open(folder)) == weights(labelled[0])


def test_a_synthetic_teacher_costs_no_picture_and_changes_no_answer(labelled, tmp_path) -> None:
    from ticker_of_tests import Ticker

    before = Ticker.n_rendered
    config = TrainConfig(**{**vars(SMALL), "teacher": "synthetic"})
    run = training.train(config, tmp_path / "plain", quiet=True)
    assert Ticker.n_rendered == before
    with PreferenceStore(run.store_folder) as plain, PreferenceStore(labelled[0].folder) as seen:
        first, second = (
            [q.id for q in s.queries([r.query_id for r in s.answer_records()]) if q.round == 0]
            for s in (plain, seen)
        )
        assert first == second, "the same clips are drawn"
        clip = plain.queries([first[0]])[0].first
    assert clip.pictures is None
    assert not list((run.folder / "clips").glob("*/pictures.npy"))
    with pytest.raises(DataError, match=r"no pictures were taken.*--record-pictures"):
        ClipRenderer(SMALL.env).render(clip)


def test_pictures_are_taken_for_any_teacher_when_asked_for(tmp_path) -> None:
    options = {"teacher": "synthetic", "record_pictures": True, "labels": 2, "steps": 120}
    run = training.train(TrainConfig(**{**vars(SMALL), **options}), tmp_path / "run", quiet=True)
    with PreferenceStore(run.store_folder) as store:
        (record, *_) = store.answer_records()
        clips = store.query(record.query_id).clips
    for clip in clips:
        assert_shows(recorded_frames(clip).frames, clip)


def test_an_env_that_shows_nothing_is_refused_before_a_folder_is_made(tmp_path) -> None:
    config = TrainConfig(**{**vars(SMALL), "env": "ticker_of_tests:BlindTicker-v0"})
    with pytest.raises(ConfigError, match="BlindTicker-v0 has nothing to show people"):
        training.train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    assert training.prepare(config), "it trains by other teachers"


def a_clip(pictures: Pictures | None) -> Clip:
    obs = np.zeros((3, 1), np.float32)
    return Clip(obs, np.zeros((2, 1), np.float32), "Nowhere-v0", pictures=pictures)


def test_recorded_pictures_need_neither_the_env_nor_a_process(tmp_path) -> None:
    whole = encode_picture(np.full((8, 8, 3), 90, np.uint8))
    clip = a_clip(Pictures([whole] * 3, 0.1))
    damaged = Clip(clip.obs + 1, clip.actions, "Nowhere-v0", pictures=Pictures([b"?"] * 3, 0.1))
    with RenderWorker("Nowhere-v0", None, FrameCache(tmp_path)) as worker:
        worker.request([clip, damaged])
        end = time.monotonic() + PATIENCE_SECONDS
        while worker.get(clip.id) is None or worker.error(damaged.id) is None:
            assert time.monotonic() < end
            time.sleep(0.002)
        assert worker._process is None and worker.failure is None
        assert damaged.id in (worker.error(damaged.id) or "")


def test_clips_without_pictures_or_with_damaged_ones_are_named() -> None:
    with pytest.raises(DataError, match="carries no pictures"):
        recorded_frames(a_clip(None))
    clip = a_clip(Pictures([b"?"] * 3, 0.1))
    with pytest.raises(CorruptDataError, match=f"clip {clip.id} cannot be shown: picture 0"):
        recorded_frames(clip)
