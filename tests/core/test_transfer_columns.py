"""What an import says of the columns of a file, of its scores, and of rows that contradict."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlhf_gym.cli import main
from rlhf_gym.data import Choice
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.feedback.formats.chosen_rejected import read_hh, read_trl
from rlhf_gym.feedback.formats.read_row import Remark
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.text_clips import clip_text
from rlhf_gym.transfer import TransferReport, import_store


def import_rows(folder: Path, *rows: dict[str, Any], **options: Any) -> TransferReport:
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return import_store(folder / "in.jsonl", folder / "copy", **options)


def stored(folder: Path) -> list[tuple[str, str, str]]:
    """(prompt, chosen, rejected) of each answer; ties and all in the order of the texts."""
    with PreferenceStore(folder / "copy", create=False) as store:
        found = []
        for preference in store.preferences():
            (prompt, first), (_, second) = map(clip_text, preference.query.clips)
            texts = (first, second) if preference.choice is Choice.FIRST else (second, first)
            found.append((prompt, *texts))
    return found


def test_columns_that_are_not_used_are_named_once(tmp_path: Path) -> None:
    row = {"system": "Be brief.", "question": "2+2?", "chosen": "4", "rejected": "5"}
    odd = {f"x{i:03}": i for i in range(40)}
    report = import_rows(tmp_path, {**row, "id": 1}, {**row, "question": "3+3?", "id": 2, **odd})
    (note,) = report.notes
    assert note.startswith("columns not used: `id`, `x000`, ") and note.endswith(" and 11 more")
    assert str(report).endswith(note)
    assert {prompt for prompt, *_ in stored(tmp_path)} == {
        "Be brief.\n\n2+2?",
        "Be brief.\n\n3+3?",
    }


def test_the_caller_names_columns_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"frage": "2+2?", "good, better": "4", "bad": "5", "prompt": "ignore me"}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    command = ["import", str(tmp_path / "in.jsonl"), "--into", str(tmp_path / "copy"), "--columns"]
    main([*command, "prompt=frage,chosen=good, better", "rejected=bad"])
    assert "columns not used: `prompt`" in capsys.readouterr().out
    assert stored(tmp_path) == [("2+2?", "4", "5")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frage", "write ROLE=COLUMN"),
        ("answer=x", "with the roles prompt, system, input, chosen"),
        ("prompt=", "write ROLE=COLUMN"),
        ("prompt=a,prompt=b", "two columns for prompt"),
    ],
)
def test_columns_of_another_form_are_refused(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text("{}")
    with pytest.raises(SystemExit):
        main(["import", str(tmp_path / "in.jsonl"), "--into", str(tmp_path / "copy"),
              "--columns", text])  # fmt: skip
    assert message in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_columns_are_for_pairs_only(tmp_path: Path) -> None:
    turns = "\n\nHuman: q\n\nAssistant:"
    row = {"chosen": f"{turns} a", "rejected": f"{turns} b"}
    with pytest.raises(ConfigError, match=r"are for pairs; .* is read as hh"):
        import_rows(tmp_path, row, import_format="hh", columns={"prompt": "x"})


def test_a_file_without_chosen_and_rejected_asks_for_their_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(question, a, b\).*`--columns prompt=question"):
        import_rows(tmp_path, {"question": "q", "a": "x", "b": "y"})


def test_scores_make_ties_and_are_kept_and_those_against_the_label_are_counted(
    tmp_path: Path,
) -> None:
    def row(i: int, one: float, two: float) -> dict[str, Any]:
        texts = {"prompt": f"p{i}", "chosen": f"a{i}", "rejected": f"b{i}"}
        return {**texts, "score_chosen": one, "score_rejected": two}

    report = import_rows(tmp_path, row(1, 8, 3.5), row(2, 7, 7), row(3, 2, 4))
    assert report.counts["ties among them"] == 1
    assert report.counts["ties by equal scores, or a margin of 0"] == 1
    assert report.counts["answers that their scores contradict: kept as labelled"] == 1
    assert report.notes[-1].startswith("scores are kept with the answers. Nothing is trained on")
    with PreferenceStore(tmp_path / "copy", create=False) as store:
        found = {}
        for preference in store.preferences():
            for place, clip in zip(("first", "second"), preference.query.clips, strict=True):
                _, text = clip_text(clip)
                found[text] = preference.details[f"score_{place}"], preference.preference_prob
    scores = {text: score for text, (score, _) in found.items()}
    assert scores == {"a1": 8.0, "b1": 3.5, "a2": 7.0, "b2": 7.0, "a3": 2.0, "b3": 4.0}
    assert found["a2"][1] == 0.5
    assert ("p3", "a3", "b3") in stored(tmp_path)


def test_margins_are_kept_and_the_import_says_who_uses_them(tmp_path: Path) -> None:
    report = import_rows(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2})
    assert "use_margins=True" in report.notes[-1]
    with PreferenceStore(tmp_path / "copy", create=False) as store:
        assert store.preferences()[0].details == {"margin": 2.0}


def test_rows_that_contradict_each_other_are_counted_and_kept(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    turned = {"prompt": "p", "chosen": "b", "rejected": "a"}
    report = import_rows(tmp_path, row, turned, row, {**row, "prompt": "q"})
    assert report.counts["rows that contradict an earlier row: kept"] == 1
    assert report.counts["rows left out: same as an earlier row"] == 1
    assert "contradicting rows: 2" in report.notes
    assert report.counts["answers"] == 3


def test_two_labellers_who_differ_do_not_contradict_themselves(tmp_path: Path) -> None:
    row = {"instruction": "i", "input": "", "response1": "a", "response2": "b"}
    annotators = {"annotator1": 1, "annotator2": 2, "annotator3": 0}
    turned = {**row, "response1": "b", "response2": "a"}
    report = import_rows(
        tmp_path,
        {**row, **annotators},
        {**turned, "annotator1": 2, "annotator2": 1, "annotator3": 0},  # the same once more
        {**turned, "annotator1": 1, "annotator2": 1, "annotator3": 0},  # the first one changed
    )
    assert report.counts["rows that contradict an earlier row: kept"] == 1
    assert "contradicting rows: 3" in report.notes


def test_rows_without_a_prompt_are_refused_unless_asked_for(tmp_path: Path) -> None:
    rows = [{"chosen": "one", "rejected": "two"}, {"prompt": "", "chosen": "x", "rejected": "y"}]
    with pytest.raises(DataError, match=r"row 1: it has no prompt(.|\n)*--no-prompt"):
        import_rows(tmp_path, *rows)
    assert not (tmp_path / "copy").exists()
    import_rows(tmp_path, *rows, {"prompt": "p", "chosen": "c", "rejected": "d"}, no_prompt=True)
    assert sorted(stored(tmp_path)) == [("", "one", "two"), ("", "x", "y"), ("p", "c", "d")]


# --- published files ------------------------------------------------------------------------


def published(name: str) -> tuple[Path, list[dict[str, Any]]]:
    folder = os.environ.get("RLHF_GYM_DATA", "")
    path = Path(folder) / name
    if not folder or not path.exists():
        pytest.skip(f"RLHF_GYM_DATA names no folder with {name}")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return path, [json.loads(line) for line in file]


def test_no_prompt_of_hh_is_lost_doubled_or_cut(tmp_path: Path) -> None:
    path, rows = published("hh_rlhf_harmless.jsonl.gz")
    report = import_store(path, tmp_path / "copy")
    assert report.counts["rows used"] == report.counts["answers new to the store"] == len(rows)
    found = stored(tmp_path)
    turn = "\n\nAssistant:"
    for row, (prompt, chosen, rejected) in zip(rows, found, strict=True):
        assert (prompt + chosen, prompt + rejected) == (row["chosen"], row["rejected"])
        assert prompt.startswith("\n\nHuman:") and prompt.endswith(turn)
        # It is the longest such beginning that both share.
        turns = [part for part in (chosen, rejected) if turn in part]
        assert len(turns) < 2 or chosen.split(turn)[0] != rejected.split(turn)[0]


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("name", ["prompt", "question"])
def test_prompts_of_hh_in_a_column_of_their_own_come_out_the_same(name: str, doubled: bool) -> None:
    _, rows = published("hh_rlhf_harmless.jsonl.gz")
    for row in rows:
        (expected,) = read_hh(row).pairs
        n = 0 if doubled else len(expected.prompt)
        apart = {"chosen": row["chosen"][n:], "rejected": row["rejected"][n:]}
        read = read_trl({name: expected.prompt, **apart})
        assert read.pairs == (expected,)
        assert read.remarks == ({Remark.REPEATED} if doubled else set())


def test_no_instruction_of_panda_lm_is_lost_doubled_or_cut(tmp_path: Path) -> None:
    path, rows = published("pandalm_three_annotators.jsonl.gz")
    report = import_store(path, tmp_path / "copy")
    # Of 705 rows 52 repeat another word for word.
    keys = [tuple(str(row[k]) for k in row if k != "idx") for row in rows]
    assert report.counts["rows used"] == len(set(keys)) == 653
    assert report.counts["answers new to the store"] == 3 * 653
    prompts = {row["instruction"] + ("\n\n" + row["input"] if row["input"] else "") for row in rows}
    with PreferenceStore(tmp_path / "copy", create=False) as store:
        found = {clip_text(preference.query.first)[0] for preference in store.preferences()}
    assert found == prompts
    assert report.notes == ("columns not used: `idx`",)
