"""How many answers each round asks for and how many steps it trains: whole numbers, exact sums."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from rlhf_gym.errors import ConfigError

__all__ = ["labels_per_round", "steps_per_round"]


def _require_positive(option: str, value: int, what: str) -> None:
    if value < 1:
        raise ConfigError(f"`{option}` is {value}, expected at least 1 ({what}).")


def labels_per_round(
    n_labels: int,
    n_rounds: int,
    *,
    initial_fraction: float = 0.25,
    kind: Literal["hyperbolic", "constant"] = "hyperbolic",
) -> list[int]:
    """How many answers each round asks for; together exactly `n_labels`.

    Round 0 gets `initial_fraction` of them (rounded, at least one: without an answer there is no
    reward to train on), from warm-up experience. The rest follows at a rate proportional to
    1 / (1 + 3 progress), progress being the share of the rounds done when a round starts, or at a
    constant rate. Early answers shape more of the training; Christiano et al. 2017 (A.1) anneal by
    2e6 / (T + 2e6) at step T, the same curve for a run of six million steps. Shares are made whole
    by largest remainder, the earlier round first among equals, so that a hyperbolic schedule never
    rises after round 0.

    Args:
        n_labels: answers of the whole run, at least 1.
        n_rounds: rounds, at least 1; a single round gets everything.
        initial_fraction: share of round 0, in (0, 1].
        kind: "hyperbolic" or "constant".

    Returns:
        `n_rounds` counts, each at least 0.

    Raises:
        ConfigError: a number out of range, or an unknown kind.

    >>> labels_per_round(700, 5)
    [175, 190, 138, 108, 89]
    """
    _require_positive("--labels", n_labels, "answers of the whole run")
    _require_positive("--rounds", n_rounds, "rounds of asking, fitting and training")
    if not 0.0 < initial_fraction <= 1.0:
        raise ConfigError(
            f"`initial_fraction` is {initial_fraction}, expected 0 < fraction <= 1 (the share of "
            "the answers asked for before training); 0.25 is usual."
        )
    if kind not in ("hyperbolic", "constant"):
        raise ConfigError(f"`kind` is {kind!r}, expected 'hyperbolic' or 'constant'.")
    if n_rounds == 1:
        return [n_labels]
    initial = max(1, int(initial_fraction * n_labels + 0.5))
    slope = 3.0 if kind == "hyperbolic" else 0.0
    weights = [1.0 / (1.0 + slope * k / n_rounds) for k in range(1, n_rounds)]
    return [initial, *_largest_remainder(n_labels - initial, weights)]


def _largest_remainder(total: int, weights: list[float]) -> list[int]:
    """Split `total` in proportion to the weights into whole numbers that sum to it exactly."""
    scale = sum(weights)
    quotas = [total * weight / scale for weight in weights]
    counts = [int(quota) for quota in quotas]
    missing = total - sum(counts)
    # sorted is stable: equal remainders go to the earlier round.
    by_remainder = sorted(range(len(quotas)), key=lambda k: counts[k] - quotas[k])
    for k in by_remainder[:missing]:
        counts[k] += 1
    return counts


def steps_per_round(n_steps: int, n_rounds: int, unit: int, *, warm_up: int = 0) -> list[int]:
    """How many steps the agent trains in each round: whole multiples of `unit`, never too many.

    By the end of round k the agent has trained for the share (k + 1) / n_rounds of the steps after
    the warm-up, rounded down to whole units: what one round leaves over is carried into the next.
    The run ends less than one unit short of `n_steps` and never beyond.

    Args:
        n_steps: steps of the whole run, warm-up included, at least 1.
        n_rounds: rounds, at least 1.
        unit: what an agent can train on, a whole number of rollouts (and of episodes), at least 1.
        warm_up: steps already spent before round 0's training, at least 0.

    Returns:
        `n_rounds` numbers of steps, each at least `unit`.

    Raises:
        ConfigError: a number out of range, or fewer whole units than rounds.

    >>> steps_per_round(10_000, 3, 1_000)
    [3000, 3000, 4000]
    """
    _require_positive("--steps", n_steps, "steps of the whole run, warm-up included")
    _require_positive("--rounds", n_rounds, "rounds of asking, fitting and training")
    _require_positive("unit", unit, "steps of one rollout")
    if warm_up < 0:
        raise ConfigError(f"`warm_up` is {warm_up}, expected at least 0 (steps before round 0).")
    budget = n_steps - warm_up
    if budget // unit < n_rounds:
        raise ConfigError(
            f"`--steps` {n_steps} less {warm_up} of warm-up leaves {max(budget, 0)} steps, "
            f"{max(budget, 0) // unit} whole rollouts of {unit}, for {n_rounds} rounds that need "
            f"one each; set `--steps` to at least {warm_up + n_rounds * unit}, or lower the number "
            "of rounds, the warm-up or the length of a rollout."
        )
    done = [k * budget // (n_rounds * unit) for k in range(n_rounds + 1)]
    return [(after - before) * unit for before, after in pairwise(done)]
