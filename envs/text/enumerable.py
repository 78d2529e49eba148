"""Enumerable: texts so short that every one of them, and the best policy, can be written down."""

from __future__ import annotations

from string import ascii_lowercase
from typing import Any, Literal

from rlhf_gym.envs.text.completion_vector_env import CompletionVectorEnv
from rlhf_gym.envs.text.task import TextTask
from rlhf_gym.envs.text.token_env import TokenEnv
from rlhf_gym.errors import ConfigError

__all__ = ["EnumerableEnv", "enumerable_task", "enumerable_vector_env"]

# toy -> (letters, tokens)
_SIZES = {"bigrams": (3, 5), "letters": (8, 6)}


class EnumerableEnv(TokenEnv):
    """Short texts of a few letters, with an optimum that can be computed exactly.

    ## Description
    There is one prompt, the empty one. `rlhf_gym.envs.text.exact` lists all completions and
    computes the optimal policy, its reward and its divergence from the reference.

    - "bigrams": letters a, b, c and EOS, at most 5 tokens: 364 completions.
    - "letters": letters a to h, exactly 6 tokens, EOS is forbidden: 262,144 completions. From
      uniform letters at a price of beta per nat, the optimum picks each letter by itself, "a" with
      probability e^(1/beta) / (e^(1/beta) + 7).

    ## Rewards
    - "bigrams": the number of "ab", less 1 where the text did not end within 5 tokens. Uniform
      tokens earn -0.0664.
    - "letters": the number of "a". Uniform letters earn 0.75.

    ## Spaces, starts, ends
    As `TokenEnv`; V is letters + 3 (PAD, BOS, EOS), P is 1 (BOS).

    ## Arguments
    - `toy`: "bigrams" or "letters".
    - `n_letters`, `max_new_tokens`: other sizes; None takes those above.
    - `render_mode`, `length_is`: as `TokenEnv`.

    ## Version History
    - v0: first version.

    Raises:
        ConfigError: an unknown toy or a size out of range.
    """

    def __init__(
        self,
        render_mode: str | None = None,
        length_is: Literal["terminal", "truncation"] = "terminal",
        toy: Literal["bigrams", "letters"] = "bigrams",
        n_letters: int | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        super().__init__(enumerable_task(toy, n_letters, max_new_tokens), render_mode, length_is)


def enumerable_task(
    toy: Literal["bigrams", "letters"] = "bigrams",
    n_letters: int | None = None,
    max_new_tokens: int | None = None,
) -> TextTask:
    """The task of `EnumerableEnv`.

    Raises:
        ConfigError: an unknown toy, or not 2 to 26 letters.
    """
    from rlhf_gym.language.tokenizers import EOS, word_tokenizer  # loads transformers

    if toy not in _SIZES:
        raise ConfigError(f"`toy` is {toy!r}, expected one of {sorted(_SIZES)}.")
    n_default, t_default = _SIZES[toy]
    size = n_default if n_letters is None else n_letters
    if not 2 <= size <= len(ascii_lowercase):
        raise ConfigError(f"`n_letters` is {size}, expected 2 to {len(ascii_lowercase)}.")
    return TextTask(
        f"Enumerable ({toy})",
        word_tokenizer(ascii_lowercase[:size], separator=""),
        [""],
        {toy: _bigrams if toy == "bigrams" else _letters},
        max_new_tokens=t_default if max_new_tokens is None else max_new_tokens,
        forbidden_tokens=() if toy == "bigrams" else (EOS,),
        allow_empty_prompts=True,
    )


def enumerable_vector_env(
    num_envs: int = 1,
    render_mode: str | None = None,
    length_is: Literal["terminal", "truncation"] = "terminal",
    toy: Literal["bigrams", "letters"] = "bigrams",
    n_letters: int | None = None,
    max_new_tokens: int | None = None,
) -> CompletionVectorEnv:
    """The same task, completion by completion; what `gymnasium.make_vec` makes."""
    task = enumerable_task(toy, n_letters, max_new_tokens)
    return CompletionVectorEnv(task, num_envs, render_mode, length_is)


def _bigrams(
    prompts: list[str], completions: list[str], finished: list[bool], **_: Any
) -> list[float]:
    pairs = zip(completions, finished, strict=True)
    return [text.count("ab") - (0.0 if ended else 1.0) for text, ended in pairs]


def _letters(prompts: list[str], completions: list[str]) -> list[float]:
    return [float(text.count("a")) for text in completions]
