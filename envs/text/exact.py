"""Exact answers for tasks that are small enough to write down every completion.

With the reference policy p and the true reward r, the objective J(q) = E_q r - beta KL(q || p) has
the optimum q* proportional to p exp(r / beta), and J(q*) - J(q) = beta KL(q || q*) for every q: a
trainer can be measured to the last digit (Korbak et al. 2022, arXiv 2205.11275, equation 5).
All probabilities are logarithms, nats, float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from rlhf_gym.envs.text.task import TextTask
from rlhf_gym.errors import ConfigError

__all__ = [
    "BestOfN",
    "Completions",
    "PreferenceLimits",
    "SoftOptimum",
    "all_completions",
    "best_of_n",
    "kl_divergence",
    "next_token_probs",
    "preference_limits",
    "soft_optimum",
    "soft_recursion",
    "total_variation",
]

Numbers = npt.NDArray[np.float64]
Prefix = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Completions:
    """All N completions of one prompt, in a fixed order."""

    ids: npt.NDArray[np.int64]
    """(N, T) token ids, padded on the right."""
    mask: npt.NDArray[np.bool_]
    """(N, T) True where a token is real, EOS included."""
    texts: list[str]
    """N texts."""
    rewards: Numbers
    """(N,) the task's true rewards."""
    log_reference: Numbers
    """(N,) under the uniform policy: each next token equally likely among the allowed ones."""
    vocab_size: int
    """V."""

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self) -> list[Prefix]:
        """The completions as tuples of token ids, EOS included."""
        return [tuple(ids[real].tolist()) for ids, real in zip(self.ids, self.mask, strict=True)]


@dataclass(frozen=True, eq=False)
class SoftOptimum:
    """The best policy at a price of beta per nat."""

    log_probs: Numbers
    """(N,) the optimum q*."""
    reward: float
    """E r under q*."""
    kl: float
    """KL(q* || p), nats per completion."""
    objective: float
    """J* = reward - beta kl = beta log E_p exp(r / beta)."""


@dataclass(frozen=True)
class PreferenceLimits:
    """What no reward model can beat, for Bradley-Terry answers to pairs drawn from a policy."""

    accuracy: float
    """Of answers to pairs of different reward, the share that the true rewards predict."""
    loss: float
    """Mean log loss of the true rewards over all pairs, nats."""


@dataclass(frozen=True, eq=False)
class BestOfN:
    """The distribution of the best of n samples of the reference, ties broken evenly."""

    log_probs: Numbers
    """(N,)"""
    reward: float
    """E r."""
    kl: float
    """KL to the reference, nats; at most log n - (n - 1) / n."""
    win_rate: float
    """Share of wins over one sample of the reference, ties half; at most n / (n + 1)."""


def all_completions(
    task: TextTask, prompt_index: int = 0, *, max_completions: int = 300_000
) -> Completions:
    """Every completion that a task allows, with its reward.

    Raises:
        ConfigError: there are more than `max_completions`.
    """
    allowed = np.flatnonzero(~task.forbidden).tolist()
    n_going_on = len([token for token in allowed if token not in task.eos_ids])
    n_ended = len(allowed) - n_going_on
    n_rows = sum(n_ended * n_going_on**t for t in range(task.max_new_tokens))
    n_rows += n_going_on**task.max_new_tokens
    if n_rows > max_completions:
        raise ConfigError(
            f"{task.name} has {n_rows} completions, more than {max_completions}; take fewer tokens "
            "or a smaller vocabulary."
        )
    done: list[Prefix] = []
    going_on: list[Prefix] = [()]
    for _ in range(task.max_new_tokens):
        longer = [(*prefix, token) for prefix in going_on for token in allowed]
        done += [row for row in longer if row[-1] in task.eos_ids]
        going_on = [row for row in longer if row[-1] not in task.eos_ids]
    rows = done + going_on
    assert len(rows) == n_rows
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(task.max_new_tokens) < lengths[:, None]  # (N, T)
    ids = np.full(mask.shape, task.pad_id, np.int64)
    ids[mask] = np.concatenate([np.array(row) for row in rows])
    scores = task.score(np.full(n_rows, prompt_index), ids, mask)
    log_reference = -lengths * np.log(float(len(allowed)))
    return Completions(ids, mask, scores.texts, scores.total, log_reference, task.vocab_size)


def kl_divergence(log_p: Numbers, log_q: Numbers) -> float:
    """KL(p || q), nats; infinite where q leaves out what p does not."""
    present = log_p > -np.inf
    return float(np.sum(np.exp(log_p[present]) * (log_p[present] - log_q[present])))


def total_variation(log_p: Numbers, log_q: Numbers) -> float:
    """Half the summed difference of two distributions, between 0 and 1."""
    return float(0.5 * np.abs(np.exp(log_p) - np.exp(log_q)).sum())


def soft_optimum(rewards: Numbers, log_reference: Numbers, beta: float) -> SoftOptimum:
    """The optimum of E r - beta KL(q || p) over all distributions q.

    Args:
        rewards: (N,) r.
        log_reference: (N,) log p, summing to 1.
        beta: The price of a nat, above 0.

    Raises:
        ConfigError: beta is not above 0.
    """
    if not beta > 0:
        raise ConfigError(f"`beta` is {beta}, expected above 0.")
    tilted = log_reference + rewards / beta
    log_probs = log_softmax(tilted)
    return SoftOptimum(
        log_probs=log_probs,
        reward=float(np.exp(log_probs) @ rewards),
        kl=kl_divergence(log_probs, log_reference),
        objective=float(beta * logsumexp(tilted)),
    )


def next_token_probs(completions: Completions, log_probs: Numbers) -> dict[Prefix, Numbers]:
    """A distribution of completions as one of next tokens, (V,) for each prefix it can reach."""
    mass: dict[Prefix, Numbers] = {}
    for row, probability in zip(completions.rows(), np.exp(log_probs), strict=True):
        for n_before, token in enumerate(row):
            entry = mass.setdefault(row[:n_before], np.zeros(completions.vocab_size))
            entry[token] += probability
    return {prefix: entry / entry.sum() for prefix, entry in mass.items() if entry.sum() > 0}


def soft_recursion(
    completions: Completions, log_reference: Numbers, beta: float
) -> tuple[dict[Prefix, Numbers], float]:
    """The optimum's next-token probabilities backwards from the ends, without enumeration of q*.

    Q(s, a) is the reward where token a completes prefix s, else V(s, a), and
    V(s) = beta log sum_a p(a | s) exp(Q(s, a) / beta); q*(a | s) = p(a | s) exp((Q - V) / beta).

    Returns:
        The probabilities, (V,) for each prefix, and V of the empty prefix, which is J*.
    """
    reference = next_token_probs(completions, log_reference)
    values: dict[Prefix, float] = dict(
        zip(completions.rows(), completions.rewards.tolist(), strict=True)
    )
    optimum = {}
    for prefix in sorted(reference, key=len, reverse=True):
        tokens = np.flatnonzero(reference[prefix])
        q = np.array([values[(*prefix, int(token))] for token in tokens])
        terms = np.log(reference[prefix][tokens]) + q / beta
        values[prefix] = beta * float(logsumexp(terms))
        optimum[prefix] = np.zeros(completions.vocab_size)
        optimum[prefix][tokens] = np.exp(terms - values[prefix] / beta)
    return optimum, values[()]


def preference_limits(rewards: Numbers, log_reference: Numbers) -> PreferenceLimits:
    """The best accuracy and loss on Bradley-Terry answers to independent pairs of the reference.

    The answer prefers i over j with probability s = 1 / (1 + exp(r_j - r_i)); who knows r is right
    with probability max(s, 1 - s), and loses the entropy of s.

    Args:
        rewards: (N,) true rewards, in units of the answers' temperature.
        log_reference: (N,) what the pairs are drawn from.
    """
    levels, level_of = np.unique(rewards, return_inverse=True)
    weights = np.bincount(level_of, weights=np.exp(log_reference))
    pairs = weights[:, None] * weights  # probability of a pair of levels
    gap = np.abs(levels[:, None] - levels)
    right = 1.0 / (1.0 + np.exp(-gap))
    entropy = np.logaddexp(0.0, -gap) + gap * (1.0 - right)  # of a coin that lands so
    differ = gap > 0
    if not differ.any():
        return PreferenceLimits(accuracy=float("nan"), loss=float((pairs * entropy).sum()))
    return PreferenceLimits(
        accuracy=float((pairs * right)[differ].sum() / pairs[differ].sum()),
        loss=float((pairs * entropy).sum()),
    )


def best_of_n(rewards: Numbers, log_reference: Numbers, n: int) -> BestOfN:
    """The best of n independent samples of the reference, exactly.

    With F(r) the reference's probability of a reward of at most r, the best has reward r with
    probability F(r)^n - F(r-)^n, shared among the texts of that reward as in the reference.

    Args:
        rewards: (N,) what "best" means.
        log_reference: (N,) log-probabilities, summing to 1.
        n: Samples, at least 1.

    Raises:
        ConfigError: n is below 1.
    """
    if n < 1:
        raise ConfigError(f"`n` is {n}, expected at least 1 sample.")
    levels, level_of = np.unique(rewards, return_inverse=True)
    weights = np.bincount(level_of, weights=np.exp(log_reference))
    up_to = np.cumsum(weights) / weights.sum()
    below = up_to - weights / weights.sum()
    best = up_to**n - below**n
    with np.errstate(divide="ignore"):  # a best that is never drawn has probability 0
        log_probs = log_reference + np.log(best / weights)[level_of]
    return BestOfN(
        log_probs=log_probs,
        reward=float(best @ levels),
        kl=kl_divergence(log_probs, log_reference),
        win_rate=float(best @ (below + 0.5 * weights)),
    )
