from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rlhf_gym.envs.text.rewards import TextReward, TextRewards
from rlhf_gym.errors import ConfigError, DataError, NumericalError


def lengths(prompts: list[str], completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def score(rewards: TextRewards, completions: list[str], **columns: list[Any]) -> Any:
    n = len(completions)
    return rewards(["p"] * n, completions, [True] * n, columns)


def returns(value: Any) -> TextRewards:
    return TextRewards({"mine": lambda prompts, completions: value}, [])


def test_the_total_is_the_weighted_sum_and_every_component_is_kept() -> None:
    def starts(prompts: list[str], completions: list[str]) -> list[bool]:
        return [text.startswith("a") for text in completions]

    rewards = TextRewards(
        {
            "long": TextReward(lengths, 0.5),
            "starts": TextReward(starts, -2.0),  # type: ignore[arg-type]  # bools are numbers
            "logged": TextReward(lengths, 0.0),
        },
        [],
    )
    total, components = score(rewards, ["abc", "bc", ""])
    np.testing.assert_array_equal(components["long"], [3, 2, 0])
    np.testing.assert_array_equal(components["starts"], [1, 0, 0])
    np.testing.assert_array_equal(components["logged"], [3, 2, 0])
    np.testing.assert_array_equal(total, [0.5 * 3 - 2, 1.0, 0.0])
    assert total.dtype == np.float64


def test_one_function_alone_is_called_reward() -> None:
    total, components = score(TextRewards(lengths, []), ["ab"])
    assert list(components) == ["reward"]
    assert total.tolist() == [2.0]


def test_a_function_is_given_the_columns_that_it_names_and_no_others() -> None:
    seen: dict[str, Any] = {}

    def named(prompts: list[str], completions: list[str], *, answer: list[str]) -> list[float]:
        seen["named"] = answer
        return [0.0] * len(prompts)

    def everything(p: list[str], c: list[str], **columns: list[Any]) -> list[float]:
        seen["everything"] = columns
        return [0.0] * len(p)

    def optional(p: list[str], c: list[str], missing: int = 3) -> list[float]:
        seen["optional"] = missing
        return [0.0] * len(p)

    rewards = TextRewards(
        {"named": named, "everything": everything, "optional": optional}, ["answer", "level"]
    )
    rewards(["p", "q"], ["x", "y"], [True, False], {"answer": ["7", "8"], "level": [1, 2]})
    assert seen["named"] == ["7", "8"]
    assert seen["everything"] == {
        "answer": ["7", "8"],
        "level": [1, 2],
        "finished": [True, False],
    }
    assert seen["optional"] == 3


def test_a_function_that_changes_its_arguments_does_not_disturb_the_next() -> None:
    def spoil(prompts: list[str], completions: list[str], answer: list[str]) -> list[float]:
        completions.sort()
        answer.clear()
        return [0.0] * len(prompts)

    def check(prompts: list[str], completions: list[str], answer: list[str]) -> list[float]:
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    rewards = TextRewards({"spoil": spoil, "check": check}, ["answer"])
    assert score(rewards, ["b", "a"], answer=["b", "a"])[0].tolist() == [1.0, 1.0]


def test_a_column_that_is_not_there_is_refused_before_anything_runs() -> None:
    def wants(prompts: list[str], completions: list[str], answer: list[str]) -> list[float]:
        raise AssertionError("must not be called")

    with pytest.raises(ConfigError, match=r"'mine' asks for the column 'answer'.*'finished', 'lev"):
        TextRewards({"mine": wants}, ["level"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0], "returned 1 values for 2 completions"),
        ([1.0, 2.0, 3.0], "returned 3 values for 2 completions"),
        ([1.0, "2"], "returned '2' for completion 1, a str"),
        ([None, 1.0], "returned None for completion 0, a NoneType"),
        ([[1.0], [2.0]], r"returned \[1.0\] for completion 0, a list"),
        (np.zeros((2, 1)), "for completion 0, a ndarray"),
        ("12", "returned a str, expected a list of 2 numbers"),
        (3.0, "returned a float, expected a list of 2 numbers"),
        (None, "returned a NoneType"),
        ((x for x in (1.0, 2.0)), "returned a generator"),
    ],
)
def test_a_reward_that_is_no_list_of_numbers_gets_one_clear_error(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(returns(value), ["a", "b"])


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_names_component_and_row(wrong: float) -> None:
    with pytest.raises(NumericalError, match=r"'mine' returned .* for completion 1 \(1 of 2"):
        score(returns([0.0, wrong]), ["a", "b"])


@pytest.mark.parametrize("value", [[1, True], (1.0, np.float32(1)), np.array([1, 1], np.int8)])
def test_lists_tuples_and_arrays_of_any_numbers_are_taken(value: Any) -> None:
    assert score(returns(value), ["a", "b"])[0].tolist() == [1.0, 1.0]


def test_what_cannot_be_a_reward_is_refused() -> None:
    with pytest.raises(ConfigError, match="is a int, expected a function"):
        TextReward(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="weight is nan"):
        TextReward(lengths, math.nan)
    with pytest.raises(ConfigError, match="is empty"):
        TextRewards({}, [])
