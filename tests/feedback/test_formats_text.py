"""Text pairs: out for other tools, and in from the files of others."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import ConfigError, CorruptDataError, DataError
from rlhf_gym.feedback.formats.chosen_rejected import read_hh, read_trl
from rlhf_gym.feedback.formats.panda_lm import read_panda_lm
from rlhf_gym.feedback.formats.rows import BadRow, list_bad_rows
from rlhf_gym.feedback.formats.text_import import pairs_snapshot, read_text_pairs
from rlhf_gym.feedback.formats.text_pairs import PairCounts, TextPair, text_pairs, write_pairs
from rlhf_gym.text_clips import clip_text, text_clip

PAIRS = [
    TextPair("p1", "a", "b", Choice.FIRST),
    TextPair("p2", "a", "b", Choice.SECOND),
    TextPair("p3", "a", "b", Choice.TIE),
    TextPair("p4", "a", "b", Choice.SKIP),
]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def hh_pair(row: dict[str, Any]) -> TextPair:
    (pair,) = read_hh(row).pairs
    return pair


def trl_pair(row: dict[str, Any]) -> TextPair:
    (pair,) = read_trl(row).pairs
    return pair


def winner(pair: TextPair) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of a decisive pair."""
    assert pair.choice in (Choice.FIRST, Choice.SECOND)
    texts = (pair.first, pair.second)
    return (pair.prompt, *(texts if pair.choice is Choice.FIRST else texts[::-1]))


# --- out ------------------------------------------------------------------------------------


def test_dropped_ties_and_skips_are_counted(tmp_path: Path) -> None:
    counts = write_pairs(PAIRS, tmp_path / "out.jsonl")
    assert rows_of(tmp_path / "out.jsonl") == [
        {"prompt": "p1", "chosen": "a", "rejected": "b"},
        {"prompt": "p2", "chosen": "b", "rejected": "a"},
    ]
    assert counts == PairCounts(
        n_rows=2, n_decisive=2, n_ties_written=0, n_ties_dropped=1, n_skips_dropped=1
    )


def test_margin0_makes_a_tie_a_row_without_distance(tmp_path: Path) -> None:
    counts = write_pairs(PAIRS, tmp_path / "out.jsonl", ties="margin0")
    assert rows_of(tmp_path / "out.jsonl") == [
        {"prompt": "p1", "chosen": "a", "rejected": "b", "margin": 1.0},
        {"prompt": "p2", "chosen": "b", "rejected": "a", "margin": 1.0},
        {"prompt": "p3", "chosen": "a", "rejected": "b", "margin": 0.0},
    ]
    assert (counts.n_ties_written, counts.n_ties_dropped, counts.n_rows) == (1, 0, 3)


def test_both_makes_a_tie_two_rows_one_each_way(tmp_path: Path) -> None:
    counts = write_pairs(PAIRS, tmp_path / "out.jsonl", ties="both")
    assert rows_of(tmp_path / "out.jsonl")[2:] == [
        {"prompt": "p3", "chosen": "a", "rejected": "b"},
        {"prompt": "p3", "chosen": "b", "rejected": "a"},
    ]
    assert (counts.n_ties_written, counts.n_ties_dropped, counts.n_rows) == (1, 0, 4)


def test_one_margin_gives_every_row_one(tmp_path: Path) -> None:
    pairs = [TextPair("p", "a", "b", Choice.FIRST, margin=0.5), *PAIRS[1:3]]
    write_pairs(pairs, tmp_path / "out.jsonl", ties="both")
    assert [row["margin"] for row in rows_of(tmp_path / "out.jsonl")] == [0.5, 1.0, 0.0, 0.0]


def test_an_unknown_way_with_ties_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="drop, margin0, both"):
        write_pairs(PAIRS, tmp_path / "out.jsonl", ties="keep")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_stored_answers_become_pairs_by_the_text_of_their_clips() -> None:
    query = Query((text_clip("p", "a"), text_clip("p", "b")), seed=0, round=0, index=0)
    answer = Preference(query, Choice.SECOND, "human", labeller="ada", details={"margin": 2})
    assert list(text_pairs([answer])) == [
        TextPair("p", "a", "b", Choice.SECOND, "ada", "human", 2.0, {"margin": 2})
    ]


def test_token_ids_become_text_by_the_function_that_is_given() -> None:
    def clip(token: int) -> Clip:
        return Clip(np.zeros((2, 3), np.int32), np.array([token], np.int32), "Env-v0")

    answer = Preference(Query((clip(1), clip(2)), seed=0, round=0, index=0), Choice.TIE, "human")
    [pair] = text_pairs([answer], to_text=lambda c: ("p", "abc"[c.actions[0]]))
    assert (pair.prompt, pair.first, pair.second) == ("p", "b", "c")
    with pytest.raises(DataError, match="tokenizer"):
        list(text_pairs([answer]))


# --- in: one row ----------------------------------------------------------------------------


def test_hh_prompts_end_at_the_last_turn_that_both_share() -> None:
    prompt = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: and now?\n\nAssistant:"
    pair = hh_pair({"chosen": prompt + " Yes.", "rejected": prompt + " Yellow."})
    assert winner(pair) == (prompt, " Yes.", " Yellow.")


def test_hh_dialogues_that_part_before_their_last_turn_keep_all_that_follows() -> None:
    prompt = "\n\nHuman: hi\n\nAssistant:"
    chosen, rejected = " A\n\nHuman: so\n\nAssistant: B", " C\n\nHuman: so\n\nAssistant: B"
    pair = hh_pair({"chosen": prompt + chosen, "rejected": prompt + rejected})
    assert winner(pair) == (prompt, chosen, rejected)


def test_the_order_of_a_pair_does_not_tell_which_was_chosen() -> None:
    choices = set()
    for i in range(20):
        row = {"prompt": "p", "chosen": f"a{i}", "rejected": f"b{i}"}
        swapped = {"prompt": "p", "chosen": f"b{i}", "rejected": f"a{i}"}
        one, two = trl_pair(row), trl_pair(swapped)
        assert (one.first, one.second) == (two.first, two.second)
        assert one.choice is not two.choice
        choices.add(one.choice)
    assert choices == {Choice.FIRST, Choice.SECOND}


USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "be kind"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, ("p", "a", "b")),
        ({"prompt": "p", "chosen": "a", "rejected": ""}, ("p", "a", "")),
        ({"chosen": "the cat", "rejected": "the car"}, ("the", " cat", " car")),
        (
            {
                "chosen": "\n\nHuman: q\n\nAssistant: yes",
                "rejected": "\n\nHuman: q\n\nAssistant: yo",
            },
            ("\n\nHuman: q\n\nAssistant:", " yes", " yo"),
        ),
        (
            {"prompt": [SYSTEM, USER], "chosen": [said("a")], "rejected": [said("b")]},
            ("\n\nSystem: be kind\n\nHuman: hi\n\nAssistant:", " a", " b"),
        ),
        (
            {"chosen": [USER, said("a")], "rejected": [USER, said("b")]},
            ("\n\nHuman: hi\n\nAssistant:", " a", " b"),
        ),
        (
            {"chosen": [USER, said("a"), USER, said("c")], "rejected": [USER, said("b")]},
            ("\n\nHuman: hi\n\nAssistant:", " a\n\nHuman: hi\n\nAssistant: c", " b"),
        ),
    ],
)
def test_every_form_of_trl_is_read(row: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert winner(trl_pair(row)) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a"}, "column `rejected` is missing; the columns are prompt"),
        ({"prompt": "p", "chosen": "a", "rejected": None}, "`rejected` is None"),
        ({"prompt": "p", "chosen": "a", "rejected": [said("b")]}, "mix texts and lists"),
        ({"chosen": ["a"], "rejected": ["b"]}, "is no message"),
        ({"chosen": [{"role": "tool", "content": ""}], "rejected": []}, "`role` is 'tool'"),
        ({"chosen": [{"role": "user", "content": [1]}], "rejected": []}, "`content` is list"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": "x"}, "`margin` is 'x'"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": -1}, "at least 0"),
    ],
)
def test_a_row_of_another_form_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        trl_pair(row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "a", "rejected": "b"}, "share no"),
        ({"chosen": [USER], "rejected": "b"}, "`chosen` is a list"),
        ({"rejected": "b"}, "`chosen` is missing"),
    ],
)
def test_a_row_that_is_not_of_hh_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        hh_pair(row)


PANDA = {
    "idx": 7,
    "instruction": "Add.",
    "input": "1 + 1",
    "response1": "2",
    "response2": "3",
    "annotator1": 1,
    "annotator2": 0,
    "annotator3": "2",
}


def test_panda_lm_rows_hold_three_answers() -> None:
    pairs = read_panda_lm(PANDA).pairs
    assert {(p.prompt, p.first, p.second) for p in pairs} == {("Add.\n\n1 + 1", "2", "3")}
    assert [(p.labeller, p.choice) for p in pairs] == [
        ("annotator1", Choice.FIRST),
        ("annotator2", Choice.TIE),
        ("annotator3", Choice.SECOND),
    ]
    assert read_panda_lm({**PANDA, "input": ""}).pairs[0].prompt == "Add."


def test_a_response_that_was_published_without_quotes_is_text() -> None:
    assert read_panda_lm({**PANDA, "response1": True}).pairs[0].first == "True"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotator2": 3}, "`annotator2` is 3; accepted are 0"),
        ({"annotator2": True}, "`annotator2` is True"),
        ({"annotator3": None}, "`annotator3` is None"),
        ({"response1": None}, "`response1` is None"),
    ],
)
def test_a_bad_row_of_panda_lm_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_panda_lm({**PANDA, **change})
    with pytest.raises(DataError, match="column `annotator1` is missing"):
        read_panda_lm({key: value for key, value in PANDA.items() if key != "annotator1"})


# --- in: whole files ------------------------------------------------------------------------


def pair_row(i: int) -> dict[str, Any]:
    return {"prompt": f"p{i}", "chosen": "a", "rejected": "b"}


def test_a_row_is_a_query_and_its_labellers_answer_it() -> None:
    rows = [(1, read_panda_lm(PANDA).pairs), (2, [TextPair("p", "x", "y", Choice.SECOND)])]
    snapshot = pairs_snapshot(rows).snapshot
    first, second = snapshot.queries
    assert [clip_text(clip) for clip in first.query.clips] == [
        ("Add.\n\n1 + 1", "2"),
        ("Add.\n\n1 + 1", "3"),
    ]
    assert (first.n_wanted, first.query.index, second.n_wanted, second.query.index) == (3, 1, 1, 2)
    assert [(a.query_id, a.labeller, a.choice) for a in snapshot.answers] == [
        (first.query.id, "annotator1", Choice.FIRST),
        (first.query.id, "annotator2", Choice.TIE),
        (first.query.id, "annotator3", Choice.SECOND),
        (second.query.id, "", Choice.SECOND),
    ]
    again = pairs_snapshot(rows).snapshot
    assert [a.uuid for a in again.answers] == [a.uuid for a in snapshot.answers]
    assert len({a.uuid for a in snapshot.answers}) == 4


def test_repeated_rows_and_equal_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    same_texts = {"prompt": "p", "chosen": "a", "rejected": "a"}
    opposite = {"prompt": "p1", "chosen": "b", "rejected": "a"}
    rows = [pair_row(1), pair_row(1), same_texts, opposite, pair_row(2), pair_row(1)]
    read = read_text_pairs(write_lines(tmp_path / "in.jsonl", rows), "pairs")
    assert (read.n_duplicates, read.n_identical, read.bad) == (2, 1, [])
    assert [stored.query.index for stored in read.snapshot.queries] == [1, 4, 5]
    assert read.contradicting == (4,)


def test_what_was_exported_to_trl_is_read_back_with_its_ties(tmp_path: Path) -> None:
    write_pairs(PAIRS, tmp_path / "out.jsonl.gz", ties="margin0")
    snapshot = read_text_pairs(tmp_path / "out.jsonl.gz", "pairs").snapshot
    texts = [tuple(clip_text(c)[1] for c in stored.query.clips) for stored in snapshot.queries]
    chosen = [
        {Choice.FIRST: pair[0], Choice.SECOND: pair[1]}.get(answer.choice, "tie")
        for pair, answer in zip(texts, snapshot.answers, strict=True)
    ]
    assert chosen == ["a", "b", "tie"]
    assert [answer.details["margin"] for answer in snapshot.answers] == [1.0, 1.0, 0.0]


BAD_ROWS: dict[str, tuple[bytes, str]] = {
    "not JSON": (b'{"prompt": \n', "row 2: it is not JSON"),
    "not UTF-8": (
        b'{"prompt": "\xff", "chosen": "a", "rejected": "b"}\n',
        "row 2: it is not UTF-8",
    ),
    "no object": (b"[1]\n", "row 2: it holds list"),
    "no column": (b'{"prompt": "p", "chosen": "a"}\n', "row 2: column `rejected` is missing"),
    "no Unicode": (
        b'{"prompt": "p", "chosen": "\\ud800", "rejected": "b"}\n',
        "row 2: `completion` is not Unicode",
    ),
    "half-written": (b'{"prompt": "p", "chos', "row 2: the file ends in the middle of it"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_left_out_and_named(tmp_path: Path, name: str) -> None:
    line, message = BAD_ROWS[name]
    path = tmp_path / "in.jsonl"
    good = [json.dumps(pair_row(i)).encode() + b"\n" for i in (1, 3)]
    last = name == "half-written"
    path.write_bytes(b"".join([good[0], line] if last else [good[0], line, good[1]]))
    read = read_text_pairs(path, "pairs")
    assert len(read.snapshot.queries) == (1 if last else 2)
    (listed,) = list_bad_rows(read.bad)
    assert listed.startswith(message)
    path.write_bytes(line)
    with pytest.raises(DataError, match="none of the 1 rows") as error:
        read_text_pairs(path, "pairs")
    assert message.replace("row 2", "row 1") in str(error.value)
    assert "nothing was imported" in str(error.value)


def test_many_bad_rows_are_counted_by_their_reason() -> None:
    bad = [BadRow(i, "no prompt") for i in range(1, 9)] + [BadRow(9, "no JSON")]
    assert list_bad_rows(bad) == ["rows 1, 2, 3, 4, 5 and 3 more: no prompt", "row 9: no JSON"]
    lines = list_bad_rows([BadRow(i, f"reason {i // 2}") for i in range(20)])
    assert lines[4:] == ["rows 8, 9: reason 4", "and 10 more rows"]


def test_compressed_data_that_ends_early_is_refused_since_nobody_knows_what_is_lost(
    tmp_path: Path,
) -> None:
    path = tmp_path / "in.jsonl.gz"
    text = "".join(json.dumps({**pair_row(i), "x": str(i) * 9999}) + "\n" for i in range(99))
    path.write_bytes(gzip.compress(text.encode())[:-20])
    with pytest.raises(CorruptDataError, match="the compressed data ends"):
        read_text_pairs(path, "pairs")


def test_empty_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(pair_row(1)).encode() + b"\n\n  \n")
    assert len(read_text_pairs(path, "pairs").snapshot.queries) == 1
    path.write_bytes(json.dumps(pair_row(1)).encode())  # complete, though it lacks the line's end
    assert len(read_text_pairs(path, "pairs").snapshot.queries) == 1


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds no row"):
        read_text_pairs(path, "hh")
