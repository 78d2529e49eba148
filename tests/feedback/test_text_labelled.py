from __future__ import annotations

import numpy as np
import pytest

from rlhf_gym.errors import DataError
from rlhf_gym.feedback.text_data import TextLimits
from rlhf_gym.feedback.text_labelled import labelled_table, midpoint
from rlhf_gym.feedback.text_reward_model import TextRewardModel
from rlhf_gym.feedback.text_settings import TextRewardSettings
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import word_tokenizer

TOKENIZER = word_tokenizer(list("abc"), separator="")
LIMITS = TextLimits(2, 8)


def sentences(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Random texts; good are those that have an "a"."""
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("abc"), 4, p=[0.16, 0.42, 0.42])) for _ in range(n)]
    return texts, np.array(["a" in text for text in texts])


def test_each_good_text_of_a_group_is_compared_with_each_bad_one() -> None:
    texts, good = sentences(50, seed=0)
    table = labelled_table(TOKENIZER, texts, good, LIMITS, np.random.default_rng(0), group_texts=10)
    assert good[table.pairs[:, 0]].all() and not good[table.pairs[:, 1]].any()
    assert (table.groups[table.pairs[:, 0]] == table.groups[table.pairs[:, 1]]).all()
    members = [np.flatnonzero(table.groups == g) for g in range(5)]
    assert [len(m) for m in members] == [10] * 5
    assert len(table) == sum(int(good[m].sum() * (~good[m]).sum()) for m in members)
    assert len({(int(a), int(b)) for a, b in table.pairs}) == len(table)


def test_a_text_that_was_called_both_is_not_compared_with_itself() -> None:
    texts, good = ["a", "a", "b"], [True, False, False]
    table = labelled_table(TOKENIZER, texts, good, LIMITS, np.random.default_rng(0))
    assert table.pairs.tolist() == [[0, 2]] and table.n_identical == 1


@pytest.mark.parametrize("good", [[True, True], [False, False], [True]])
def test_one_kind_alone_cannot_be_compared(good: list[bool]) -> None:
    with pytest.raises(DataError, match="both kinds are needed"):
        labelled_table(TOKENIZER, ["a", "b"], good, LIMITS, np.random.default_rng(0))


def test_a_reward_model_fitted_to_labels_classifies_texts() -> None:
    texts, good = sentences(300, seed=1)
    lm = LanguageModel.tiny(TOKENIZER, n_layers=1, d_model=32, n_heads=2, max_length=16)
    settings = TextRewardSettings(
        n_members=1, max_prompt_tokens=2, max_completion_tokens=8, learning_rate=3e-3, max_epochs=8
    )
    model = TextRewardModel(lm, settings)
    rng = np.random.default_rng(0)
    model.fit_table(labelled_table(TOKENIZER, texts, good, model.limits, rng), rng)

    def scores(texts: list[str]) -> np.ndarray:
        return model.scores_of_texts([""] * len(texts), texts, [True] * len(texts))[0]

    threshold = midpoint(scores(texts), good)
    fresh, truth = sentences(200, seed=2)
    # 81 texts are possible, so that most fresh ones were seen; the labels are a function of them.
    assert ((scores(fresh) > threshold) == truth).mean() > 0.97
    assert midpoint(np.array([0.0, 4.0, 1.0]), [False, True, False]) == 2.25
