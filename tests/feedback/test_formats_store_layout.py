"""What other programs find in JSON lines and Parquet: names, types, and always the same bytes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rlhf_gym.feedback.formats.jsonl import write_jsonl
from rlhf_gym.feedback.formats.parquet import write_parquet
from tests.feedback.store_example import example


def test_json_base64_and_numpy_read_the_lines(tmp_path: Path) -> None:
    snapshot = example(tmp_path)
    write_jsonl(snapshot, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["type"] for line in lines] == [
        "header",
        *["clip"] * 3,
        *["query"] * 2,
        *["answer"] * 4,
    ]
    assert lines[0] == {
        "type": "header",
        "format": "rlhf_gym.preferences",
        "version": 1,
        "n_clips": 3,
        "n_queries": 2,
        "n_answers": 4,
    }
    packed = lines[2]["obs"]
    obs = np.frombuffer(base64.b64decode(packed["base64"]), packed["dtype"])
    np.testing.assert_array_equal(obs.reshape(packed["shape"]), np.full((3, 2), 1, np.float32))
    answers = lines[-4:]
    assert [a["choice"] for a in answers] == ["first", "tie", "second", "second"]
    assert [a["stands"] for a in answers] == [False, True, False, False]
    assert [a["kind"] for a in answers] == ["pairwise"] * 3 + ["retraction"]
    assert [a["supersedes"] for a in answers] == [
        None,
        answers[0]["uuid"],
        None,
        answers[2]["uuid"],
    ]


def test_pyarrow_reads_the_tables_with_exact_types(tmp_path: Path) -> None:
    snapshot = example(tmp_path)
    write_parquet(snapshot, tmp_path / "out")
    clips = pq.read_table(tmp_path / "out" / "clips.parquet")
    types = {name: str(clips.schema.field(name).type) for name in clips.schema.names}
    assert types["obs"] == "list<element: float>"
    assert types["obs_shape"] == "list<element: int64>"
    row = clips.to_pylist()[2]
    np.testing.assert_array_equal(
        np.array(row["obs"], np.float32).reshape(row["obs_shape"]), np.full((3, 2), 2, np.float32)
    )
    assert row["sim_states"] is None
    answers = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()
    assert [a["choice"] for a in answers if a["stands"]] == ["tie"]
    queries = pq.read_table(tmp_path / "out" / "queries.parquet").to_pylist()
    assert queries[1]["clip_ids"] == [clip.id for clip in snapshot.queries[1].query.clips]
    assert queries[1]["seed"] == "7"


def test_the_same_store_makes_the_same_file(tmp_path: Path) -> None:
    snapshot = example(tmp_path)
    for name in ("a", "b"):
        write_jsonl(snapshot, tmp_path / f"{name}.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
