"""The guide for own robots is run as it is written, in order, from a copy of examples/.

The fast test cuts every budget, the slow one runs the commands in a shell and looks at the result.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from rlhf_gym import training
from rlhf_gym.cli import main
from rlhf_gym.feedback.settings import FitSettings, RewardModelSettings
from rlhf_gym.runs import Run
from rlhf_gym.train_config import TrainConfig

# An example block is run by test_examples.py, and is imported here under its own name.
BLOCK = re.compile(r"^( *)```(bash|python|yaml)\n(.*?)^\1```$", re.M | re.S)
FILE_NAME = re.compile(r"# (\S+\.yaml)\n")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, code) of every block, in order; quoted example files are left out."""
    text = re.sub(r"<!-- example: \S+ -->\n```python\n.*?```", "", page.read_text(), flags=re.S)
    return [(match[2], textwrap.dedent(match[3])) for match in BLOCK.finditer(text)]


def test_all_kinds_of_blocks_are_found_indented_ones_too(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- example: x.py -->\n```python\nquoted\n```\n```bash\nls\n```\n"
        "1. item\n\n   ```python\n   if x:\n       y()\n   ```\n"
        "```yaml\n# a.yaml\nb: 1\n```\n```\nart\n```\n"
    )
    assert blocks(page) == [
        ("bash", "ls\n"),
        ("python", "if x:\n    y()\n"),
        ("yaml", "# a.yaml\nb: 1\n"),
    ]


@pytest.fixture
def guide(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The guide's blocks, with the working directory a copy of examples/."""
    shutil.copytree(repository / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path / "examples")
    monkeypatch.syspath_prepend(str(tmp_path / "examples"))
    found = blocks(repository / "docs" / "own-robots.md")
    assert {kind for kind, _ in found} == {"bash", "python", "yaml"}
    return found


def write_yaml(code: str) -> None:
    named = FILE_NAME.match(code)
    assert named is not None, "the first line of a YAML block names its file"
    Path(named[1]).write_text(code)


def run_python(code: str, namespace: dict[str, Any]) -> None:
    exec(compile(code, "docs/own-robots.md", "exec"), namespace)


def commands(code: str) -> list[list[str]]:
    lines = [shlex.split(line) for line in code.splitlines()]
    assert all(line[0] == "rlhf-gym" for line in lines)
    return [line[1:] for line in lines]


@pytest.mark.filterwarnings("ignore:.*A Box observation space m.*infinity:UserWarning")
def test_every_block_of_the_guide_runs_with_small_budgets(
    guide: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = training.train

    def train_a_little(config: TrainConfig, out: Path | None) -> Run:
        training.prepare(config)  # the budgets of the guide go together
        tiny = {"n_envs": 2, "n_steps": 100, "batch_size": 100, "n_epochs": 1}
        little = dataclasses.replace(
            config,
            labels=10,
            steps=1000,
            rounds=2,
            eval_episodes=1,
            final_episodes=2,
            ensemble=RewardModelSettings(hidden=(8,), fit=FitSettings(max_epochs=2)),
            hyperparameters={**config.hyperparameters, **tiny},
        )
        return train(little, out, quiet=True)

    monkeypatch.setattr(training, "train", train_a_little)
    monkeypatch.setattr("rlhf_gym.doctor.gl_works", lambda backend: True)  # it tries for seconds
    namespace: dict[str, Any] = {}
    for kind, code in guide:
        if kind == "yaml":
            write_yaml(code)
        elif kind == "python":
            run_python(code, namespace)
        else:
            for arguments in commands(code):
                if arguments[0] == "doctor":
                    with pytest.raises(SystemExit) as stop:
                        main(arguments)
                    assert stop.value.code == 0
                elif arguments[0] == "train":
                    with monkeypatch.context() as patch:  # figures are drawn by `report`, once
                        patch.setattr("rlhf_gym.report.write_report", lambda folder: None)
                        main(arguments)
                elif arguments[0] != "watch":  # needs OpenGL: the slow test
                    main(arguments)
    assert sorted(p.name for p in Path("runs").iterdir()) == [
        "gantry",
        "gantry-mistake",
        "gantry-true",
        "tuned",
        "tuned-true",
    ]
    assert "horizon: 40" in Path("runs/tuned/config.yaml").read_text()
    assert {"gained", "possible"} <= set(namespace)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*A Box observation space m.*infinity:UserWarning")
def test_the_guide_as_written_ends_with_robots_that_come_closer(
    guide: list[Any], require_gl: str
) -> None:
    namespace: dict[str, Any] = {}
    for kind, code in guide:
        if kind == "yaml":
            write_yaml(code)
        elif kind == "python":
            run_python(code, namespace)
        else:
            for arguments in commands(code):
                subprocess.run([sys.executable, "-m", "rlhf_gym", *arguments], check=True)
    assert Path("gantry.gif").read_bytes().startswith(b"GIF8")
    for name in ("gantry", "gantry-true", "gantry-mistake"):
        # The bound of test_examples.py; the tuned runs have another horizon.
        assert json.loads(Path(f"runs/{name}/summary.json").read_text())["true_return_mean"] > -35
    assert namespace["gained"] > 0


def test_the_file_format_guide_reads_the_answers_of_a_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    fit = FitSettings(max_epochs=2)
    config = TrainConfig(
        env="rlhf_gym/PointMass-v0", labels=20, steps=1200, rounds=1, clip_length=10,
        final_episodes=2, ensemble=RewardModelSettings(hidden=(8,), fit=fit),
        hyperparameters={"n_envs": 4, "n_steps": 100, "batch_size": 100, "n_epochs": 1},
    )  # fmt: skip
    training.train(config, tmp_path / "runs" / "first", quiet=True)
    monkeypatch.chdir(tmp_path)
    (code,) = [c for kind, c in blocks(repository / "docs" / "file-formats.md") if kind == "python"]
    exec(code, {})
    *answers, query = capsys.readouterr().out.splitlines()
    # The oracle's answers: the first clip is preferred where its true return is the higher.
    gaps = [float(line.split()[-1]) for line in answers]
    assert len(gaps) == 20
    assert ["Choice.FIRST" in line for line in answers] == [gap > 0 for gap in gaps]
    assert "nan" not in query.lower() and "(11, 4)" in query
