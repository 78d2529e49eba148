"""Answers about texts as the pairs that DPO trains on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlhf_gym.agents.text.preference_pairs import pairs_of_preferences
from rlhf_gym.data import Choice, Preference, Query
from rlhf_gym.errors import DataError
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import train_byte_bpe, word_tokenizer
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


@pytest.mark.parametrize(
    ("text", "ids_of"),
    [
        (" good<eos>", " good"),  # a chat template's end marker is the end
        (" good<eos>\n", " good"),
        (" use <bos>struck text", None),  # all others are text
        (" the <pad> token", None),
        (" good<eos> or bad", None),
    ],
)
def test_a_text_that_spells_a_special_token_is_trained_on_with_one_end(
    text: str, ids_of: str | None
) -> None:
    tokenizer = train_byte_bpe(["the film was good", "the film was bad"] * 3, 280)
    lm = LanguageModel.tiny(tokenizer, n_layers=1, d_model=16, n_heads=2)
    prompt = "the film was"
    queries = [
        Query((text_clip(prompt, first), text_clip(prompt, second)), 0, 0, index)
        for index, (first, second) in enumerate([(text, " bad"), (" good", " dull")])
    ]
    answers = [Preference(query, Choice.FIRST, "human", "anna") for query in queries]
    pairs, counts = pairs_of_preferences(
        lm, answers, max_prompt_tokens=16, max_completion_tokens=64
    )
    lm.check(pairs.completions)
    assert len(pairs) == 2 and counts.left_out == ()
    rows = pairs.completions.completion_lists()
    assert all(row.count(lm.eos_id) == 1 and row[-1] == lm.eos_id for row in rows)
    row = rows[int(pairs.chosen[0])]
    assert tokenizer.decode(row[:-1], skip_special_tokens=True) == (ids_of or text)


def test_answers_that_cannot_be_used_are_left_out_by_their_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs, counts = pairs_of(
        answer("b", "c", Choice.SKIP),
        answer("b", "zz", Choice.FIRST, 1),
        answer("b", "c", Choice.FIRST, 2),
        answer("b" * 9, "c", Choice.FIRST, 3),
    )
    assert len(pairs) == 2 and (counts.n_skipped, counts.n_truncated) == (1, 1)
    ((number, why),) = counts.left_out
    assert number == 1 and why.startswith("second text: its completion cannot be tokenized")
    (said,) = caplog.messages
    assert said.startswith("pairs: 1 of 4 texts were cut (--max-new-tokens); 1 of 4 answers left")
    with pytest.raises(DataError, match=r"1 cannot be used \(answer 0: second text"):
        pairs_of(answer("b", "zz", Choice.FIRST))
