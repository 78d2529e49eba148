"""The exact answers on the toy "bigrams", derived here a second time without the module's code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from rlhf_gym.envs.text.enumerable import enumerable_task
from rlhf_gym.envs.text.exact import (
    Completions,
    all_completions,
    best_of_n,
    kl_divergence,
    next_token_probs,
    preference_limits,
    soft_optimum,
    soft_recursion,
    total_variation,
)
from rlhf_gym.errors import ConfigError

LETTERS = {"a": 3, "b": 4, "c": 5}
EOS = 2


@pytest.fixture(scope="module")
def toy() -> Completions:
    return all_completions(enumerable_task())


def by_hand(max_tokens: int = 5) -> dict[str, tuple[float, float]]:
    """Text (with "." for EOS) -> (probability under uniform tokens, reward)."""
    table = {}
    for n_letters in range(max_tokens + 1):
        for letters in itertools.product("abc", repeat=n_letters):
            text = "".join(letters)
            n_bigrams = sum(text[i : i + 2] == "ab" for i in range(n_letters))
            if n_letters < max_tokens:
                table[text + "."] = (0.25 ** (n_letters + 1), float(n_bigrams))
            else:
                table[text] = (0.25**max_tokens, n_bigrams - 1.0)
    return table


def named(toy: Completions) -> list[str]:
    """The completions in the notation of `by_hand`."""
    ended = [row[-1] == EOS for row in toy.rows()]
    return [text + "." * end for text, end in zip(toy.texts, ended, strict=True)]


def test_all_completions_are_there_once_with_reward_and_probability(toy: Completions) -> None:
    table = by_hand()
    assert len(toy) == len(table) == 364  # 1 + 3 + 9 + 27 + 81 that end, and 243 that do not
    rows = zip(named(toy), np.exp(toy.log_reference), toy.rewards, strict=True)
    found = {name: (probability, reward) for name, probability, reward in rows}
    assert found.keys() == table.keys()
    for name, (probability, reward) in table.items():
        assert found[name] == (pytest.approx(probability, rel=1e-12), reward)
    assert np.exp(toy.log_reference).sum() == pytest.approx(1, abs=1e-12)
    # The reference study has -0.0664.
    assert np.exp(toy.log_reference) @ toy.rewards == pytest.approx(-0.0664, abs=5e-5)


def test_the_ids_are_the_texts_tokens(toy: Completions) -> None:
    for name, row, mask in zip(named(toy), toy.ids, toy.mask, strict=True):
        expected = [EOS if symbol == "." else LETTERS[symbol] for symbol in name]
        assert row[mask].tolist() == expected
        assert not row[~mask].any()  # PAD is 0


# beta -> E r, KL, J*, P(EOS): the reference study's table.
PUBLISHED = {
    1.0: (0.1528, 0.1121, 0.0407, 0.8430),
    0.5: (0.4464, 0.5617, 0.1655, 0.8766),
    0.25: (1.2773, 3.0750, 0.5085, 0.9254),
}


@pytest.mark.parametrize("beta", PUBLISHED)
def test_the_optimum_is_the_tilted_reference(toy: Completions, beta: float) -> None:
    table = by_hand()
    partition = math.fsum(p * math.exp(r / beta) for p, r in table.values())
    optimum = {name: p * math.exp(r / beta) / partition for name, (p, r) in table.items()}
    reward = math.fsum(q * table[name][1] for name, q in optimum.items())
    kl = math.fsum(q * math.log(q / table[name][0]) for name, q in optimum.items())
    ended = math.fsum(q for name, q in optimum.items() if name.endswith("."))
    found = soft_optimum(toy.rewards, toy.log_reference, beta)
    assert (found.reward, found.kl) == (pytest.approx(reward), pytest.approx(kl))
    assert found.objective == pytest.approx(beta * math.log(partition))
    assert found.objective == pytest.approx(reward - beta * kl)
    for name, log_prob in zip(named(toy), found.log_probs, strict=True):
        assert math.exp(log_prob) == pytest.approx(optimum[name], rel=1e-9)
    assert PUBLISHED[beta] == pytest.approx((reward, kl, found.objective, ended), abs=5.1e-5)


@pytest.mark.parametrize("beta", [0.5, 0.25])
def test_six_tokens_give_the_published_optimum_too(beta: float) -> None:
    longer = all_completions(enumerable_task(max_new_tokens=6))
    found = soft_optimum(longer.rewards, longer.log_reference, beta)
    expected = {0.5: (0.6270, 0.7064, 0.2738), 0.25: (1.5739, 3.5018, 0.6984)}[beta]
    assert len(longer) == 1093
    assert (found.reward, found.kl, found.objective) == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_backward_recursion_and_enumeration_give_the_same_next_tokens(
    toy: Completions, beta: float
) -> None:
    optimum = soft_optimum(toy.rewards, toy.log_reference, beta)
    forward = next_token_probs(toy, optimum.log_probs)
    backward, objective = soft_recursion(toy, toy.log_reference, beta)
    assert objective == pytest.approx(optimum.objective, abs=1e-12)
    assert forward.keys() == backward.keys()
    assert len(forward) == 1 + 3 + 9 + 27 + 81  # prefixes of 0 to 4 letters
    for prefix, probs in forward.items():
        np.testing.assert_allclose(backward[prefix], probs, atol=1e-12)
        assert probs.sum() == pytest.approx(1)


def test_the_last_token_of_the_optimum_by_hand(toy: Completions) -> None:
    # After "ccca": "b" earns 1 - 1 = 0, the other letters -1, EOS 0; PAD and BOS never come.
    optimum = soft_optimum(toy.rewards, toy.log_reference, 0.5)
    probs = next_token_probs(toy, optimum.log_probs)[(5, 5, 5, 3)]
    low = math.exp(-2)
    expected = np.array([0, 0, 1, low, 1, low]) / (2 + 2 * low)
    np.testing.assert_allclose(probs, expected, atol=1e-12)


def test_recursion_works_from_any_reference(toy: Completions, rng: np.random.Generator) -> None:
    weights = rng.random(len(toy))
    log_reference = np.log(weights / weights.sum())
    optimum = soft_optimum(toy.rewards, log_reference, 0.5)
    backward, objective = soft_recursion(toy, log_reference, 0.5)
    assert objective == pytest.approx(optimum.objective, abs=1e-12)
    for prefix, probs in next_token_probs(toy, optimum.log_probs).items():
        np.testing.assert_allclose(backward[prefix], probs, atol=1e-10)


def test_what_a_policy_falls_short_of_is_beta_times_its_divergence_from_the_optimum(
    toy: Completions, rng: np.random.Generator
) -> None:
    beta = 0.5
    optimum = soft_optimum(toy.rewards, toy.log_reference, beta)
    for _ in range(5):
        log_q = np.log(rng.dirichlet(np.full(len(toy), 0.3)) + 1e-300)
        q = np.exp(log_q)
        objective = q @ toy.rewards - beta * (q @ (log_q - toy.log_reference))
        shortfall = optimum.objective - objective
        assert shortfall == pytest.approx(beta * kl_divergence(log_q, optimum.log_probs), abs=1e-9)


def test_the_letters_toy_has_the_published_closed_form() -> None:
    # Uniform reference, each letter by itself: p = e^(1/beta) / (e^(1/beta) + V - 1).
    small = all_completions(enumerable_task("letters", n_letters=4, max_new_tokens=4))
    assert len(small) == 4**4
    for beta, published in {1.0: (1.9015, 0.4720, 1.4295), 0.5: (2.8449, 1.8720, 1.9089)}.items():
        p = math.exp(1 / beta) / (math.exp(1 / beta) + 3)
        found = soft_optimum(small.rewards, small.log_reference, beta)
        assert found.reward == pytest.approx(4 * p)
        assert found.objective == pytest.approx(beta * 4 * math.log((math.exp(1 / beta) + 3) / 4))
        assert (found.reward, found.kl, found.objective) == pytest.approx(published, abs=5.1e-5)


def test_the_limits_of_any_reward_model_by_all_pairs(toy: Completions) -> None:
    right = decided = loss = 0.0
    table = list(by_hand().values())
    for (p, r), (q, s) in itertools.product(table, table):
        prefer = 1 / (1 + math.exp(s - r))
        loss -= p * q * (prefer * math.log(prefer) + (1 - prefer) * math.log(1 - prefer))
        if r != s:
            decided += p * q
            right += p * q * max(prefer, 1 - prefer)
    limits = preference_limits(toy.rewards, toy.log_reference)
    assert limits.accuracy == pytest.approx(right / decided, abs=1e-10)
    assert limits.loss == pytest.approx(loss, abs=1e-10)
    assert (limits.accuracy, limits.loss) == pytest.approx((0.7404, 0.6487), abs=5.1e-5)


def test_where_all_texts_tie_there_is_no_accuracy_and_a_loss_of_log_2() -> None:
    limits = preference_limits(np.ones(3), np.log(np.full(3, 1 / 3)))
    assert math.isnan(limits.accuracy)
    assert limits.loss == pytest.approx(math.log(2))


def test_the_best_of_two_by_all_pairs() -> None:
    rewards, probs = np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.4, 0.1, 0.3, 0.2])
    expected = np.zeros(4)
    wins = 0.0
    for i, j in itertools.product(range(4), repeat=2):
        p = probs[i] * probs[j]
        best = [k for k in (i, j) if rewards[k] == max(rewards[i], rewards[j])]
        for k in best:
            expected[k] += p / len(best)
    for k, other in itertools.product(range(4), repeat=2):
        win = 0.5 if rewards[k] == rewards[other] else float(rewards[k] > rewards[other])
        wins += expected[k] * probs[other] * win
    found = best_of_n(rewards, np.log(probs), 2)
    np.testing.assert_allclose(np.exp(found.log_probs), expected, atol=1e-12)
    assert found.reward == pytest.approx(expected @ rewards)
    assert found.kl == pytest.approx(expected @ np.log(expected / probs))
    assert found.win_rate == pytest.approx(wins)


# n -> E r, KL, win rate: the reference study's table.
@pytest.mark.parametrize(
    ("n", "published"),
    [
        (1, (-0.0664, 0.0, 0.5)),
        (4, (0.2658, 0.2851, 0.6462)),
        (16, (0.7194, 1.3054, 0.8364)),
        (64, (1.0529, 2.5967, 0.9618)),
    ],
)
def test_the_best_of_n_is_the_published_one_and_within_its_bounds(
    toy: Completions, n: int, published: tuple[float, float, float]
) -> None:
    found = best_of_n(toy.rewards, toy.log_reference, n)
    assert (found.reward, found.kl, found.win_rate) == pytest.approx(published, abs=5.1e-5)
    assert found.kl <= math.log(n) - (n - 1) / n + 1e-12
    assert found.win_rate <= n / (n + 1) + 1e-12
    assert np.exp(found.log_probs).sum() == pytest.approx(1)


def test_divergence_and_variation_by_hand() -> None:
    with np.errstate(divide="ignore"):
        p, q = np.log([0.5, 0.5, 0.0]), np.log([0.25, 0.25, 0.5])
    assert kl_divergence(p, q) == pytest.approx(math.log(2))
    assert kl_divergence(q, p) == math.inf
    assert total_variation(p, q) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_optimum(np.zeros(1), np.zeros(1), 0.0), "`beta` is 0.0"),
        (lambda: best_of_n(np.zeros(1), np.zeros(1), 0), "`n` is 0"),
        (lambda: all_completions(enumerable_task(max_new_tokens=12)), "797161 completions"),
    ],
)
def test_what_cannot_be_computed_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
