"""Tokenizers that end texts, pad with a token of their own, and give the text back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from rlhf_gym.errors import ConfigError
from rlhf_gym.language.tokenizers import ready_tokenizer, train_byte_bpe, word_tokenizer

BPE = train_byte_bpe(["the film was good .", "the plot was good ."] * 20, 270)


def foreign(**special: str) -> PreTrainedTokenizerFast:
    """A tokenizer as it comes from elsewhere: with the special tokens given, and no others."""
    vocabulary = {"<|end|>": 0, "a": 1, "b": 2}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary)), **special)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_survives_byte_level_bpe(text: str) -> None:
    # Special tokens spelled out in a text are those tokens; everything else is bytes.
    ids = BPE(text, add_special_tokens=False)["input_ids"]
    assert BPE.decode(ids) == text


def test_bpe_learns_merges_and_has_the_asked_size() -> None:
    assert len(BPE) == 270
    assert len(BPE("the film was good .")["input_ids"]) < len("the film was good .") / 2
    assert (BPE.pad_token_id, BPE.bos_token_id, BPE.eos_token_id) == (0, 1, 2)
    with pytest.raises(ConfigError, match="`vocab_size` is 258"):
        train_byte_bpe(["a"], 258)


def test_a_word_is_a_token() -> None:
    tokenizer = word_tokenizer(["good", "bad", "."])
    assert tokenizer("bad good .")["input_ids"] == [4, 3, 5]
    assert tokenizer.decode([4, 3, 5]) == "bad good ."
    assert len(tokenizer) == 6


def test_with_an_empty_separator_a_character_is_a_token() -> None:
    tokenizer = word_tokenizer(list("3+4="), separator="")
    ids = tokenizer("43=4+")["input_ids"]
    assert ids == [5, 3, 6, 5, 4]
    assert tokenizer.decode(ids) == "43=4+"


@pytest.mark.parametrize("words", [["a", "a"], ["a b"], [""], ["<eos>"]])
def test_words_that_cannot_be_tokens_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="words must be distinct"):
        word_tokenizer(words)
    with pytest.raises(ConfigError, match="words of one character"):
        word_tokenizer(["ab"], separator="")


def test_a_tokenizer_without_pad_gets_one_and_the_callers_stays_as_it_was() -> None:
    original = foreign(eos_token="<|end|>")
    ready = ready_tokenizer(original)
    assert (ready.eos_token_id, ready.pad_token_id) == (0, 3)
    assert original.pad_token is None
    assert len(original) == 3


def test_padding_that_is_also_the_end_is_replaced() -> None:
    ready = ready_tokenizer(foreign(eos_token="<|end|>", pad_token="<|end|>"))
    assert ready.pad_token_id != ready.eos_token_id


def test_a_tokenizer_in_order_is_returned_itself() -> None:
    tokenizer = word_tokenizer(["a"])
    assert ready_tokenizer(tokenizer) is tokenizer


def test_a_tokenizer_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="no EOS token"):
        ready_tokenizer(foreign(pad_token="a"))
    with pytest.raises(ConfigError, match="Tokenizer, not a transformers tokenizer"):
        ready_tokenizer(Tokenizer(WordLevel({"a": 0})))
