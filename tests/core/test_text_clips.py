from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.data import Clip, Query
from rlhf_gym.errors import DataError
from rlhf_gym.text_clips import (
    clip_finished,
    clip_text,
    is_text_clip,
    is_text_context,
    symbols_text,
    text_clip,
    text_context,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(texts, texts, st.booleans())
def test_any_text_comes_back_from_its_clip(prompt: str, completion: str, finished: bool) -> None:
    clip = text_clip(prompt, completion, finished)
    assert clip_text(clip) == (prompt, completion)
    assert clip_finished(clip) is finished
    assert symbols_text(clip.actions) == (prompt, completion, finished)
    assert len(clip) == len(prompt.encode()) + len(completion.encode()) + 1 + finished
    assert is_text_clip(clip)


def test_the_layout_is_the_one_that_the_module_draws() -> None:
    clip = text_clip("a", "é")
    # "é" is C3 A9 in UTF-8; FF begins, FE parts prompt and completion, FD ends.
    assert clip.actions.tolist() == [0x61, 0xFE, 0xC3, 0xA9, 0xFD]
    assert clip.obs.tolist() == [0xFF, 0x61, 0xFE, 0xC3, 0xA9, 0xFD]
    assert (clip.obs.dtype, clip.actions.dtype) == (np.uint8, np.uint8)
    assert clip.context_id == "text:" + hashlib.sha256(b"a").hexdigest() == text_context("a")


def test_a_context_tells_texts_from_an_env() -> None:
    assert is_text_context(text_context("")) and not is_text_context("Env-v0")


def test_ids_follow_the_content_and_the_border_between_prompt_and_completion() -> None:
    assert text_clip("ab", "c").id == text_clip("ab", "c").id
    assert len({text_clip(*parts).id for parts in [("ab", "c"), ("a", "bc"), ("", "abc")]}) == 3


def test_a_completion_that_was_cut_off_has_no_end_and_is_another_clip() -> None:
    whole, cut = text_clip("a", "b"), text_clip("a", "b", finished=False)
    assert cut.actions.tolist() == whole.actions.tolist()[:-1] == [0x61, 0xFE, 0x62]
    assert whole.id != cut.id and whole.context_id == cut.context_id
    Query((whole, cut), seed=0, round=0, index=0)  # same words, and yet something to compare


def test_only_completions_of_one_prompt_can_be_compared() -> None:
    Query((text_clip("p", "a"), text_clip("p", "b")), seed=0, round=0, index=0)
    with pytest.raises(DataError, match="mixes the contexts"):
        Query((text_clip("p", "a"), text_clip("q", "b")), seed=0, round=0, index=0)


@pytest.mark.parametrize("parts", [("\ud800", ""), ("", "a\udfff")])
def test_half_a_surrogate_pair_is_refused(parts: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="is not Unicode"):
        text_clip(*parts)


@pytest.mark.parametrize(
    ("actions", "context", "message"),
    [
        (np.zeros(3, np.uint8), "Env-v0", "not text"),
        (np.zeros(3, np.int32), "text:0", "tokenizer"),
        (np.zeros((3, 1), np.uint8), "text:0", "not text"),
        (np.array([97, 0xFD], np.uint8), "text:0", "lack the break"),
        (np.array([0xFE, 0xFD, 97], np.uint8), "text:0", "not UTF-8"),
        (np.array([0xFE, 0xC3, 0xFD], np.uint8), "text:0", "not UTF-8"),
    ],
)
def test_a_clip_that_holds_no_text_is_refused(
    actions: np.ndarray, context: str, message: str
) -> None:
    clip = Clip(np.zeros((len(actions) + 1,), np.uint8), actions, context)
    with pytest.raises(DataError, match=message):
        clip_text(clip)
