from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_gym.config import from_yaml, to_yaml
from rlhf_gym.errors import ConfigError, SchemaError
from rlhf_gym.runs import Run
from rlhf_gym.train_config import TrainConfig, read_run_config


def test_horizon_and_keys_join_the_arguments_of_the_env() -> None:
    config = TrainConfig(horizon=300, obs_keys=("a", "b"), env_kwargs={"gravity": 9.81})
    assert config.make_env_kwargs() == {
        "gravity": 9.81,
        "max_episode_steps": 300,
        "obs_keys": ("a", "b"),
    }
    assert config.env_kwargs == {"gravity": 9.81}, "untouched"
    assert TrainConfig().make_env_kwargs() == {}


def test_horizon_and_keys_survive_the_configuration_file(tmp_path: Path) -> None:
    config = TrainConfig(horizon=300, obs_keys=("a", "b"))
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert from_yaml(TrainConfig, path) == config
    path.write_text("obs_keys: a\n")
    with pytest.raises(ConfigError, match="obs_keys is 'a'"):
        from_yaml(TrainConfig, path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"horizon": 5, "env_kwargs": {"max_episode_steps": 7}}, "`horizon` is 5"),
        ({"obs_keys": ("a",), "env_kwargs": {"obs_keys": ["b"]}}, "keep `obs_keys`"),
        ({"horizon": 0}, "--horizon"),
        ({"rounds": 2.5}, "`rounds` is 2.5; a whole number"),
        ({"seed": True}, "`seed` is True; a whole number"),
        ({"pooling": "dawid-skene"}, "`--teacher synthetic` is one"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        TrainConfig(**options)


def test_numbers_of_numpys_are_saved_as_plain_ones() -> None:
    text = to_yaml(TrainConfig(seed=np.int64(3), warm_up=np.float64(0.25)))
    assert "seed: 3" in text and "warm_up: 0.25" in text


def test_options_of_another_version_are_told_from_mistakes(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"config.yaml": to_yaml(TrainConfig()) + "tomorrow: 3\n"})
    with pytest.raises(ConfigError, match="unknown option `tomorrow`"):
        read_run_config(run)
    made = {"versions": {"rlhf_gym": "99.0"}}
    (run.folder / "provenance.json").write_text(json.dumps(made))
    with pytest.raises(SchemaError, match=r"made by rlhf_gym 99\.0, this is .*Take rlhf_gym 99\.0"):
        read_run_config(run)


def test_the_room_for_completions_reaches_the_env_and_is_named_once() -> None:
    assert TrainConfig(max_new_tokens=60).make_env_kwargs() == {"max_new_tokens": 60}
    with pytest.raises(ConfigError, match="both say the same thing, keep `max_new_tokens`"):
        TrainConfig(max_new_tokens=60, env_kwargs={"max_new_tokens": 30})
    with pytest.raises(ConfigError, match=r"`max_new_tokens` is 0; .*\(--max-new-tokens\)"):
        TrainConfig(max_new_tokens=0)
