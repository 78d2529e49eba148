from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_gym.config import to_yaml
from rlhf_gym.data import Choice, Preference, Query
from rlhf_gym.envs import TEXT_TASK_IDS
from rlhf_gym.envs.rubrics import rubric_for
from rlhf_gym.errors import ConfigError, MissingDependencyError
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.label_options import LabelOptions
from rlhf_gym.label_report import forget_labeller
from rlhf_gym.labelling import _Task, _worker, label_store, open_sitting
from rlhf_gym.text_clips import text_clip
from rlhf_gym.train_config import TrainConfig

# What training, fitting, figures and the report need: seconds each, on a cold start.
HEAVY = {"matplotlib", "mujoco", "pandas", "scipy", "sklearn", "stable_baselines3", "torch"}
PROGRAM = """
import json, sys
from pathlib import Path
import {window}
from rlhf_gym.label_options import LabelOptions
from rlhf_gym.labelling import open_sitting
with open_sitting(Path(sys.argv[1]), LabelOptions()) as session:
    session.tick()
    assert session.answer("left")
    print(json.dumps([session.state, *sys.modules]))
"""


@pytest.mark.parametrize("window", ["window", "terminal"])
def test_a_pair_is_served_and_answered_without_loading_anything_heavy(
    tmp_path: Path, window: str
) -> None:
    pairs = [(text_clip("Why?", f"aye {i}"), text_clip("Why?", f"nay {i}")) for i in range(2)]
    with PreferenceStore(tmp_path) as store:
        store.post([Query(pair, 0, 0, i) for i, pair in enumerate(pairs)])
    program = PROGRAM.format(window=f"rlhf_gym.feedback.viewer.{window}")
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    state, *modules = json.loads(done.stdout.splitlines()[-1])
    assert state == "showing"
    loaded = {name.partition(".")[0] for name in modules}
    assert "rlhf_gym" in loaded and loaded & HEAVY == set()


def test_a_share_of_gold_beyond_0_and_1_is_refused() -> None:
    for share in (-1.0, 2.0, float("nan")):
        with pytest.raises(ConfigError, match=r"`gold` is .* \(--gold\), expected a share"):
            LabelOptions(gold=share)


def test_each_env_has_pictures_of_its_own(tmp_path: Path) -> None:
    """Who corrects a wrong `--env` must not go on judging what the first one drew."""
    folders = []
    for env_id, kwargs in (("A-v0", {}), ("B-v0", {}), ("A-v0", {"goal": 1}), ("A-v0", {})):
        config = TrainConfig(env_kwargs=kwargs)
        with _worker(tmp_path, _Task(env_id, config), env_id, 64) as worker:
            folders.append(worker._cache.folder)
    assert folders[0] == folders[3] and len(set(folders)) == 3


def a_store_of_texts(folder: Path) -> Path:
    with PreferenceStore(folder) as store:
        store.post(
            [
                Query(
                    (text_clip("the film was", " good"), text_clip("the film was", " bad")), 0, 0, 0
                )
            ]
        )
    return folder


@pytest.mark.parametrize("env_id", TEXT_TASK_IDS)
def test_a_run_on_a_shipped_text_task_opens_with_its_name_and_its_page(
    tmp_path: Path, env_id: str
) -> None:
    a_store_of_texts(tmp_path)
    (tmp_path / "config.yaml").write_text(to_yaml(TrainConfig(env=env_id, teacher="human")))
    with open_sitting(tmp_path, LabelOptions()) as session:
        assert session.task == env_id.removeprefix("rlhf_gym/")
        assert session.rubric == rubric_for(env_id) is not None


def test_without_a_page_the_first_thing_shown_says_what_to_ask_and_where_to_write_it(
    tmp_path: Path,
) -> None:
    folder = a_store_of_texts(tmp_path / "store")
    with open_sitting(folder, LabelOptions()) as session:
        assert session.task == "Texts"
        assert "nobody wrote down what to judge by" in session.rubric
        assert str(folder / "rubric.md") in session.rubric
    (folder / "rubric.md").write_text("# Kindness")
    with open_sitting(folder, LabelOptions()) as session:
        assert session.rubric == "# Kindness"
    (tmp_path / "other.md").write_text("# Brevity")
    with open_sitting(folder, LabelOptions(rubric=tmp_path / "other.md")) as session:
        assert session.rubric == "# Brevity"
    (folder / "rubric.md").unlink()
    with open_sitting(folder, LabelOptions(env="rlhf_gym/Sentiment-v0")) as session:
        assert session.rubric == rubric_for("rlhf_gym/Sentiment-v0")


@pytest.mark.parametrize("driver", ["dummy", "offscreen"])
def test_a_window_that_nobody_would_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(MissingDependencyError, match=f"SDL_VIDEODRIVER={driver} draws into memory"):
        label_store(a_store_of_texts(tmp_path), LabelOptions())
    with PreferenceStore(tmp_path) as store:
        assert store.rows("SELECT count(*) FROM leases") == [(0,)]


def test_forgetting_asks_and_nobody_there_means_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = Query((text_clip("Why?", "aye"), text_clip("Why?", "nay")), 0, 0, 0)
    with PreferenceStore(tmp_path) as store:
        store.post([query])
        store.answer([Preference(query, Choice.FIRST, "human", "ann")])
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(ConfigError, match="nothing was deleted"):
        forget_labeller(tmp_path, "ann")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    forget_labeller(tmp_path, "ann")
    with PreferenceStore(tmp_path) as store:
        assert store.answer_records() == []
