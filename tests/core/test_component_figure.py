"""Over-optimisation is said of runs that show it, by their numbers, and of no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlhf_gym.component_figure import component_panel
from rlhf_gym.report_panels import Panel

WEIGHTS = {"blocks": 1.0, "wanted": 0.0}


def drawn(
    blocks: list[float], wanted: list[float], weights: dict[str, float] | None = None
) -> Panel:
    """The panel of a run: the first values are those after SFT, the last those of the end."""
    rounds = [
        {
            "completions": 100 * (k + 1),
            "true_return_mean": paid,
            "component_blocks": paid,
            "component_wanted": watched,
            "kl_to_ref": 9.0,
            "kl_evaluated": 0.5 * k,
        }
        for k, (paid, watched) in enumerate(zip(blocks[1:-1], wanted[1:-1], strict=True))
    ]
    summary: dict[str, Any] = {
        "true_return_mean": blocks[-1],
        "component_wanted": wanted[-1],
        "component_weights": WEIGHTS if weights is None else weights,
        "reference": {
            "random_return_mean": blocks[0],
            "component_blocks": blocks[0],
            "component_wanted": wanted[0],
        },
    }
    panel = component_panel(rounds, summary)
    assert panel is not None
    return panel


def test_a_proxy_that_rises_while_what_is_wanted_falls_is_called_over_optimised() -> None:
    panel = drawn([0.5, 0.9, 3.0, 4.8, 4.9], [0.5, 0.8, 0.2, 0.0, 0.0])
    assert panel.finding == (
        "Over-optimised: after 100 completions, 'wanted', which is not paid, fell from 0.800 to "
        "0.000, while the reward that is paid rose from 0.900 to 4.90."
    )


def test_a_run_whose_two_parts_rise_together_is_not() -> None:
    panel = drawn([0.5, 0.8, 0.9, 0.9], [0.5, 0.8, 0.88, 0.87])
    assert panel.finding == (
        "No over-optimisation seen: 'wanted', which is not paid, rose with the reward, from 0.500 "
        "to 0.870 (reward: 0.500 to 0.900)."
    )


@pytest.mark.parametrize(
    ("blocks", "wanted"),
    [
        ([0.5, 0.6, 0.7, 0.7], [0.5, 0.55, 0.5, 0.5]),  # it fell by 9 %: noise
        ([0.5, 0.6, 0.3, 0.3], [0.5, 0.6, 0.2, 0.2]),  # both fell: bad, but not for the reward
        ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_nothing_is_said_where_nothing_is_clear(blocks: list[float], wanted: list[float]) -> None:
    assert drawn(blocks, wanted).finding == ""


def test_paid_and_watched_parts_and_the_kl_have_axes_of_their_own() -> None:
    paid, watched, kl = drawn([0.5, 0.9, 3.0, 3.0], [0.5, 0.8, 0.2, 0.2]).figure.axes
    assert (paid.get_title(), watched.get_title()) == (
        "blocks: paid",
        "wanted: only watched",
    )
    assert np.asarray(watched.lines[-1].get_ydata()).tolist() == [0.8, 0.2]
    # From what was evaluated, not from the rollouts before.
    assert np.asarray(kl.lines[0].get_ydata()).tolist() == [0.0, 0.5]


def test_parts_that_are_all_paid_are_drawn_together_with_their_weights() -> None:
    panel = drawn([0.5, 0.9, 0.9], [4.0, 3.0, 3.0], {"blocks": 1.0, "wanted": -0.1})
    both, _ = panel.figure.axes
    legend = both.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["blocks", "wanted, times -0.1"]
    assert panel.finding == ""


def test_a_run_that_still_goes_is_drawn_without_weights_and_without_a_finding() -> None:
    rounds = [{"completions": 9, "component_a": 1.0, "component_b": 2.0, "true_return_mean": 1.0}]
    panel = component_panel(rounds, {})
    assert panel is not None and panel.finding == ""
    (ax,) = panel.figure.axes
    assert ax.get_title() == "Parts of the reward"


def test_one_part_alone_is_the_return_and_is_not_drawn_again() -> None:
    assert component_panel([{"completions": 9, "component_a": 1.0}], {}) is None
    assert component_panel([], {}) is None
