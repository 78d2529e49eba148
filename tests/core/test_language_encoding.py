"""Text to ids: prompts and completions that join, special tokens that are spelled, one end each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from rlhf_gym.errors import DataError
from rlhf_gym.language.encoding import (
    encode_continuations,
    encode_texts,
    list_rows,
    tokens_needed,
)
from rlhf_gym.language.tokenizers import end_ids, ready_tokenizer, train_byte_bpe, word_tokenizer

REVIEWS = ["the film was very good .", "this plot seemed dull but i loved it .", "3+4=7 9+9=18"]
SPECIAL = ["<unk>", "<s>", "</s>"]


def wrapped(tokenizer: Tokenizer) -> Any:
    raw = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    return ready_tokenizer(raw)  # adds <pad>


def without_space_merges() -> Any:
    """GPT-2's bytes, but a space is a token of its own, so that no word carries one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(REVIEWS * 5, trainer)
    return wrapped(tokenizer)


def metaspace(scheme: str) -> Any:
    """A sentencepiece-like BPE, as Llama's: a space of its own in front of each text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(REVIEWS * 5, trainer)
    return wrapped(tokenizer)


def prepended() -> Any:
    """Llama 2 as converted: a normaliser puts the space in front, even before another one."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=SPECIAL, show_progress=False)
    # Trained on single words, or a merge would reach across the space between two.
    words = [word for review in REVIEWS for word in review.split()]
    tokenizer.train_from_iterator(words * 5, trainer)
    return wrapped(tokenizer)


def unigram() -> Any:
    """Its special tokens are pieces like any other: no switch keeps it from using them."""
    pieces = [*SPECIAL, "▁", *sorted(set("".join(REVIEWS).replace(" ", "")) | set("<>/s"))]
    scores = [0.0] * 3 + [-1.0 - index for index in range(len(pieces) - 3)]
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return wrapped(tokenizer)


KINDS = {
    "bytes": train_byte_bpe(REVIEWS * 5, 300),
    "bytes, spaces apart": without_space_merges(),
    "metaspace": metaspace("always"),
    "metaspace, first": metaspace("first"),
    "prepended": prepended(),
    "unigram": unigram(),
}
each_kind = pytest.mark.parametrize("tokenizer", KINDS.values(), ids=list(KINDS))
words = st.lists(st.sampled_from("the film was very good dull . 3+4=7".split()), min_size=1)


def plainly(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return ids


@each_kind
@given(before=words, behind=words)
@settings(max_examples=25, deadline=None)
def test_a_prompt_and_its_completion_are_the_tokens_of_the_joined_text(
    tokenizer: Any, before: list[str], behind: list[str]
) -> None:
    prompt, completion = " ".join(before), "".join(f" {word}" for word in behind)
    found = encode_continuations(tokenizer, [prompt], [completion], [True])
    (head,), (tail,) = found.prompts, found.completions
    assert head[0] == tokenizer.bos_token_id and tail[-1] == tokenizer.eos_token_id
    assert [*head[1:], *tail[:-1]] == plainly(tokenizer, prompt + completion)
    assert tokenizer.decode([*head[1:], *tail[:-1]]) == prompt + completion


@each_kind
def test_a_completion_that_goes_on_within_a_word_gets_no_space(tokenizer: Any) -> None:
    found = encode_continuations(tokenizer, ["3+4="], ["7"], [False])
    (head,), (tail,) = found.prompts, found.completions
    assert tokenizer.decode([*head[1:], *tail]) == "3+4=7"
    assert len(tail) == 1


def test_a_token_across_the_boundary_is_taken_apart_since_no_sampler_writes_it() -> None:
    tokenizer = train_byte_bpe(["ab ab ab"] * 9, 260)
    (both,) = encode_texts(tokenizer, ["ab"], bos=False)
    assert len(both) == 1, "the two characters are one token"
    found = encode_continuations(tokenizer, ["a"], ["b"], [False])
    ids = [*found.prompts[0][1:], *found.completions[0]]
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "b"]


class Letters(PreTrainedTokenizer):
    """A tokenizer of the slow kind, one token per letter."""

    def __init__(self, **settings: Any) -> None:
        self._ids = {token: index for index, token in enumerate([*SPECIAL, *"<>/sabc "])}
        marks = dict(zip(("unk_token", "bos_token", "eos_token"), SPECIAL, strict=True))
        super().__init__(**{**marks, **settings})

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        return {**self._ids, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **settings: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return list(self._ids)[index]


def test_a_slow_tokenizer_takes_what_is_spelled_as_text_too() -> None:
    tokenizer = ready_tokenizer(Letters())
    found = encode_continuations(tokenizer, ["<s>a</s>"], [" b</s>c</s>"], [True])
    (head,), (tail,) = found.prompts, found.completions
    assert head == [1, *map(tokenizer.get_vocab().__getitem__, "a</s>")]
    assert tail == [*map(tokenizer.get_vocab().__getitem__, " b</s>c"), 2]


surrogate_free = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(prompt=surrogate_free, completion=surrogate_free)
@settings(max_examples=60, deadline=None)
def test_any_two_texts_read_joined_what_they_read_apart(prompt: str, completion: str) -> None:
    assume(not prompt.startswith("<bos>"))  # that marker is taken off, and put there again
    tokenizer = KINDS["bytes"]
    found = encode_continuations(tokenizer, [prompt], [completion], [False])
    assert not found.bad
    ids = [*found.prompts[0][1:], *found.completions[0]]
    assert tokenizer.decode(ids) == prompt + completion


spelled = st.lists(st.sampled_from(["<pad>", "</s>", "<s>", "<bos>", "<eos>", " ", "a", "good"]))


@each_kind
@given(parts=spelled, others=spelled)
@settings(max_examples=25, deadline=None)
def test_what_a_text_spells_is_never_a_special_token(
    tokenizer: Any, parts: list[str], others: list[str]
) -> None:
    prompt, completion = "".join(["a", *parts]), "".join([" ", *others, "a"])
    found = encode_continuations(tokenizer, [prompt], [completion], [True])
    ids = [*found.prompts[0][1:], *found.completions[0][:-1]]
    assert not found.bad
    assert set(ids).isdisjoint(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
    if tokenizer.unk_token_id not in ids:
        assert tokenizer.decode(ids, skip_special_tokens=True) == prompt + completion


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" good<eos>", " good"),
        (" good<eos>\n", " good"),
        (" good<eos> <eos>\n\n", " good"),
        (" good\n", " good\n"),
        (" <eos>good", " <eos>good"),
        ("<eos>", ""),
    ],
)
def test_an_end_that_closes_a_text_is_its_end_and_stands_once(text: str, kept: str) -> None:
    tokenizer = KINDS["bytes"]
    found = encode_continuations(tokenizer, ["a", "a"], [text, text], [True, False])
    (tail,) = [ids[1:] for ids in encode_texts(tokenizer, ["a" + kept], bos=False)]
    assert found.completions[0] == [*tail, tokenizer.eos_token_id]
    # Cut off, it did not end: what it spells is text.
    assert tokenizer.decode(found.completions[1]) == text


def test_a_bos_that_opens_a_prompt_is_not_doubled_and_elsewhere_is_text() -> None:
    tokenizer = KINDS["bytes"]
    found = encode_continuations(tokenizer, ["<bos>a<bos>"], [" b"], [False])
    assert found.prompts[0].count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(found.prompts[0], skip_special_tokens=True) == "a<bos>"


def test_rows_that_cannot_be_written_are_named_with_their_field_and_the_others_stay() -> None:
    tokenizer = word_tokenizer("the film good".split())
    found = encode_continuations(
        tokenizer,
        ["the film", "the film", "no word", "film"],
        [" good", " <pad> good", " good", " good"],
        [True] * 4,
    )
    assert [row for row, ids in enumerate(found.completions) if ids] == [0, 3]
    assert "its completion spells '<pad>', a special token" in found.bad[1]
    assert "its prompt cannot be tokenized" in found.bad[2]
    with pytest.raises(DataError, match="text 1 cannot be tokenized"):
        encode_texts(tokenizer, ["film", "no word"], bos=True)


def test_a_special_token_that_no_characters_can_write_is_refused_by_name() -> None:
    # A tokenizer whose end is an ordinary word: in the middle of a text it would end it.
    vocabulary = {"<pad>": 0, "stop": 1, "a": 2}
    raw = Tokenizer(models.WordLevel(vocabulary))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="stop", pad_token="<pad>")
    found = encode_continuations(tokenizer, ["a", "a"], [" a stop a", " a stop"], [True, True])
    assert "its completion spells 'stop', a special token" in found.bad[0]
    assert found.completions[1] == [2, 1]


def test_other_ends_count_as_ends_of_a_text_and_survive_saving(tmp_path: Any) -> None:
    tokenizer = KINDS["metaspace"]
    word = tokenizer.convert_tokens_to_ids("▁good")
    chat = ready_tokenizer(tokenizer, [tokenizer.eos_token_id, word, 9999, -1])
    assert end_ids(chat) == (tokenizer.eos_token_id, word)
    assert end_ids(tokenizer) == (tokenizer.eos_token_id,), "the caller's stays as it was"
    chat.save_pretrained(tmp_path)
    assert end_ids(PreTrainedTokenizerFast.from_pretrained(tmp_path)) == end_ids(chat)


def test_padding_that_is_another_end_is_replaced() -> None:
    # As Qwen's chat models: EOS is <|im_end|>, PAD is <|endoftext|>, and generation stops at both.
    tokenizer = KINDS["metaspace"]
    ready = ready_tokenizer(tokenizer, [tokenizer.pad_token_id])
    assert ready.pad_token_id not in end_ids(ready)
    assert tokenizer.pad_token_id in end_ids(ready)


def test_the_longest_completion_says_how_many_tokens_are_needed() -> None:
    tokenizer = word_tokenizer("the film good".split())
    assert tokens_needed(tokenizer, ["the", "the"], [" film", " film good good"]) == 4
    with pytest.raises(DataError, match="text 1 cannot be written by this tokenizer"):
        tokens_needed(tokenizer, ["the", "the"], [" film", " plot"])


def test_of_many_rows_a_few_are_listed_and_the_rest_counted() -> None:
    assert list_rows([(3, "empty")]) == "row 3: empty"
    many = list_rows([(row, "x") for row in range(8)], row="answer")
    assert many == "; ".join([*(f"answer {row}: x" for row in range(5)), "and 3 more"])
