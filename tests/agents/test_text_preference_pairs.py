"""Answers about texts as the pairs that DPO trains on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlhf_gym.agents.text.preference_pairs import pairs_of_preferences
from rlhf_gym.data import Choice, Preference, Query
from rlhf_gym.errors import DataError
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import word_tokenizer
from rlhf_gym.text_clips import text_clip

LM = LanguageModel.tiny(
    word_tokenizer(list("abc"), separator=""), n_layers=1, d_model=8, n_heads=2, max_length=16
)
A, B, C = 3, 4, 5  # after PAD, BOS and EOS


def answer(first: str, second: str, choice: Choice, index: int = 0) -> Preference:
    query = Query((text_clip("a", first), text_clip("a", second)), 0, 0, index)
    return Preference(query, choice, "human", "anna")


def pairs_of(*preferences: Preference):
    return pairs_of_preferences(LM, preferences, max_prompt_tokens=4, max_completion_tokens=4)


def test_choices_become_probabilities_of_the_first_text() -> None:
    pairs, counts = pairs_of(
        answer("b", "c", Choice.FIRST),
        answer("c", "bb", Choice.SECOND, 1),
        answer("b", "bb", Choice.TIE, 2),
        answer("c", "cc", Choice.SKIP, 3),
    )
    rows = pairs.completions.completion_lists()
    texts = [(rows[i], rows[j]) for i, j in zip(pairs.chosen, pairs.rejected, strict=True)]
    eos = LM.eos_id
    assert texts == [([B, eos], [C, eos]), ([C, eos], [B, B, eos]), ([B, eos], [B, B, eos])]
    assert pairs.prob.tolist() == [1.0, 0.0, 0.5]
    assert (counts.n_skipped, counts.n_alike) == (1, 0)


def test_what_several_labellers_were_pooled_to_is_taken_in_place_of_the_choice() -> None:
    first, second = answer("b", "c", Choice.FIRST), answer("c", "bb", Choice.FIRST, 1)
    pairs, counts = pairs_of(replace(first, soft=0.25), replace(second, soft=float("nan")))
    assert pairs.prob.tolist() == [0.25]
    assert counts.n_skipped == 1


def test_texts_that_are_alike_once_cut_are_left_out_and_counted() -> None:
    pairs, counts = pairs_of(
        answer("bbbbc", "bbbbb", Choice.FIRST), answer("b", "c", Choice.FIRST, 1)
    )
    assert (len(pairs), counts.n_alike) == (1, 1)
    with pytest.raises(DataError, match="no answer to learn from"):
        pairs_of(answer("b", "c", Choice.SKIP))
