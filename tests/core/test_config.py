from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.config import from_mapping, from_yaml, to_yaml
from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.settings import FitSettings, RewardModelSettings
from rlhf_gym.train_config import TrainConfig


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    count: int | None = None
    mode: Literal["a", "b"] = "a"
    folder: Path = Path("here")
    inner: Inner = field(default_factory=Inner)
    extra: dict[str, Any] = field(default_factory=dict)


@given(
    st.builds(
        TrainConfig,
        env=st.text(max_size=20),
        labels=st.integers(1, 10**6),
        steps=st.one_of(st.none(), st.integers(1, 10**9)),
        seed=st.integers(0, 2**40),
        reward=st.sampled_from(["learned", "true"]),
        initial_labels=st.floats(0.01, 1),
        hyperparameters=st.dictionaries(st.text(max_size=5), st.integers()),
        ensemble=st.builds(
            RewardModelSettings,
            hidden=st.lists(st.integers(1, 99), min_size=1).map(tuple),
            fit=st.builds(
                FitSettings,
                learning_rate=st.floats(1e-9, 1),
                label_noise=st.one_of(st.none(), st.floats(0, 0.9)),
            ),
        ),
    )
)
def test_every_configuration_reads_back_equal(config: TrainConfig) -> None:
    import yaml

    assert from_mapping(TrainConfig, yaml.safe_load(to_yaml(config)), "test") == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nam: y", "unknown option `nam`.*Did you mean `name`"),
        ("zzz: 1", "unknown option `zzz`.*Accepted are"),
        ("inner: {rat: 1}", "unknown option `rat`.*`rate`"),
        ("count: many", "count is 'many'"),
        ("count: true", "count is True"),
        ("mode: c", r"accepted is one of \['a', 'b'\]"),
        ("inner: 3", "inner must be a mapping"),
        ("inner: {sizes: [1, x]}", "sizes is 'x'"),
        ("name: [", "not valid YAML"),
        ("- a", "must hold a mapping"),
        ("count: 1\ncount: 2", "the key 'count' is there twice"),
        ("[1, 2]: 3", "not valid YAML"),
        ("name: !!python/name:os.system", "not valid YAML"),
    ],
)
def test_malformed_files_are_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        from_yaml(Outer, path)


def test_a_merged_key_gives_way_to_the_one_written(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("<<: {count: 1, name: x}\ncount: 2\n")
    read = from_yaml(Outer, path)
    assert (read.count, read.name) == (2, "x")


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        from_yaml(Outer, tmp_path / "none.yaml")


def test_absent_keys_keep_their_defaults_and_numbers_widen(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("folder: there\ninner: {rate: 2}\ncount: null\n")
    assert from_yaml(Outer, path) == Outer(folder=Path("there"), inner=Inner(rate=2.0))


@pytest.mark.parametrize(
    "bad", [{"labels": 0}, {"labels": -5}, {"steps": 0}, {"steps": -1}, {"seed": -1}]
)
def test_zero_and_negative_budgets_name_their_flag(bad: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(bad))}"):
        TrainConfig(**bad)
    with pytest.raises(ConfigError, match="initial_labels"):
        TrainConfig(initial_labels=0.0)


def test_only_names_are_taken_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_text("extra: {0700: {1: yes}, on: [0700]}\ninner: {sizes: [0700]}\n")
    assert from_yaml(Outer, path).extra == {448: {1: True}, True: [448]}
    assert from_yaml(Outer, path, names=("extra",)).extra == {"0700": {1: True}, "on": [448]}
