from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlhf_gym.provenance import provenance


def test_provenance_names_versions_and_machine() -> None:
    found = provenance(["/usr/bin/rlhf-gym", "train"])
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["versions"]["numpy"] == np.__version__
    names = {"python", "rlhf_gym", "torch", "numpy", "gymnasium", "stable_baselines3", "mujoco"}
    assert set(found["versions"]) == names
    assert found["machine"]["n_cores"] >= 1 and found["machine"]["ram_gib"] > 0.1
    assert found["time_utc"].endswith("+00:00")
    json.dumps(found)


def test_provenance_names_no_host_user_or_absolute_path() -> None:
    home = str(Path.home())
    command = ["/opt/x/rlhf-gym", "train", "--out", f"{home}/secret/r1", f"--config={home}/c.yaml"]
    inside = ["--resume", str(Path.cwd() / "runs" / "a"), "--env", "rlhf_gym/HalfCheetah-v0"]
    found = provenance(command + inside)
    assert found["command"] == (
        "rlhf-gym train --out r1 --config=c.yaml --resume runs/a --env rlhf_gym/HalfCheetah-v0"
    )
    text = json.dumps(found)
    assert socket.gethostname() not in text
    assert home not in text
    assert str(Path.cwd()) not in text


def test_provenance_of_a_module_run_can_be_typed_again() -> None:
    assert provenance(["/x/rlhf_gym/__main__.py", "envs"])["command"] == "python -m rlhf_gym envs"


def test_the_commit_is_that_of_this_checkout_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
        return subprocess.check_output([*command, *arguments], text=True).strip()

    module = tmp_path / "rlhf_gym" / "provenance.py"
    for name in ("rlhf_gym", "agents", "benchmarks/results"):
        (tmp_path / name).mkdir(parents=True)
    module.write_text("")
    code = sys.modules["rlhf_gym.provenance"]
    monkeypatch.setattr(code, "__file__", str(module))
    rooms = [tmp_path / "agents" / "__init__.py", tmp_path / "feedback" / "__init__.py"]
    monkeypatch.setattr(code, "_room_files", lambda: rooms)
    assert provenance([""])["git"] is None  # no checkout
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "x")
    assert provenance([""])["git"] is None  # a checkout, of something else
    git("add", str(module))
    git("commit", "-q", "-m", "y")
    assert provenance([""])["git"] == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "benchmarks" / "results" / "figures.json").write_text("{}")
    assert provenance([""])["git"]["dirty"] is False  # an output, not the code
    rooms[1] = tmp_path.parent / "other" / "feedback" / "__init__.py"
    assert provenance([""])["git"]["dirty"] is True, "a room of another checkout"
    rooms.pop()
    (tmp_path / "agents" / "ppo.py").write_text("x = 1\n")
    assert provenance([""])["git"]["dirty"] is True


def test_the_source_s_digest_follows_code_and_settings_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rlhf_gym", "agents"):
        (tmp_path / name).mkdir()
    (tmp_path / "rlhf_gym" / "provenance.py").write_text("")
    code = sys.modules["rlhf_gym.provenance"]
    monkeypatch.setattr(code, "__file__", str(tmp_path / "rlhf_gym" / "provenance.py"))
    monkeypatch.setattr(code, "_room_files", lambda: [tmp_path / "agents" / "__init__.py", None])
    (tmp_path / "agents" / ".#ppo.py").symlink_to("somebody@a-machine")  # an editor's lock
    digests = [provenance([""])["source_sha256"]]
    for name in ("agents/notes.md", "README.md", "agents/ppo.yml", "rlhf_gym/a/b.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
        digests.append(provenance([""])["source_sha256"])
    assert digests[0] == digests[1] == digests[2] and len(set(digests)) == 3
    (tmp_path / "rlhf_gym" / "a" / "b.py").rename(tmp_path / "rlhf_gym" / "b.py")
    assert (renamed := provenance([""])["source_sha256"]) not in digests, "names count"
    # Installed, the rooms lie within the package: it is the same code.
    (tmp_path / "agents").rename(tmp_path / "rlhf_gym" / "agents")
    inside = tmp_path / "rlhf_gym" / "agents" / "__init__.py"
    monkeypatch.setattr(code, "_room_files", lambda: [inside, None])
    assert provenance([""])["source_sha256"] == renamed


def test_the_rooms_of_this_run_are_those_of_one_checkout(repository: Path) -> None:
    rooms = sys.modules["rlhf_gym.provenance"]._room_files()
    assert [room.relative_to(repository).as_posix() for room in rooms] == [
        "agents/__init__.py", "envs/__init__.py", "feedback/__init__.py",
    ]  # fmt: skip
