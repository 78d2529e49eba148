from __future__ import annotations

import pytest

from rlhf_gym.errors import ConfigError
from rlhf_gym.overrides import with_overrides


def test_single_settings_replace_those_of_the_file_and_leave_the_rest() -> None:
    given = {"ppo": {"kl_coef": 0.5, "clip_range": 0.2}, "n_sft_examples": 10}
    changed = with_overrides(given, ["ppo.kl_coef=0", "dpo.loss_type=ipo", "n_steps=64"])
    assert changed == {
        "ppo": {"kl_coef": 0, "clip_range": 0.2},
        "n_sft_examples": 10,
        "dpo": {"loss_type": "ipo"},
        "n_steps": 64,
    }
    assert given["ppo"] == {"kl_coef": 0.5, "clip_range": 0.2}, "the given settings are untouched"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),  # a word in YAML 1.1
        ("3", 3),
        ("null", None),
        ("true", True),
        ("[64, 64]", [64, 64]),
        ("{n_layers: 4}", {"n_layers": 4}),
        ("linear", "linear"),
    ],
)
def test_a_value_is_read_as_yaml(text: str, value: object) -> None:
    (found,) = with_overrides({}, [f"a={text}"]).values()
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("ppo", "write `name=value`"),
        ("=3", "write `name=value`"),
        ("ppo..kl_coef=3", "write `name=value`"),
        ("n.x=3", "`n` is 5, which has no `x`"),
        ("a=[1", "not valid YAML"),
    ],
)
def test_what_sets_nothing_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_overrides({"n": 5}, [assignment])
