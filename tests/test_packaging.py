"""The wheel, installed in a fresh virtual environment and used far from the clone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

BUILD_INPUTS = ("rlhf_gym", "envs", "agents", "feedback", "pyproject.toml", "README.md", "LICENSE")

PROBE = """
import importlib, importlib.util, json, sys
files = {name: importlib.import_module(name).__file__ for name in json.load(sys.stdin)}
bare = [n for n in ("envs", "agents", "feedback", "tests") if importlib.util.find_spec(n)]
print(json.dumps({"files": files, "bare": bare}))
"""


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy without network: setuptools writes into what it builds."""
    if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.fail("building needs setuptools 77 or later: `make install` brings it")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in BUILD_INPUTS:
        entry = repository / name
        if entry.is_dir():
            shutil.copytree(entry, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(entry, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "-w", str(target)]
    run(sys.executable, "-m", "pip", "wheel", *options, str(source))
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def fresh_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel; its dependencies are borrowed."""
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps",
        "--no-index", str(wheel))  # fmt: skip
    # Files ending in .pth are read in the new environment's own folder only, so that the editable
    # install of the borrowed one stays out of sight.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(*command: str, cwd: Path | None = None, stdin: str = "") -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        command, cwd=cwd, input=stdin, capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_wheel_installs_one_name_only(wheel: Path) -> None:
    top = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"rlhf_gym"}


def test_the_wheel_holds_every_file_of_the_four_rooms(wheel: Path, repository: Path) -> None:
    rooms = {"rlhf_gym": "rlhf_gym"}
    rooms |= {room: f"rlhf_gym/{room}" for room in ("envs", "agents", "feedback")}
    expected = {
        f"{inside}/{path.relative_to(repository / room).as_posix()}"
        for room, inside in rooms.items()
        for path in (repository / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected - set(zipfile.ZipFile(wheel).namelist()) == set()
    assert "rlhf_gym/py.typed" in expected


def test_every_requirement_is_pinned_to_a_version_that_satisfies_it(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    wanted = [Requirement(line) for line in (*project["dependencies"], *extras)]
    lines = (repository / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {canonicalize_name(p.name): str(p.specifier).removeprefix("==") for p in pins}
    free = {"rlhf-gym", "setuptools", "types-pyyaml"}  # ourselves, and what only builds or checks
    names = {canonicalize_name(r.name): r for r in wanted if canonicalize_name(r.name) not in free}
    assert set(versions) == set(names) | {"mujoco"}  # which comes with gymnasium[mujoco]
    for name, requirement in names.items():
        assert requirement.specifier.contains(versions[name]), name


def test_every_module_imports_away_from_the_clone(
    fresh_python: Path, package_modules: dict[str, Path], tmp_path: Path
) -> None:
    names = [name for name in package_modules if not name.endswith("__main__")]
    output = run(str(fresh_python), "-c", PROBE, cwd=tmp_path, stdin=json.dumps(names))
    found = json.loads(output.splitlines()[-1])
    inside = str(fresh_python.parent.parent)
    assert {n: f for n, f in found["files"].items() if not f.startswith(inside)} == {}
    assert found["bare"] == []
