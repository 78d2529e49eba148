"""One field of one record of an export, changed at random: refused, or a store that works."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import RlhfGymError
from rlhf_gym.feedback.answers import add_answer
from rlhf_gym.feedback.quality.measure import measure_quality
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.label_report import print_labels
from rlhf_gym.text_clips import text_clip
from rlhf_gym.transfer import export_store, import_store

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([1 << 63, 10**90, -1, 1e300, 1e18, -0.5])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "first", "skip", "ada", "\x1b[2J", "\ud800", "x" * 400, "retraction"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
DETAILS = {
    "left": "first",
    "side_seed": 3,
    "sitting": "host:1:a",
    "shown_monotonic": 1.0,
    "answered_monotonic": 2.5,
    "replays": 0,
    "watched_fraction": 1.0,
    "speed": 1.0,
    "input": "key",
    "comment": "so",
    "margin": 1.0,
    "n_qualification": 1,
    "pass_mark": 0.5,
}


def make_store(folder: Path, *, is_text: bool) -> None:
    """Two labellers, answers of several kinds, a changed mind, one taken back, and gold."""
    if is_text:
        clips = [text_clip("q", word) for word in ("a", "b", "c")]
    else:
        clips = [
            Clip(
                np.full((3, 2), i, np.float32),
                np.zeros((2, 1), np.float32),
                "Env-v0",
                np.full(2, i, np.float32),
                np.zeros((3, 4), np.float32),
            )
            for i in range(3)
        ]
    pairs = [Query((clips[i], clips[(i + 1) % 3]), seed=7, round=i // 2, index=i) for i in range(3)]
    with PreferenceStore(folder) as store:
        store.post(pairs, n_wanted=2)
        store.mark_gold({pairs[0].id: Choice.SECOND}, "owner")
        for i, (who, choice) in enumerate([("ada", 0), ("ada", 2), ("bob", 1), ("eve", 0)]):
            times = {"shown_at": 1.7e9 + i, "answered_at": 1.7e9 + i + 0.5}
            for pair in pairs[: 1 + i % 2]:
                store.answer(
                    [Preference(pair, list(Choice)[choice], "human", who, details=DETAILS, **times)]
                )
        with store.writing() as connection:
            for kind in ("qualification", "repeat"):
                answer = Preference(pairs[0], Choice.SECOND, "human", "ada", details=DETAILS)
                add_answer(connection, answer, store.path, kind=kind)  # type: ignore[arg-type]  # one
        store.retract(store.answer_records()[1].uuid, 1.8e9)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, list[dict[str, Any]]]:
    found = {}
    for is_text in (False, True):
        folder = tmp_path_factory.mktemp("original")
        make_store(folder / "store", is_text=is_text)
        export_store(folder / "store", folder / "out.jsonl")
        lines = (folder / "out.jsonl").read_text().splitlines()
        found[is_text] = [json.loads(line) for line in lines]
    return found


def works(folder: Path) -> None:
    """Everything that reads a store, to its end."""
    print_labels(folder)
    print_labels(folder, as_json=True)
    with PreferenceStore(folder) as store:
        assert all(isinstance(preference, Preference) for preference in store.preferences())
        measure_quality(store.answer_records(superseded=True), n_resamples=100)
        store.open_queries()
    export_store(folder, folder / "again.jsonl")


@settings(max_examples=120)
@given(st.data())
def test_a_changed_field_is_refused_or_harmless(
    exports: dict[bool, list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    rows = copy.deepcopy(exports[data.draw(st.booleans())])
    # Answers have the most fields and the fewest safeguards: most of the draws are theirs.
    kind = data.draw(st.sampled_from(["header", "clip", "query", "answer", "answer", "answer"]))
    row = data.draw(st.sampled_from([row for row in rows if row["type"] == kind]))
    inner = [value for value in row.values() if isinstance(value, dict) and value]
    holder = data.draw(st.sampled_from([row, *inner]))
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(VALUES)
    folder = tmp_path_factory.mktemp("changed")
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        import_store(folder / "in.jsonl", folder / "store", "jsonl")
    except RlhfGymError:
        assert [path.name for path in folder.iterdir()] == ["in.jsonl"]
    else:
        works(folder / "store")
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("answered_monotonic", [1]),
        ("shown_monotonic", 10**90),
        ("watched_fraction", None),
        ("watched_fraction", "1"),
        ("side_seed", -1),
        ("margin", "much"),
    ],
)
def test_a_detail_that_breaks_its_readers_never_gets_in(
    exports: dict[bool, list[dict[str, Any]]], tmp_path: Path, name: str, value: Any
) -> None:
    rows = copy.deepcopy(exports[False])
    rows[-1]["details"][name] = rows[-2]["details"][name] = value
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RlhfGymError, match=f"details.{name}"):
        import_store(tmp_path / "in.jsonl", tmp_path / "store")
    assert not (tmp_path / "store").exists()
