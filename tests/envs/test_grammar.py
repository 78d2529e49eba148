"""The review grammar's entropy, by hand, by enumeration and by Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest

from rlhf_gym.envs.text.grammar import NEGATIVE_WORDS, POSITIVE_WORDS, ReviewGrammar
from rlhf_gym.errors import ConfigError


def zipf_entropy(n: int) -> float:
    """Entropy of n words with probabilities proportional to 1/2, 1/3, ..., in nats."""
    weights = np.array([1 / (rank + 2) for rank in range(n)])
    p = weights / weights.sum()
    return float(-(p * np.log(p)).sum())


def coin(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_the_entropy_of_one_clause_is_what_a_pencil_gives() -> None:
    # Determiner, noun, verb; an adverb or not; a tone; an adjective of that tone; a full stop; a
    # verdict or not, by one of four verbs. Independent choices: entropies add up.
    opening = zipf_entropy(2) + zipf_entropy(12) + zipf_entropy(4)
    rest = (
        coin(0.4)
        + 0.4 * zipf_entropy(4)
        + math.log(2)
        + zipf_entropy(12)
        + coin(0.4)
        + 0.4 * zipf_entropy(4)
    )
    # the film was [very] good . EOS, or ... . i loved it . EOS
    n_tokens = 3 + 0.4 + 1 + 1 + 1 + 0.4 * 4
    grammar = ReviewGrammar(max_clauses=1)
    assert grammar.entropy_nats() == pytest.approx(opening + rest, abs=1e-12)
    assert grammar.entropy_nats("continuation") == pytest.approx(rest, abs=1e-12)
    assert grammar.expected_tokens() == pytest.approx(n_tokens, abs=1e-12)
    assert grammar.entropy_nats_per_token() == pytest.approx((opening + rest) / n_tokens)
    assert grammar.max_tokens == 3 + 2 + 1 + 4 + 1


def test_further_clauses_add_their_own_choices() -> None:
    # After each clause but the last: and 0.25, but 0.1, or the end. A further clause has an
    # opening, perhaps an adverb, and an adjective of a tone that is already decided.
    one = ReviewGrammar(max_clauses=1)
    connective = -sum(p * math.log(p) for p in (0.25, 0.1, 0.65))
    clause = zipf_entropy(2) + 2 * zipf_entropy(12) + 2 * zipf_entropy(4) * 0.7 + coin(0.4)
    expected = one.entropy_nats() + connective + 0.35 * (clause + connective + 0.35 * clause)
    grammar = ReviewGrammar(max_clauses=3)
    assert grammar.entropy_nats() == pytest.approx(expected, abs=1e-12)
    n_clause = 1 + 3 + 0.4 + 1  # connective, opening, adverb, adjective
    expected_tokens = one.expected_tokens() + (0.35 + 0.35**2) * n_clause
    assert grammar.expected_tokens() == pytest.approx(expected_tokens, abs=1e-12)
    assert grammar.max_tokens == one.max_tokens + 2 * 6


def test_entropy_and_length_agree_with_monte_carlo(rng: np.random.Generator) -> None:
    grammar = ReviewGrammar()
    reviews = grammar.sample(rng, 4_000)
    surprise = -np.array([grammar.log_prob(review) for review in reviews])
    lengths = np.array([len(review.split()) + 1 for review in reviews])
    for values, expected in (
        (surprise, grammar.entropy_nats()),
        (lengths, grammar.expected_tokens()),
    ):
        error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - expected) <= 4 * error
    assert lengths.max() <= grammar.max_tokens


def derivations(grammar: ReviewGrammar, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Every review of one clause, spelled out from the word classes."""
    for opening in (f"{d} {n} {v}" for d in groups["d"] for n in groups["n"] for v in groups["v"]):
        for adverb in ("", *(f" {word}" for word in groups["adverb"])):
            for tone in ("positive", "negative"):
                for adjective in groups[tone]:
                    for end in ("", *(f" i {verb} it ." for verb in groups[f"{tone} verb"])):
                        yield f"{opening}{adverb} {adjective} .{end}"


def test_the_probabilities_of_all_reviews_of_one_clause_add_up_to_one() -> None:
    grammar = ReviewGrammar(max_clauses=1)
    verbs = {"loved", "liked", "enjoyed", "admired", "hated", "disliked", "regretted", "despised"}
    groups = {
        "d": ["the"],  # the other determiner has the same continuations: scaled below
        "n": ["film"],
        "v": ["was"],
        "adverb": ["very", "quite", "rather", "truly"],
        "positive": sorted(POSITIVE_WORDS - verbs),
        "negative": sorted(NEGATIVE_WORDS - verbs),
        "positive verb": sorted(POSITIVE_WORDS & verbs),
        "negative verb": sorted(NEGATIVE_WORDS & verbs),
    }
    p_opening = ((1 / 2) / (1 / 2 + 1 / 3) * (1 / 2) / sum(1 / (k + 2) for k in range(12))) * (
        (1 / 2) / sum(1 / (k + 2) for k in range(4))
    )
    reviews = list(derivations(grammar, groups))
    assert len(set(reviews)) == len(reviews) == 5 * 24 * 5
    total = sum(math.exp(grammar.log_prob(review)) for review in reviews)
    assert total == pytest.approx(p_opening, rel=1e-9)


@pytest.mark.parametrize(
    "text",
    ["", "the film was good", "good .", "the film was good . i hated it .", "the film was zany ."],
)
def test_what_the_grammar_cannot_write_has_no_probability(text: str) -> None:
    assert ReviewGrammar().log_prob(text) == -math.inf


def test_but_turns_the_tone_and_and_keeps_it() -> None:
    grammar = ReviewGrammar()
    for text, possible in (
        ("the film was good and the plot was great .", True),
        ("the film was good and the plot was bad .", False),
        ("the film was good but the plot was bad .", True),
        ("the film was good but the plot was bad . i hated it .", True),
        ("the film was good but the plot was bad . i loved it .", False),
    ):
        assert math.isfinite(grammar.log_prob(text)) == possible


def test_reviews_are_as_often_positive_as_negative(rng: np.random.Generator) -> None:
    n = 4_000
    first = [
        next(word for word in review.split() if word in POSITIVE_WORDS | NEGATIVE_WORDS)
        for review in ReviewGrammar().sample(rng, n)
    ]
    share = np.mean([word in POSITIVE_WORDS for word in first])
    assert abs(share - 0.5) <= 4 * math.sqrt(0.25 / n)
    assert len(POSITIVE_WORDS) == len(NEGATIVE_WORDS)
    assert not POSITIVE_WORDS & NEGATIVE_WORDS


def test_openings_are_neutral_and_can_be_continued(rng: np.random.Generator) -> None:
    grammar = ReviewGrammar()
    for opening in grammar.openings(rng, 50):
        assert len(opening.split()) == 3
        assert math.isfinite(grammar.log_prob(f"{opening} good ."))
        assert not set(opening.split()) & (POSITIVE_WORDS | NEGATIVE_WORDS)


def test_the_generator_decides_the_corpus() -> None:
    grammar = ReviewGrammar()
    first, same, other = (grammar.sample(np.random.default_rng(s), 5) for s in (1, 1, 2))
    assert first == same != other
    words = {
        word
        for review in grammar.sample(np.random.default_rng(3), 2_000)
        for word in review.split()
    }
    assert words == set(grammar.words)


def test_a_review_needs_a_clause() -> None:
    with pytest.raises(ConfigError, match="`max_clauses` is 0"):
        ReviewGrammar(max_clauses=0)
