from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_gym.data import Choice, Preference, Query
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.label_options import LabelOptions
from rlhf_gym.label_report import forget_labeller
from rlhf_gym.labelling import _Task, _worker
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
