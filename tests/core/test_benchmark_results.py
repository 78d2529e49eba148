from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhf_gym.benchmark.figures import draw_curves, draw_fractions
from rlhf_gym.benchmark.frames import CURVE_COLUMNS, RUN_COLUMNS
from rlhf_gym.benchmark.records import Job, Record, resolved
from rlhf_gym.benchmark.results import publish_yardsticks, write_results
from rlhf_gym.benchmark.spec import BenchmarkSpec
from rlhf_gym.benchmark.statistics import TaskReturns, aggregate_intervals, fraction_interval
from rlhf_gym.benchmark.summary import summarise
from rlhf_gym.benchmark.tables import table_text
from rlhf_gym.errors import ConfigError
from rlhf_gym.train_config import TrainConfig

A, B, C = "x/A-v0", "x/B-v0", "x/C-v0"

# Random 0 on A and 10 on B. A: true has mean 10 and deviation 1.41, so that it counts; stock is
# worse. B: stock is the better with mean 110. C: true is no better than random in one seed.
RETURNS: dict[tuple[str, str], list[float]] = {
    (A, "true"): [9.0, 11.0],
    (A, "stock"): [8.0, 8.0],
    (A, "learned"): [4.0, 8.0],
    (B, "true"): [50.0, 60.0],
    (B, "stock"): [109.0, 111.0],
    (B, "learned"): [110.0, 130.0],
    (C, "true"): [-1.0, 90.0],
    (C, "stock"): [-3.0, 1.0],
    (C, "learned"): [5.0, 7.0],
}
RANDOM = {A: 0.0, B: 10.0, C: 0.0}


def make_spec(**changes: Any) -> BenchmarkSpec:
    entries: dict[str, Any] = {
        "name": "made-up", "tasks": {A: {}, B: {}, C: {}}, "seeds": (3, 4),
        "settings": {"true": {"reward": "true"}, "stock": {"runner": "stock"}, "learned": {}},
        "reference": ("true", "stock"),
    }  # fmt: skip
    return BenchmarkSpec(**{**entries, **changes})


def make_record(task: str, setting: str, seed: int, value: float) -> Record:
    stock = setting == "stock"
    return {
        "task": task, "setting": setting, "seed": seed, "runner": "stock" if stock else "train",
        "steps": 4000, "env_steps": 3900, "true_return_mean": value, "true_return_std": 0.5,
        "evaluation_returns": [value - 1, value + 1], "config_sha256": "0", "commit": "abc",
        "versions": {"torch": "1"}, "machine": "stock's" if stock else "ours",
        # Our runs measure random actions 1 above and 1 below, stock ones not at all.
        "random_return_mean": None if stock else RANDOM[task] + (1 if seed == 3 else -1),
        "learned_return_mean": None, "n_labels": 700 if setting == "learned" else 0,
        "reward_accuracy_heldout": None if stock else 0.9,
        "reward_correlation": None if stock else 0.8, "seconds": 6.0,
        "seconds_by_part": {"fit": 2.0, "improve": 4.0},
        "curve": [{"env_steps": 1000, "true_return_mean": 0.0},
                  {"env_steps": 3900, "true_return_mean": value, "n_labels": 700}],
        "config": resolved(TrainConfig(env=task, seed=seed, steps=4000)),
    }  # fmt: skip


def make_records(*left_out: tuple[str, str, int]) -> list[Record]:
    return [
        make_record(task, setting, seed, value)
        for (task, setting), values in RETURNS.items()
        for seed, value in zip((3, 4), values, strict=True)
        if (task, setting, seed) not in left_out
    ]


def test_the_better_reference_by_mean_is_below_the_line_of_each_task() -> None:
    tasks = summarise(make_spec(), make_records())["tasks"]
    assert {task: figures["reference"] for task, figures in tasks.items()} == {
        A: "true", B: "stock", C: "true",
    }  # fmt: skip
    assert {task: figures["random_return_mean"] for task, figures in tasks.items()} == RANDOM
    learned = tasks[A]["settings"]["learned"]
    # (6 - 0) / (10 - 0); the seeds' 4 / 10 and 8 / 10.
    assert learned["fraction"] == pytest.approx(0.6)
    assert learned["seed_fractions"] == pytest.approx([0.4, 0.8])
    assert (learned["mean"], learned["worst"], learned["worst_seed"]) == (6.0, 4.0, 3)
    # (120 - 10) / (110 - 10) on B, and its other reference (55 - 10) / 100.
    assert tasks[B]["settings"]["learned"]["fraction"] == pytest.approx(1.1)
    assert tasks[B]["settings"]["true"]["fraction"] == pytest.approx(0.45)
    assert "fraction" not in tasks[B]["settings"]["stock"], "the reference itself"
    exact = fraction_interval([4.0, 8.0], [9.0, 11.0], 0.0)
    assert learned["fraction_interval_95"] == [exact.low, exact.high]


def test_a_task_whose_reference_did_not_learn_has_no_fraction_and_says_why() -> None:
    spec = make_spec()
    summary = summarise(spec, make_records())
    task = summary["tasks"][C]
    assert task["settings"]["learned"]["fraction"] is None
    assert "not above `random`" in task["settings"]["learned"]["why_not"]
    # Gain 44.5, deviation 91 / sqrt(2) = 64.3.
    assert task["counts"] is False and "0.7 seed" in task["counts_because"]
    assert [summary["tasks"][name]["counts"] for name in (A, B)] == [True, True]
    text = table_text(spec, summary, [])
    assert "**This task does not count:** gain 44.5 = 0.7 seed standard deviations" in text
    assert "No fraction for stock, learned: `true` has a seed at -1" in text


def test_the_aggregate_is_over_the_tasks_that_count() -> None:
    (aggregate,) = summarise(make_spec(), make_records())["aggregates"]
    assert (aggregate["title"], aggregate["over"]) == ("tasks that count", [A, B])
    learned = aggregate["settings"]["learned"]
    exact = aggregate_intervals({
        A: TaskReturns([4.0, 8.0], [9.0, 11.0], 0.0),
        B: TaskReturns([110.0, 130.0], [109.0, 111.0], 10.0),
    })  # fmt: skip
    assert learned["mean"] == pytest.approx((0.6 + 1.1) / 2)
    # Scores 0.4, 0.8, 1.0 and 1.2: the middle two.
    assert learned["iqm"] == pytest.approx(0.9)
    assert learned["iqm_interval_95"] == [exact["iqm"].low, exact["iqm"].high]
    assert learned["mean_interval_95"] == [exact["mean"].low, exact["mean"].high]
    assert learned["lowest_task"] == A
    assert learned["lowest_task_fraction"] == pytest.approx(0.6)
    assert learned["lowest_seed_fraction"] == pytest.approx(0.4)
    assert set(aggregate["settings"]) == {"learned"}, "references are not compared"


def test_a_headline_task_that_does_not_count_is_shown_both_ways() -> None:
    spec = make_spec(headline=(B, C))
    first, second = summarise(spec, make_records())["aggregates"]
    assert (first["title"], first["over"]) == ("headline tasks", [B, C])
    assert first["settings"]["learned"]["mean"] is None
    assert first["settings"]["learned"]["why_not"] == f"no fraction on {C}"
    assert (second["title"], second["over"]) == ("headline tasks that count", [B])
    assert second["settings"]["learned"]["mean"] == pytest.approx(1.1)
    (only,) = summarise(make_spec(headline=(A,)), make_records())["aggregates"]
    assert only["over"] == [A]


def test_on_texts_the_gain_begins_where_the_references_own_fine_tuning_ended() -> None:
    """A setting that fine-tunes less starts lower, and must not move anybody's zero."""
    spec = make_spec(tasks={A: {}}, reference=("true",))
    records = []
    for record in make_records():
        if record["task"] == A and record["setting"] != "stock":
            hyperparameters = {"n_sft_examples": 32 if record["setting"] == "learned" else 12000}
            record["config"] = {**record["config"], "hyperparameters": hyperparameters}
            record["random_return_mean"] = -8.0 if record["setting"] == "learned" else 0.0
            records.append(record)
    figures = summarise(spec, records)["tasks"][A]
    # (6 - 0) / (10 - 0), by hand; with everybody's mean as the zero it would be 10 / 14.
    assert figures["random_return_mean"] == 0.0
    assert figures["settings"]["learned"]["fraction"] == pytest.approx(0.6)


def test_the_order_of_the_records_changes_nothing() -> None:
    spec, records = make_spec(), make_records()
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    assert summarise(spec, shuffled) == summarise(spec, records)


@pytest.mark.parametrize(
    ("settings", "message"),
    [(("learned",), "no run of the reference"), (("stock",), "measured random actions"), ((), "")],
)
def test_what_is_not_there_yet_is_missing_with_its_reason(
    settings: tuple[str, ...], message: str
) -> None:
    spec = make_spec()
    records = [r for r in make_records() if r["setting"] in settings]
    summary = summarise(spec, records)
    text = table_text(spec, summary, [])
    (aggregate,) = summary["aggregates"]
    assert aggregate["settings"]["learned"]["why_not"] == "no task counts yet"
    if not settings:
        assert text.count("No run yet.") == 3
        assert draw_curves(spec, records) is None
    else:
        assert message in text
        assert draw_curves(spec, records) is not None
    assert draw_fractions(spec, summary) is None


def test_without_a_reference_there_are_returns_only() -> None:
    spec = make_spec(reference=())
    summary = summarise(spec, make_records())
    assert summary["aggregates"] == []
    assert "fraction" not in summary["tasks"][A]["settings"]["learned"]
    text = table_text(spec, summary, [])
    assert "missing" not in text and "| learned | 700 | 3,900 | 4 · 8 | 6 | 4 |" in text


def test_the_table_shows_every_seed_and_what_is_missing() -> None:
    spec = make_spec()
    config = TrainConfig(env=A)
    lost = [(Job(A, "learned", 4, "train", config), "not made yet"),
            (Job(A, "true", 3, "train", config), "its record is damaged"),
            (Job(A, "true", 4, "train", config), "its record is damaged")]  # fmt: skip
    records = make_records((A, "learned", 4), (A, "true", 3), (A, "true", 4))
    text = table_text(spec, summarise(spec, records), lost)
    assert "**Partial: 3 of 18 runs are missing.**" in text
    assert f"- {A}, learned, seed 4: not made yet" in text
    assert f"- {A}, true, seeds 3, 4: its record is damaged" in text
    assert "Seeds, in this order: 3, 4; learned has 3 only." in text
    whole = table_text(spec, summarise(spec, make_records()), [])
    assert "Partial" not in whole
    assert "| stock | 0 | 3,900 | 109 · 111 | 110 | 109 | reference |  |" in whole
    assert "| learned | 700 | 3,900 | 110 · 130 | 120 | 110 | 1.10 (" in whole
    assert "| true | 0 | 3,900 | 50 · 60 | 55 | 50 | 0.45 (" in whole


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all runs but one; only to be read."""
    folder = tmp_path_factory.mktemp("results")
    lost = [(Job(A, "learned", 4, "train", TrainConfig(env=A)), "not made yet")]
    write_results(make_spec(), make_records((A, "learned", 4)), lost, folder, ["rlhf-gym", "x"])
    return folder


def test_the_parquet_files_are_tidy(out: Path) -> None:
    runs = pq.read_table(out / "runs.parquet").to_pylist()
    assert len(runs) == 17 and list(runs[0]) == list(RUN_COLUMNS)
    rows = {(row["task"], row["setting"], row["seed"]): row for row in runs}
    row = rows[B, "learned", 4]
    assert row["fraction"] == pytest.approx(1.2)
    assert (row["true_return_min"], row["true_return_max"]) == (129.0, 131.0)
    assert (row["seconds_fit"], row["seconds_label"]) == (2.0, None)
    assert (row["algo"], row["teacher"], row["labels"]) == ("ppo", "synthetic", 700)
    assert rows[B, "stock", 3]["fraction"] is None and rows[C, "learned", 3]["fraction"] is None
    assert rows[B, "stock", 3]["random_return_mean"] is None
    curves = pq.read_table(out / "curves.parquet").to_pylist()
    assert len(curves) == 2 * 17 and list(curves[0]) == list(CURVE_COLUMNS)
    assert {k: curves[1][k] for k in ("task", "setting", "seed", "env_steps", "n_labels")} == {
        "task": A, "setting": "true", "seed": 3, "env_steps": 3900, "n_labels": 700,
    }  # fmt: skip
    assert curves[1]["true_return_mean"] == 9.0 and curves[0]["n_labels"] is None


def test_the_summary_says_what_it_was_made_with_and_what_it_lacks(out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    assert {"versions", "git", "machine", "time_utc", "spec", "tasks", "aggregates"} <= set(summary)
    assert summary["command"] == "rlhf-gym x" and summary["made_with"] == {
        "commits": ["abc"], "machines": {"ours": 11, "stock's": 6}, "versions": {"torch": ["1"]},
    }  # fmt: skip
    assert (
        "Made with torch 1; on ours (11 runs), stock's (6 runs)." in (out / "table.md").read_text()
    )
    assert summary["missing"] == [
        {"task": A, "setting": "learned", "seed": 4, "why": "not made yet"}
    ]
    assert summary["n_runs"] == 17 and summary["spec"]["seeds"] == [3, 4]
    assert "Partial: 1 of 18" in (out / "table.md").read_text()


def test_runs_of_several_versions_are_told_of() -> None:
    records = make_records()
    records[0]["versions"] = {"torch": "2"}
    table = table_text(make_spec(), summarise(make_spec(), records), [])
    assert "**The runs are of different versions.** Made with torch 1 and 2; on" in table


def test_an_aggregate_names_the_tasks_whose_seeds_are_not_complete() -> None:
    assert "lacks seeds" not in table_text(make_spec(), summarise(make_spec(), make_records()), [])
    records = make_records((B, "learned", 4))
    table = table_text(make_spec(), summarise(make_spec(), records), [])
    assert f"learned lacks seeds on {B}." in table
    assert [axes.get_title("left") for axes in draw_curves(make_spec(), records).axes] == [
        f"{A}, seeds: 2", f"{B}, seeds: 1 to 2", f"{C}, seeds: 2",
    ]  # fmt: skip


def test_figures_are_drawn_and_removed_when_nothing_is_left_to_draw(
    out: Path, tmp_path: Path
) -> None:
    names = ("figures/curves.png", "figures/fractions.png")
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in names)
    (tmp_path / "figures").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"of runs that no longer hold")
    write_results(make_spec(), [], [], tmp_path)
    assert not any((tmp_path / name).exists() for name in names)
    assert pq.read_table(tmp_path / "runs.parquet").num_rows == 0


def test_every_seed_is_a_thin_line_and_the_mean_a_thick_one() -> None:
    spec = make_spec()
    figure = draw_curves(spec, make_records())
    assert figure is not None and len(figure.axes) == 3
    lines = figure.axes[1].get_lines()
    assert len(lines) == 3 * 3  # two seeds and their mean, for each setting
    thick = [line for line in lines if line.get_linewidth() > 2]
    ends = sorted(line.get_ydata()[-1] for line in thick)
    assert ends == [55.0, 110.0, 120.0]
    assert len({line.get_color() for line in thick}) == 3


def test_the_fractions_of_the_figure_are_those_of_the_summary() -> None:
    spec, summary = make_spec(), summarise(make_spec(), make_records())
    figure = draw_fractions(spec, summary)
    assert figure is not None
    (panel,) = figure.axes
    points = [line.get_ydata() for line in panel.get_lines() if line.get_marker() == "o"]
    assert np.concatenate(points).tolist() == pytest.approx([0.6, 1.1])
    assert [label.get_text() for label in panel.get_xticklabels()] == ["A-v0", "B-v0"]


def test_yardsticks_are_those_of_complete_unaltered_tasks(tmp_path: Path) -> None:
    records = make_records((B, "stock", 4))
    for record in records:
        if record["task"] == C:
            record["config"]["env_kwargs"] = {"x": 1}
    summary = write_results(make_spec(), records, [], tmp_path)
    path = tmp_path / "yardsticks.json"
    path.write_text(json.dumps({"other": {"steps": 1}, A: {"steps": 2}}))
    written = publish_yardsticks(summary, records, path, Path("results/summary.json"))
    assert written == [A]
    assert json.loads(path.read_text()) == {
        "other": {"steps": 1},
        A: {"steps": 4000, "return_mean": 10.0, "seeds": [3, 4], "setting": "true",
            "source": "results/summary.json"},
    }  # fmt: skip
    path.write_text("[]")
    with pytest.raises(ConfigError, match="no mapping"):
        publish_yardsticks(summary, records, path, Path("s"))
    path.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        publish_yardsticks(summary, records, path, Path("s"))


def test_no_number_in_the_results_is_nan(out: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((out / "summary.json").read_text(), parse_constant=refuse)
    assert "nan" not in (out / "table.md").read_text().lower()


def test_a_legend_of_many_settings_stays_within_a_narrow_figure() -> None:
    names = [f"a-rather-long-name-{k}" for k in range(6)]
    settings = {"true": {"reward": "true"}, **{name: {} for name in names}}
    spec = make_spec(tasks={A: {}}, settings=settings, reference=("true",))
    records = [
        make_record(A, setting, seed, value)
        for setting in settings
        for seed, value in ((3, 9.0), (4, 11.0))
    ]
    for figure in (draw_fractions(spec, summarise(spec, records)), draw_curves(spec, records)):
        assert figure is not None
        (legend,) = figure.legends
        figure.draw_without_rendering()
        box = legend.get_window_extent()
        assert 0 <= box.x0 and box.x1 <= figure.bbox.width
        assert set(names) <= {text.get_text() for text in legend.get_texts()}
