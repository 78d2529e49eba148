from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.documents import parse_json, parse_yaml, read_json, read_yaml
from rlhf_gym.errors import CorruptDataError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(
        st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(PLAIN.filter(lambda value: "Infinity" not in json.dumps(value)))
def test_sound_json_comes_back_as_the_library_reads_it(value: Any) -> None:
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only), "it") == value


def test_nan_comes_back_as_python_writes_it() -> None:
    assert math.isnan(parse_json("[NaN]", "it")[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ("[" * 100_000, "nested more than 64 deep"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested more than 64 deep"),
        ("9" * 101, "101 digits, at most 100"),
        ("9" * 5001, "5,001 digits"),
        ("1e999", "beyond what a float holds"),
        ('{"a": 1, "a": 1}', "'a' is there twice"),
        ('{"b": {"a": 1, "a": 2}}', "'a' is there twice"),
        ("{} x", "is not JSON"),
        ("", "is not JSON"),
        ("1\x00", "is not JSON"),
    ],
)
def test_json_that_would_harm_later_is_refused(text: str, message: str) -> None:
    with pytest.raises(CorruptDataError, match=f"^it.*{message}"):
        parse_json(text, "it")


def test_json_at_the_limits_is_read() -> None:
    parse_json("[" * 64 + "]" * 64, "it")
    assert parse_json("9" * 100, "it") == 10**100 - 1
    # Brackets inside strings are no depth, and a whole emoji is no half of one.
    assert parse_json(json.dumps(["[" * 500, "😀"]), "it") == ["[" * 500, "😀"]


def test_json_files_may_begin_with_a_byte_order_mark_and_must_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(path) == [1]
    for text in (b'["\\ud800"]', b'{"\\uDFFF": 1}'):
        path.write_bytes(text)
        with pytest.raises(CorruptDataError, match="half of a character"):
            read_json(path)
    path.write_bytes(b'["\xe9"]')
    with pytest.raises(CorruptDataError, match=r"is not UTF-8 \(byte 2 is 0xe9\)"):
        read_json(path)


@given(PLAIN)
def test_sound_yaml_comes_back_as_the_library_reads_it(value: Any) -> None:
    text = yaml.safe_dump(value)
    assert parse_yaml(text, "it") == yaml.safe_load(text)


def bomb(levels: int) -> str:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    for i in range(1, levels):
        lines.append(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(9), "with aliases, holds .* values; at most 100,000"),
        (bomb(9).replace("[", "{<<: [").replace("]", "]}").replace("x, ", ""), "values; at most"),
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ("[" * 100_000, "nested more than 64 deep"),
        ("".join(" " * i + "a:\n" for i in range(65)), "nested more than 64 deep"),
        ("[" + "1," * 100_000 + "]", "more than 100,000 values"),
        ("9" * 101, "more than 100 digits"),
        ("1:" * 3000 + "1", "more than 100 digits"),
        ("a: 1\na: 2", "'a' is there twice"),
        ("&a [*a]", r"alias \*a stands inside of what it names"),
        ("? [a]\n: 1", "is not valid YAML"),
        ("2001-99-99", "is not valid YAML"),
        ("!!python/object/apply:os.system [ls]", "is not valid YAML"),
        ("a\x00b", "is not valid YAML"),
    ],
)
def test_yaml_that_would_harm_later_is_refused(text: str, message: str) -> None:
    with pytest.raises(CorruptDataError, match=f"^it.*{message}|{message}"):
        parse_yaml(text, "it")


def test_a_few_aliases_and_merges_are_read_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {k: 1}\nb: {<<: *a, m: 2}\nc: [*a, *a]\n")
    assert read_yaml(path) == {"a": {"k": 1}, "b": {"k": 1, "m": 2}, "c": [{"k": 1}, {"k": 1}]}
    assert parse_yaml(bomb(4), "it")["l3"][0][0] == [["x"] * 9][0:1] * 9


def test_names_are_text_as_they_were_written() -> None:
    text = "tasks: [yes, 0700]\nsettings: {on: {x: 0700}}\nseeds: [1]"
    found = parse_yaml(text, "it", names=("tasks", "settings"))
    assert found == {"tasks": ["yes", "0700"], "settings": {"on": {"x": 448}}, "seeds": [1]}
