"""SST-2's sentences, and what can be learned to say which of them are positive.

The Stanford Sentiment Treebank, binary: sentences of film reviews, each called good or bad.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rlhf_gym.data import Array
from rlhf_gym.feedback.text_labelled import labelled_table, midpoint
from rlhf_gym.feedback.text_reward_model import TextFitReport, TextRewardModel
from rlhf_gym.feedback.text_settings import TextRewardSettings
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import train_byte_bpe

__all__ = ["SST", "Judge", "Labelled", "accuracy", "read_sentences", "reward_judge", "word_judge"]

SST = ("sst2_train.tsv.gz", "sst2_dev.tsv.gz")
SETTINGS = TextRewardSettings(
    n_members=1,
    max_prompt_tokens=2,
    max_completion_tokens=64,
    learning_rate=1e-3,
    max_epochs=4,
    weight_decay=0.1,
    validate_every=50,
    patience=6,
)
Judge = Callable[[Sequence[str]], Array]
"""Texts to scores above 0 where they are positive."""
Labelled = tuple[list[str], Array]
"""Sentences, and whether each was called good."""


def read_sentences(path: Path) -> Labelled:
    """Sentences, and whether each was called good."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines]
    return [row[0] for row in rows], np.array([row[1] == "1" for row in rows])


def reward_judge(train: Labelled, vocabulary: int, seed: int) -> tuple[Judge, TextFitReport]:
    """A text reward model fitted to labels; 0 is half-way between good and bad, 1 a deviation."""
    tokenizer = train_byte_bpe(train[0], vocabulary)
    lm = LanguageModel.tiny(tokenizer, n_layers=1, d_model=64, n_heads=4, max_length=96, seed=seed)
    model = TextRewardModel(lm, SETTINGS, seed=seed)
    rng = np.random.default_rng(seed)
    report = model.fit_table(labelled_table(tokenizer, *train, model.limits, rng), rng)

    def score(texts: Sequence[str]) -> Array:
        empty, ended = [""] * len(texts), [True] * len(texts)
        return model.scores_of_texts(empty, list(texts), ended).mean(0)

    scores = score(train[0])
    middle, deviation = midpoint(scores, train[1]), scores.std()
    return lambda texts: (score(texts) - middle) / deviation, report


def word_judge(train: Labelled) -> Judge:
    """Logistic regression on which words a text has."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    words = CountVectorizer(binary=True, token_pattern=r"\S+")
    model = LogisticRegression(C=0.3, max_iter=1000).fit(words.fit_transform(train[0]), train[1])
    return lambda texts: np.asarray(model.decision_function(words.transform(texts)))


def accuracy(judge: Judge, labelled: Labelled) -> float:
    """The share of sentences that it calls what people called them."""
    return float(((judge(labelled[0]) > 0) == labelled[1]).mean())
