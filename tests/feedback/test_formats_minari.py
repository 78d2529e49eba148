from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhf_gym.data import Choice, Clip, Query
from rlhf_gym.errors import ConfigError, DataError, MissingDependencyError
from rlhf_gym.feedback.formats.minari_episodes import DATASET_ID, REFERENCES, write_minari
from rlhf_gym.feedback.formats.snapshot import Snapshot, StoredQuery
from rlhf_gym.feedback.records import AnswerRecord
from rlhf_gym.text_clips import text_clip

LAYOUTS = {
    "control": (np.float32, (3,), np.float32, (2,)),
    "discrete": (np.float32, (3,), np.int64, ()),
    "image": (np.uint8, (36, 36, 3), np.int32, ()),
    "bits": (np.bool_, (4,), np.bool_, (2,)),
}


def make_clips(layout: str) -> list[Clip]:
    """Three clips of 2, 3 and 4 steps; the second has no true rewards, the third has states."""
    rng = np.random.default_rng(5)
    obs_type, obs_shape, action_type, action_shape = LAYOUTS[layout]

    def draw(n: int, shape: tuple[int, ...], kind: Any) -> np.ndarray:
        return (9 * rng.standard_normal((n, *shape))).astype(np.int64).astype(kind)

    return [
        Clip(
            draw(n + 1, obs_shape, obs_type),
            draw(n, action_shape, action_type),
            "Env-v0",
            true_rewards=None if n == 3 else draw(n, (), np.float32),
            sim_states=draw(n + 1, (5,), np.float32) if n == 4 else None,
        )
        for n in (2, 3, 4)
    ]


def make_snapshot(clips: list[Clip]) -> Snapshot:
    """Two queries; the first has an answer that stands and one that was replaced."""
    queries = [Query((clips[0], clips[i]), seed=0, round=2, index=i) for i in (1, 2)]
    answers = [
        AnswerRecord(
            i, f"u{i}", queries[0].id, 2, "pairwise", choice, "human", "ada", 0.0, 0.0, {}, old
        )
        for i, choice, old in ((1, Choice.FIRST, None), (2, Choice.TIE, 1))
    ]
    return Snapshot(tuple(StoredQuery(query) for query in queries), tuple(answers))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_minari_loads_every_clip_as_an_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    minari = pytest.importorskip("minari", reason="the extra minari is not installed")
    clips = make_clips(layout)
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    assert write_minari(make_snapshot(clips), tmp_path / "out") == 1
    assert "MINARI_DATASETS_PATH" not in os.environ
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))
    dataset = minari.load_dataset(DATASET_ID)
    episodes = list(dataset.iterate_episodes())
    assert len(episodes) == 3
    for episode, clip in zip(episodes, clips, strict=True):
        for found, expected in ((episode.observations, clip.obs), (episode.actions, clip.actions)):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
        rewards = np.zeros(len(clip)) if clip.true_rewards is None else clip.true_rewards
        np.testing.assert_array_equal(episode.rewards, rewards)
        assert not episode.terminations.any()
        assert episode.truncations.tolist() == [False] * (len(clip) - 1) + [True]
        assert dataset.observation_space.contains(
            clip.obs[0].astype(dataset.observation_space.dtype)
        )
    np.testing.assert_array_equal(episodes[2].infos["sim_state"], clips[2].sim_states)
    metadata = list(dataset.storage.get_episode_metadata([0, 1, 2]))
    assert [bool(entry["true_rewards_known"]) for entry in metadata] == [True, False, True]
    assert [entry["clip_id"] for entry in metadata] == [clip.id for clip in clips]
    assert dataset.storage.metadata["n_clips_without_true_rewards"] == 1


def test_the_table_refers_every_answer_to_its_episodes(tmp_path: Path) -> None:
    pytest.importorskip("minari", reason="the extra minari is not installed")
    clips = make_clips("control")
    snapshot = make_snapshot(clips)
    write_minari(snapshot, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / REFERENCES).to_pylist()
    columns = ("episode_id", "place", "choice", "labeller", "answer_uuid", "true_rewards_known")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        (0, 0, "tie", "ada", "u2", True),
        (1, 1, "tie", "ada", "u2", False),
        (0, 0, None, None, None, True),
        (2, 1, None, None, None, True),
    ]
    assert [row["query_id"] for row in rows[1:3]] == [q.query.id for q in snapshot.queries]
    assert [row["clip_id"] for row in rows] == [clips[i].id for i in (0, 1, 0, 2)]
    assert {(row["dataset_id"], row["round"], row["context_id"]) for row in rows} == {
        (DATASET_ID, 2, "Env-v0")
    }


def test_a_root_that_was_set_before_is_set_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("minari", reason="the extra minari is not installed")
    monkeypatch.setenv("MINARI_DATASETS_PATH", "elsewhere")
    snapshot = make_snapshot(make_clips("control"))
    write_minari(snapshot, tmp_path / "out")
    assert os.environ["MINARI_DATASETS_PATH"] == "elsewhere"
    with pytest.raises(ConfigError, match="overwrites nothing"):
        write_minari(snapshot, tmp_path / "out")


def test_without_the_package_the_message_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"rlhf_gym\[minari\]"):
        write_minari(make_snapshot(make_clips("control")), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_text_and_empty_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clips"):
        write_minari(Snapshot((), ()), tmp_path / "out")
    query = Query((text_clip("p", "a"), text_clip("p", "b")), seed=0, round=0, index=0)
    with pytest.raises(DataError, match="clips of text"):
        write_minari(Snapshot((StoredQuery(query),), ()), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
