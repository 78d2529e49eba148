from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_gym.errors import ConfigError, MissingDependencyError, UnknownNameError
from rlhf_gym.registry import load_object, names, resolve


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's package `ownpkg` with `teachers.py`, importable for one test."""
    (tmp_path / "ownpkg").mkdir()
    (tmp_path / "ownpkg" / "__init__.py").touch()
    module = tmp_path / "ownpkg" / "teachers.py"
    module.write_text("class Strict:\n    level = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    importlib.invalidate_caches()
    yield module
    for name in set(sys.modules) - before:
        if name.startswith("ownpkg"):
            del sys.modules[name]


def test_the_short_names_are_sorted() -> None:
    assert names("acquisition") == ("disagreement", "entropy", "uniform")
    assert names("agent") == ("ppo",)
    assert names("text_agent") == ("dpo", "ppo")
    assert names("teacher") == ("synthetic",)
    assert names("reward_model") == ("ensemble",)


@pytest.mark.parametrize("group", ["agent", "teacher", "acquisition", "reward_model"])
def test_every_short_name_can_be_loaded(group: str) -> None:
    for name in names(group):
        assert callable(resolve(group, name))


def test_a_short_name_is_what_its_module_holds() -> None:
    module = importlib.import_module("rlhf_gym.feedback.acquisition")
    assert resolve("acquisition", "uniform") is module.uniform


def test_an_unknown_name_gets_a_suggestion_and_the_accepted_names() -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve("acquisition", "disagrement")
    message = str(caught.value)
    assert "'disagrement'" in message
    assert "Did you mean 'disagreement'?" in message
    assert "disagreement, entropy, uniform" in message
    assert "module:attribute" in message


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve("agent", "zzz")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("call", [lambda: names("agents"), lambda: resolve("agents", "ppo")])
def test_an_unknown_group_gets_a_suggestion(call: object) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'agent'"):
        call()  # type: ignore[operator]  # a lambda of the list above


def test_an_own_part_is_loaded_by_import_string(own_module: Path) -> None:
    strict = resolve("teacher", "ownpkg.teachers:Strict")
    assert strict.__name__ == "Strict"
    assert load_object("ownpkg.teachers:Strict.level") == 3


@pytest.mark.parametrize(
    "text",
    ["", "ownpkg.teachers", ":Strict", "ownpkg:", "a b:c", "a:b:c", "a..b:c", "a:b.", "/x:y"],
)
def test_a_malformed_import_string_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigError, match="write `module:attribute`"):
        load_object(text)


@pytest.mark.parametrize(
    ("text", "missing"), [("nopkg:X", "nopkg"), ("ownpkg.nothing:X", "ownpkg.nothing")]
)
def test_a_missing_module_is_named(own_module: Path, text: str, missing: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no module '{missing}'"):
        load_object(text)


def test_a_missing_attribute_gets_a_suggestion(own_module: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no attribute 'Strickt'.*mean 'Strict'"):
        load_object("ownpkg.teachers:Strickt")


def test_a_module_that_hides_anothers_is_named_with_its_file(own_module: Path) -> None:
    with pytest.raises(UnknownNameError, match=f"loaded from {own_module}; .* rename it"):
        load_object("ownpkg.teachers:Lazy")


def test_a_dependency_that_is_not_installed_is_named(own_module: Path) -> None:
    own_module.write_text("import nosuchlib.part\n")
    with pytest.raises(MissingDependencyError, match="pip install nosuchlib") as caught:
        load_object("ownpkg.teachers:Strict")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_an_error_inside_the_module_is_not_disguised(own_module: Path) -> None:
    own_module.write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_object("ownpkg.teachers:Strict")
