"""Arithmetic: sums of two digits, right or wrong."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from rlhf_gym.envs.text.completion_vector_env import CompletionVectorEnv
from rlhf_gym.envs.text.rewards import TextReward
from rlhf_gym.envs.text.task import TextTask
from rlhf_gym.envs.text.token_env import TokenEnv
from rlhf_gym.errors import ConfigError

__all__ = ["ArithmeticEnv", "arithmetic_corpus", "arithmetic_task", "arithmetic_vector_env"]

_CHARACTERS = "0123456789+="


class ArithmeticEnv(TokenEnv):
    """Sums of two digits: a reward that only the exact answer earns.

    ## Description
    100 prompts, "0+0=" to "9+9="; the completion is the sum, "7" or "13", and EOS.

    ## Rewards
    The component `exact`, weight 1: 1 where the completion is the sum, digit for digit, and ended
    by itself; else 0. Uniform tokens earn 0.0035.

    `digits` is logged and not paid: the share of places, of the longer of completion and sum, in
    which both have the same character, from the left. "1" for 13 has 0.5.

    ## Spaces, starts, ends
    As `TokenEnv`. With the default tokenizer, one token per character: V is 15, P is 5 (BOS and
    four), T is 4, so that an answer of two digits has room for one more and EOS.

    ## Arguments
    - `tokenizer`, `vocab_size`: another tokenizer, for a pretrained model.
    - `max_new_tokens`: T; None takes what the longest sum needs under the tokenizer, one spare
      token, and EOS.
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
        task = arithmetic_task(tokenizer, vocab_size, max_new_tokens)
        super().__init__(task, render_mode, length_is)


def arithmetic_task(
    tokenizer: Any = None, vocab_size: int | None = None, max_new_tokens: int | None = None
) -> TextTask:
    """The task of `ArithmeticEnv`; its column `answer` holds the sums as text."""
    from rlhf_gym.language.tokenizers import word_tokenizer  # loads transformers

    sums = [(a, b) for a in range(10) for b in range(10)]
    if tokenizer is None:
        tokenizer = word_tokenizer(_CHARACTERS, separator="")
    return TextTask(
        "Arithmetic",
        tokenizer,
        [f"{a}+{b}=" for a, b in sums],
        {"exact": _exact, "digits": TextReward(_digits, weight=0.0)},
        max_new_tokens=_longest(tokenizer) if max_new_tokens is None else max_new_tokens,
        columns={"answer": [str(a + b) for a, b in sums]},
        vocab_size=vocab_size,
        corpus=arithmetic_corpus,
    )


def arithmetic_vector_env(
    num_envs: int = 1,
    render_mode: str | None = None,
    length_is: Literal["terminal", "truncation"] = "terminal",
    tokenizer: Any = None,
    vocab_size: int | None = None,
    max_new_tokens: int | None = None,
) -> CompletionVectorEnv:
    """The same task, completion by completion; what `gymnasium.make_vec` makes."""
    task = arithmetic_task(tokenizer, vocab_size, max_new_tokens)
    return CompletionVectorEnv(task, num_envs, render_mode, length_is)


def arithmetic_corpus(
    rng: np.random.Generator, n_rows: int, *, p_right: float = 0.5
) -> tuple[list[str], list[str]]:
    """Sums to fine-tune on, of which a known share is right.

    Args:
        rng: Draws digits and mistakes.
        n_rows: How many, at least 1.
        p_right: Share of right answers; a wrong one is uniform over the other sums, 0 to 18.

    Returns:
        Prompts and completions, `n_rows` each.

    Raises:
        ConfigError: `p_right` is no probability, or `n_rows` is below 1.
    """
    if not 0 <= p_right <= 1 or n_rows < 1:
        raise ConfigError(
            f"`p_right` is {p_right} and `n_rows` {n_rows}, expected 0 to 1 and at least 1."
        )
    digits = rng.integers(10, size=(n_rows, 2))
    sums = digits.sum(axis=1)
    others = (sums + rng.integers(1, 19, size=n_rows)) % 19
    answers = np.where(rng.random(n_rows) < p_right, sums, others)
    return [f"{a}+{b}=" for a, b in digits], [str(answer) for answer in answers]


def _longest(tokenizer: Any) -> int:
    """Tokens of the longest answer, one more that would be wrong, and EOS."""
    from rlhf_gym.language.encoding import tokens_needed

    every = [
        (f"{a}+{b}=", str(total)) for a in range(10) for b in range(10) for total in range(10, 19)
    ]
    return 1 + tokens_needed(tokenizer, *(list(column) for column in zip(*every, strict=True)))


def _exact(
    prompts: list[str], completions: list[str], *, answer: list[str], finished: list[bool]
) -> list[float]:
    rows = zip(completions, answer, finished, strict=True)
    return [float(ended and text == right) for text, right, ended in rows]


def _digits(prompts: list[str], completions: list[str], *, answer: list[str]) -> list[float]:
    return [
        sum(a == b for a, b in zip(text, right, strict=False)) / max(len(text), len(right))
        for text, right in zip(completions, answer, strict=True)
    ]
