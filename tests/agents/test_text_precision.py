"""Text trainers on bfloat16 weights: they learn what float32 learns, and resume bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_gym.agents.text.dpo_trainer import TextDPOTrainer
from rlhf_gym.agents.text.pairs import CompletionPairs
from rlhf_gym.agents.text.ppo_trainer import TextPPOTrainer
from rlhf_gym.agents.text.settings import TextDPOSettings, TextPPOSettings
from rlhf_gym.agents.text.sft import SFTData, SFTSettings, SFTTrainer
from rlhf_gym.errors import ConfigError
from rlhf_gym.language.batches import TokenBatch, encode_prompts
from rlhf_gym.language.models import LanguageModel, ValueHead
from rlhf_gym.language.reference import reference_of
from rlhf_gym.language.tokenizers import word_tokenizer

LETTERS = word_tokenizer(list("abc"), separator="")  # ids 3 to 5
RATE = 1e-6
PPO = TextPPOSettings(
    n_rollouts=4, batch_size=16, n_minibatches=2, max_new_tokens=5, learning_rate=RATE
)


def tiny(dtype: torch.dtype) -> LanguageModel:
    lm = LanguageModel.tiny(LETTERS, n_layers=2, d_model=16, n_heads=2, max_length=16, seed=3)
    lm.model.to(torch.bfloat16)  # both start from the same, rounded weights
    lm.model.to(dtype)
    return lm


def ppo(dtype: torch.dtype = torch.bfloat16) -> TextPPOTrainer:
    lm = tiny(dtype)

    def count_a(batch: TokenBatch, prompt_indices: Tensor) -> Tensor:
        return (batch.completion_ids == 3).sum(1).float()

    prompts = encode_prompts(LETTERS, ["", "a", "abc"], 5)
    head = ValueHead(16, seed=1)
    return TextPPOTrainer(lm, head, reference_of(lm), count_a, prompts, PPO, seed=7)


def dpo(dtype: torch.dtype = torch.bfloat16) -> TextDPOTrainer:
    lm = tiny(dtype)
    batch = TokenBatch.from_lists([[1, 4]] * 3, [[3, 2], [5, 4, 2], [4, 2]], 0, 2)
    pairs = CompletionPairs(
        batch, torch.tensor([0, 0]), torch.tensor([1, 2]), torch.ones(2), torch.ones(2)
    )
    settings = TextDPOSettings(n_epochs=20, batch_size=2, learning_rate=RATE)
    return TextDPOTrainer(lm, reference_of(lm), pairs, settings, seed=7)


def sft(dtype: torch.dtype = torch.bfloat16) -> SFTTrainer:
    settings = SFTSettings(
        n_epochs=8, batch_size=2, learning_rate=RATE, schedule="constant", warmup_fraction=0
    )
    return SFTTrainer(tiny(dtype), settings)


def fit(trainer: SFTTrainer) -> None:
    data = SFTData([[1, 4], [1], [1, 5, 5]], [[3, 4, 2], [5, 2], [3, 3, 2]])
    trainer.train(data, np.random.default_rng(0))


def moved(trainer: SFTTrainer | TextPPOTrainer | TextDPOTrainer, start: LanguageModel) -> Tensor:
    """What the masters of the language model's weights moved by."""
    n = len(list(start.model.parameters()))
    pairs = zip(trainer.optimiser.masters[:n], start.model.parameters(), strict=True)
    return torch.cat([(master - before.float()).flatten() for master, before in pairs]).detach()


@pytest.mark.parametrize("algorithm", ["sft", "ppo", "dpo"])
def test_masters_move_as_float32_weights_do(algorithm: str) -> None:
    moves, trained = [], []
    for dtype in (torch.bfloat16, torch.float32):
        if algorithm == "sft":
            trainer: SFTTrainer | TextPPOTrainer | TextDPOTrainer = sft(dtype)
            fit(trainer)  # type: ignore[arg-type]  # it is the SFT trainer
        else:
            trainer = ppo(dtype) if algorithm == "ppo" else dpo(dtype)
            trainer.train()
        moves.append(moved(trainer, tiny(torch.float32)))
        trained.append(
            torch.cat([p.detach().float().flatten() for p in trainer.lm.model.parameters()])
        )
    half, single = moves
    # Tokens that no text holds have no gradient but the head's, which is tied: all weights move.
    assert float((half != 0).float().mean()) > 0.95
    assert float((half != 0).float().mean()) >= 0.98 * float((single != 0).float().mean())
    # Rounding turns the sign of gradients near 0, and of nothing else. PPO's rollouts differ too.
    correlation = float(torch.corrcoef(torch.stack([half, single]))[0, 1])
    assert correlation > (0.5 if algorithm == "ppo" else 0.9)
    # bfloat16 has 8 bits: half a step is 2^-9 of the value; the masters are up to 1e-4 apart.
    assert torch.allclose(trained[0], trained[1], rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("make", [ppo, dpo])
def test_a_run_in_bfloat16_goes_on_bit_for_bit(make: type, tmp_path: Path) -> None:
    straight = make()
    straight.train(2)
    straight.save(tmp_path)
    straight.train(2)
    resumed = make()  # with the reference of the saved run, and nothing learned yet
    resumed.load(tmp_path)
    resumed.train(2)
    for one, two in zip(straight.optimiser.masters, resumed.optimiser.masters, strict=True):
        assert torch.equal(one, two)
    for one, two in zip(straight.lm.model.parameters(), resumed.lm.model.parameters(), strict=True):
        assert one.dtype == torch.bfloat16 and torch.equal(one, two)


def test_the_precision_saved_is_the_precision_resumed(tmp_path: Path) -> None:
    trainer = dpo()
    trainer.train(2)
    trainer.save(tmp_path)
    with pytest.raises(ConfigError, match="in the precision that it was saved in"):
        dpo(torch.float32).load(tmp_path)


def test_no_trainer_learns_in_float16() -> None:
    for make in (sft, dpo, ppo):
        with pytest.raises(ConfigError, match=r"torch\.float16"):
            make(torch.float16)
