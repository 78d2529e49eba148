"""Sentiment: continue a film review, and be positive about it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Literal

import numpy as np

from rlhf_gym.envs.text.completion_vector_env import CompletionVectorEnv
from rlhf_gym.envs.text.grammar import NEGATIVE_WORDS, POSITIVE_WORDS, ReviewGrammar
from rlhf_gym.envs.text.rewards import TextReward
from rlhf_gym.envs.text.task import TextTask
from rlhf_gym.envs.text.token_env import TokenEnv
from rlhf_gym.errors import ConfigError

__all__ = [
    "SentimentEnv",
    "sentiment_corpus",
    "sentiment_openings",
    "sentiment_task",
    "sentiment_vector_env",
]

_N_OPENING_WORDS = 3
_WORD = re.compile(r"[a-z]+")


class SentimentEnv(TokenEnv):
    """A film review that has only begun, to be continued positively.

    ## Description
    96 prompts, "the film was" and the like: two determiners, twelve nouns, four verbs, in an order
    that never changes. They say nothing yet; `sentiment_corpus` has the reviews to fine-tune on,
    from `rlhf_gym.envs.text.grammar`, half of them positive.

    ## Rewards
    The component `sentiment`, weight 1: with n+ and n- the words of the continuation that are on
    the grammar's lists of 16 positive and 16 negative words (lower-cased, each repetition counted),

        (n+ - n-) / (n+ + n-), and 0 where there is neither,

    between -1 and 1. "clever but dull ." earns 0; saying it twice earns no more than once. Nothing
    else of the text counts, whether it is grammatical or not: that is what the reference model is
    for. Reviews from the grammar earn 0 on average.

    The component `positive` is logged and not paid: 1 where the sentiment is above 0, 0.5 where it
    is 0, else 0. Its mean is P(positive), exactly 0.5 under the grammar.

    ## Spaces, starts, ends
    As `TokenEnv`. With the default tokenizer, one token per word: V is 62, P is 4 (BOS and three
    words), T is 20, what the longest review of three clauses needs, EOS included.

    ## Arguments
    - `tokenizer`, `vocab_size`: another tokenizer, for a pretrained model.
    - `max_new_tokens`: T; None takes what the grammar's longest review needs under the tokenizer.
    - `render_mode`, `length_is`: as `TokenEnv`.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        render_mode: str | None = None,
        length_is: Literal["terminal", "truncation"] = "terminal",
        tokenizer: Any = None,
        vocab_size: int | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        task = sentiment_task(tokenizer, vocab_size, max_new_tokens)
        super().__init__(task, render_mode, length_is)


def sentiment_task(
    tokenizer: Any = None, vocab_size: int | None = None, max_new_tokens: int | None = None
) -> TextTask:
    """The task of `SentimentEnv`."""
    from rlhf_gym.language.tokenizers import word_tokenizer  # loads transformers

    if tokenizer is None:
        tokenizer = word_tokenizer(_grammar().words)
    return TextTask(
        "Sentiment",
        tokenizer,
        sentiment_openings(),
        {"sentiment": _sentiment, "positive": TextReward(_positive, weight=0.0)},
        max_new_tokens=_longest(tokenizer) if max_new_tokens is None else max_new_tokens,
        vocab_size=vocab_size,
        corpus=sentiment_corpus,
    )


def sentiment_vector_env(
    num_envs: int = 1,
    render_mode: str | None = None,
    length_is: Literal["terminal", "truncation"] = "terminal",
    tokenizer: Any = None,
    vocab_size: int | None = None,
    max_new_tokens: int | None = None,
) -> CompletionVectorEnv:
    """The same task, completion by completion; what `gymnasium.make_vec` makes."""
    task = sentiment_task(tokenizer, vocab_size, max_new_tokens)
    return CompletionVectorEnv(task, num_envs, render_mode, length_is)


def sentiment_openings() -> list[str]:
    """The prompts, sorted: every beginning that the grammar can write."""
    return list(_openings())


def sentiment_corpus(rng: np.random.Generator, n_rows: int) -> tuple[list[str], list[str]]:
    """Reviews to fine-tune on, cut behind the opening.

    Args:
        rng: Draws the reviews.
        n_rows: How many, at least 1.

    Returns:
        Openings and continuations, `n_rows` each, words separated by one space, the one between
        the two included: it stands in front of the continuation.

    Raises:
        ConfigError: `n_rows` is below 1.
    """
    if n_rows < 1:
        raise ConfigError(f"`n_rows` is {n_rows}, expected at least 1.")
    prompts, completions = [], []
    for review in _grammar().sample(rng, n_rows):
        words = review.split()
        prompts.append(" ".join(words[:_N_OPENING_WORDS]))
        completions.append(" " + " ".join(words[_N_OPENING_WORDS:]))
    return prompts, completions


def _longest(tokenizer: Any) -> int:
    """Tokens of the longest continuation, EOS included."""
    from rlhf_gym.language.encoding import encode_continuations, tokens_needed

    grammar = _grammar()
    openings = [sentiment_openings()[0]] * len(grammar.words)
    words = [f" {word}" for word in grammar.words]
    found = encode_continuations(tokenizer, openings, words, [False] * len(words))
    lengths = map(len, found.completions)
    review = grammar.longest(dict(zip(grammar.words, lengths, strict=True))).split()
    opening, rest = review[:_N_OPENING_WORDS], review[_N_OPENING_WORDS:]
    return tokens_needed(tokenizer, [" ".join(opening)], ["".join(f" {word}" for word in rest)])


@cache
def _grammar() -> ReviewGrammar:
    return ReviewGrammar()


@cache
def _openings() -> tuple[str, ...]:
    # The rarest of the 96 comes 40 times in so many, and the seed is fixed: none is missed.
    return tuple(sorted(set(_grammar().openings(np.random.default_rng(0), 20_000))))


def _sentiment(prompts: list[str], completions: list[str]) -> list[float]:
    return [_score(text) for text in completions]


def _positive(prompts: list[str], completions: list[str]) -> list[float]:
    return [0.5 + 0.5 * float(np.sign(_score(text))) for text in completions]


def _score(text: str) -> float:
    words = _WORD.findall(text.lower())
    n_positive = sum(word in POSITIVE_WORDS for word in words)
    n_negative = sum(word in NEGATIVE_WORDS for word in words)
    return (n_positive - n_negative) / max(1, n_positive + n_negative)
