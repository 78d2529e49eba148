"""Rounds of small queries, and a labeller who works through them."""

from __future__ import annotations

import numpy as np

from rlhf_gym.data import Clip, Query
from rlhf_gym.feedback.desk import DeskSettings, LabelDesk, Question

PLAIN = DeskSettings(gold_share=0, repeat_share=0)


def make_query(index: int, round_: int = 0) -> Query:
    """Clip returns are 6 * index and 6 * index + 3, so the second one is better."""

    def clip(i: int) -> Clip:
        obs, actions = np.full((4, 2), i, np.float32), np.full((3, 1), -i, np.float32)
        return Clip(obs, actions, "Env-v0", true_rewards=np.full(3, i, np.float32))

    start = 1000 * round_ + 2 * index
    return Query((clip(start), clip(start + 1)), seed=7, round=round_, index=index)


def make_round(n: int, round_: int = 0) -> list[Query]:
    return [make_query(index, round_) for index in range(n)]


def ids(questions: list[Question]) -> list[str]:
    return [question.query.id for question in questions]


def answer_all(desk: LabelDesk, n: int, side: str = "left") -> list[Question]:
    asked = []
    for _ in range(n):
        [question] = desk.upcoming(1)
        desk.answer(question, side, shown_at=0.0)  # type: ignore[arg-type]
        asked.append(question)
    return asked
