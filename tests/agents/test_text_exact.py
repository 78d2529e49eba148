"""PPO, DPO and IPO against optima that are computed here by writing down every completion.

The toy: tokens EOS, a, b, c; a completion ends at EOS or after five tokens. The reward is the
number of "ab", less 1 where it did not end by itself; the reference is uniform over the four.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rlhf_gym.agents.text.dpo_trainer import TextDPOTrainer
from rlhf_gym.agents.text.losses import DPOLossType
from rlhf_gym.agents.text.pairs import CompletionPairs
from rlhf_gym.agents.text.ppo_trainer import TextPPOTrainer
from rlhf_gym.agents.text.settings import TextDPOSettings, TextPPOSettings
from rlhf_gym.language.batches import TokenBatch, encode_prompts
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.scores import completion_scores
from rlhf_gym.language.tokenizers import word_tokenizer

PAD, BOS, EOS, A, B, C = range(6)
T = 5


def all_sequences() -> list[list[int]]:
    ended = [
        [*row, EOS] for n in range(T) for row in itertools.product((A, B, C), repeat=n)
    ]  # 1 + 3 + 9 + 27 + 81
    cut = [list(row) for row in itertools.product((A, B, C), repeat=T)]  # 243
    return ended + cut


def true_reward(row: list[int]) -> int:
    n_ab = sum(pair == (A, B) for pair in itertools.pairwise(row))
    return n_ab - (row[-1] != EOS)


SEQUENCES = all_sequences()
TABLE = TokenBatch.from_lists([[BOS]] * len(SEQUENCES), SEQUENCES, PAD, EOS)
REWARDS = torch.tensor([true_reward(row) for row in SEQUENCES], dtype=torch.float64)
LOG_REF = -math.log(4) * torch.tensor([len(row) for row in SEQUENCES], dtype=torch.float64)


class Uniform:
    """The reference: each of the four tokens equally likely, whatever stands before."""

    def completion_logprobs(self, batch: TokenBatch, temperature: float) -> Tensor:
        return torch.where(batch.completion_mask, -math.log(4), 0.0)


def reward(batch: TokenBatch, prompt_indices: Tensor) -> list[float]:
    return [float(true_reward(row)) for row in batch.completion_lists()]


def tiny(seed: int) -> LanguageModel:
    tokenizer = word_tokenizer(["a", "b", "c"], separator="")
    return LanguageModel.tiny(
        tokenizer, n_layers=1, d_model=32, n_heads=2, max_length=16, seed=seed
    )


@torch.no_grad()
def log_policy(lm: LanguageModel) -> Tensor:
    return completion_scores(lm, TABLE).logprobs.double().sum(1)  # (364,)


def optimum(beta: float) -> Tensor:
    """log pi* of E r - beta KL(pi || ref): pi* is proportional to ref exp(r / beta)."""
    return torch.log_softmax(LOG_REF + REWARDS / beta, 0)


def kl(log_p: Tensor, log_q: Tensor) -> float:
    return float((log_p.exp() * (log_p - log_q)).sum())


def total_variation(log_p: Tensor, log_q: Tensor) -> float:
    return float((log_p.exp() - log_q.exp()).abs().sum() / 2)


def objective(log_p: Tensor, beta: float) -> float:
    return float((log_p.exp() * REWARDS).sum()) - beta * kl(log_p, LOG_REF)


@dataclass(frozen=True)
class Outcome:
    gap: float  # KL(pi || pi*)
    kl_to_ref: float
    identity_error: float  # |J* - J - beta KL(pi || pi*)|
    history: list[dict[str, float]]


def run_ppo(beta: float, kl_coef: float, n_rollouts: int, seed: int = 0) -> Outcome:
    lm = tiny(seed)
    settings = TextPPOSettings(
        n_rollouts=n_rollouts,
        batch_size=256,
        max_new_tokens=T,
        learning_rate=3e-3,
        kl_coef=kl_coef,
        clip_range_vf=None,
        vf_coef=0.5,
    )
    trainer = TextPPOTrainer(
        lm,
        ValueHead(lm.hidden_size, seed=seed),
        Uniform(),
        reward,
        encode_prompts(lm.tokenizer, [""], 1),
        settings,
        seed=seed,
    )
    history = trainer.train()
    pi, best = log_policy(lm), optimum(beta)
    best_objective = beta * float(torch.logsumexp(LOG_REF + REWARDS / beta, 0))
    gap = kl(pi, best)
    error = best_objective - objective(pi, beta) - beta * gap
    return Outcome(gap, kl(pi, LOG_REF), abs(error), history)


def test_the_toy_has_the_figures_of_a_backward_recursion() -> None:
    # Computed in another way, by backward soft recursion, for T = 5: E_ref r = -.0664;
    # J* = .1655 and KL* = .5617 at beta .5; J* = .5085 and KL* = 3.0750 at beta .25.
    assert len(SEQUENCES) == 364
    assert float(LOG_REF.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert float((LOG_REF.exp() * REWARDS).sum()) == pytest.approx(-0.0664, abs=5e-5)
    for beta, best, distance in ((0.5, 0.1655, 0.5617), (0.25, 0.5085, 3.0750)):
        assert objective(optimum(beta), beta) == pytest.approx(best, abs=5e-5)
        assert kl(optimum(beta), LOG_REF) == pytest.approx(distance, abs=5e-5)


@pytest.mark.parametrize(
    ("beta", "n_rollouts", "limit"), [(0.5, 25, 0.04), (0.25, 35, 0.10)], ids=["0.5", "0.25"]
)
def test_ppo_reaches_the_optimum_of_the_kl_regularised_objective(
    beta: float, n_rollouts: int, limit: float
) -> None:
    outcome = run_ppo(beta, beta, n_rollouts)
    assert outcome.gap <= limit
    assert outcome.identity_error <= 1e-5
    # Within 15 %: the KL that PPO spends is the optimum's, not less by not having moved.
    assert outcome.kl_to_ref == pytest.approx(kl(optimum(beta), LOG_REF), rel=0.15)
    assert max(row["first_ratio_error"] for row in outcome.history) <= 1e-4


def test_ppo_without_a_kl_term_misses_that_optimum() -> None:
    outcome = run_ppo(0.5, 0.0, 12)
    assert outcome.gap > 0.04 * 5
    assert outcome.kl_to_ref > 2 * kl(optimum(0.5), LOG_REF)


def run_dpo(loss_type: DPOLossType, beta: float, n_updates: int) -> tuple[Tensor, Tensor]:
    """Train on all pairs with soft labels; (log pi, P(better) of every pair as a matrix)."""
    lm = tiny(0)
    better = torch.sigmoid(REWARDS[:, None] - REWARDS[None, :])
    i, j = torch.triu_indices(len(SEQUENCES), len(SEQUENCES), 1)
    pairs = CompletionPairs(TABLE, i, j, better[i, j].float(), torch.ones(len(i)))
    settings = TextDPOSettings(
        loss_type=loss_type,
        beta=beta,
        n_epochs=n_updates,
        batch_size=len(i),
        learning_rate=5e-3,
    )
    trainer = TextDPOTrainer(lm, Uniform(), pairs, settings)
    history = trainer.train()
    assert len(history) == n_updates
    return log_policy(lm), better


def test_dpo_with_soft_labels_on_all_pairs_is_the_optimum() -> None:
    pi, _ = run_dpo("sigmoid", 0.5, 180)
    assert kl(optimum(0.5), pi) <= 0.01
    assert total_variation(optimum(0.5), pi) <= 0.05


def test_ipo_reaches_its_own_optimum_and_not_dpos() -> None:
    # The least-squares fit f(y) - f(y') to (2 p - 1) / (2 beta) over all pairs, equally weighted,
    # is f(y) = mean over y' of (2 p(y, y') - 1) / (2 beta), up to a constant: targets that are
    # antisymmetric project onto differences by their row means.
    pi, better = run_dpo("ipo", 0.25, 100)
    ipo_optimum = torch.log_softmax(LOG_REF + (better.mean(1) - 0.5) / 0.25, 0)
    assert kl(ipo_optimum, pi) <= 0.01
    assert total_variation(ipo_optimum, pi) <= 0.05
    assert kl(optimum(0.25), pi) > 0.1
