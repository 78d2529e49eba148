"""One self-contained HTML page about a run, and its figures as PNG files.

The page needs nothing but itself: figures are inlined, nothing is fetched, there is no script. It
can be mailed, archived or printed. It reads what the run folder holds and changes only
`report.html` and `figures/`; a run that still goes, or was stopped, is reported as such.
"""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rlhf_gym.documents import parse_yaml, read_json
from rlhf_gym.errors import CorruptDataError
from rlhf_gym.feedback.quality.patterns import standing_warnings
from rlhf_gym.files import write_bytes, write_text
from rlhf_gym.progress import (
    counts_completions,
    finite,
    recovered_fraction,
    show_number,
    show_seconds,
)
from rlhf_gym.reading import read_text
from rlhf_gym.report_figures import (
    Panel,
    draw_panels,
    house_style,
    is_learned,
    run_seconds,
    wilson,
)
from rlhf_gym.runs import Run
from rlhf_gym.text_figures import kl_key, sample_rows

__all__ = ["write_report"]

_DPI = 160
_KINDS: dict[str, type] = {
    "reference": dict, "calibration": dict, "seconds": dict, "evaluation_returns": list,
    "samples": list,
}  # fmt: skip
"""What summary.json holds beside plain values."""
_SECTIONS = (
    ("returns", "Does it do the task?"),
    ("reward", "Is the learned reward right?"),
    ("text", "What does it write?"),
    ("cost", "What did it take?"),
)


@dataclass(frozen=True)
class _Tile:
    """A headline figure."""

    value: str
    name: str
    note: str = ""


def write_report(run_folder: Path) -> Path:
    """Draw a run's figures and write its report.

    Args:
        run_folder: a folder that `rlhf-gym train` made; the run may still go.

    Returns:
        The path of report.html. The PNGs lie beside it in figures/.

    Raises:
        ConfigError: the folder is no run folder.
        CorruptDataError: a file of the run is damaged, or a link; the message names it.
    """
    run = Run.open(run_folder)
    metrics = run.metrics()
    finished = run.summary_path.exists()
    summary = _summary(run) if finished else _summary_so_far(metrics)
    provenance = _read_json(run.folder / "provenance.json")
    config_text = read_text(run.config_path)
    panels = draw_panels(metrics, summary)
    with house_style():
        images = {panel.name: _save(panel, run.folder / "figures") for panel in panels}
    learned = is_learned(metrics, summary)
    page = _template_page(
        {
            "title": _title(summary, config_text, run.folder),
            "subtitle": _subtitle(summary, provenance, learned),
            "finished": finished,
            "n_rounds": len(metrics),
            "warnings": summary.get("warnings") or [],
            "tiles": _tiles(summary, learned),
            "facts": _facts(summary, learned),
            "sections": [
                (name, [panel for panel in panels if panel.section == section])
                for section, name in _SECTIONS
            ],
            "images": images,
            "samples": sample_rows(summary),
            "rounds": _rounds_table(metrics),
            "config": config_text,
            "provenance": json.dumps(provenance, indent=2, ensure_ascii=False),
            "commands": _commands(run.folder, provenance, finished),
        }
    )
    write_text(run.report_path, page)
    return run.report_path


def _template_page(values: Mapping[str, Any]) -> str:
    """Everything is escaped, and a name that the template lacks is an error."""
    environment = Environment(
        loader=PackageLoader("rlhf_gym", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(values)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = read_json(path)
    except CorruptDataError as error:
        raise CorruptDataError(
            f"{error} Restore it from a copy, or delete it to get a report without it."
        ) from error
    if not isinstance(content, dict):
        raise CorruptDataError(
            f"{path} holds a {type(content).__name__}, expected a JSON object; restore it from a "
            "copy, or delete it to get a report without it."
        )
    return content


def _summary(run: Run) -> dict[str, Any]:
    """summary.json, with values that the page can show."""
    summary = _read_json(run.summary_path)
    for name, kind in _KINDS.items():
        if not isinstance(summary.get(name), kind | None):
            raise CorruptDataError(
                f"{run.summary_path} holds {str(summary[name])[:60]!r} as `{name}`, a "
                f"{'list' if kind is list else 'mapping'} is expected; restore it from a copy, or "
                "delete it to get a report without it."
            )
    return summary


def _summary_so_far(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """What is known of a run that has not ended: its last round."""
    if not metrics:
        return {}
    seconds = run_seconds(metrics, {})
    return {
        **metrics[-1],
        "warnings": [str(warning) for warning in standing_warnings(metrics)],
        "seconds": seconds,
        "seconds_total": sum(seconds.values()),
    }


def _save(panel: Panel, folder: Path) -> str:
    """Write the figure's PNG; returns it as a data URI."""
    buffer = io.BytesIO()
    panel.figure.savefig(buffer, format="png", dpi=_DPI)
    folder.mkdir(exist_ok=True)
    write_bytes(folder / f"{panel.name}.png", buffer.getvalue())
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _title(summary: Mapping[str, Any], config_text: str, folder: Path) -> str:
    """The task's name; of a run without a summary, from its config."""
    if summary.get("env_id"):
        return str(summary["env_id"])
    try:
        config = parse_yaml(config_text, "config.yaml")
    except CorruptDataError:
        return folder.name  # a report on a half-broken run beats none
    for key in ("env", "env_id"):
        if isinstance(config, dict) and isinstance(config.get(key), str):
            return str(config[key])
    return folder.name


def _subtitle(summary: Mapping[str, Any], provenance: Mapping[str, Any], learned: bool) -> str:
    source = "a reward learned from preferences" if learned else "the task's true reward"
    algo = f"{str(summary['algo']).upper()} trained" if summary.get("algo") else "Trained"
    seed = f", seed {summary['seed']}" if "seed" in summary else ""
    time = str(provenance.get("time_utc", ""))[:16].replace("T", " ")
    return f"{algo} on {source}{seed}" + (f", {time} UTC" if time else "")


def _tiles(summary: Mapping[str, Any], learned: bool) -> list[_Tile]:
    returns = summary.get("evaluation_returns") or []
    note = f"std {show_number(summary.get('true_return_std'))}"
    if returns:
        note += f" over {len(returns)} {_unit(summary)}s"
    tiles = [_Tile(show_number(summary.get("true_return_mean")), "true return", note)]
    fraction = recovered_fraction(summary)
    if fraction is not None:
        note = "0: random actions, 1: agent on the true reward"
        tiles.append(_Tile(f"{fraction:.2f}", "recovered", note))
    if learned:
        accuracy = finite(summary.get("reward_accuracy_heldout"))
        share = "-" if accuracy is None else f"{accuracy:.1%}"
        tiles += [
            _Tile(show_number(summary.get("n_labels")), "labels", "answers about pairs of clips"),
            _Tile(share, "held-out accuracy", _accuracy_note(summary)),
        ]
    tiles += _text_tiles(summary)
    steps = show_number(summary.get("env_steps", summary.get("completions")))
    unit = "completions" if counts_completions(summary) else "env steps"
    seconds = show_seconds(summary.get("seconds_total"))
    return [*tiles, _Tile(steps, unit, ""), _Tile(seconds, "wall time", "")]


def _unit(summary: Mapping[str, Any]) -> str:
    """What one evaluation return belongs to."""
    return "completion" if counts_completions(summary) else "episode"


def _accuracy_note(summary: Mapping[str, Any]) -> str:
    """What the share is of, and how far to trust it: 100 % of two answers is next to nothing."""
    n, share = (finite(summary.get(f"reward_{key}")) for key in ("n_heldout", "accuracy_heldout"))
    if not n or share is None:  # runs of earlier versions do not say how many
        return "answers that the learned reward predicts; ties do not count"
    low, high = wilson(share, n)
    return f"of {n:,.0f} held-out answers, no ties; 95 % interval {low:.0%} to {high:.0%}"


def _text_tiles(summary: Mapping[str, Any]) -> list[_Tile]:
    """How a text run compares with the model it began with, where it has ended."""
    tiles = []
    if finite(summary.get("win_rate")) is not None:
        ends = (show_number(summary.get(f"win_rate_{end}"), 2) for end in ("low", "high"))
        note = f"{' to '.join(ends)} (95 %), against the model after SFT, by the true reward"
        tiles.append(_Tile(show_number(summary["win_rate"], 2), "win rate", note))
    kl = summary.get(kl_key(summary))
    if finite(kl) is not None:
        tiles.append(_Tile(show_number(kl), "KL from SFT", "nats per completion"))
    return tiles


def _facts(summary: Mapping[str, Any], learned: bool) -> list[tuple[str, str]]:
    """The rest of the final figures, where they are known."""
    reference = summary.get("reference") or {}
    found = (finite(value) for value in summary.get("evaluation_returns") or [])
    returns = [value for value in found if value is not None]
    unit, is_text = _unit(summary), counts_completions(summary)
    start = "after SFT" if is_text else "of random actions"
    rows: list[tuple[str, object]] = [
        (f"True return {start}", reference.get("random_return_mean")),
        ("True return of the agent on the true reward", reference.get("true_reward_return_mean")),
        (f"Worst evaluation {unit} (true return)", min(returns, default=None)),
        (f"Best evaluation {unit} (true return)", max(returns, default=None)),
        ("Env steps spent on evaluation", None if is_text else summary.get("eval_steps")),
        ("Price of one nat of KL, in reward (kl_coef)", summary.get("kl_coef")),
    ]
    if learned:
        rows += [
            ("Learned return", summary.get("learned_return_mean")),
            (_correlation_name(summary), summary.get("reward_correlation")),
        ]
    facts = [(name, show_number(value)) for name, value in rows if finite(value) is not None]
    if reference.get("source"):
        facts.append(("Reference figures from", str(reference["source"])))
    return facts


def _correlation_name(summary: Mapping[str, Any]) -> str:
    n = finite(summary.get("reward_correlation_clips"))
    return "Correlation with the true reward" + (f", {n:,.0f} recent clips" if n else "")


def _rounds_table(metrics: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Every key of every round: header and rows. Rounds count from 1 for people."""
    keys = list(dict.fromkeys(key for row in metrics for key in row if key != "warnings"))
    for_people = [{**row, "round": row.get("round", -1) + 1} for row in metrics]
    rows = [[show_number(row.get(key)) for key in keys] for row in for_people]
    return [key.replace("_", " ") for key in keys], rows


def _commands(folder: Path, provenance: Mapping[str, Any], finished: bool) -> list[tuple[str, str]]:
    """What to type next, with what it does."""
    shown = folder.resolve()
    if shown.is_relative_to(Path.cwd()):
        shown = shown.relative_to(Path.cwd())  # what a person types; names no home folder
    quoted = shlex.quote(str(shown))
    again = shlex.quote(f"{shown}-again")
    config = shlex.quote(str(shown / "config.yaml"))
    commands = [("train again, same settings", f"rlhf-gym train --config {config} --out {again}")]
    if not finished:
        commands.insert(0, ("continue this run", f"rlhf-gym train --resume {quoted}"))
    if provenance.get("command"):
        commands.append(("how it was started", str(provenance["command"])))
    return [
        *commands,
        ("evaluate the agent", f"rlhf-gym evaluate {quoted} --episodes 20"),
        ("see the agent", f"rlhf-gym watch {quoted}"),
    ]
