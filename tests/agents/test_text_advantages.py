from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_gym.agents.text.advantages import apply_missing_eos, gae, kl_per_token, kl_rewards
from rlhf_gym.agents.text.kl_control import KLController
from rlhf_gym.errors import ConfigError, DataError, NumericalError

MASK = torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.bool)


def brute_force_gae(
    rewards: Tensor, values: Tensor, lengths: list[int], gamma: float, lam: float
) -> Tensor:
    """A_t = sum over k of (gamma lam)^k (r_{t+k} + gamma V_{t+k+1} - V_{t+k}), as eq. 16 reads."""
    out = torch.zeros_like(rewards)
    for b, length in enumerate(lengths):
        for t in range(length):
            for k in range(length - t):
                behind = values[b, t + k + 1] if t + k + 1 < length else 0.0
                delta = rewards[b, t + k] + gamma * behind - values[b, t + k]
                out[b, t] += (gamma * lam) ** k * delta
    return out


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    gamma=st.sampled_from([1.0, 0.9]),
    lam=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    seed=st.integers(0, 99),
)
def test_gae_equals_the_double_sum(lengths: list[int], gamma: float, lam: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(len(lengths), 7, generator=generator, dtype=torch.float64)
    values = torch.randn(len(lengths), 7, generator=generator, dtype=torch.float64)
    mask = torch.arange(7)[None, :] < torch.tensor(lengths)[:, None]
    # What stands in the padding must not matter: it is left in on purpose.
    found = gae(rewards, values, mask, gamma, lam)
    expected = brute_force_gae(rewards, values, lengths, gamma, lam)
    assert (found.advantages - expected).abs().max().item() <= 1e-6
    assert (found.returns - (expected + values * mask)).abs().max().item() <= 1e-6


def test_with_lambda_one_the_returns_are_the_rewards_to_go() -> None:
    rewards = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 4.0]])
    found = gae(rewards, torch.full((2, 3), 9.0), MASK, 1.0, 1.0)
    assert found.returns.tolist() == [[3.0, 2.0, 0.0], [7.0, 6.0, 4.0]]


def test_the_score_stands_on_the_last_real_token_and_the_kl_on_each() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -7.0], [-1.0, -1.0, -1.0]])
    ref = torch.tensor([[-2.0, -1.0, -9.0], [-1.0, -3.0, -1.0]])
    rewards = kl_rewards(torch.tensor([10.0, 20.0]), logprobs, ref, MASK, 0.5)
    # -0.5 (log pi - log ref): -.5, +.5 and 0, -1, 0; the score on positions 1 and 2.
    assert rewards.tolist() == [[-0.5, 10.5, 0.0], [0.0, -1.0, 20.0]]
    per_token = kl_rewards(torch.ones(2, 3), logprobs, ref, MASK, 0.5)
    assert per_token.tolist() == [[0.5, 1.5, 0.0], [1.0, 0.0, 1.0]]


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match="one per completion"):
        kl_rewards(torch.zeros(3), torch.zeros(2, 3), torch.zeros(2, 3), MASK, 0.1)


def test_k1_and_k3_estimate_the_exact_kl_and_k3_is_never_negative() -> None:
    pi, ref = (
        torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64),
        torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64),
    )
    exact = sum(p * math.log(p / q) for p, q in zip(pi.tolist(), ref.tolist(), strict=True))
    for kind in ("k1", "k3"):
        expectation = (pi * kl_per_token(pi.log(), ref.log(), kind)).sum()  # over all three tokens
        assert expectation.item() == pytest.approx(exact, abs=1e-12)
    assert (kl_per_token(pi.log(), ref.log(), "k3") >= 0).all()
    assert (kl_per_token(pi.log(), ref.log(), "k1") < 0).any()
    with pytest.raises(ConfigError, match="k1"):
        kl_per_token(pi, ref, "k2")  # type: ignore[arg-type]  # wrong on purpose


def test_only_k1_in_the_reward_gives_the_gradient_of_the_kl() -> None:
    # E[f grad log pi] for f = k1 is the gradient of KL(pi || ref); for f = k3 it is another vector.
    logits = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64).log()
    logp = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits, retain_graph=True)

    def score_function_gradient(kind: str) -> Tensor:
        f = kl_per_token(logp, ref, kind).detach()  # type: ignore[arg-type]  # both are kinds
        (gradient,) = torch.autograd.grad(
            (logp.exp().detach() * f * logp).sum(), logits, retain_graph=True
        )
        return gradient

    assert torch.allclose(score_function_gradient("k1"), exact, atol=1e-12)
    assert (score_function_gradient("k3") - exact).abs().max().item() > 0.01


def test_the_two_rules_for_a_missing_eos() -> None:
    scores, finished = torch.tensor([2.0, 2.0, -5.0]), torch.tensor([True, False, False])
    assert apply_missing_eos(scores, finished, 1.0).tolist() == [2.0, 1.0, -6.0]
    assert apply_missing_eos(scores, finished, 1.0, "replace").tolist() == [2.0, -1.0, -1.0]
    assert apply_missing_eos(scores, finished, None, "replace").tolist() == scores.tolist()
    with pytest.raises(ConfigError, match="missing_eos"):
        apply_missing_eos(scores, finished, 1.0, "drop")  # type: ignore[arg-type]  # on purpose


# -- the price of KL -------------------------------------------------------------------------------


def test_a_fixed_coefficient_stays() -> None:
    controller = KLController(0.05)
    controller.update(1e9, 10_000)
    assert controller.coef == 0.05


def test_the_adaptive_coefficient_follows_zieglers_rule() -> None:
    controller = KLController(0.1, target=6.0, horizon=1000)
    controller.update(6.6, 100)  # error .1: 0.1 (1 + .1 * .1)
    assert controller.coef == pytest.approx(0.101)
    controller.update(60.0, 100)  # error 9, cut to .2: factor 1.02
    assert controller.coef == pytest.approx(0.101 * 1.02)
    controller.update(-3.0, 500)  # error -1.5, cut to -.2: factor .9
    assert controller.coef == pytest.approx(0.101 * 1.02 * 0.9)


def test_the_adaptive_coefficient_finds_the_price_of_its_target() -> None:
    controller = KLController(0.01, target=5.0, horizon=500)
    for _ in range(2000):  # a policy whose KL is 1 / coef
        controller.update(1 / controller.coef, 100)
    assert controller.coef == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize(
    "arguments", [(-0.1,), (math.nan,), (0.1, 0.0), (0.1, math.nan), (0.0, 6.0), (0.1, 6.0, 0)]
)
def test_a_controller_that_cannot_work_is_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="`kl_"):
        KLController(*arguments)  # type: ignore[arg-type]  # the horizon is an int here


def test_a_nan_kl_stops() -> None:
    with pytest.raises(NumericalError, match="NaN"):
        KLController(0.1, target=6.0).update(math.nan, 10)
