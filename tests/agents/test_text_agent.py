"""A language model from elsewhere: its tokenizer, the room for its texts, and what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlhf_gym.agents.text.agent_settings import load_text_settings
from rlhf_gym.agents.text.ppo_agent import TextPPOAgent
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import train_byte_bpe
from rlhf_gym.text_clips import clip_finished, clip_text

ENV = "rlhf_gym/Sentiment-v0"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bytes with few merges: a word is several tokens; "Z", too, ends a text."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_byte_bpe(["the film was very good and this plot seemed dull ."] * 5, 280)
    lm = LanguageModel.tiny(tokenizer, n_layers=1, d_model=16, n_heads=2, max_length=256)
    stop = tokenizer.convert_tokens_to_ids("Z")  # in no review, and one in 280 of random tokens
    lm.model.generation_config.eos_token_id = [lm.eos_id, stop]
    lm.save(folder)
    return folder


def agent_of(model: Path, n_examples: int = 400, **env_kwargs: int) -> TextPPOAgent:
    settings = load_text_settings(ENV, {"n_sft_examples": n_examples})
    agent = TextPPOAgent(
        ENV, n_run_steps=128, settings=settings, model=str(model), env_kwargs=env_kwargs
    )
    agent.begin_round(np.random.SeedSequence(0))
    return agent


def test_no_completion_is_cut_under_the_models_own_tokenizer(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = agent_of(model)
    assert agent.task.max_new_tokens > 30, "words alone would have been 20"
    data = agent._corpus(np.random.default_rng(0), 400)
    assert (data.n_truncated_prompts, data.n_truncated_completions) == (0, 0)
    assert all(row[-1] == agent.lm.eos_id for row in data.completions)
    assert "lost their end" not in caplog.text


def test_another_limit_cuts_and_says_how_many(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = agent_of(model, max_new_tokens=20)
    data = agent._corpus(np.random.default_rng(0), 400)
    n_cut = data.n_truncated_completions
    assert n_cut == sum(row[-1] != agent.lm.eos_id for row in data.completions) > 0
    assert f"fine-tuning, of 400 examples: {n_cut} completions lost their end" in caplog.text


def test_clips_join_their_prompts_and_know_every_end(model: Path) -> None:
    agent = agent_of(model)
    rows = np.arange(48)
    batch = agent._sample(rows, agent._generator, agent.lm)
    scores = agent._scores(batch, rows)
    ended_otherwise = 0
    for row, (clip, ids) in enumerate(
        zip(agent._blind_clips(batch, rows), batch.completion_lists(), strict=True)
    ):
        prompt, completion = clip_text(clip)
        assert prompt + completion == agent.task.whole_text(row, ids)
        assert completion == scores.texts[row]
        assert clip_finished(clip) == (ids[-1] in (agent.lm.eos_id, *agent.lm.also_ends))
        assert (scores.finish_reasons[row] == "eos") == clip_finished(clip)
        ended_otherwise += ids[-1] in agent.lm.also_ends
    assert ended_otherwise > 0
