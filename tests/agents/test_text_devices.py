"""Where the text algorithms put their tensors; "meta" stands in for a GPU, being elsewhere too."""

from __future__ import annotations

import pytest
import torch

from rlhf_gym.agents.text.agent_settings import TextAgentSettings
from rlhf_gym.agents.text.ppo_agent import TextPPOAgent
from rlhf_gym.agents.text.sft import SFTData
from rlhf_gym.agents.text.trainer_state import TrainerState
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import word_tokenizer


def test_a_tiny_model_moves_with_the_ids_it_never_writes() -> None:
    agent = object.__new__(TextPPOAgent)
    agent.env_id, agent.settings = "rlhf_gym/Format-v0", TextAgentSettings()
    lm, _ = agent._make(None, 0, "meta", None)
    assert lm.device.type == lm.forbidden.device.type == "meta"


def test_examples_are_checked_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = LanguageModel.tiny(
        word_tokenizer(list("ab"), separator=""), n_layers=1, d_model=8, n_heads=2, max_length=8
    ).to("meta")
    seen: list[str] = []

    def check(self: LanguageModel, batch: TokenBatch) -> TokenBatch:
        seen.append(batch.completion_ids.device.type)
        return batch

    monkeypatch.setattr(LanguageModel, "check", check)
    batch = SFTData([[1, 3]], [[4, 2]]).batch(lm, [0])
    assert seen == ["meta"] == [batch.completion_ids.device.type]


def test_a_generators_state_of_another_kind_of_device_is_left() -> None:
    generator = torch.Generator().manual_seed(3)
    same, other = torch.Generator().manual_seed(4).get_state(), torch.zeros(16, dtype=torch.uint8)
    TrainerState({}, {}, other, {}).restore_generator(generator)  # 16 bytes: CUDA's
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(3).get_state())
    TrainerState({}, {}, same, {}).restore_generator(generator)
    assert torch.equal(generator.get_state(), same)
