from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.text_clips import clip_text, text_clip
from rlhf_gym.transfer import export_store, import_store

HH = [
    {
        "chosen": f"\n\nHuman: {i}?\n\nAssistant: Yes, {i}.",
        "rejected": f"\n\nHuman: {i}?\n\nAssistant: No.",
    }
    for i in range(3)
]
PANDA = [
    {
        "instruction": "Add.",
        "input": "",
        "response1": "2",
        "response2": "3",
        "annotator1": 1,
        "annotator2": 0,
        "annotator3": 2,
    }
]
PAIRS = [{"prompt": "p", "chosen": "a", "rejected": "b"}]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def control_store(tmp_path: Path) -> Path:
    clips = [
        Clip(np.full((3, 2), i, np.float32), np.zeros((2, 1), np.float32), "Env-v0")
        for i in range(4)
    ]
    queries = [Query((clips[i], clips[i + 1]), seed=0, round=0, index=i) for i in range(3)]
    with PreferenceStore(tmp_path / "control") as store:
        store.post(queries)
        store.answer([Preference(queries[0], Choice.FIRST, "human", labeller="ada")])
        store.answer([Preference(queries[0], Choice.TIE, "human", labeller="ada")])
    return tmp_path / "control"


@pytest.fixture
def text_store(tmp_path: Path) -> Path:
    choices = [Choice.FIRST, Choice.TIE, Choice.TIE, Choice.SKIP]
    with PreferenceStore(tmp_path / "text") as store:
        for i, choice in enumerate(choices):
            clips = text_clip(f"p{i}", "a"), text_clip(f"p{i}", "b")
            query = Query(clips, seed=0, round=0, index=i)
            store.post([query])
            store.answer([Preference(query, choice, "human")])
    return tmp_path / "text"


@pytest.mark.parametrize(("export_format", "name"), [("jsonl", "out.jsonl"), ("parquet", "out")])
def test_the_lossless_formats_go_out_and_come_in_unnamed(
    tmp_path: Path, control_store: Path, export_format: Any, name: str
) -> None:
    out = tmp_path / name
    report = export_store(control_store, out, export_format)
    expected = {
        "clips": 4,
        "queries": 3,
        "answers, with those replaced or taken back": 2,
        "answers that stand": 1,
    }
    assert report.counts == expected
    report = import_store(out, tmp_path / "copy")
    assert report.format == export_format
    new = ("queries new to the store", "answers new to the store")
    assert report.counts == {**expected, new[0]: 3, new[1]: 2}
    again = import_store(out, tmp_path / "copy")
    assert (again.counts[new[0]], again.counts[new[1]]) == (0, 0)
    with PreferenceStore(control_store) as one, PreferenceStore(tmp_path / "copy") as two:
        assert one.counts() == two.counts()
        assert one.answer_records(superseded=True) == two.answer_records(superseded=True)


def test_pairs_say_how_many_ties_went(tmp_path: Path, text_store: Path) -> None:
    fates = {
        ties: list(
            export_store(text_store, tmp_path / f"{ties}.jsonl", "pairs", ties=ties).counts.values()
        )
        for ties in ("drop", "margin0", "both")
    }
    # Rows, answers with a better text, ties written, ties left out, "can't tell" left out.
    assert fates == {"drop": [1, 1, 0, 2, 1], "margin0": [3, 1, 2, 0, 1], "both": [5, 1, 2, 0, 1]}


def test_the_report_is_readable(tmp_path: Path, text_store: Path) -> None:
    lines = str(export_store(text_store, tmp_path / "o.jsonl", "pairs")).splitlines()
    assert lines[0] == f"{tmp_path / 'o.jsonl'} (pairs)"
    assert "2 ties left out" in lines[4]


def test_minari_says_how_to_read_it_and_where_rewards_are_unknown(
    tmp_path: Path, control_store: Path
) -> None:
    pytest.importorskip("minari", reason="the extra minari is not installed")
    report = export_store(control_store, tmp_path / "out", "minari")
    assert report.counts["clips without true rewards, zeros in their place"] == 4
    assert "minari.load_dataset('rlhf_gym/clips-v0')" in report.notes[0]


@pytest.mark.parametrize(
    ("rows", "found", "n_answers", "n_ties"),
    [(HH, "hh", 3, 0), (PANDA, "pandalm", 3, 1), (PAIRS, "pairs", 1, 0)],
)
def test_files_of_others_are_recognised(
    tmp_path: Path, rows: list[dict[str, Any]], found: str, n_answers: int, n_ties: int
) -> None:
    path = write_rows(tmp_path / "in.jsonl", rows)
    report = import_store(path, tmp_path / "copy")
    assert report.format == found
    assert report.counts["rows used"] == len(rows)
    assert report.counts["ties among them"] == n_ties
    assert report.counts["answers new to the store"] == n_answers
    assert import_store(path, tmp_path / "copy").counts["answers new to the store"] == 0
    with PreferenceStore(tmp_path / "copy", create=False) as store:
        assert store.counts()["n_open"] == 0
        assert len(store.preferences()) == n_answers
        assert store.preferences()[0].teacher == "human"


def test_implicit_prompts_without_turns_and_conversations_are_pairs(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    other = [messages[0], {"role": "assistant", "content": "b"}]
    for i, row in enumerate(
        [{"chosen": "the cat", "rejected": "the car"}, {"chosen": messages, "rejected": other}]
    ):
        path = write_rows(tmp_path / f"{i}.jsonl", [row])
        assert import_store(path, tmp_path / "copy").format == "pairs"
    with PreferenceStore(tmp_path / "copy", create=False) as store:
        prompts = {clip_text(preference.query.first)[0] for preference in store.preferences()}
    assert prompts == {"the", "\n\nHuman: q\n\nAssistant:"}


def test_rows_that_cannot_be_used_are_left_out_unless_none_is_left(tmp_path: Path) -> None:
    bad = {"prompt": "p", "chosen": "a"}
    path = write_rows(tmp_path / "in.jsonl", [bad])
    with pytest.raises(DataError, match="row 1: column `rejected` is missing"):
        import_store(path, tmp_path / "copy", "pairs")
    assert not (tmp_path / "copy").exists()
    report = import_store(write_rows(path, [*PAIRS, bad]), tmp_path / "copy")
    assert report.counts["rows used"] == 1
    assert report.counts["rows left out: cannot be used"] == 1
    assert report.notes[0].startswith("left out: row 2: column `rejected` is missing")


def test_what_does_not_fit_into_a_store_leaves_it_as_it_was(
    tmp_path: Path, control_store: Path
) -> None:
    path = write_rows(tmp_path / "in.jsonl", PAIRS)
    with PreferenceStore(control_store) as store:
        before = store.counts()
    with pytest.raises(DataError, match="keep environments with other spaces"):
        import_store(path, control_store)
    with PreferenceStore(control_store) as store:
        assert store.counts() == before
        assert store.query(store.open_queries()[0].id)


def test_a_failed_import_leaves_no_new_store_behind(
    tmp_path: Path, control_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_store(control_store, tmp_path / "out.jsonl")

    def full(folder: Path, clips: Any) -> Any:
        raise OSError(28, "the disk is full")

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    monkeypatch.setattr("rlhf_gym.feedback.posting.write_shard", full)
    for folder in ("copy", "mine"):
        with pytest.raises(OSError, match="full"):
            import_store(tmp_path / "out.jsonl", tmp_path / folder)
    assert not (tmp_path / "copy").exists()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_wrong_options_and_paths_are_refused(
    tmp_path: Path, control_store: Path, text_store: Path
) -> None:
    out = tmp_path / "out"
    wrong: list[tuple[type[Exception], str, Any]] = [
        (
            ConfigError,
            "accepted are jsonl, parquet",
            lambda: export_store(control_store, out, "csv"),
        ),  # type: ignore[arg-type]
        (ConfigError, "--ties both", lambda: export_store(control_store, out, ties="both")),
        (DataError, "not text", lambda: export_store(control_store, out, "pairs")),
        (DataError, "clips of text", lambda: export_store(text_store, out, "minari")),
        (DataError, "no preference store", lambda: export_store(tmp_path / "none", out)),
        (ConfigError, "accepted are auto", lambda: import_store(out, out, "csv")),  # type: ignore[arg-type]
        (DataError, "no file", lambda: import_store(tmp_path / "none", out)),
        (ConfigError, "without answers.parquet", lambda: import_store(control_store, out)),
    ]
    for kind, message, call in wrong:
        with pytest.raises(kind, match=message):
            call()
    assert not out.exists()


def test_a_format_that_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", [{"question": "?", "best": "!"}])
    with pytest.raises(ConfigError, match="question, best"):
        import_store(path, tmp_path / "copy")
    path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match="no line of JSON"):
        import_store(path, tmp_path / "copy")


def test_a_damaged_lossless_export_is_refused_as_a_whole(
    tmp_path: Path, control_store: Path
) -> None:
    out = tmp_path / "out.jsonl"
    export_store(control_store, out)
    with pytest.raises(ConfigError, match="`--columns` and `--no-prompt` are for pairs"):
        import_store(out, tmp_path / "copy", no_prompt=True)
    out.write_bytes(out.read_bytes()[:-9])
    with pytest.raises(CorruptDataError, match="half-written"):
        import_store(out, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_the_code_of_the_guide_reads_what_is_exported(
    repository: Path,
    tmp_path: Path,
    control_store: Path,
    text_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("minari", reason="the extra minari is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "set by the guide, set back by the test")
    export_store(control_store, Path("labels.jsonl"))
    export_store(control_store, Path("labels"), "parquet")
    export_store(control_store, Path("episodes"), "minari")
    export_store(text_store, Path("pairs.jsonl"), "pairs", ties="margin0")
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (repository / "docs" / "formats.md").read_text(), re.M | re.S
    )
    printed = []
    for block in blocks:
        if "from datasets" in block and importlib.util.find_spec("datasets") is None:
            continue  # no dependency of ours
        exec(compile(block, "docs/formats.md", "exec"), {})
        printed.append(capsys.readouterr().out)
    assert printed[0] == "tie (3, 2) (3, 2)\n"
    assert "ada       tie       1" in printed[1] and "float32 (3, 2)" in printed[1]
    assert printed[2].splitlines() == ["2 1 1 1.0", "2 1 1 0.0", "2 1 1 0.0"]
    assert printed[-2].endswith("('Name a colour.', 'Blue')\n")
    # The first query has the one answer that stands, the other two have none: two rows each.
    assert [line.split()[1:3] for line in printed[-1].splitlines()] == [
        [place, choice] for choice in ("tie", "None", "None") for place in ("0", "1")
    ]
