"""How many completions a text agent draws for the questions that are wanted of them."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from rlhf_gym.agents.text.agent_settings import load_text_settings
from rlhf_gym.agents.text.ppo_agent import TextPPOAgent
from rlhf_gym.data import Clip
from rlhf_gym.text_clips import text_clip

ENV = "rlhf_gym/Arithmetic-v0"


@pytest.fixture(scope="module")
def agent() -> TextPPOAgent:
    small = {"model": {"n_layers": 1, "d_model": 16, "n_heads": 2}}
    return TextPPOAgent(ENV, n_run_steps=128, settings=load_text_settings(ENV, small), seed=0)


def n_pairs(clips: list[Clip]) -> int:
    """By listing them all."""
    return sum(a.context_id == b.context_id for a, b in combinations(dict.fromkeys(clips), 2))


@pytest.mark.parametrize("accuracy", [0.0, 0.7, 0.95, 1.0])
def test_prompts_are_drawn_until_there_are_pairs_enough(
    agent: TextPPOAgent, monkeypatch: pytest.MonkeyPatch, accuracy: float
) -> None:
    draws: list[list[Clip]] = []
    chance = np.random.default_rng(5)

    def completed(batch: Any, rows: np.ndarray) -> tuple[list[Clip], None]:
        texts = ["right" if chance.random() < accuracy else f"wrong {k}" for k in range(len(rows))]
        prompts = [str(row) for row in rows]
        draws.append([text_clip(p, t, True) for p, t in zip(prompts, texts, strict=True)])
        return draws[-1], None

    monkeypatch.setattr(agent, "_sample", lambda *_: None)
    monkeypatch.setattr(agent, "_as_clips", completed)
    clips = agent.clips(150, 0, np.random.default_rng(0))  # of which 50 questions are to be made
    assert {len(draw) for draw in draws} == {150} and len(set(clips)) == len(clips)
    assert n_pairs(clips) >= 50 or len(draws) == 8
    before = [clip for draw in draws[:-1] for clip in draw]
    assert n_pairs(before) < 50, "it stops as soon as there are enough"
    assert {0.0: len(draws) == 1, 1.0: len(draws) == 8}.get(accuracy, 1 <= len(draws) <= 8)


def test_the_same_generator_draws_the_same_completions(agent: TextPPOAgent) -> None:
    first, again, other = (agent.clips(30, 0, np.random.default_rng(k)) for k in (0, 0, 1))
    assert first == again != other
