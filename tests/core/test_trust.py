"""Somebody else's run, with modules of theirs wherever one may stand: nothing of it is executed.

The modules write down that they were run, so that a test sees it however they were reached.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rlhf_gym import offline, training
from rlhf_gym.cli import main
from rlhf_gym.data import Clip, Query
from rlhf_gym.errors import UntrustedError
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.label_options import LabelOptions
from rlhf_gym.labelling import open_sitting
from rlhf_gym.runs import Run
from rlhf_gym.train_config import TrainConfig, read_run_config
from rlhf_gym.trust import (
    is_made_here,
    module_file,
    remember_made_here,
    search_current_folder,
    state_folder,
)

OPTIONS: dict[str, Any] = {
    "env": "rlhf_gym/PointMass-v0", "labels": 20, "steps": 1600, "rounds": 2, "clip_length": 10,
    "eval_episodes": 1, "final_episodes": 2,
    "hyperparameters": {"n_envs": 2, "n_steps": 100, "batch_size": 100, "n_epochs": 1},
}  # fmt: skip
MARK = "import pathlib\npathlib.Path({mark!r}).write_text('run')\n"
PARTS = """
from rlhf_gym import Choice, Preference
from rlhf_gym.feedback.acquisition import uniform
class Ties:
    name = "ties"
    def answer(self, queries):
        return [Preference(q, Choice.TIE, self.name) for q in queries]
"""
OWN_PARTS = [
    {"env": "planted:rlhf_gym/PointMass-v0"},
    {"teacher": "planted:Ties"},
    {"acquisition": "planted:uniform"},
    {"reward_model": "planted:Model"},
    {"algo": "planted:Agent"},
    {"env_kwargs": {"reward": {"terms": ["planted:term"]}}},
    {"hyperparameters": {"policy_kwargs": {"features": "planted:Features"}}},
]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that names nothing."""
    folder = tmp_path_factory.mktemp("trust")
    (folder / "options.yaml").write_text(yaml.safe_dump(OPTIONS))
    flags = ["--ensemble.hidden", "8", "--ensemble.fit.max-epochs", "2"]
    main(["train", "--config", str(folder / "options.yaml"), *flags, "--out", str(folder / "run")])
    return folder / "run"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def here(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to stand in, with a module of a stranger's; `mark` appears when it is run."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "planted.py").write_text(MARK.format(mark=str(tmp_path / "mark")) + PARTS)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    sys.modules.pop("planted", None)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.fixture
def foreign(here: Path, shipped: Path) -> Callable[..., Path]:
    """Unpacks somebody else's run where one stands; the module lies in it and beside it too."""

    def unpack(**options: Any) -> Path:
        run = here / "foreign"
        shutil.copytree(shipped, run)
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump({**config, **options}))
        shutil.copy(here / "planted.py", run)
        return run

    return unpack


# -- what of a configuration names a module -------------------------------------------------------


@pytest.mark.parametrize("options", OWN_PARTS)
def test_every_option_that_can_name_a_module_is_found(options: dict[str, Any]) -> None:
    (named,) = TrainConfig(**options).named_modules().items()
    assert named[0].startswith(next(iter(options))) and named[1].startswith("planted:")


def test_what_names_no_module_is_not_taken_for_one() -> None:
    settings = {
        "learning_rate": "lin_0.001",
        "url": "https://x.y/z",
        "time": "12:30",
        "text": "a: b",
    }
    config = TrainConfig(teacher="replay:runs/first", env_kwargs=settings, device="cuda:0")
    assert config.named_modules() == {}


def test_aliases_that_repeat_or_contain_themselves_come_to_an_end() -> None:
    bomb: list[Any] = ["planted:x"]
    for _ in range(60):
        bomb = [bomb, bomb]
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    named = TrainConfig(env_kwargs={"bomb": bomb, "loop": loop}).named_modules()
    assert list(named.values()) == ["planted:x"]


# -- which runs were made here --------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, state: Path) -> Run:
    made = Run.create(tmp_path / "runs" / "a", {"config.yaml": "teacher: planted:Ties\n"})
    remember_made_here(made)
    return made


def test_a_run_is_known_at_its_place_by_whatever_path_one_comes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_made_here(run)
    (tmp_path / "link").symlink_to(run.folder.parent)
    assert is_made_here(Run.open(tmp_path / "link" / "a"))
    monkeypatch.chdir(run.folder)
    assert is_made_here(Run.open("."))


def test_a_replaced_configuration_or_another_place_is_not_known(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "moved")
    assert not is_made_here(Run.open(tmp_path / "moved"))
    run.config_path.write_text("teacher: planted:Other\n")
    assert not is_made_here(run)
    shutil.rmtree(run.folder)  # and somebody else's unpacked at its place
    unpacked = Run.create(run.folder, {"config.yaml": "env: planted:X-v0\n"})
    assert not is_made_here(unpacked)


@pytest.mark.parametrize("fault", ["writable", "link", "pipe", "rubbish", "nested", "missing"])
def test_a_memory_that_others_may_have_written_does_not_count(
    run: Run, state: Path, fault: str
) -> None:
    (memory,) = (state / "rlhf_gym" / "runs").iterdir()
    assert memory.stat().st_mode & 0o777 == 0o600
    content = memory.read_text()
    if fault == "writable":
        memory.chmod(0o666)
    else:
        memory.unlink()
    if fault == "link":
        (state / "other").write_text(content)
        (state / "other").chmod(0o600)
        memory.symlink_to(state / "other")
    elif fault == "pipe":
        os.mkfifo(memory, 0o600)
    elif fault in ("rubbish", "nested"):
        memory.write_bytes(b"\xff" if fault == "rubbish" else b"[" * 60_000)
        memory.chmod(0o600)
    assert not is_made_here(run)


def test_a_relative_state_folder_is_void_as_the_specification_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "state", "./state"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert state_folder() == tmp_path / ".local" / "state" / "rlhf_gym"


# -- where modules are looked for -----------------------------------------------------------------


def test_the_file_of_a_module_is_found_without_running_anything(here: Path, mark: Path) -> None:
    (here / "pkg" / "sub").mkdir(parents=True)
    for file in ("pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/robots.py", "yaml.py"):
        shutil.copy("planted.py", file)
    assert module_file("planted") == str(here / "planted.py")
    assert module_file("pkg.sub.robots") == str(here / "pkg/sub/robots.py")
    assert module_file("pkg.nothing") == str(here / "pkg/__init__.py"), "which would be run"
    assert module_file("yaml") == yaml.__file__, "what is installed is found first"
    assert module_file("rlhf_gym.feedback.store") == sys.modules["rlhf_gym.feedback.store"].__file__
    for name in ("nothing", "", "a b", "a:b", "..", "a..b"):
        assert module_file(name) is None
    assert not mark.exists()


def test_the_current_folder_comes_last_and_only_where_a_module_is_named(here: Path) -> None:
    before = list(sys.path)
    search_current_folder({})
    assert sys.path == before
    for _ in range(2):
        search_current_folder({"env": "planted:X-v0"})
        assert sys.path == [*before, str(here)]


def test_a_run_folder_one_stands_in_is_never_looked_through(
    foreign: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, before = foreign(), list(sys.path)
    for place in (run, run / "checkpoints"):
        monkeypatch.chdir(place)
        search_current_folder({"env": "planted:X-v0"})
        assert sys.path == before


# -- every command, on somebody else's run ---------------------------------------------------------


COMMANDS = {
    "fit": ["fit", "RUN"],
    "evaluate": ["evaluate", "RUN", "--episodes", "1"],
    "watch": ["watch", "RUN", "--video", "film.gif"],
    "label": ["label", "RUN", "--terminal"],
    "export --sb3": ["export", "RUN", "--sb3", "agent.zip"],
    "train --resume": ["train", "--resume", "RUN"],
    "train --config": ["train", "--config", "RUN/config.yaml", "--out", "again"],
}


@pytest.mark.parametrize("options", OWN_PARTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_would_run_a_strangers_module_refuses_and_says_what_it_is(
    foreign: Callable[..., Path],
    here: Path,
    mark: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    options: dict[str, Any],
) -> None:
    run = foreign(**options)
    lock = (run / "run.lock").read_bytes()
    with pytest.raises(SystemExit) as stop:
        main([word.replace("RUN", str(run)) for word in COMMANDS[command]])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in error
    (option,) = options
    assert f"`{option}" in error and "'planted:" in error, "the option, and what it names"
    assert str(here / "planted.py") in error, "the file"
    assert "--trust" in error, "what to do"
    assert not mark.exists() and (run / "run.lock").read_bytes() == lock
    assert not (here / "again").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["report", "RUN"],
        ["labels", "RUN"],
        ["export", "RUN", "--out", "preferences.jsonl"],
        ["import", "RUN.jsonl", "--into", "store"],
        ["envs"],
    ],
)
def test_a_command_that_needs_no_module_of_the_run_works_and_runs_none(
    foreign: Callable[..., Path], here: Path, mark: Path, command: list[str]
) -> None:
    run = foreign(env="planted:rlhf_gym/PointMass-v0", teacher="planted:Ties")
    if command[0] == "import":
        main(["export", str(run), "--out", f"{run}.jsonl"])
    main([word.replace("RUN", str(run)) for word in command])
    assert not mark.exists()


def test_trust_runs_it_and_lasts_for_one_command(
    foreign: Callable[..., Path], here: Path, mark: Path
) -> None:
    run = foreign(env="planted:rlhf_gym/PointMass-v0", teacher="planted:Ties")
    main(["evaluate", str(run), "--episodes", "1", "--trust"])
    assert mark.exists()
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), "--episodes", "1"])


@pytest.mark.parametrize(
    "call",
    [
        lambda run, **trust: training.resume(run, quiet=True, **trust),
        lambda run, **trust: offline.load_agent(run, **trust),
        lambda run, **trust: offline.fit_run(run, "cpu", None, **trust),
        lambda run, **trust: offline.evaluate_run(run, 1, 0, **trust),
        lambda run, **trust: offline.watch_run(run, Path("film.gif"), 1, 0, **trust),
        lambda run, **trust: offline.export_run(run, Path("agent.zip"), **trust),
        lambda run, **trust: read_run_config(Run.open(run), **trust),
    ],
)
def test_python_asks_the_same(
    foreign: Callable[..., Path], mark: Path, call: Callable[..., Any]
) -> None:
    run = foreign(env="planted:rlhf_gym/PointMass-v0")
    with pytest.raises(UntrustedError, match="trust=True"):
        call(run)
    assert not mark.exists()
    call(run, trust=True)


def test_clips_of_a_bare_store_that_name_a_module_do_not_run_it(here: Path, mark: Path) -> None:
    clip = Clip(
        obs=np.zeros((3, 2), np.float32),
        actions=np.zeros((2, 1), np.float32),
        context_id="planted:rlhf_gym/PointMass-v0",
    )
    other = Clip(obs=clip.obs + 1, actions=clip.actions, context_id=clip.context_id)
    with PreferenceStore(here / "store") as store:
        store.post([Query((clip, other), 0, 0, 0)])
    sitting = open_sitting(here / "store", LabelOptions())
    with pytest.raises(UntrustedError, match=r"`env`: 'planted:.*planted\.py"), sitting:
        pass
    assert not mark.exists()
    for options in (LabelOptions(trust=True), LabelOptions(env="rlhf_gym/PointMass-v0")):
        with open_sitting(here / "store", options):
            pass


# -- one's own robot -------------------------------------------------------------------------------


def test_ones_own_run_goes_on_without_a_word_and_a_moved_one_asks(
    here: Path, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {**OPTIONS, "env": "planted:rlhf_gym/PointMass-v0", "teacher": "planted:Ties"}
    (here / "own.yaml").write_text(yaml.safe_dump(own))
    main(["train", "--config", "own.yaml", "--out", "run"])
    assert mark.exists()
    assert sys.path[-1] == str(here)
    for command in (["evaluate", "run", "--episodes", "1"], ["train", "--resume", "run"]):
        main(command)
    with open_sitting(here / "run", LabelOptions()):
        pass
    (here / "run").rename(here / "moved")
    with pytest.raises(SystemExit):
        main(["evaluate", "moved", "--episodes", "1"])
    assert "not made here" in capsys.readouterr().err
    main(["evaluate", "moved", "--episodes", "1", "--trust"])


def test_a_run_that_cannot_be_remembered_says_so_and_asks_later(
    here: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state.write_text("in the way")
    config = TrainConfig(**{**OPTIONS, "teacher": "planted:Ties", "reward": "true"})
    search_current_folder(config.named_modules())
    training._remember(Run.create("run", {"config.yaml": "teacher: planted:Ties\n"}), config, False)
    error = capsys.readouterr().err
    assert "cannot be remembered" in error and "--trust" in error
    with pytest.raises(UntrustedError):
        read_run_config(Run.open("run"))


def test_a_run_of_shipped_parts_leaves_nothing_in_the_state_folder(
    here: Path, state: Path, shipped: Path
) -> None:
    main(["evaluate", str(shipped), "--episodes", "1"])
    training._remember(Run.open(shipped), TrainConfig(), False)
    assert not state.exists()
    assert str(here) not in sys.path


# -- other processes -------------------------------------------------------------------------------

# Everything that a command may import; each would win if the current folder came first.
PLANTED = (
    "gymnasium", "jinja2", "matplotlib", "mujoco", "numpy", "planted", "pygame", "rich",
    "safetensors", "scipy", "sitecustomize", "sqlite3", "stable_baselines3", "torch",
    "transformers", "tyro", "usercustomize", "yaml", "json", "argparse", "typing_extensions",
)  # fmt: skip
PROGRAMS = {
    "rlhf-gym": [str(Path(sys.executable).with_name("rlhf-gym"))],
    "python -m": [sys.executable, "-m", "rlhf_gym"],
}


def plant(folder: Path) -> None:
    for name in PLANTED:
        mark = str(folder / f"ran-{name}")
        (folder / f"{name}.py").write_text(MARK.format(mark=mark) + "raise SystemExit(77)\n")
    info = folder / "planted-1.0.dist-info"  # whoever looks for plugins would find this one
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    groups = ("gymnasium.envs", "torch.backends", "pytest11", "console_scripts")
    entries = "".join(f"[{group}]\nplanted = planted:run\n" for group in groups)
    (info / "entry_points.txt").write_text(entries)
    (folder / "matplotlibrc").write_text("backend: module://planted\nsavefig.format: pdf\n")


def executed(folder: Path, command: list[str], **environment: str) -> tuple[int, list[str]]:
    """The status of a command that is run in a folder, and which planted modules ran."""
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, check=False
    )
    return done.returncode, sorted(path.name for path in folder.glob("ran-*"))


def test_planted_modules_do_run_where_the_current_folder_comes_first(here: Path) -> None:
    plant(here)
    status, ran = executed(here, [sys.executable, "-c", "import yaml"])
    assert status == 77 and "ran-yaml" in ran


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_folder_full_of_planted_modules_runs_none_of_them(
    here: Path, shipped: Path, program: str
) -> None:
    plant(here)
    shutil.copytree(shipped, here / "run")
    assert executed(here, [*PROGRAMS[program], "report", "run"]) == (0, [])


def test_the_processes_that_draw_look_elsewhere_first(here: Path) -> None:
    from rlhf_gym.benchmark import scheduler

    plant(here)
    _, ran = executed(here, scheduler._WORKER)
    assert ran == []
    program = (
        "import sys; from pathlib import Path\n"
        "from rlhf_gym.frame_cache import FrameCache\n"
        "from rlhf_gym.render_process import RenderProcess\n"
        "p = RenderProcess('rlhf_gym/PointMass-v0', {}, FrameCache(Path('c')), (64, 64), 'egl')\n"
        "p._process.communicate(b'{\"n_bytes\": 0}\\n')\n"
        "from rlhf_gym import gl; gl.gl_works('egl')\n"
    )
    _, ran = executed(here, [sys.executable, "-P", "-c", program])
    assert ran == []


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    "command",
    [
        "report run", "labels run", "fit run", "evaluate run --episodes 1", "doctor", "envs",
        "watch run --video film.gif", "export run --out x.jsonl", "export run --sb3 x.zip",
        "train --resume run", "label foreign", "evaluate foreign", "benchmark spec.yaml",
    ],
)  # fmt: skip
def test_no_command_runs_a_planted_module(
    here: Path, shipped: Path, program: str, command: str
) -> None:
    plant(here)
    for name in ("run", "foreign"):
        shutil.copytree(shipped, here / name)
    config = yaml.safe_load((here / "foreign" / "config.yaml").read_text())
    config["env"] = "planted:rlhf_gym/PointMass-v0"
    (here / "foreign" / "config.yaml").write_text(yaml.safe_dump(config))
    options = {k: v for k, v in OPTIONS.items() if k != "env"}
    spec = {"tasks": ["rlhf_gym/PointMass-v0"], "settings": {"a": options}, "seeds": [1]}
    (here / "spec.yaml").write_text(yaml.safe_dump(spec))
    status, ran = executed(here, [*PROGRAMS[program], *command.split()])
    assert ran == []
    assert status == (2 if "foreign" in command else 0) or command == "doctor"
    if command.startswith("evaluate run"):
        assert json.loads((here / "run" / "summary.json").read_text())["n_labels"] == 20
