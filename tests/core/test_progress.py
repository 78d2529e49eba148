from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rlhf_gym.closing_table import print_summary
from rlhf_gym.progress import (
    LiveProgress,
    PlainProgress,
    finite,
    make_progress,
    recovered_fraction,
    seconds_by_part,
    show_number,
    show_seconds,
)


def log_console(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def terminal(width: int = 80) -> Console:
    return Console(
        file=io.StringIO(), width=width, force_terminal=True, _environ={"TERM": "xterm-256color"}
    )


def output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def metrics(round_index: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "round": round_index,
        "env_steps": 16_400 * (round_index + 1),
        "n_labels": 201,
        "true_return_mean": 4512.3,
        "true_return_std": 61.2,
        "learned_return_mean": 12.34,
        "reward_accuracy_heldout": 0.8714,
        **changes,
    }


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands at clock[0] seconds."""
    now = [1000.0]
    monkeypatch.setattr("rlhf_gym.progress.time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (4512.3, "4,512"),
        (-280.4, "-280"),
        (93.44, "93.4"),
        (5.678, "5.68"),
        (0.8714, "0.871"),
        (-0.0001, "0.000"),
        (700, "700"),
        (3, "3"),
        (0, "0"),
        (99.96, "100"),
        (None, "-"),
        (math.nan, "-"),
        (-math.inf, "-"),
        ("many", "-"),
    ],
)
def test_numbers_are_shown_as_a_person_writes_them(value: object, shown: str) -> None:
    assert show_number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (42.4, "42 s"),
        (59.6, "1:00"),
        (185, "3:05"),
        (3599.7, "1:00:00"),
        (3725, "1:02:05"),
        (None, "-"),
    ],
)
def test_seconds_are_shown_as_a_clock_does(seconds: object, shown: str) -> None:
    assert show_seconds(seconds) == shown


@given(st.one_of(st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats()))
def test_any_value_of_a_metrics_line_can_be_shown(value: Any) -> None:
    known = finite(value) is not None
    assert (show_number(value) == "-") != known
    if known:
        shown = float(show_number(value, digits=3).replace(",", ""))
        assert shown == pytest.approx(float(value), abs=5e-4, rel=1e-9)


def test_the_recovered_fraction_is_measured_from_random_to_the_true_reward() -> None:
    reference = {"random_return_mean": -100.0, "true_reward_return_mean": 300.0}
    summary = {"true_return_mean": 200.0, "reference": reference}
    assert recovered_fraction(summary) == 0.75  # (200 + 100) / (300 + 100)


@pytest.mark.parametrize(
    "reference",
    [
        None,
        {"random_return_mean": 1.0, "true_reward_return_mean": None},
        {"random_return_mean": 1.0, "true_reward_return_mean": 1.0},
    ],
)
def test_without_a_yardstick_nothing_is_recovered(reference: Any) -> None:
    assert recovered_fraction({"true_return_mean": 2.0, "reference": reference}) is None


def test_time_is_split_largest_first_without_what_took_none() -> None:
    seconds = {"fit": 2.0, "improve": 5.0, "label": 0.0, "setup": None, "other": 1.0}
    assert seconds_by_part(seconds) == [
        ("training the agent", 5.0),
        ("fitting the reward", 2.0),
        ("other", 1.0),
    ]


def test_a_log_gets_plain_lines_and_a_terminal_a_live_display() -> None:
    assert isinstance(make_progress(10, 1, log_console()), PlainProgress)
    assert isinstance(make_progress(10, 1, terminal()), LiveProgress)
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(make_progress(10, 1, dumb), PlainProgress)


def test_a_log_gets_one_aligned_line_per_round(clock: list[float]) -> None:
    console = log_console()
    with make_progress(328_000, 700, console) as shown:
        for index in range(2):
            shown.phase("training")
            shown.steps(8_000)
            clock[0] += 65
            shown.round(metrics(index), n_rounds=20)
    lines = output(console).splitlines()
    header, first, second = lines[-3:]
    assert "328,000 steps, 700 labels" in lines[0]
    assert header.split("  ")[-1].strip() == "time"
    assert "TRUE return" in header and "learned return" in header
    assert first.split() == [
        *("1/20", "16,400", "201", "4,512", "61.2", "12.3", "0.871", "1:05"),
    ]
    assert second.split()[:2] == ["2/20", "32,800"]
    assert second.split()[-1] == "2:10"
    assert len(header) == len(first) == len(second) == 79


def test_a_log_holds_no_control_characters() -> None:
    console = log_console()
    with make_progress(1000, 10, console) as shown:
        shown.round(metrics(reward_accuracy_heldout=None), n_rounds=1)
    assert all(char == "\n" or char.isprintable() for char in output(console))
    assert output(console).isascii()


def test_the_header_comes_back_in_a_long_log() -> None:
    console = log_console()
    with make_progress(1000, 10, console) as shown:
        for index in range(26):
            shown.round(metrics(index), n_rounds=26)
    assert output(console).count("learned return  accuracy") == 2


def test_text_runs_count_completions() -> None:
    console = log_console()
    with make_progress(1000, 10, console) as shown:
        shown.round({"round": 0, "completions": 64}, n_rounds=2)
    assert "completions" in output(console)
    assert "64" in output(console).splitlines()[-1].split()


def live_text(shown: LiveProgress, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(shown._draw())
    return output(console).splitlines()


def test_the_live_display_names_phase_steps_time_left_and_both_returns(
    clock: list[float],
) -> None:
    shown = LiveProgress(328_000, 700, terminal())
    shown.phase("fitting")
    shown.steps(0)
    clock[0] += 60
    shown.steps(82_000)  # a quarter in 60 s: three times 60 s are left
    shown.round(metrics(4), n_rounds=20)
    bar, figures = live_text(shown)
    assert bar.startswith("fitting")
    assert "25%" in bar
    assert "82,000 of 328,000 steps" in bar
    assert "3:00 left" in bar
    for part in ("rounds 5/20", "labels 201/700", "TRUE return 4,512", "learned 12.3"):
        assert part in figures
    assert "accuracy 0.871" in figures


def test_the_time_left_of_a_resumed_run_counts_only_what_it_did_itself(
    clock: list[float],
) -> None:
    shown = LiveProgress(300, 10, terminal())
    shown.steps(100)
    clock[0] += 50
    shown.steps(200)  # 100 steps in 50 s: 100 more take 50 s
    assert "50 s left" in live_text(shown)[0]


def test_before_the_first_round_the_live_display_has_no_figures_yet() -> None:
    bar, figures = live_text(LiveProgress(300, 10, terminal()))
    assert bar.startswith("starting")
    assert "- left" in bar
    assert "labels 0/10" in figures and "TRUE return -" in figures


def test_the_yardstick_shows_no_labels() -> None:
    shown = LiveProgress(300, 0, terminal())
    _, figures = live_text(shown)
    assert "labels" not in figures and "learned" not in figures


def test_a_terminal_keeps_the_rows_and_gets_its_cursor_back() -> None:
    console = terminal()
    with make_progress(100, 10, console) as shown:
        shown.steps(100)
        shown.round(metrics(0), n_rounds=1)
    text = output(console)
    assert "4,512" in text
    assert "done" in text
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert text.count(hide) == text.count(show) == 1


def test_an_interrupted_terminal_gets_its_cursor_back_too() -> None:
    console = terminal()
    with pytest.raises(KeyboardInterrupt), make_progress(100, 10, console):
        raise KeyboardInterrupt
    assert "stopped" in output(console)
    assert output(console).rindex("\x1b[?25h") > output(console).rindex("stopped")


def summary(**changes: Any) -> dict[str, Any]:
    return {
        "env_id": "rlhf_gym/HalfCheetah-v0",
        "algo": "ppo",
        "seed": 3,
        "reward": "learned",
        "env_steps": 328_000,
        "eval_steps": 20_000,
        "n_labels": 698,
        "true_return_mean": 5212.0,
        "true_return_std": 80.0,
        "learned_return_mean": 640.0,
        "reward_accuracy_heldout": 0.912,
        "seconds_total": 200.0,
        "seconds": {"improve": 150.0, "fit": 50.0},
        "evaluation_returns": [5132.0, 5292.0],
        "reference": {
            "random_return_mean": -280.0,
            "true_reward_return_mean": 5149.0,
            "source": "benchmarks/results/x.json",
        },
        **changes,
    }


def printed_rows(values: dict[str, Any], folder: Path | None = None) -> dict[str, str]:
    console = log_console(width=200)
    print_summary(values, console, folder)
    rows = [line.split("│")[1:3] for line in output(console).splitlines() if "│" in line]
    return {name.strip(): text.strip() for name, text in rows}


def test_the_closing_table_puts_the_true_return_beside_its_yardsticks() -> None:
    rows = printed_rows(summary())
    assert rows["TRUE return, this run"] == "5,212 mean, 80.0 std over 2 episodes"
    assert rows["agent on the true reward"] == "5,149  (benchmarks/results/x.json)"
    assert rows["random actions"] == "-280"
    assert rows["(run - random) / (true - random)"] == "1.01"  # 5492 / 5429
    assert rows["labels used"] == "698"
    assert rows["held-out accuracy"] == "0.912"
    assert rows["env steps"] == "328,000 training, 20,000 evaluation"
    assert rows["wall time"] == "3:20"
    assert rows["training the agent"].split() == ["2:30", "75.0%"]


def test_without_a_yardstick_on_file_only_random_stands_beside() -> None:
    rows = printed_rows(summary(reference={"random_return_mean": -280.0}))
    assert rows["random actions"] == "-280"
    assert "agent on the true reward" not in rows
    assert "(run - random) / (true - random)" not in rows


def test_a_run_on_the_true_reward_shows_nothing_learned() -> None:
    rows = printed_rows(summary(reward="true", reference=None))
    assert not {"learned return", "labels used", "held-out accuracy"} & set(rows)


def test_the_closing_table_says_where_things_lie(tmp_path: Path) -> None:
    assert printed_rows(summary(), tmp_path)["run folder"] == str(tmp_path)
    assert "report" not in printed_rows(summary(), tmp_path)
    (tmp_path / "report.html").touch()
    assert printed_rows(summary(), tmp_path)["report"] == str(tmp_path / "report.html")


def test_what_was_asked_for_and_did_not_happen_is_said_a_line_each() -> None:
    rows = printed_rows(
        summary(
            n_rounds=3, n_rounds_planned=4, env_steps=25_504, n_steps_planned=30_000,
            n_labels=20, n_labels_planned=24, n_questions_unasked=1, n_answers_missing=1,
            n_answers_late=2,
        )
    )  # fmt: skip
    assert rows["rounds"] == "3 of 4: the steps allow no more"
    assert rows["env steps"].startswith("25,504 of 30,000 (a round is whole rollouts) training")
    assert rows["labels used"] == "20 of 24"
    assert rows["questions not asked"].startswith("1: the clips held too few")
    assert rows["answers missing"].startswith("1: nobody gave them")
    assert rows["answers unused"].startswith("2: they came after the last fit")


def test_where_everything_happened_nothing_is_said() -> None:
    rows = printed_rows(
        summary(
            n_rounds=4, n_rounds_planned=4, env_steps=30_000, n_steps_planned=30_000, n_labels=24,
            n_labels_planned=24, n_questions_unasked=0, n_answers_missing=0, n_answers_late=0,
            warnings=[],
        )
    )  # fmt: skip
    assert not {"rounds", "questions not asked", "answers missing", "answers unused"} & set(rows)
    assert rows["labels used"] == "24" and rows["env steps"].startswith("30,000 training")
    assert "warning" not in rows


def test_warnings_stand_in_the_closing_table_without_control_characters() -> None:
    printed = printed_rows(summary(warnings=["eve\x1b chose left"]))
    assert printed["warning"] == "eve\\x1b chose left"


@pytest.mark.parametrize("make", [PlainProgress, LiveProgress])
def test_a_note_stays_on_the_screen(make: type) -> None:
    console = log_console()
    with make(100, 10, console) as progress:
        progress.note("warning: [b]eve\x1b[2J")
    assert "warning: [b]eve\\x1b[2J" in output(console)


def test_a_summary_with_nothing_in_it_can_be_printed() -> None:
    assert printed_rows({})["TRUE return, this run"] == "- mean, - std"


def test_markup_in_a_name_is_printed_as_it_is() -> None:
    console = log_console()
    print_summary(summary(env_id="[red]x[/red]"), console)
    assert "[red]x[/red]" in output(console)
