from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlhf_gym.envs.text.prompts import PromptTable
from rlhf_gym.envs.text.rewards import TextReward
from rlhf_gym.envs.text.task import TextTask, completion_mask
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.language.tokenizers import train_byte_bpe, word_tokenizer

PAD, BOS, EOS = 0, 1, 2  # of the tokenizers made here; words follow from 3


def lengths(prompts: list[str], completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


@pytest.fixture(scope="module")
def words() -> Any:
    return word_tokenizer("the film was good bad .".split())  # ids 3 to 8


def make(tokenizer: Any, prompts: Any = ("the film was",), **settings: Any) -> TextTask:
    settings = {"rewards": lengths, "max_new_tokens": 3, **settings}
    return TextTask("test", tokenizer, prompts, **settings)


def test_prompts_are_encoded_once_padded_on_the_left_with_bos(words: Any) -> None:
    task = make(words, ["the film was", "film"])
    assert task.prompt_ids.tolist() == [[BOS, 3, 4, 5], [PAD, PAD, BOS, 4]]
    assert task.prompt_mask.tolist() == [[True] * 4, [False, False, True, True]]
    assert (task.max_prompt_tokens, task.vocab_size, len(task)) == (4, 9, 2)
    assert make(words, max_prompt_tokens=6).prompt_ids.shape == (1, 6)
    with pytest.raises(ValueError, match="read-only"):
        task.prompt_ids[0, 0] = 7


def test_scores_come_from_the_text_up_to_its_end(words: Any) -> None:
    seen: list[Any] = []

    def watch(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        seen.append((prompts, completions, columns))
        return [1.0, 2.0, 3.0]

    task = make(words, ["the film was", "film"], rewards=watch, columns={"tag": ["x", "y"]})
    ids = np.array([[6, EOS, PAD], [6, 7, 8], [EOS, 6, 6]])
    scores = task.score([1, 0, 1], ids, completion_mask(ids, EOS))
    assert scores.texts == [" good", " good bad .", ""], "with the space behind the prompt"
    assert scores.finish_reasons == ["eos", "length", "eos"]
    assert scores.total.tolist() == [1, 2, 3]
    assert seen == [
        (
            ["film", "the film was", "film"],
            [" good", " good bad .", ""],
            {"tag": ["y", "x", "y"], "finished": [True, False, True]},
        )
    ]


def test_a_completion_ends_at_its_first_eos() -> None:
    ids = np.array([[5, EOS, 5, EOS], [5, 5, 5, 5], [EOS, EOS, 5, 5], [5, 5, 5, EOS]])
    expected = [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]]
    np.testing.assert_array_equal(completion_mask(ids, EOS), np.array(expected, bool))


def test_a_row_without_any_token_is_the_empty_text_cut_short(words: Any) -> None:
    scores = make(words).score([0], np.full((1, 2), PAD), np.zeros((1, 2), bool))
    assert (scores.texts, scores.finish_reasons) == ([""], ["length"])


def test_texts_are_scored_as_their_tokens_are(words: Any) -> None:
    task = make(words, rewards={"n": lengths, "half": TextReward(lengths, 0.5)})
    ids = np.array([[6, 8, EOS]])
    by_ids = task.score([0], ids, completion_mask(ids, EOS))
    by_text = task.score_texts([0], [" good ."], [True])
    assert by_ids.total.tolist() == by_text.total.tolist() == [1.5 * 7]
    assert by_ids.texts == by_text.texts and by_ids.finish_reasons == by_text.finish_reasons


def test_any_text_survives_a_byte_level_tokenizer() -> None:
    prompts = ["naïve café, 3 + 4 =", "日本 🙂", " leading space"]
    tokenizer = train_byte_bpe(["the film was good"], 300)
    task = make(tokenizer, prompts, max_new_tokens=40)
    for row, text in enumerate([" über", "", "x\n y "]):
        ids = np.array([[*tokenizer(text, add_special_tokens=False)["input_ids"], EOS]])
        assert task.score([row], ids, completion_mask(ids, EOS)).texts == [text]
        assert task.whole_text(row, ids[0]) == prompts[row] + text


def test_long_prompts_are_refused_or_cut_on_the_left_by_choice_and_counted(words: Any) -> None:
    prompts = ["film", "the film was good", "the film was"]
    with pytest.raises(DataError, match="prompt 1 has 5 tokens, more than 4"):
        make(words, prompts, max_prompt_tokens=4)
    with pytest.warns(UserWarning, match="1 of 3 prompts of test have more than 4 tokens"):
        task = make(words, prompts, max_prompt_tokens=4, on_too_long="truncate")
    assert task.n_truncated == 1
    assert task.prompt_ids[1].tolist() == [BOS, 4, 5, 6]  # BOS and the last three words
    assert task.prompts[1] == "the film was good"  # what the reward is given


def test_pad_bos_ids_without_a_token_and_named_tokens_are_forbidden(words: Any) -> None:
    task = make(words, vocab_size=11, forbidden_tokens=["bad"])
    assert np.flatnonzero(task.forbidden).tolist() == [PAD, BOS, 7, 9, 10]
    assert np.flatnonzero(make(words, forbidden_tokens=["<eos>"]).forbidden).tolist() == [0, 1, 2]


def test_a_model_that_begins_and_ends_with_one_token_may_still_end(words: Any) -> None:
    tokenizer = word_tokenizer(["a", "b"])
    tokenizer.bos_token = "<eos>"  # as GPT-2 has it
    assert not make(tokenizer, ["a"]).forbidden[EOS]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` is 0"),
        ({"max_prompt_tokens": 0}, "`max_prompt_tokens` is 0"),
        ({"on_too_long": "drop"}, "`on_too_long` is 'drop'"),
        ({"vocab_size": 8}, "`vocab_size` is 8, but the tokenizer has 9 tokens"),
        ({"forbidden_tokens": ["nope"]}, "names 'nope'"),
        (
            {"forbidden_tokens": ["<eos>", "the", "film", "was", "good", "bad", "."]},
            "leaves nothing",
        ),
        ({"prompts": PromptTable(["film"]), "columns": {}}, "come with the PromptTable"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    words: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(words, **settings)


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused_unless_it_is_wanted(words: Any, prompt: str) -> None:
    with pytest.raises(DataError, match=r"prompt 1 is empty \(1 of 2\)"):
        make(words, ["film", prompt])
    assert make(words, [prompt], allow_empty_prompts=True).prompt_ids.tolist() == [[BOS]]


def test_a_tokenizer_without_an_end_or_padding_of_its_own_is_refused() -> None:
    tokenizer = word_tokenizer(["a"])
    tokenizer.pad_token = "<eos>"
    with pytest.raises(ConfigError, match=r"PAD is 2 and its EOS 2.*ready_tokenizer"):
        make(tokenizer, ["a"])
    tokenizer = word_tokenizer(["a"])
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="EOS None"):
        make(tokenizer, ["a"])


@pytest.mark.parametrize(
    ("indices", "ids", "mask", "message"),
    [
        ([0], [[3, 4]], [[True]], "expected"),
        ([0, 0], [[3, 4]], [[True, True]], "2 prompt indices"),
        ([0], [[3, 9]], [[True, True]], "range from 3 to 9, expected 0 to 8"),
        ([0], [[-1, 3]], [[True, True]], "range from -1 to 3"),
        ([1], [[3]], [[True]], "prompt index 1 is not one of 0 to 0"),
        ([0.5], [[3]], [[True]], "prompt index 0.5"),
    ],
)
def test_ids_that_fit_nothing_are_refused(
    words: Any, indices: Any, ids: Any, mask: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make(words).score(indices, np.array(ids), np.array(mask))


def test_texts_of_another_number_are_refused(words: Any) -> None:
    with pytest.raises(DataError, match="1 prompt indices, 2 texts and 1 entries"):
        make(words).score_texts([0], ["a", "b"], [True])
