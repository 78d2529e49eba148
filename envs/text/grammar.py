"""A grammar of short film reviews, with an entropy that is known exactly.

    the film was good and this script felt very clever . i loved it .

What a language model can at best reach on such a corpus is a number, not a matter of taste. The
grammar is a finite automaton in which state and word decide the next state, so that a review has
one derivation only. Then, by the chain rule, its entropy is the sum over states of (expected
visits) times (entropy of the choice made there), and the automaton has no cycle, so both are sums
of finitely many terms.

"and" keeps the tone, "but" turns it, and the closing verdict follows the last clause. Swapping
the two word lists maps the grammar onto itself: a review is as likely positive as negative.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np

from rlhf_gym.errors import ConfigError

__all__ = ["NEGATIVE_WORDS", "POSITIVE_WORDS", "ReviewGrammar"]

_POSITIVE_ADJECTIVES = (
    "good great wonderful brilliant charming moving funny clever warm superb delightful gripping"
).split()
_NEGATIVE_ADJECTIVES = (
    "bad awful dreadful clumsy boring shallow dull silly cold poor tedious flat"
).split()
_POSITIVE_VERBS = "loved liked enjoyed admired".split()
_NEGATIVE_VERBS = "hated disliked regretted despised".split()
_DETERMINERS = "the this".split()
_NOUNS = "film movie story plot acting cast script music ending camera pacing humour".split()
_VERBS = "was felt seemed looked".split()
_ADVERBS = "very quite rather truly".split()

POSITIVE_WORDS = frozenset([*_POSITIVE_ADJECTIVES, *_POSITIVE_VERBS])
"""Words that speak for a film."""
NEGATIVE_WORDS = frozenset([*_NEGATIVE_ADJECTIVES, *_NEGATIVE_VERBS])
"""Words that speak against it; as many, with the same probabilities."""

_P_ADVERB, _P_AND, _P_BUT, _P_VERDICT = 0.4, 0.25, 0.1, 0.4
_END = ""  # the choice that ends a review: EOS


class _State(NamedTuple):
    slot: str
    tone: int  # +1, -1, or 0 before the first adjective
    n_clauses: int


class _Choice(NamedTuple):
    probability: float
    word: str
    target: _State


_START = _State("determiner", 0, 1)
_OPENING = ("determiner", "noun", "verb")


class ReviewGrammar:
    """Writes reviews, and knows how likely each is.

    Args:
        max_clauses: Clauses of the longest review, at least 1.

    Raises:
        ConfigError: fewer than one clause.
    """

    def __init__(self, max_clauses: int = 3) -> None:
        if max_clauses < 1:
            raise ConfigError(f"`max_clauses` is {max_clauses}; a review has at least 1 clause.")
        self.max_clauses = max_clauses

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every word there is, sorted; full stops are words of their own."""
        found = {choice.word for choices in self._table.values() for choice in choices}
        return tuple(sorted(found - {_END}))

    @cached_property
    def max_tokens(self) -> int:
        """Words of the longest review, and one for EOS."""
        return len(self.longest(dict.fromkeys(self.words, 1)).split()) + 1

    def longest(self, lengths: Mapping[str, int]) -> str:
        """The review that is longest if each word is as long as `lengths` says."""
        best: dict[_State, tuple[int, list[str]]] = {}
        for state in reversed(self._table):  # targets come behind their states
            best[state] = max(
                (0, list[str]())
                if c.word == _END
                else (lengths[c.word] + best[c.target][0], [c.word, *best[c.target][1]])
                for c in self._table[state]
            )
        return " ".join(best[_START][1])

    def sample(self, rng: np.random.Generator, n: int) -> list[str]:
        """Write n reviews, words separated by one space."""
        return [" ".join(self._walk(rng)) for _ in range(n)]

    def openings(self, rng: np.random.Generator, n: int) -> list[str]:
        """Beginnings that say nothing yet: determiner, noun and verb, such as "the film was"."""
        return [" ".join(self._walk(rng)[: len(_OPENING)]) for _ in range(n)]

    def log_prob(self, review: str) -> float:
        """The log-probability of a whole review, EOS included, in nats; -inf if it is none."""
        state, total = _START, 0.0
        for word in [*review.split(), _END]:
            choice = next((c for c in self._table.get(state, ()) if c.word == word), None)
            if choice is None:
                return -math.inf
            total += math.log(choice.probability)
            state = choice.target
        return total

    def entropy_nats(self, of: Literal["review", "continuation"] = "review") -> float:
        """The entropy of a whole review, or of what follows its opening, in nats."""
        return sum(
            visits * _entropy(self._table[state])
            for state, visits in self._visits.items()
            if of == "review" or not _is_opening(state)
        )

    def expected_tokens(self, of: Literal["review", "continuation"] = "review") -> float:
        """The mean number of words, EOS counted as one."""
        return sum(
            visits
            for state, visits in self._visits.items()
            if of == "review" or not _is_opening(state)
        )

    def entropy_nats_per_token(self, of: Literal["review", "continuation"] = "review") -> float:
        """The lowest loss a word-level language model can reach, in nats per token.

        The entropy over the expected length: a loss is averaged over all tokens of a corpus, so a
        long review counts for more than a short one.
        """
        return self.entropy_nats(of) / self.expected_tokens(of)

    @cached_property
    def _table(self) -> dict[_State, list[_Choice]]:
        """The choices of each state that can be reached, in an order without steps back."""
        order: list[_State] = []
        seen: set[_State] = set()

        def visit(state: _State) -> None:  # depth first; a state comes after all it leads to
            seen.add(state)
            for choice in _choices(state, self.max_clauses):
                if choice.word != _END and choice.target not in seen:
                    visit(choice.target)
            order.append(state)

        visit(_START)
        return {state: _choices(state, self.max_clauses) for state in reversed(order)}

    @cached_property
    def _visits(self) -> dict[_State, float]:
        visits = dict.fromkeys(self._table, 0.0)
        visits[_START] = 1.0
        for state, choices in self._table.items():
            for choice in choices:
                if choice.word != _END:
                    visits[choice.target] += visits[state] * choice.probability
        return visits

    @cached_property
    def _cumulative(self) -> dict[_State, list[float]]:
        return {s: list(accumulate(c.probability for c in cs)) for s, cs in self._table.items()}

    def _walk(self, rng: np.random.Generator) -> list[str]:
        state, words = _START, list[str]()
        while True:
            choices, cumulative = self._table[state], self._cumulative[state]
            drawn = rng.random() * cumulative[-1]
            choice = choices[min(bisect(cumulative, drawn), len(choices) - 1)]
            if choice.word == _END:
                return words
            words.append(choice.word)
            state = choice.target


def _choices(state: _State, max_clauses: int) -> list[_Choice]:
    """What may follow, with what probability; no word twice, or a review had two derivations."""
    slot, tone, clause = state
    if slot == "determiner":
        return _spread(_DETERMINERS, 1.0, _State("noun", tone, clause))
    if slot == "noun":
        return _spread(_NOUNS, 1.0, _State("verb", tone, clause))
    if slot == "verb":
        return _spread(_VERBS, 1.0, _State("description", tone, clause))
    if slot == "description":
        adverbs = _spread(_ADVERBS, _P_ADVERB, _State("adjective", tone, clause))
        return adverbs + _adjectives(1 - _P_ADVERB, tone, clause)
    if slot == "adjective":
        return _adjectives(1.0, tone, clause)
    if slot == "connective":
        stop = _State("closing", tone, clause)
        if clause == max_clauses:
            return [_Choice(1.0, ".", stop)]
        return [
            _Choice(_P_AND, "and", _State("determiner", tone, clause + 1)),
            _Choice(_P_BUT, "but", _State("determiner", -tone, clause + 1)),
            _Choice(1 - _P_AND - _P_BUT, ".", stop),
        ]
    # From here on the number of clauses no longer matters: one state for all of them.
    if slot == "closing":
        verdict = _Choice(_P_VERDICT, "i", _State("verdict", tone, 0))
        return [verdict, _Choice(1 - _P_VERDICT, _END, state)]
    if slot == "verdict":
        verbs = _POSITIVE_VERBS if tone > 0 else _NEGATIVE_VERBS
        return _spread(verbs, 1.0, _State("object", tone, 0))
    if slot == "object":
        return [_Choice(1.0, "it", _State("full stop", tone, 0))]
    if slot == "full stop":
        return [_Choice(1.0, ".", _State("end", tone, 0))]
    assert slot == "end", slot
    return [_Choice(1.0, _END, state)]


def _adjectives(total: float, tone: int, clause: int) -> list[_Choice]:
    if tone == 0:
        return _adjectives(total / 2, 1, clause) + _adjectives(total / 2, -1, clause)
    words = _POSITIVE_ADJECTIVES if tone > 0 else _NEGATIVE_ADJECTIVES
    return _spread(words, total, _State("connective", tone, clause))


def _spread(words: Sequence[str], total: float, target: _State) -> list[_Choice]:
    """Share a probability among words, 1 / (rank + 1) each: few are frequent, as in language."""
    weights = [1 / (rank + 2) for rank in range(len(words))]
    return [
        _Choice(total * weight / sum(weights), word, target)
        for word, weight in zip(words, weights, strict=True)
    ]


def _entropy(choices: Sequence[_Choice]) -> float:
    return -sum(c.probability * math.log(c.probability) for c in choices)


def _is_opening(state: _State) -> bool:
    """Whether a state belongs to the first clause's opening: the tone is not yet set."""
    return state.tone == 0 and state.slot in _OPENING
