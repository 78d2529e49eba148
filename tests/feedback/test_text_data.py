from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.data import Choice, Preference, Query
from rlhf_gym.errors import DataError
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.feedback.text_data import (
    EncodedTexts,
    TextLimits,
    clip_texts,
    encode_texts,
    pack_right,
    pair_table,
)
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.tokenizers import word_tokenizer
from rlhf_gym.text_clips import text_clip

TOKENIZER = word_tokenizer(list("abc"), separator="")
PAD, BOS, EOS, A, B, C = range(6)  # the order that `word_tokenizer` documents
ROOMY = TextLimits(10, 10)


def answer(prompt: str, first: str, second: str, choice: Choice, index: int = 0, **details):
    query = Query((text_clip(prompt, first), text_clip(prompt, second)), 0, 0, index)
    return Preference(query, choice, "x", details=details)


def table(*answers: Preference, limits: TextLimits = ROOMY):
    return pair_table(PreferenceSet.from_preferences(answers).trained(), TOKENIZER, limits)


def test_a_row_is_bos_prompt_completion_and_eos_if_it_ended_by_itself() -> None:
    texts = encode_texts(TOKENIZER, ["ab", "ab", ""], ["c", "c", ""], [True, False, True], ROOMY)
    assert texts.rows == [[BOS, A, B, C, EOS], [BOS, A, B, C], [BOS, EOS]]
    assert texts.completion_lengths.tolist() == [2, 1, 1]
    assert (texts.n_prompts_truncated, texts.n_completions_truncated) == (0, 0)


def test_what_is_cut_is_counted_and_a_cut_completion_did_not_end() -> None:
    limits = TextLimits(prompt=3, completion=2)
    texts = encode_texts(TOKENIZER, ["abc", "ab"], ["ab", "a"], [True, True], limits)
    # BOS stays and the prompt's beginning goes; with EOS "ab" has three tokens, one too many.
    assert texts.rows == [[BOS, B, C, A, B], [BOS, A, B, A, EOS]]
    assert (texts.n_prompts_truncated, texts.n_completions_truncated) == (1, 1)
    with pytest.raises(DataError, match="text 0 has 4 prompt and 3 completion tokens"):
        encode_texts(TOKENIZER, ["abc"], ["ab"], [True], TextLimits(3, 2, "refuse"))


def test_a_text_without_any_token_is_refused() -> None:
    bare = word_tokenizer(["a"])
    bare.bos_token = None
    assert encode_texts(bare, [""], [""], [True], ROOMY).rows == [[EOS]]
    with pytest.raises(DataError, match="text 1 has no token"):
        encode_texts(bare, ["", ""], ["a", ""], [False, False], ROOMY)
    with pytest.raises(DataError, match="2 prompts, 1 completions and 1 flags"):
        encode_texts(bare, ["", ""], ["a"], [False], ROOMY)


def test_the_last_index_is_the_row_s_own_even_where_the_row_ends_in_pad() -> None:
    texts = EncodedTexts([[A, PAD], [A], [A, B, C]], np.zeros(3, np.int64), 0, 0)
    ids, last = texts.padded([0, 1, 2], PAD)
    assert ids.tolist() == [[A, PAD, PAD], [A, PAD, PAD], [A, B, C]]
    assert last.tolist() == [1, 0, 2]


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(A, C), min_size=1, max_size=4),
            st.lists(st.integers(A, C), max_size=4),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 2),
)
def test_padding_moves_to_the_right_and_the_tokens_stay_in_order(rows, extra: int) -> None:
    prompts, completions = [row[0] for row in rows], [row[1] for row in rows]
    batch = TokenBatch.from_lists(
        prompts, completions, PAD, EOS, prompt_length=4 + extra, completion_length=4 + extra
    )
    ids, last = pack_right(batch)
    for row, (prompt, completion) in enumerate(rows):
        both = prompt + completion
        assert int(last[row]) == len(both) - 1
        assert ids[row, : len(both)].tolist() == both
        assert (ids[row, len(both) :] == PAD).all()
    assert ids.shape[1] == max(len(p) + len(c) for p, c in rows)


def test_each_text_of_a_prompt_stands_once_in_however_many_pairs_it_is() -> None:
    found = table(
        answer("a", "b", "c", Choice.FIRST, 0),
        answer("a", "c", "bc", Choice.SECOND, 1),
        answer("a", "bc", "b", Choice.TIE, 2),
        answer("b", "b", "c", Choice.SKIP, 3),
        answer("c", "b", "c", Choice.SECOND, 4),
    )
    assert len(found.texts) == 5, "three of prompt a, two of prompt c, none of the skipped pair"
    rows = found.texts.rows
    assert [(rows[a], rows[b]) for a, b in found.pairs[:3]] == [
        ([BOS, A, B, EOS], [BOS, A, C, EOS]),
        ([BOS, A, C, EOS], [BOS, A, B, C, EOS]),
        ([BOS, A, B, C, EOS], [BOS, A, B, EOS]),
    ]
    assert found.probs.tolist() == [1, 0, 0.5, 0]
    groups = found.groups[found.pairs]
    assert (groups[:, 0] == groups[:, 1]).all()
    assert len(set(groups[:3].ravel())) == 1 and groups[3, 0] != groups[0, 0]


def test_texts_that_cutting_made_equal_are_left_out_and_counted() -> None:
    pairs = [
        answer("a", "bbb", "bbc", Choice.FIRST, 0),  # differ in the third token only
        answer("a", "bbb", "c", Choice.FIRST, 1),
    ]
    found = table(*pairs, limits=TextLimits(4, 2))
    assert (len(found), found.n_identical) == (1, 1)
    with pytest.raises(DataError, match="none of 1 answers has two different texts"):
        table(pairs[0], limits=TextLimits(4, 2))


def test_margins_come_from_the_details_and_a_tie_has_none() -> None:
    found = table(
        answer("a", "b", "c", Choice.FIRST, 0, margin=1.5),
        answer("a", "b", "bc", Choice.TIE, 1, margin=2.0),
        answer("a", "b", "bb", Choice.SECOND, 2),
    )
    assert found.margins.tolist() == [1.5, 0, 0]


@pytest.mark.parametrize("margin", [math.nan, -1.0, math.inf, "2"])
def test_a_margin_that_is_no_distance_is_refused(margin: object) -> None:
    with pytest.raises(DataError, match="has the margin"):
        table(answer("a", "b", "c", Choice.FIRST, margin=margin))


def test_clips_say_whether_their_completion_ended_by_itself() -> None:
    clips = [text_clip("p", "a"), text_clip("q", "b", finished=False)]
    assert clip_texts(clips) == (["p", "q"], ["a", "b"], [True, False])


def test_no_texts_are_no_rows() -> None:
    texts = encode_texts(TOKENIZER, [], [], [], ROOMY)
    assert len(texts) == 0
    ids, last = texts.padded([], PAD)
    assert ids.shape == (0, 0) and torch.equal(last, torch.zeros(0, dtype=torch.int64))


def test_answers_whose_texts_cannot_be_used_are_left_out_by_number_and_the_rest_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = table(
        answer("a", "z", "c", Choice.FIRST, 0),  # no such letter
        answer("a", "b", "c", Choice.FIRST, 1),
        answer("a", "b", "b<eos>", Choice.FIRST, 2),  # alike once its end is the end
        answer("a", "c", "bc", Choice.SECOND, 3),
    )
    rows = found.texts.rows
    assert [(rows[a], rows[b]) for a, b in found.pairs] == [
        ([BOS, A, B, EOS], [BOS, A, C, EOS]),
        ([BOS, A, C, EOS], [BOS, A, B, C, EOS]),
    ]
    assert all(rows) and len(found.texts) == len(found.groups)
    assert (found.n_identical, [number for number, _ in found.left_out]) == (1, [0])
    assert "reward model, of 5 texts: 1 of 4 answers left out (answer 0: first text" in caplog.text
    with pytest.raises(DataError, match="text 0 cannot be used: its completion cannot be tok"):
        encode_texts(TOKENIZER, ["a"], ["z"], [True], ROOMY)
