"""Padding, positions and limits of token batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.language.batches import TokenBatch, by_length, encode_prompts, pad_left
from rlhf_gym.language.tokenizers import word_tokenizer

PAD_ID, EOS_ID = 0, 2
tokens = st.integers(3, 9)
rows = st.lists(
    st.tuples(st.lists(tokens, min_size=1, max_size=5), st.lists(tokens, max_size=5)),
    min_size=1,
    max_size=4,
)


def make(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> TokenBatch:
    return TokenBatch.from_lists(prompts, completions, PAD_ID, EOS_ID)


def test_prompts_are_padded_on_the_left_and_completions_on_the_right() -> None:
    batch = make([[3], [4, 5, 6]], [[7, 8, EOS_ID], [9]])
    assert batch.input_ids.tolist() == [[0, 0, 3, 7, 8, 2], [4, 5, 6, 9, 0, 0]]
    assert batch.attention_mask.int().tolist() == [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]


def test_positions_count_real_tokens_only() -> None:
    # The first real token is at position 0; behind the last one the count stands still.
    batch = make([[3], [4, 5, 6]], [[7, 8, EOS_ID], [9]])
    assert batch.position_ids.tolist() == [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 3, 3]]


def test_a_completion_is_finished_if_its_last_real_token_is_eos() -> None:
    batch = make([[3]] * 4, [[7, EOS_ID], [7, 8], [EOS_ID], []])
    assert batch.lengths.tolist() == [2, 2, 1, 0]
    assert batch.finished.tolist() == [True, False, True, False]
    assert make([[3]], [[]]).finished.tolist() == [False]


@given(rows)
def test_padding_and_back_is_the_identity(pairs: list[tuple[list[int], list[int]]]) -> None:
    prompts, completions = [p for p, _ in pairs], [[*c, EOS_ID] for _, c in pairs]
    batch = make(prompts, completions)
    assert batch.completion_lists() == completions
    back = [
        ids[mask].tolist() for ids, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)
    ]
    assert back == prompts


@given(rows)
def test_trimming_takes_away_padding_and_nothing_else(
    pairs: list[tuple[list[int], list[int]]],
) -> None:
    prompts, completions = [p for p, _ in pairs], [c for _, c in pairs]
    wide = TokenBatch.from_lists(
        prompts, completions, PAD_ID, EOS_ID, prompt_length=9, completion_length=8
    )
    assert wide.input_ids.shape == (len(pairs), 17)
    tight, direct = wide.trimmed(), make(prompts, completions)
    assert torch.equal(tight.input_ids, direct.input_ids)
    assert torch.equal(tight.attention_mask, direct.attention_mask)


def test_selected_rows_come_in_the_order_asked_for() -> None:
    batch = make([[3], [4], [5]], [[6], [7], [8]])
    assert batch.select([2, 0]).input_ids.tolist() == [[5, 8], [3, 6]]
    assert batch.select(slice(1, 3)).input_ids.tolist() == [[4, 7], [5, 8]]
    assert batch.select(torch.tensor([False, True, False])).input_ids.tolist() == [[4, 7]]


@pytest.mark.parametrize(
    ("prompts", "completions", "message"),
    [
        ([[3]], [[4], [5]], "1 prompts and 2 completions"),
        ([[3], []], [[4], [5]], "prompt 1 has no token"),
        ([[3]], [[EOS_ID, 4]], r"completion 0 goes on after EOS \(2\) at token 0"),
        ([[3, PAD_ID]], [[4]], "row 0 holds the PAD id 0"),
    ],
)
def test_lists_that_are_no_batch_are_refused(
    prompts: list[list[int]], completions: list[list[int]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make(prompts, completions)


def test_a_batch_of_other_types_or_shapes_is_refused() -> None:
    good = make([[3]], [[4]])
    parts: dict[str, Any] = {
        "prompt_ids": good.prompt_ids,
        "prompt_mask": good.prompt_mask,
        "completion_ids": good.completion_ids,
        "completion_mask": good.completion_mask,
        "pad_id": PAD_ID,
        "eos_id": EOS_ID,
    }
    for name, wrong, message in (
        ("prompt_mask", good.prompt_mask.long(), "torch.bool"),
        ("completion_mask", good.completion_mask[:, :0], "one shape"),
        ("eos_id", PAD_ID, "PAD token of its own"),
    ):
        with pytest.raises(DataError, match=message):
            TokenBatch(**{**parts, name: wrong})


def test_encoded_prompts_begin_with_bos_and_truncation_is_counted() -> None:
    tokenizer = word_tokenizer(["a", "b", "c"])  # ids 3, 4, 5
    encoded = encode_prompts(tokenizer, ["a b", "", "c"], 4)
    assert encoded.ids.tolist() == [[0, 1, 3, 4], [0, 0, 0, 1], [0, 0, 1, 5]]
    assert encoded.mask.sum(1).tolist() == [3, 1, 2]
    assert encoded.n_truncated == 0
    cut = encode_prompts(tokenizer, ["a b c", "a"], 3, on_too_long="truncate")
    assert cut.ids.tolist() == [[1, 4, 5], [0, 1, 3]]
    assert cut.n_truncated == 1
    with pytest.raises(DataError, match=r"prompt 0 has 4 tokens, more than 3 \(1 of 2"):
        encode_prompts(tokenizer, ["a b c", "a"], 3)


def test_an_empty_prompt_without_bos_has_nothing_to_start_from() -> None:
    tokenizer = word_tokenizer(["a"])
    tokenizer.bos_token = None
    assert encode_prompts(tokenizer, ["a a"], 2).ids.tolist() == [[3, 3]]
    with pytest.raises(DataError, match="prompt 1 has no token"):
        encode_prompts(tokenizer, ["a", ""], 2)


def test_a_bos_that_is_there_already_is_not_doubled() -> None:
    tokenizer = word_tokenizer(["a"])
    assert encode_prompts(tokenizer, ["<bos> a"], 3, fixed_width=False).ids.tolist() == [[1, 3]]


def test_an_unknown_word_is_refused_and_not_dropped() -> None:
    with pytest.raises(DataError, match="knows its own words"):
        encode_prompts(word_tokenizer(["a"]), ["a z"], 4)


def test_limits_of_rows_and_prompts_are_checked() -> None:
    with pytest.raises(DataError, match="row 0 has 3 tokens, more than the limit of 2"):
        pad_left([[3, 4, 5]], PAD_ID, 2)
    with pytest.raises(ConfigError, match="`max_tokens` is 0"):
        encode_prompts(word_tokenizer(["a"]), ["a"], 0)


@given(st.lists(st.integers(0, 2000), max_size=40))
def test_groups_of_like_length_hold_every_row_once_and_no_more_tokens_than_fit(
    lengths: list[int],
) -> None:
    groups = by_length(torch.tensor(lengths, dtype=torch.int64), torch.device("cpu"))
    in_order = [row for group in groups for row in group.tolist()]
    assert sorted(in_order) == list(range(len(lengths)))
    assert [lengths[row] for row in in_order] == sorted(lengths)
    for group in groups:
        # 1,024 padded tokens on a processor; a row that is longer stands alone.
        assert len(group) == 1 or len(group) * max(lengths[row] for row in group) <= 1024


def test_a_group_is_filled_before_the_next_one_begins() -> None:
    groups = by_length(torch.tensor([512, 256, 256, 512]), torch.device("cpu"))
    assert [group.tolist() for group in groups] == [[1, 2], [0, 3]]
    assert by_length(torch.zeros(0, dtype=torch.int64), torch.device("cpu")) == ()
