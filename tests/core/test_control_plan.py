"""The plan of a run on robots: how many random steps before the first question."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rlhf_gym.errors import ConfigError
from rlhf_gym.feedback.settings import RewardModelSettings
from rlhf_gym.loop import Plan
from rlhf_gym.train_config import TrainConfig
from rlhf_gym.training import prepare

CHEETAH, POINT_MASS = "rlhf_gym/HalfCheetah-v0", "rlhf_gym/PointMass-v0"


def plan_of(env: str = POINT_MASS, **options: Any) -> Plan:
    return prepare(TrainConfig(env=env, **options)).plan


def test_every_first_question_has_its_own_random_steps_however_many_answer_it() -> None:
    # 7,000 answers, a quarter at first, 5 to a question: 350 questions of clips of 50 steps.
    plan = plan_of(CHEETAH, labels=7000, answers_per_query=5, teacher="human")
    assert abs(plan.warm_up - 350 * 50) <= 8 * 500  # to whole episodes of 1,000 steps of each env
    alone = plan_of(CHEETAH, labels=1400)
    assert alone.warm_up == plan.warm_up


def test_one_round_asks_everything_at_once_and_warms_up_for_it() -> None:
    plan = plan_of(CHEETAH, labels=1400, rounds=1)
    assert plan.labels == [1400]
    assert abs(plan.warm_up - 1400 * 50) <= 8 * 500


@pytest.mark.parametrize("env", [CHEETAH, POINT_MASS])
@pytest.mark.parametrize("warm_up", [0.05, 0.4])
@pytest.mark.parametrize("steps", [100, 2100, 9048])
def test_the_budget_that_is_advised_is_accepted(env: str, warm_up: float, steps: int) -> None:
    options: dict[str, Any] = {"labels": 700, "warm_up": warm_up}
    try:
        plan_of(env, steps=steps, **options)
    except ConfigError as error:
        advised = re.search(r"--steps (\d+)", str(error))
        assert advised is not None
        plan_of(env, steps=int(advised.group(1)), **options)
        with pytest.raises(ConfigError, match="too few"):
            plan_of(env, steps=int(advised.group(1)) - 1, **options)


@pytest.mark.parametrize(("clip_length", "least"), [(10, 11), (25, 26), (50, 100)])
def test_one_env_warms_up_for_two_clips(clip_length: int, least: int) -> None:
    plan = plan_of(
        labels=1, clip_length=clip_length, warm_up=0.001, steps=4000,
        hyperparameters={"n_envs": 1, "n_steps": 100},
    )  # fmt: skip
    assert plan.warm_up >= least


def test_one_member_cannot_disagree() -> None:
    with pytest.raises(ConfigError, match="at least 2 members, found 1"):
        plan_of(acquisition="disagreement", ensemble=RewardModelSettings(n_members=1))


@pytest.mark.parametrize("steps", [300, 390, 410, 440])
def test_whole_episodes_of_warm_up_do_not_eat_the_only_round(steps: int) -> None:
    """Eight envs of 50 steps: rounded up to whole episodes, the warm-up alone would take 400."""
    small = {"n_envs": 8, "n_steps": 7, "batch_size": 56}
    assert plan_of(labels=700, steps=steps, hyperparameters=small).n_rounds >= 1


@pytest.mark.parametrize("rounds", [1, 2, 3, 40])
def test_without_waiting_the_last_round_is_kept_for_what_comes_late(rounds: int) -> None:
    plan = plan_of(labels=30, steps=5000, rounds=rounds, wait=False)
    assert sum(plan.labels) == 30 and plan.warm_up + sum(plan.steps) <= 5000
    assert plan.labels[0] > 0 and min(plan.steps) > 0
    assert (plan.labels[-1] == 0) == (plan.n_rounds > 1)
    assert all(n > 0 for n in plan.labels[:2][: max(plan.n_rounds - 1, 1)])
    assert plan_of(labels=30, steps=5000, rounds=rounds).steps == plan.steps or rounds == 2


def test_a_run_plans_the_same_from_what_it_wrote_down() -> None:
    for wait in (True, False):
        first = prepare(TrainConfig(env=POINT_MASS, labels=30, steps=3000, rounds=40, wait=wait))
        again = prepare(first.config)
        assert first.plan == again.plan and first.plan.n_rounds < first.config.rounds == 40
