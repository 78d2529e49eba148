from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_gym.data import Query
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.text_clips import text_clip

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
