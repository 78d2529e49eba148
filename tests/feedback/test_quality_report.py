from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from rlhf_gym.data import Choice
from rlhf_gym.feedback.quality.measure import StoreQuality, measure_quality
from rlhf_gym.feedback.quality.report import quality_json, quality_report
from rlhf_gym.feedback.records import AnswerKind, AnswerRecord

FIRST, SECOND, TIE = Choice.FIRST, Choice.SECOND, Choice.TIE
NAMES = ("amber-fox", "[red]heron[/red]", "Zoë Müller-Lüdenscheidt\x1b[2J")


def record(
    sequence: int,
    query: str,
    choice: Choice,
    labeller: str,
    kind: AnswerKind = "pairwise",
    expected: Choice | None = None,
    gap: float | None = None,
) -> AnswerRecord:
    return AnswerRecord(
        sequence=sequence,
        uuid=f"{sequence:032x}",
        query_id=query,
        round=0,
        kind=kind,
        choice=choice,
        teacher="human",
        labeller=labeller,
        shown_at=10.0 * sequence,
        answered_at=10.0 * sequence + 3.25,
        details={"left": "first", "sitting": labeller, "watched_fraction": 1.5},
        expected=expected,
        return_gap=gap,
    )


def answers(names: tuple[str, ...] = NAMES) -> list[AnswerRecord]:
    rng = np.random.default_rng(0)
    records: list[AnswerRecord] = []
    for name in names:
        for i in range(20):
            sequence = len(records) + 1
            records.append(record(sequence, f"u{i}", FIRST, name, "qualification", FIRST))
        for i, gap in enumerate(np.linspace(-5, 5, 40)):
            right = (FIRST, SECOND)[int(gap < 0)]
            choice = right if rng.random() < 0.85 else TIE
            sequence = len(records) + 1
            records.append(record(sequence, f"q{i}", choice, name, gap=float(gap)))
    return records


@pytest.fixture(scope="module")
def quality() -> StoreQuality:
    return measure_quality(answers(), n_resamples=100)


def shown(quality: StoreQuality, n_posted: int | None = None, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(quality_report(quality, n_posted))
    return capture.get()


def row(text: str, start: str, after: str = "") -> list[str]:
    """The cells of the first line that begins so: two spaces or more lie between them.

    `after`: a heading that the line stands below.
    """
    lines = text[text.index(after) :].splitlines()
    line = next(line for line in lines if line.strip().startswith(start))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_the_overview_shows_progress_and_counts(quality: StoreQuality) -> None:
    text = shown(quality, n_posted=80)
    assert row(text, "pairs answered") == ["pairs answered", "40 of 80 (50 %)"]
    assert row(text, "by two labellers or more")[1] == "40"
    assert "qualification 60" in text
    assert row(shown(quality), "pairs answered")[1] == "40"


def test_each_labeller_has_rows_with_their_figures(quality: StoreQuality) -> None:
    figures = next(q for q in quality.labellers if q.labeller == NAMES[0])
    text = shown(quality)
    left, tie, truth = figures.left, figures.tie, figures.true_accuracy
    assert left.value is not None and left.low is not None and left.high is not None
    assert tie.value is not None and figures.reliability is not None
    assert row(text, NAMES[0], after="how even-handed") == [
        NAMES[0],
        "40",
        "3.2",  # 3.25 s, rounded to even
        # 40 answers ten seconds apart, the last of which took 3.25 s
        f"{60 * 40 / (39 * 10 + 3.25):.1f}",
        f"{100 * left.value:.0f} % ({100 * left.low:.0f}-{100 * left.high:.0f})",
        f"{100 * tie.value:.0f} %",
        "0 %",
    ]
    assert row(text, NAMES[0], after="how right") == [
        NAMES[0],
        "-",
        "-",
        f"{100 * truth.n_hits / truth.n:.0f} %",
        f"{figures.reliability:.2f}",
    ]


@pytest.mark.parametrize("width", [80, 100])
def test_every_column_is_there_at_eighty_columns_and_no_line_is_longer(width: int) -> None:
    rng = np.random.default_rng(0)
    names = tuple(f"a labeller with quite a long name {i}" for i in range(3))
    records = answers(names)
    for i in range(1200):
        choice = FIRST if rng.random() < 0.5 else SECOND
        kind: AnswerKind = "gold" if i % 3 else "pairwise"
        n = len(records) + 1
        records.append(record(n, f"more {i}", choice, names[0], kind, FIRST, 123456.789 * (i - 9)))
    text = shown(measure_quality(records, n_resamples=100), n_posted=123_456, width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    pace = ["labeller", "answers", "s/pair", "per min", "left", "tie", "can't tell"]
    assert row(text, "labeller", after="how even-handed") == pace
    right = ["labeller", "known", "again", "true", "reliability"]
    assert row(text, "labeller", after="how right") == right
    assert row(text, "on ", after="\nAgreement") == [
        "on", "pairs", "agree", "Fleiss' kappa", "alpha"
    ]  # fmt: skip
    assert "…" not in text
    assert row(text, "a labeller")[1] == "440"  # 40, and 400 of the 1,200


def test_names_are_shown_as_typed_and_cannot_paint_the_terminal(quality: StoreQuality) -> None:
    text = shown(quality)
    assert "[red]heron[/red]" in text
    assert "\x1b" not in text
    assert "\\x1b[2J" in text


def test_agreement_rows_show_the_figures_with_their_intervals(quality: StoreQuality) -> None:
    text = shown(quality)
    cells = row(text, "all, can't tell left out")
    alpha = quality.agreement.alpha
    assert alpha.value is not None and alpha.low is not None and alpha.high is not None
    assert cells[1] == "40"
    assert cells[-1] == f"{alpha.value:.2f}"
    below = row(text, "(", after="all, can't tell left out")
    assert below[-1] == f"({alpha.low:.2f} to {alpha.high:.2f})"
    assert text.count("true gap ") == 4 + 1  # four quarters, and the heading of the accuracies
    assert text.count(" and ") >= 3  # three pairs of labellers
    for word in ("agree:", "chance", "95 % interval", "reliability:"):
        assert word in text


def test_of_many_pairs_of_labellers_those_who_agree_least_are_shown() -> None:
    names = tuple(f"l{i}" for i in range(7))  # 21 pairs
    found = measure_quality(answers(names), n_resamples=100)
    text = shown(found)
    assert "the 15 of 21 who agree least" in text
    kappas = sorted(p.kappa.value for p in found.agreement.pairs if p.kappa.value is not None)
    table = text.partition("Two by two")[2].partition("agree:")[0]
    lines = [line for line in table.splitlines() if " and " in line]
    assert len(lines) == 15
    assert f"{kappas[0]:.2f} (" in lines[0]
    assert f"{kappas[14]:.2f} (" in lines[14]


def test_flags_are_said_in_words_after_the_name() -> None:
    records = [record(i, f"q{i}", FIRST, NAMES[1]) for i in range(1, 41)]
    text = shown(measure_quality(records, n_resamples=100))
    assert "- [red]heron[/red] chose the left one 40 of 40 times" in text
    assert "Agreement: unknown, no pair was answered by two labellers." in text


def test_where_a_figure_is_missing_the_reason_is_said() -> None:
    records = [record(2 * i + j, f"q{i}", FIRST, name) for i in range(9) for j, name in
               enumerate(NAMES[:2])]  # fmt: skip
    text = shown(measure_quality(records, n_resamples=100))
    assert row(text, "all, can't tell left out")[-3:] == ["100 %", "-", "-"]
    assert row(text, "(", after="all, can't tell left out") == ["(100-100)"]
    assert "all answers are alike" in text


def test_an_empty_store_is_shown_without_tables() -> None:
    text = shown(measure_quality([], n_resamples=100), n_posted=10)
    assert row(text, "pairs answered")[1] == "0 of 10 (0 %)"
    assert "Nothing stands out." in text
    assert "reli-" not in text


def test_the_json_form_holds_every_figure_and_reads_back(quality: StoreQuality) -> None:
    content = json.loads(quality_json(quality, n_posted=80))
    assert content["n_posted"] == 80
    assert content["agreement"]["alpha"]["value"] == quality.agreement.alpha.value
    by_name = {row["labeller"]: row for row in content["labellers"]}
    assert set(by_name) == set(NAMES)
    for found in quality.labellers:
        left = by_name[found.labeller]["left"]
        assert (left["n_hits"], left["low"]) == (found.left.n_hits, found.left.low)
        assert by_name[found.labeller]["qualified"] is True
        assert len(by_name[found.labeller]["true_accuracy_by_gap"]) == 4
    assert json.loads(quality_json(measure_quality([], n_resamples=100)))["labellers"] == []
