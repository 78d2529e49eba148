from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.viewer.keymap import (
    ACTIONS,
    DEFAULT_KEYS,
    Keymap,
    key_label,
    load_keymap,
)


def written(folder: Path, text: str) -> Path:
    path = folder / "keys.yml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_standard_keys_are_those_of_the_field() -> None:
    # Christiano et al. 2017, appendix A: left, right, up = tie, down = can't tell.
    keys = Keymap()
    named = {key: keys.action(key) for key in ("left", "right", "up", "down", "z", "s", "q")}
    assert list(named.values()) == ["left", "right", "tie", "skip", "undo", "postpone", "quit"]
    assert [keys.action(key) for key in "12=0,.-+rcdg? "[:13]] == [
        *("left", "right", "tie", "skip", "back", "forward", "slower", "faster"),
        *("restart", "comment", "diff", "rubric", "help"),
    ]
    assert keys.action("x") is None


def test_every_action_has_a_key_and_every_key_one_action() -> None:
    assert list(DEFAULT_KEYS) == list(ACTIONS)
    used = [key for keys in DEFAULT_KEYS.values() for key in keys]
    assert len(used) == len(set(used))


def test_a_file_changes_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    keys = load_keymap(written(tmp_path, "tie: t\nleft: [a, left]\nright: 9\n"))
    assert keys.action("t") == "tie" and keys.action("up") is None
    assert keys.action("a") == keys.action("left") == "left" and keys.action("1") is None
    assert keys.action("9") == "right"
    assert keys.action("z") == "undo"
    assert (keys.label("left"), keys.labels("left")) == ("A", "A  or  Left")


def test_a_key_taken_for_one_action_leaves_its_old_one(tmp_path: Path) -> None:
    keys = load_keymap(written(tmp_path, "postpone: backspace\n"))
    assert keys.action("backspace") == "postpone"
    assert list(keys.keys["undo"]) == ["z"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ti: t", r"keys\.yml: unknown action `ti`; did you mean `tie`"),
        ("tie: hyper", r"keys\.yml: `tie` is given the unknown key 'hyper'; accepted are left"),
        ("tie: 12", "unknown key '12'"),
        ("tie: t\nskip: t", "'t' is given to both `tie` and `skip`"),
        ("tie: s", r"no key for \['postpone'\]|`postpone` has no key"),
        ("tie: []", "`tie` has no key"),
        ("tie: no", "`tie` is False; accepted is a key or a list of keys, with quotes"),
        ("tie: ~", "`tie` is None"),
        ("- tie", "must map actions to keys"),
        ("tie: [", "not valid YAML"),
        ("", "must map actions to keys"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_what_is_accepted(
    tmp_path: Path, text: str, message: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as error:
        load_keymap(path)
    assert "keys.yml" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the keys .*nowhere\.yml"):
        load_keymap(tmp_path / "nowhere.yml")


def test_a_map_that_lacks_an_action_is_refused() -> None:
    with pytest.raises(ConfigError, match="no key for"):
        Keymap({"left": ("left",)})


def test_keys_are_printed_as_they_are_on_a_keyboard() -> None:
    assert [key_label(key) for key in ("escape", "pagedown", "f1", "s", ",")] == [
        *("Esc", "PgDn", "F1", "S", ","),
    ]
