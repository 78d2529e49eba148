from __future__ import annotations

import base64
import functools
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from rlhf_gym.errors import ConfigError, CorruptDataError
from rlhf_gym.report import write_report
from rlhf_gym.report_figures import draw_panels, house_style, run_seconds

N_ROUNDS = 20
CONFIG = "env: rlhf_gym/HalfCheetah-v0\nalgo: ppo\nlabels: 700\nsteps: 328000\nseed: 0\n"
SECONDS = {
    "setup": 4.1,
    "collect": 2.0,
    "label": 0.3,
    "fit": 27.5,
    "improve": 121.0,
    "evaluate": 9.2,
    "checkpoint": 1.4,
}


def a_round(k: int) -> dict[str, Any]:
    """A plausible round k, from 0, of a run that learns."""
    progress = (k + 1) / N_ROUNDS
    mean = -280 + 5500 * (1 - math.exp(-3 * progress)) + 90 * math.sin(5 * k)
    return {
        "round": k,
        "env_steps": 16_400 * (k + 1),
        "n_labels": 175 + round(525 * progress**0.7),
        "true_return_mean": mean,
        "true_return_std": 120.0 + 20 * math.cos(k),
        "true_return_min": mean - 260,
        "true_return_max": mean + 190,
        "learned_return_mean": 900 * (1 - math.exp(-4 * progress)) + 25 * math.cos(3 * k),
        "learned_return_std": 31.0,
        "reward_accuracy_train": 0.97 - 0.12 * math.exp(-3 * progress),
        "reward_accuracy_heldout": None if k == 0 else 0.92 - 0.25 * math.exp(-3 * progress),
        "reward_log_loss_heldout": 0.3,
        "reward_calibration_error": 0.04,
        "reward_correlation": 0.95 - 0.4 * math.exp(-4 * progress),
        "seconds_collect": 0.1,
        "seconds_label": 0.015,
        "seconds_fit": 1.375,
        "seconds_improve": 6.05,
        "seconds_evaluate": 0.46,
        "seconds_checkpoint": 0.07,
        "labels_open": 0,
    }


def a_summary() -> dict[str, Any]:
    """The summary of that run."""
    predicted = [0.05, 0.16, 0.25, 0.36, 0.46, 0.55, 0.65, 0.74, 0.86, 0.95]
    return {
        "env_id": "rlhf_gym/HalfCheetah-v0",
        "algo": "ppo",
        "seed": 0,
        "reward": "learned",
        "n_rounds": N_ROUNDS,
        "env_steps": 328_000,
        "eval_steps": 200_000,
        "n_labels": 700,
        "true_return_mean": 5212.4,
        "true_return_std": 131.0,
        "learned_return_mean": 905.0,
        "reward_accuracy_heldout": 0.912,
        "reward_correlation": 0.94,
        "seconds_total": 165.5,
        "evaluation_returns": [5010.0, 5190.0, 5240.0, 5300.0, 5322.0],
        "calibration": {
            "bins": [
                {"predicted": p, "observed": min(max(p + 0.05 * math.sin(9 * p), 0), 1), "n": n}
                for p, n in zip(predicted, [31, 12, 7, 4, 2, 3, 5, 6, 11, 29], strict=True)
            ]
        },
        "reference": {
            "random_return_mean": -280.0,
            "true_reward_return_mean": 5149.0,
            "source": "benchmarks/results/halfcheetah.json",
        },
        "seconds": SECONDS,
    }


MakeRun = Callable[..., Path]


def a_run(
    parent: Path,
    rounds: list[dict[str, Any]] | None = None,
    summary: dict[str, Any] | None = None,
    config: str = CONFIG,
    name: str = "cheetah",
) -> Path:
    """A run folder as training leaves it."""
    folder = parent / name
    folder.mkdir()
    (folder / "config.yaml").write_text(config)
    provenance = {"versions": {"mujoco": "3.3.0"}, "command": "rlhf-gym train --seed 0"}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    if rounds is not None:
        lines = "".join(json.dumps(row) + "\n" for row in rounds)
        (folder / "metrics.jsonl").write_text(lines)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    return functools.partial(a_run, tmp_path)


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report; drawing takes a while, so the tests only read it."""
    folder = a_run(tmp_path_factory.mktemp("full"), all_rounds(), a_summary())
    write_report(folder)
    return folder


def all_rounds() -> list[dict[str, Any]]:
    return [a_round(k) for k in range(N_ROUNDS)]


class _Page(HTMLParser):
    """Collects what a browser would fetch, run, and show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> _Page:
    return _Page(path.read_text(encoding="utf-8"))


def test_the_report_shows_the_headline_figures_of_the_summary(full_run: Path) -> None:
    page = read(full_run / "report.html")
    # (5212.4 - -280) / (5149 - -280) = 5492.4 / 5429 = 1.0117
    for shown in ("5,212", "1.01", "700", "91.2%", "328,000", "2:46", "-280", "5,149"):
        assert shown in page.text
    assert "rlhf_gym/HalfCheetah-v0" in page.text
    assert "Run not finished" not in page.text


def test_the_page_fetches_nothing_and_runs_nothing(full_run: Path) -> None:
    path = full_run / "report.html"
    page = read(path)
    assert len(page.sources) == 6
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?:", path.read_text(encoding="utf-8"))


def test_the_inlined_images_are_the_png_files_beside_the_page(full_run: Path) -> None:
    page = read(full_run / "report.html")
    inlined = {base64.b64decode(source.split(",", 1)[1]) for source in page.sources}
    files = sorted((full_run / "figures").iterdir())
    assert [file.name for file in files] == [
        "accuracy.png",
        "calibration.png",
        "correlation.png",
        "labels.png",
        "returns.png",
        "time.png",
    ]
    assert {file.read_bytes() for file in files} == inlined
    for file in files:
        with Image.open(file) as image:
            assert image.width >= 800


def test_every_figure_says_how_much_it_rests_on(make_run: MakeRun) -> None:
    counts = {"eval_episodes": 2, "reward_n_heldout": 2, "reward_correlation_clips": 200}
    rounds = [a_round(k) | counts for k in range(3)]
    rounds[-1]["reward_n_heldout"] = 18
    summary = a_summary() | {
        "reward_accuracy_heldout": 1.0,
        "reward_n_heldout": 2,
        "reward_correlation_clips": 200,
    }
    page = write_report(make_run(rounds=rounds, summary=summary)).read_text()
    # Wilson's interval for 2 of 2: from 2 / (2 + 1.96 ** 2) = 34 % on.
    assert "of 2 held-out answers, no ties; 95 % interval 34% to 100%" in page
    assert "2 evaluation episodes after each round" in page
    assert "Held out: 2 to 18 answers" in page
    assert "learned and true return of 200 random recent clips a round" in page
    assert "Correlation with the true reward, 200 recent clips" in page


def test_runs_that_did_not_count_are_reported_without_counts(full_run: Path) -> None:
    page = (full_run / "report.html").read_text()
    assert "Evaluation episodes after each round" in page and "Held out:" not in page


def test_everything_from_the_run_is_escaped(make_run: MakeRun) -> None:
    evil = '"><script>alert(1)</script>'
    summary = {**a_summary(), "env_id": evil}
    summary["reference"]["source"] = evil
    rounds = [{**a_round(0), evil: 1.0}]
    path = write_report(make_run(rounds, summary, config=f"env: '{evil}'\n"))
    page = read(path)
    assert "script" not in page.tags
    assert page.text.count(evil) >= 4  # title, heading, source, table and config show it as text


def test_a_run_that_still_goes_is_reported_as_not_finished(make_run: MakeRun) -> None:
    folder = make_run([a_round(0), a_round(1)])
    page = read(write_report(folder))
    assert "Run not finished" in page.text
    assert "rlhf-gym train --resume" in page.text
    assert "rlhf_gym/HalfCheetah-v0" in page.text  # from the config: there is no summary
    assert not (folder / "figures" / "calibration.png").exists()  # known only at the end
    assert (folder / "figures" / "returns.png").exists()


def test_a_run_before_its_first_round_still_gives_a_page(make_run: MakeRun) -> None:
    page = read(write_report(make_run()))
    assert "No round is complete yet" in page.text
    assert page.sources == []


def test_a_run_on_the_true_reward_has_no_figures_of_a_reward_model(make_run: MakeRun) -> None:
    hidden = ("reward_", "learned_", "n_labels")
    rounds = [{k: v for k, v in row.items() if not k.startswith(hidden)} for row in all_rounds()]
    summary = {**a_summary(), "reward": "true", "calibration": None, "reference": None}
    folder = make_run(rounds, summary)
    page = read(write_report(folder))
    assert sorted(file.name for file in (folder / "figures").iterdir()) == [
        "returns.png",
        "time.png",
    ]
    assert "held-out" not in page.text
    assert "Learned return:" in page.text  # only the glossary line at the foot
    assert "Is the learned reward right?" not in page.text


def test_figures_of_rounds_without_a_value_leave_that_round_out() -> None:
    panels = {panel.name: panel for panel in draw_panels(all_rounds(), a_summary())}
    train, held_out = (
        np.asarray(line.get_xdata()) for line in panels["accuracy"].figure.axes[0].lines[:2]
    )
    assert (len(train), len(held_out)) == (N_ROUNDS, N_ROUNDS - 1)
    assert held_out[0] == 2 * 16_400


@pytest.mark.parametrize("reward", ["learned", "true"])
def test_the_learning_curve_shows_every_round_within_its_axes(reward: str) -> None:
    panels = draw_panels(all_rounds(), {**a_summary(), "reward": reward})
    axes = next(panel.figure.axes for panel in panels if panel.name == "returns")
    assert len(axes) == (2 if reward == "learned" else 1)
    for ax in axes:
        assert ax.get_xlim()[0] == 0
        assert ax.get_xlim()[1] >= 20 * 16_400
        assert ax.get_ylabel()
    assert axes[-1].get_xlabel() == "env steps (evaluation not counted)"
    drawn = np.asarray(axes[0].lines[0].get_ydata())
    assert drawn.tolist() == [row["true_return_mean"] for row in all_rounds()]


def test_text_runs_are_drawn_over_completions() -> None:
    rounds = [{"round": 0, "completions": 64, "true_return_mean": 0.5}]
    (panel,) = draw_panels(rounds, {"reward": "true"})
    assert panel.figure.axes[0].get_xlabel() == "completions"


def test_seconds_of_an_unfinished_run_are_summed_over_its_rounds() -> None:
    rounds: list[dict[str, Any]] = [
        {"seconds_fit": 1.0, "seconds_label": None},
        {"seconds_fit": 2.5},
    ]
    assert run_seconds(rounds, {}) == {"fit": 3.5, "label": 0.0}


def test_drawing_leaves_matplotlibs_settings_as_they_were() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw_panels(all_rounds(), a_summary())
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("damage", [b'{"env_id": "x"', b"[1, 2]", b"\xff\xfe"])
def test_a_damaged_summary_is_named_and_no_page_is_written(
    make_run: MakeRun, damage: bytes
) -> None:
    folder = make_run(all_rounds())
    (folder / "summary.json").write_bytes(damage)
    with pytest.raises(CorruptDataError, match=r"summary\.json"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write_report(tmp_path)


def test_commands_quote_a_folder_with_a_blank(make_run: MakeRun) -> None:
    folder = make_run(name="my run")
    text = read(write_report(folder)).text
    assert re.search(r"rlhf-gym evaluate '\S*/my run' --episodes 20", text)


def test_an_evaluation_return_of_zero_can_be_the_best(make_run: MakeRun) -> None:
    summary = {**a_summary(), "evaluation_returns": [-3.0, 0.0, None]}
    text = read(write_report(make_run(summary=summary))).text
    assert "Worst evaluation episode (true return)-3.00" in text
    assert "Best evaluation episode (true return)0.000" in text


def test_figures_look_alike_whatever_a_matplotlibrc_says() -> None:
    """matplotlib reads one from the current folder, and may run LaTeX where it asks for that."""
    with matplotlib.rc_context({"text.usetex": True, "savefig.dpi": 7, "font.size": 99}):
        with house_style():
            found = {key: matplotlib.rcParams[key] for key in ("text.usetex", "font.size")}
            assert found == {"text.usetex": False, "font.size": 10}
            assert matplotlib.rcParams["savefig.dpi"] == "figure"
        assert matplotlib.rcParams["text.usetex"], "the caller's own come back"
