from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlhf_gym.data import Choice, Clip, Preference, Query
from rlhf_gym.errors import CorruptDataError, DataError
from rlhf_gym.feedback.dataset import (
    AnswerTable,
    PreferenceSet,
    decode_answer,
    encode_answer,
)


def make_clip(value: float, n_steps: int = 3) -> Clip:
    return Clip(
        obs=np.full((n_steps + 1, 2), value, np.float32),
        actions=np.full((n_steps, 1), -value, np.float32),
        context_id="Env-v0",
        true_rewards=np.full(n_steps, value, np.float32),
    )


def make_preference(
    first: Clip, second: Clip, choice: Choice, round_: int = 0, index: int = 0, **fields: object
) -> Preference:
    query = Query((first, second), seed=5, round=round_, index=index)
    return Preference(query, choice, "human", **fields)  # type: ignore[arg-type]


A, B, C = make_clip(1.0), make_clip(2.0, n_steps=5), make_clip(3.0)


def test_a_clip_of_several_queries_lies_in_the_table_once() -> None:
    chosen = PreferenceSet.from_preferences(
        [
            make_preference(A, B, Choice.FIRST, index=0),
            make_preference(B, C, Choice.SECOND, index=1),
            make_preference(C, A, Choice.TIE, index=2),
        ]
    )
    assert chosen.clips.ids == [A.id, B.id, C.id]
    assert chosen.pairs.tolist() == [[0, 1], [1, 2], [2, 0]]
    assert chosen.pairs.dtype == np.int64
    assert chosen.probs.tolist() == [1.0, 0.0, 0.5]
    assert chosen.probs.dtype == np.float32


def test_shorter_clips_are_padded_with_zeros_and_their_length_is_kept() -> None:
    table = PreferenceSet.from_preferences([make_preference(A, B, Choice.FIRST)]).clips
    assert table.obs.shape == (2, 6, 2)
    assert table.actions.shape == (2, 5, 1)
    assert table.lengths.tolist() == [3, 5]
    assert table.obs[0, :, 0].tolist() == [1, 1, 1, 1, 0, 0]
    assert table.actions[0, :, 0].tolist() == [-1, -1, -1, 0, 0]


def test_items_equal_the_preferences_they_came_from_but_hide_the_true_rewards() -> None:
    given = make_preference(
        A, B, Choice.TIE, labeller="ann", shown_at=3.0, answered_at=4.5, details={"side": "left"}
    )
    (item,) = PreferenceSet.from_preferences([given])
    assert item.query.id == given.query.id
    assert (item.query.seed, item.query.round, item.query.index) == (5, 0, 0)
    assert (item.choice, item.teacher, item.labeller) == (Choice.TIE, "human", "ann")
    assert (item.shown_at, item.answered_at, item.details) == (3.0, 4.5, {"side": "left"})
    for stored, original in zip(item.query.clips, (A, B), strict=True):
        assert stored.true_rewards is None
        assert stored.id == original.id
        np.testing.assert_array_equal(stored.obs, original.obs)
        np.testing.assert_array_equal(stored.actions, original.actions)
        # The id is taken over from storage; hashing the arrays again must give the same.
        assert Clip(stored.obs, stored.actions, stored.context_id).id == original.id


def test_answers_are_sorted_by_round_then_index_then_order_given() -> None:
    late = make_preference(A, B, Choice.FIRST, round_=1, index=0)
    ann = make_preference(A, C, Choice.FIRST, round_=0, index=7, labeller="ann")
    bob = make_preference(A, C, Choice.SECOND, round_=0, index=7, labeller="bob")
    early = make_preference(B, C, Choice.TIE, round_=0, index=2)
    chosen = PreferenceSet.from_preferences([late, bob, ann, early])
    assert [(p.query.round, p.query.index, p.labeller) for p in chosen] == [
        (0, 2, ""),
        (0, 7, "bob"),
        (0, 7, "ann"),
        (1, 0, ""),
    ]


def test_skipped_answers_are_kept_with_nan_and_left_out_of_training() -> None:
    chosen = PreferenceSet.from_preferences(
        [
            make_preference(A, B, Choice.SKIP, index=0),
            make_preference(B, C, Choice.SECOND, index=1),
        ]
    )
    assert np.isnan(chosen.probs).tolist() == [True, False]
    assert chosen[0].choice is Choice.SKIP
    trained = chosen.trained()
    assert [p.choice for p in trained] == [Choice.SECOND]
    assert trained.pairs.tolist() == [[1, 2]]
    assert trained.clips is chosen.clips


def test_slices_and_indices_work_as_those_of_a_list() -> None:
    given = [make_preference(A, B, Choice.FIRST, index=i) for i in range(5)]
    chosen = PreferenceSet.from_preferences(given)
    part = chosen[1:4]
    assert isinstance(part, PreferenceSet)
    assert part.query_ids == [p.query.id for p in given[1:4]]
    assert [p.query.id for p in chosen[::-2]] == [p.query.id for p in given[::-2]]
    assert chosen[-1].query.id == given[-1].query.id
    assert len(chosen[5:]) == 0
    with pytest.raises(IndexError):
        chosen[5]


def test_a_preference_set_is_returned_unchanged() -> None:
    chosen = PreferenceSet.from_preferences([make_preference(A, B, Choice.FIRST)])
    assert PreferenceSet.from_preferences(chosen) is chosen


def test_no_preferences_make_an_empty_set() -> None:
    chosen = PreferenceSet.from_preferences([])
    assert len(chosen) == 0 and len(chosen.trained()) == 0 and list(chosen) == []
    assert chosen.pairs.shape == (0, 2) and len(chosen.clips) == 0


def test_clips_that_cannot_share_an_array_are_refused() -> None:
    other = Clip(np.zeros((4, 2), np.int64), np.zeros((3, 1), np.float32), "Env-v0")
    with pytest.raises(DataError, match=r"`Clip.obs` differs.*'<f4'.*'<i8'"):
        PreferenceSet.from_preferences([make_preference(A, other, Choice.FIRST)])


def test_answers_to_more_than_two_clips_are_refused() -> None:
    ranking = Preference(Query((A, B, C), 0, 0, 0), Choice.FIRST, "human")
    with pytest.raises(DataError, match="asks about 3 clips"):
        PreferenceSet.from_preferences([ranking])


@pytest.mark.parametrize("choice", list(Choice))
def test_answers_survive_their_encoding(choice: Choice, tmp_path: Path) -> None:
    given = make_preference(A, B, choice, details={"comment": "ä", "replays": 2})
    assert decode_answer(encode_answer(choice, given.details, "q"), tmp_path) == (
        choice,
        given.details,
    )


def test_details_that_are_not_json_are_refused() -> None:
    for details in ({"x": float("nan")}, {"x": {1, 2}}):
        with pytest.raises(DataError, match="are not JSON"):
            encode_answer(Choice.FIRST, details, "q")


@pytest.mark.parametrize("payload", ['{"choice": "firsu", "details": {}}', "{}", "[]", "\x00"])
def test_a_damaged_payload_names_the_file(payload: str, tmp_path: Path) -> None:
    row = ("id", "0", 0, 0, payload, "human", "", 0.0, 0.0)
    with pytest.raises(CorruptDataError, match=str(tmp_path)):
        AnswerTable.from_rows([row], tmp_path)
