"""What all tests share: a quiet, single-threaded, headless process and small valid data.

Warnings are errors (pyproject.toml). Where Gymnasium or Stable-Baselines3 warn by design, the test
says so itself with `@pytest.mark.filterwarnings` or `pytest.warns`.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

# Read when numpy, torch, pygame and matplotlib are first imported, hence before any of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"
os.environ["SDL_VIDEODRIVER"] = "dummy"
os.environ["SDL_AUDIODRIVER"] = "dummy"
os.environ["PYGAME_HIDE_SUPPORT_PROMPT"] = "1"
# Runs that tests make are not remembered in anybody's home; removed when the process ends.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="rlhf_gym-state-")

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:  # imported on use, so that a missing install is reported by pytest_configure
    from rlhf_gym.data import Clip

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "rlhf_gym": "rlhf_gym",
    "rlhf_gym.envs": "envs",
    "rlhf_gym.agents": "agents",
    "rlhf_gym.feedback": "feedback",
}
ON_CI = os.environ.get("CI", "").lower() in {"1", "true"}

# Nothing here asserts a time, and a loaded machine must not fail a property.
settings.register_profile("house", deadline=None, derandomize=ON_CI)
settings.load_profile("house")


def pytest_configure() -> None:
    # From the clone's root, `python -m pytest` finds rlhf_gym itself but none of its rooms.
    try:
        importlib.import_module("rlhf_gym.envs")
    except ImportError as error:
        pytest.exit(
            f"rlhf_gym.envs cannot be imported ({error}). If the package is not installed, run "
            "`make test`, or `pip install -e '.[dev]' -c constraints.txt` first.",
            returncode=4,
        )


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_240_607)


@pytest.fixture
def make_clip(rng: np.random.Generator) -> Callable[..., Clip]:
    """A factory of small valid clips; each call draws new numbers."""
    from rlhf_gym.data import Clip

    def make(
        n_steps: int = 5,
        obs_dim: int = 3,
        action_dim: int = 2,
        context_id: str = "Test-v0",
        state_dim: int | None = None,
        true_rewards: bool = True,
    ) -> Clip:
        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        return Clip(
            obs=draw(n_steps + 1, obs_dim),
            actions=draw(n_steps, action_dim),
            context_id=context_id,
            true_rewards=draw(n_steps) if true_rewards else None,
            sim_states=None if state_dim is None else draw(n_steps + 1, state_dim),
        )

    return make


@pytest.fixture
def require_library() -> Callable[[str, str], None]:
    """Call with (file name, Debian package): without the library, skip; on CI, fail."""
    return _require_library


@pytest.fixture
def require_gl(monkeypatch: pytest.MonkeyPatch) -> str:
    """An off-screen OpenGL for MuJoCo and Gymnasium: "egl" or "osmesa", as MUJOCO_GL has it."""
    backend = os.environ.get("MUJOCO_GL", "egl")
    if backend == "osmesa":
        _require_library("libOSMesa.so.8", "libosmesa6")
    else:
        _require_library("libEGL.so.1", "libegl1 libegl-mesa0 libgl1-mesa-dri")
    monkeypatch.setenv("MUJOCO_GL", backend)
    return backend


def _require_library(name: str, package: str) -> None:
    try:
        ctypes.CDLL(name)
    except OSError as error:
        message = f"{name} cannot be loaded ({error}); apt-get install {package}"
        if ON_CI:
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout that these tests belong to."""
    return ROOT


@pytest.fixture(scope="module")
def load(repository: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a benchmark: they are scripts beside each other, and import from their folder."""
    folder = repository / "benchmarks"
    sys.path.insert(0, str(folder))
    yield importlib.import_module
    sys.path.remove(str(folder))
    for script in folder.glob("*.py"):
        sys.modules.pop(script.stem, None)


@pytest.fixture(scope="session")
def stopped_after() -> Callable[[int], AbstractContextManager[None]]:
    """`with stopped_after(round_): train(...)`: the run ends once that round is saved."""

    class StopError(Exception):
        pass

    @contextmanager
    def stop(last: int) -> Iterator[None]:
        from rlhf_gym.runs import Run

        save = Run.save_checkpoint

        def save_then_stop(self: Any, round_: int, *arguments: Any, **more: Any) -> Any:
            path = save(self, round_, *arguments, **more)
            if round_ == last:
                raise StopError
            return path

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "save_checkpoint", save_then_stop)
            with pytest.raises(StopError):
                yield

    return stop


@pytest.fixture(scope="session")
def package_modules() -> dict[str, Path]:
    """Every module that the wheel brings, by its dotted name."""
    modules: dict[str, Path] = {}
    for package, folder in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            modules[".".join((package, *parts))] = path
    return modules


@pytest.fixture(scope="session")
def package_trees(package_modules: dict[str, Path]) -> dict[str, ast.Module]:
    """The parsed source of every module, by its dotted name."""
    return {name: ast.parse(path.read_text()) for name, path in package_modules.items()}
