"""Answers by themselves: taken back, restored elsewhere, and forgotten without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.answers import add_answer, forget_labeller
from rlhf_gym.feedback.leases import claim_queries
from rlhf_gym.feedback.records import AnswerKind
from rlhf_gym.feedback.store import PreferenceStore


def make_query(index: int) -> Query:
    def clip(i: int) -> Clip:
        return Clip(np.full((2, 1), i, np.float32), np.zeros((1, 1), np.float32), "E")

    return Query((clip(2 * index), clip(2 * index + 1)), seed=0, round=0, index=index)


def open_store(folder: Path, n_queries: int = 3) -> PreferenceStore:
    store = PreferenceStore(folder)
    store.rows("PRAGMA synchronous = OFF")  # these tests cut no power
    store.post([make_query(i) for i in range(n_queries)], n_wanted=2)
    return store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PreferenceStore]:
    with open_store(tmp_path / "run") as opened:
        yield opened


def add(
    store: PreferenceStore,
    index: int,
    choice: Choice = Choice.FIRST,
    *,
    kind: AnswerKind = "pairwise",
    uuid: str | None = None,
    **fields: object,
) -> str:
    preference = Preference(make_query(index), choice, "human", **{"labeller": "ann", **fields})  # type: ignore[arg-type]
    with store.writing() as connection:
        return add_answer(connection, preference, store.path, kind=kind, uuid=uuid)


def standing(store: PreferenceStore) -> list[tuple[str, str, str]]:
    return [(r.uuid, r.kind, r.choice.value) for r in store.answer_records()]


# --- adding and taking back -----------------------------------------------------------------


def test_the_uuid_that_stands_is_returned(store: PreferenceStore) -> None:
    assert add(store, 0, uuid="one") == "one"
    assert add(store, 0, uuid="two") == "one"  # says the same
    assert add(store, 0, Choice.TIE, uuid="three") == "three"  # says something else
    assert add(store, 1, Choice.TIE, uuid="three") == "three"  # known, whatever it is about
    assert standing(store) == [("three", "pairwise", "tie")]


@pytest.mark.parametrize("kind", ["retraction", "guess"])
def test_only_answers_are_added(store: PreferenceStore, kind: str) -> None:
    with pytest.raises(DataError, match=kind):
        add(store, 0, kind=kind)  # type: ignore[arg-type]


def test_a_retraction_reopens_and_keeps_both_rows(store: PreferenceStore) -> None:
    add(store, 0, uuid="mine", details={"comment": "private"})
    add(store, 0, uuid="bens", labeller="ben")
    assert store.counts()["n_open"] == 2
    assert store.retract("mine", answered_at=5.0) is True
    assert store.retract("mine") is False and store.retract("no such") is False
    assert standing(store) == [("bens", "pairwise", "first")]
    assert store.counts()["n_open"] == 3 and len(store.preferences()) == 1
    [first, _, retraction] = store.answer_records(superseded=True)
    assert (retraction.kind, retraction.supersedes) == ("retraction", first.sequence)
    assert (retraction.answered_at, dict(retraction.details)) == (5.0, {})
    # The past stays as it was.
    assert len(store.preferences(up_to=2)) == 2


def test_an_answer_after_a_retraction_stands_and_can_be_taken_back_again(
    store: PreferenceStore,
) -> None:
    for n in range(3):
        add(store, 0, uuid=f"try {n}")  # the same choice each time, yet a new answer
        assert standing(store) == [(f"try {n}", "pairwise", "first")]
        assert store.retract(f"try {n}")
        assert standing(store) == []
    assert store.counts()["n_superseded"] == 5  # every row but the last retraction


def test_a_retracted_repeat_leaves_one_pairwise_answer_that_can_be_changed(
    store: PreferenceStore,
) -> None:
    add(store, 0, uuid="real")
    add(store, 0, Choice.SECOND, kind="repeat", uuid="again")
    store.retract("again")
    add(store, 0, Choice.TIE, uuid="changed")
    assert standing(store) == [("changed", "pairwise", "tie")]
    assert store.counts()["n_answers"] == 1


def test_measuring_answers_neither_close_a_pair_nor_replace_its_answer(
    store: PreferenceStore,
) -> None:
    kinds: tuple[AnswerKind, ...] = ("gold", "repeat", "practice", "qualification", "surplus")
    add(store, 0)
    for kind in kinds:
        add(store, 0, Choice.SECOND, kind=kind)
    assert [kind for _, kind, _ in standing(store)] == ["pairwise", *kinds]
    assert store.counts()["n_answers"] == 1 and store.counts()["n_open"] == 3
    assert [p.choice for p in store.preferences()] == [Choice.FIRST]


# --- restoring ------------------------------------------------------------------------------


def fill(store: PreferenceStore) -> None:
    """A history with everything in it: changed minds, retractions, all kinds of answers."""
    add(
        store, 0, uuid="a", shown_at=1.0, answered_at=2.0, details={"left": "first", "x": [1, None]}
    )
    add(store, 0, Choice.TIE, uuid="b", labeller="ben 🙂")
    add(store, 1, Choice.SKIP, uuid="c")
    store.retract("c", answered_at=9.0)
    add(store, 1, Choice.SECOND, uuid="d")
    add(store, 0, Choice.SECOND, uuid="e")  # changes a
    add(store, 2, kind="gold", uuid="f")
    add(store, 0, kind="repeat", uuid="g")


def test_a_restored_history_equals_the_original(store: PreferenceStore, tmp_path: Path) -> None:
    fill(store)
    history = store.answer_records(superseded=True)
    with open_store(tmp_path / "copy") as copy:
        add(copy, 2, labeller="earlier")  # sequence numbers differ, and do not matter
        assert copy.restore_answers(history) == len(history)
        assert copy.restore_answers(history) == 0
        assert standing(copy)[1:] == standing(store)
        copied = copy.answer_records(superseded=True)[1:]
        places = {r.sequence: r.uuid for r in copied} | {None: None}
        originals = {r.sequence: r.uuid for r in history} | {None: None}
        for one, other in zip(history, copied, strict=True):
            assert originals[one.supersedes] == places[other.supersedes]
            same = ("uuid", "query_id", "kind", "choice", "teacher", "labeller", "details",
                    "shown_at", "answered_at")  # fmt: skip
            assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]


def test_a_history_with_a_gap_is_refused_as_a_whole(store: PreferenceStore, tmp_path: Path) -> None:
    fill(store)
    history = store.answer_records(superseded=True)
    with open_store(tmp_path / "copy") as copy:
        with pytest.raises(DataError, match="complete history"):
            copy.restore_answers([r for r in history if r.uuid != "a"])
        assert copy.last_sequence == 0
    with open_store(tmp_path / "other", n_queries=1) as other:
        with pytest.raises(DataError, match="not in"):
            other.restore_answers(history)
        assert other.last_sequence == 0


# --- forgetting -----------------------------------------------------------------------------


def test_a_forgotten_labeller_leaves_the_others_alone(store: PreferenceStore) -> None:
    fill(store)
    before = [r for r in store.answer_records(superseded=True) if r.labeller != "ann"]
    assert store.forget_labeller("ann") == 7
    assert store.answer_records(superseded=True) == before
    assert store.forget_labeller("ann") == 0
    assert store.counts()["n_open"] == 3
    # Append-only again, and later answers get fresh numbers.
    with pytest.raises(Exception, match="append-only"):
        store.rows("DELETE FROM answers")
    add(store, 0, uuid="new")
    assert store.last_sequence == 9


def test_answers_without_a_labeller_are_nobodys_to_forget(store: PreferenceStore) -> None:
    add(store, 0, labeller="")
    with pytest.raises(DataError, match="labeller"):
        store.forget_labeller("")
    assert store.counts()["n_answers"] == 1


def test_a_failure_half_way_forgets_nothing_and_keeps_the_store_append_only(
    store: PreferenceStore,
) -> None:
    fill(store)
    n = store.last_sequence
    with pytest.raises(KeyboardInterrupt), store.writing() as connection:
        assert forget_labeller(connection, "ann") > 0
        raise KeyboardInterrupt
    assert len(store.answer_records(superseded=True)) == n
    with pytest.raises(Exception, match="append-only"):
        store.rows("UPDATE answers SET labeller = ''")


def test_forgetting_leaves_no_byte_of_name_or_comment_in_any_file(tmp_path: Path) -> None:
    """With enough rows that pages of the database are split and merged."""
    name, remark = "Zaphod-Xq7", "remark-Vw9"
    folder = tmp_path / "run"
    with open_store(folder, n_queries=400) as store:
        for labeller in (name, "someone else"):
            answers = [
                Preference(
                    make_query(i),
                    Choice.FIRST,
                    "human",
                    labeller=labeller,
                    details={"comment": f"{remark if labeller == name else 'fine'} {i} " * (i % 7)},
                )
                for i in range(400)
            ]
            store.answer(answers)
        for record in store.answer_records()[:400:3]:
            assert record.labeller == name and store.retract(record.uuid)
        with store.writing() as connection:
            assert claim_queries(connection, name, "sitting", 3, 0.0)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(name.encode() in path.read_bytes() for path in files)
    with PreferenceStore(folder) as store:
        assert store.forget_labeller(name) == 400 + 134
        assert len(store.preferences()) == 400
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert name.encode() not in content and remark.encode() not in content
