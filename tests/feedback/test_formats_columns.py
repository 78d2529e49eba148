"""Where a row's question stands: found by its name, asked for, and never lost, doubled or cut."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_gym.data import Choice
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.feedback.formats.chosen_rejected import read_trl
from rlhf_gym.feedback.formats.columns import Columns
from rlhf_gym.feedback.formats.read_row import Remark

ANSWERS = {"chosen": "It is 4.", "rejected": "It is 5."}
HUMAN = "\n\nHuman: Two?\n\nAssistant:"


def message(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def talk(*texts: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant") * len(texts)
    return [message(role, text) for role, text in zip(roles, texts, strict=False)]


def texts(row: dict[str, Any], columns: Columns = Columns()) -> tuple[str, str, str]:  # noqa: B008  # frozen
    """(prompt, chosen, rejected) of a row."""
    (pair,) = read_trl(row, columns).pairs
    both = (pair.first, pair.second)
    return (pair.prompt, *(both if pair.choice is Choice.FIRST else both[::-1]))


@pytest.mark.parametrize(
    ("columns", "prompt"),
    [
        ({"question": "Two?"}, "Two?"),
        ({"input": "Two?"}, "Two?"),
        ({"query": "Two?"}, "Two?"),
        ({"instruction": "Add."}, "Add."),
        ({"instruction": "Add.", "input": "2 + 2"}, "Add.\n\n2 + 2"),
        ({"instruction": "Add.", "input": ""}, "Add."),
        ({"instruction": "Add.", "input": None}, "Add."),
        ({"system": "Be brief.", "question": "Two?"}, "Be brief.\n\nTwo?"),
        ({"system": "", "question": "Two?"}, "Two?"),
        ({"system": "Be brief.", "prompt": talk("Two?")}, f"\n\nSystem: Be brief.{HUMAN}"),
        ({"prompt": None, "question": "Two?"}, "Two?"),
        ({"prompt": "Q: Two?", "question": "Two?", "input": " Two? "}, "Q: Two?"),
        ({"prompt": talk("Two?"), "question": "Two?"}, HUMAN),
    ],
)
def test_the_question_is_found_under_its_usual_names(columns: dict[str, Any], prompt: str) -> None:
    is_talk = isinstance(columns.get("prompt"), list)
    front = " " if is_talk else ""
    expected = (prompt, front + ANSWERS["chosen"], front + ANSWERS["rejected"])
    assert texts({**columns, **ANSWERS, "id": 1}) == expected
    assert read_trl({**columns, **ANSWERS, "id": 1}).used == {*columns, *ANSWERS}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": "Two?", "question": "Three?"}, "`prompt` and `question` hold different texts"),
        ({"question": "Two?", "input": "2"}, "`question` and `input` hold different texts"),
        ({"frage": "Two?", "id": "a"}, r"columns are frage, .*`--columns prompt=frage`"),
        ({"conversation": talk("Two?")}, "If it is in `conversation`"),
        ({"prompt": None}, "it has no prompt; the columns are prompt, chosen, rejected"),
        ({"prompt": "", "system": "Be brief."}, "it has no prompt"),
        ({"system": "Be brief."}, "it has no prompt"),
        ({"question": 7}, "`question` is 7, text or a list"),
    ],
)
def test_a_question_that_cannot_be_told_is_asked_for(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_trl({**columns, **ANSWERS})


def test_words_that_only_the_answers_share_are_no_prompt_when_a_column_may_be_it() -> None:
    row = {"frage": "Two?", **ANSWERS}
    named = Columns({"chosen": "chosen", "rejected": "rejected"})
    assert texts(row, Columns({"prompt": "frage"})) == ("Two?", "It is 4.", "It is 5.")
    assert texts(row, named) == ("It is", " 4.", " 5.")  # said outright: the others do not count
    assert texts(row, Columns(no_prompt=True)) == ("", "It is 4.", "It is 5.")
    assert texts({**ANSWERS, "prompt_id": "a", "source": "b"}) == ("It is", " 4.", " 5.")


def test_columns_named_by_the_caller_count_before_the_usual_ones() -> None:
    row = {"q": "Two?", "context": "Sums.", "a": "4", "b": "5", "prompt": "no", "mine": 3}
    roles = {"prompt": "q", "input": "context", "chosen": "a", "rejected": "b", "margin": "mine"}
    read = read_trl(row, Columns(roles))
    assert texts(row, Columns(roles)) == ("Two?\n\nSums.", "4", "5")
    assert read.pairs[0].margin == 3.0
    assert read.used == {"q", "context", "a", "b", "mine"}
    with pytest.raises(DataError, match="column `x` is missing; the columns are q, context"):
        read_trl(row, Columns({**roles, "prompt": "x"}))
    with pytest.raises(DataError, match="names one score"):
        read_trl(row, Columns({**roles, "score_chosen": "mine"}))
    with pytest.raises(ConfigError, match="answer=x"):
        Columns({"answer": "x"})


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"prompt": "Two?", "chosen": "Two? 4", "rejected": "Two? 5"},
            ("Two?", " 4", " 5"),
        ),
        (
            {"prompt": HUMAN, "chosen": f"{HUMAN} 4", "rejected": f"{HUMAN} 5"},
            (HUMAN, " 4", " 5"),
        ),
        (
            {"prompt": "Two?", "chosen": f"{HUMAN} 4", "rejected": f"{HUMAN} 5"},
            (HUMAN, " 4", " 5"),
        ),
        (
            {"prompt": talk("Two?"), "chosen": talk("Two?", "4"), "rejected": talk("Two?", "5")},
            (HUMAN, " 4", " 5"),
        ),
        (
            {"prompt": talk("Two?"), "chosen": f"{HUMAN} 4", "rejected": f"{HUMAN} 5"},
            (HUMAN, " 4", " 5"),
        ),
        (
            {"system": "S", "prompt": "Two?", "chosen": "S\n\nTwo? 4", "rejected": "S\n\nTwo? 5"},
            ("S\n\nTwo?", " 4", " 5"),
        ),
        (
            {"system": "S", "prompt": "二？", "chosen": "二？四", "rejected": "二？五"},
            ("S\n\n二？", "四", "五"),
        ),
    ],
)
def test_a_prompt_that_both_answers_repeat_is_kept_once(
    row: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert texts(row) == expected
    assert read_trl(row).remarks == {Remark.REPEATED}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "the", "chosen": "there", "rejected": "then"},
        {"prompt": "Two?", "chosen": "Two? 4", "rejected": "5"},
        {"prompt": "e", "chosen": "e\u0301 4", "rejected": "e\u0301 5"},
    ],
)
def test_an_answer_that_only_seems_to_repeat_the_prompt_is_left_whole(row: dict[str, Any]) -> None:
    assert texts(row) == (row["prompt"], row["chosen"], row["rejected"])


def test_ultrafeedback_rows_take_the_prompt_from_their_conversations() -> None:
    one, two = talk("Two?", "4"), talk("Two?", "5")
    row = {"prompt": "Two?", "chosen": one, "rejected": two, "messages": one}
    assert texts(row) == (HUMAN, " 4", " 5")
    assert read_trl(row).remarks == set()
    assert read_trl(row).used == {"prompt", "chosen", "rejected"}
    assert read_trl({**row, "prompt": "Three?"}).remarks == {Remark.OTHER_PROMPT}


def test_conversations_share_messages_by_role_and_words_alone() -> None:
    one = [message("user", "Two?", id=1), message("assistant", "4", id=2)]
    two = [message("user", "Two?", id=3), message("assistant", "5", id=4)]
    assert texts({"chosen": one, "rejected": two}) == (HUMAN, " 4", " 5")


def test_a_prompt_beside_bare_answers_is_a_turn_of_the_conversation() -> None:
    row = {"prompt": "Two?", "chosen": talk("", "4")[1:], "rejected": talk("", "5")[1:]}
    assert texts(row) == (HUMAN, " 4", " 5")
    system = [message("system", "S"), *talk("Two?")]
    rows = {"prompt": system, "system": "T", **{k: talk("", v)[1:] for k, v in ANSWERS.items()}}
    assert texts(rows)[0] == f"\n\nSystem: S{HUMAN}"
    with pytest.raises(DataError, match="no prompt"):
        read_trl({key: row[key] for key in ("chosen", "rejected")})


@pytest.mark.parametrize(
    ("extra", "choice", "remarks"),
    [
        ({"margin": 0}, Choice.TIE, {Remark.EQUAL}),
        ({"margin": 0.5}, None, set()),
        ({"score_chosen": 2, "score_rejected": 2.0}, Choice.TIE, {Remark.EQUAL}),
        ({"chosen_score": 1, "rejected_score": 2}, None, {Remark.AGAINST_SCORES}),
        ({"rating_chosen": "good", "rating_rejected": "bad"}, None, set()),
        ({"score_chosen": 2}, None, set()),
    ],
)
def test_margins_and_scores_do_what_they_say(
    extra: dict[str, Any], choice: Choice | None, remarks: set[Remark]
) -> None:
    read = read_trl({"prompt": "p", **ANSWERS, **extra})
    (pair,) = read.pairs
    assert (pair.choice is Choice.TIE) == (choice is Choice.TIE)
    assert read.remarks == remarks


@pytest.mark.parametrize("value", [float("nan"), 10**400])
def test_a_score_that_is_no_finite_number_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="`score_chosen` is no finite number"):
        read_trl({"prompt": "p", **ANSWERS, "score_chosen": value, "score_rejected": 1})
