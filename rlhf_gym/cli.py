"""The command line: thin, every command is a few lines of the public API."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rlhf_gym.documents import read_json
from rlhf_gym.errors import ConfigError
from rlhf_gym.label_options import LabelOptions
from rlhf_gym.last_resort import one_sentence
from rlhf_gym.printing import PrintableStream, Screen, say
from rlhf_gym.train_config import TrainConfig

__all__ = ["main"]

Folder = Annotated[Path, tyro.conf.Positional]
_LABEL_DEFAULTS = LabelOptions()
LabelFlags = Annotated[LabelOptions, tyro.conf.arg(name="")]
ExportFormat = Literal["jsonl", "parquet", "minari", "pairs"]
ImportFormat = Literal["auto", "jsonl", "parquet", "hh", "pandalm", "pairs"]
TrainOptions = Annotated[TrainConfig, tyro.conf.arg(name="")]


def _train_command(defaults: TrainConfig) -> Callable[..., None]:
    """The command `train`, its options preset to those of a file where `--config` names one."""

    def train(
        options: TrainOptions = defaults,
        out: Path | None = None,
        config: Path | None = None,
        resume: Path | None = None,
        hyperparameters: tuple[str, ...] = (),
        trust: bool = False,
    ) -> None:
        """Train an agent from preferences, then write the summary and report.html.

        Args:
            options: The run's options.
            out: The run folder; default is a fresh one under runs/.
            config: A YAML file of options; flags beside it win.
            resume: Continue the run in this folder, by its own configuration.
            hyperparameters: Single settings of the agent over the task's, `name=value` each, as
                agents/ppo.yml and agents/text.yml name them; `ppo.kl_coef=0` takes the price off
                KL on texts.
            trust: Run the modules that `--resume`, or `--config` with a run's config.yaml, names
                though that run was not made here; see docs/trust.md.
        """
        from rlhf_gym import training
        from rlhf_gym.closing_table import print_summary
        from rlhf_gym.overrides import with_overrides
        from rlhf_gym.report import write_report
        from rlhf_gym.train_config import check_config_file

        changed = dataclasses.replace(
            options, hyperparameters=with_overrides(options.hyperparameters, hyperparameters)
        )
        if config is not None and not trust:
            check_config_file(config, changed)
        if resume is None:
            run = training.train(changed, out)
        else:
            waiting = _waiting(changed, is_plain=out is None)
            run = training.resume(resume, trust=trust, **waiting)
        write_report(run.folder)
        print_summary(read_json(run.summary_path), folder=run.folder)

    return train


def _waiting(options: TrainConfig, *, is_plain: bool) -> dict[str, Any]:
    """How long to wait for people from now on: all that `--resume` lets change.

    Raises:
        ConfigError: another option stands beside `--resume`.
    """
    plain = TrainConfig()
    names = ("wait", "label_slack")
    changed = {n: getattr(options, n) for n in names if getattr(options, n) != getattr(plain, n)}
    if not is_plain or dataclasses.replace(plain, **changed) != options:
        raise ConfigError(
            "`--resume` continues a run in its own folder by its own config.yaml; omit `--out`, "
            "`--config` and all other options, but for `--no-wait` and `--label-slack`."
        )
    return changed


def _fit(
    folder: Folder, device: str = "auto", out: Path | None = None, trust: bool = False
) -> None:
    """Fit and validate a reward model on the preferences stored in a run.

    Args:
        folder: The run folder.
        device: auto, cpu, cuda or cuda:N.
        out: Where to save the fitted model; default: it is only validated.
        trust: Run the modules that the run names, though it was not made here; see docs/trust.md.
    """
    from rlhf_gym.offline import fit_run

    _print_table("reward model", fit_run(folder, device, out, trust=trust))


def _evaluate(
    folder: Folder,
    episodes: int = 20,
    seed: int = 0,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    trust: bool = False,
) -> None:
    """Measure the trained agent on the true reward.

    Args:
        folder: The run folder.
        episodes: How many episodes.
        seed: Chooses their starting states; from a stream that training does not use.
        as_json: Print one JSON object instead of a table.
        trust: Run the modules that the run names, though it was not made here; see docs/trust.md.
    """
    from rlhf_gym.offline import evaluate_run

    figures = evaluate_run(folder, episodes, seed, trust=trust)
    if as_json:
        say(json.dumps(figures))
    else:
        _print_table("true return", {k: v for k, v in figures.items() if k != "returns"})


def _watch(
    folder: Folder,
    video: Path | None = None,
    episodes: int = 1,
    seed: int = 0,
    trust: bool = False,
) -> None:
    """See the trained agent in a window, or film it.

    Args:
        folder: The run folder.
        video: Write this .mp4 or .gif instead of opening a window.
        episodes: How many episodes.
        seed: Chooses their starting states.
        trust: Run the modules that the run names, though it was not made here; see docs/trust.md.
    """
    from rlhf_gym.offline import watch_run

    watch_run(folder, video, episodes, seed, trust=trust)


def _report(folder: Folder) -> None:
    """Draw the figures of a run and write its report.html.

    Args:
        folder: The run folder; the run may still be going.
    """
    from rlhf_gym.report import write_report

    say(write_report(folder))


def _label(folder: Folder, options: LabelFlags = _LABEL_DEFAULTS) -> None:
    """Say which of two clips is better: the open pairs of a run, or of a bare store.

    Args:
        folder: The run folder; the run may be training.
        options: How.
    """
    from rlhf_gym.labelling import label_store

    n_answers = label_store(folder, options)
    say(f"{n_answers} answers of this sitting are kept in {folder}")


def _labels(
    folder: Folder,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    forget: str | None = None,
    yes: bool = False,
) -> None:
    """Show who answered what, and how well.

    Args:
        folder: The folder of a run or a store.
        as_json: Print one JSON object instead of tables.
        forget: Delete all answers of this labeller, for good.
        yes: Delete without asking.
    """
    from rlhf_gym.label_report import forget_labeller, print_labels

    if forget is not None:
        forget_labeller(folder, forget, yes)
    else:
        print_labels(folder, as_json)


def _export(
    folder: Folder,
    sb3: Path | None = None,
    file_format: Annotated[ExportFormat, tyro.conf.arg(name="format")] = "jsonl",
    out: Path | None = None,
    ties: Literal["drop", "margin0", "both"] = "drop",
    trust: bool = False,
) -> None:
    """Write the preferences in an open format, or the trained agent in stock formats.

    Args:
        folder: The folder of a run or a store.
        sb3: A .zip for `stable_baselines3.PPO.load`; the normaliser goes beside it.
        file_format: jsonl and parquet hold everything; minari the clips; pairs texts, for TRL.
        out: The new file (jsonl, pairs) or folder (parquet, minari).
        ties: What becomes of ties in pairs.
        trust: With `--sb3`: run the modules that the run names, though it was not made here.
    """
    if (sb3 is None) == (out is None):
        raise ConfigError(
            "`export` writes either preferences, `--format jsonl --out preferences.jsonl`, or the "
            "agent, `--sb3 agent.zip`; name one of the two."
        )
    if sb3 is not None:
        if (file_format, ties) != ("jsonl", "drop"):
            raise ConfigError("`--format` and `--ties` are of preferences; leave them out.")
        from rlhf_gym.offline import export_run

        paths, note = export_run(folder, sb3, trust=trust)
        for line in (*paths, *([note] if note else [])):
            say(line)
    elif out is not None:
        from rlhf_gym.transfer import export_store

        say(export_store(folder, out, file_format, ties=ties))


def _import(
    path: Annotated[Path, tyro.conf.Positional],
    into: Path,
    file_format: Annotated[ImportFormat, tyro.conf.arg(name="format")] = "auto",
    columns: tuple[str, ...] = (),
    no_prompt: bool = False,
) -> None:
    """Add preferences from a file to a store: all that can be used, or nothing.

    Args:
        path: A file, or the folder of a Parquet export.
        into: The store's folder; made if missing.
        file_format: What the file is; auto looks and sees.
        columns: Which columns hold what, where they have other names than usual:
            `prompt=question,chosen=good,rejected=bad`. Also system, input (text below the prompt),
            margin, score_chosen and score_rejected.
        no_prompt: Take rows that have no prompt, with an empty one.
    """
    from rlhf_gym.feedback.formats.columns import parse_columns
    from rlhf_gym.transfer import import_store

    named = parse_columns(columns)
    say(import_store(path, into, file_format, columns=named, no_prompt=no_prompt))


def _benchmark(
    spec: Folder,
    out: Path | None = None,
    workers: int | None = None,
    only: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    report_only: bool = False,
    keep_runs: bool = False,
    publish_yardsticks: Path | None = None,
) -> None:
    """Measure tasks x settings x seeds, then write tables and figures; go on where it was stopped.

    Args:
        spec: The specification, a YAML file; see docs/benchmark-command.md.
        out: The folder of the results; default: benchmarks/results/NAME.
        workers: Runs at once; default: the specification's.
        only: Settings to run now.
        tasks: Tasks to run now.
        seeds: Seeds to run now.
        report_only: Make no run; write tables and figures of what is there.
        keep_runs: Keep the run folders, below the results' `work`.
        publish_yardsticks: Put the reference returns into this file, as rlhf_gym/yardsticks.json.
    """
    from rlhf_gym.benchmark.command import run_benchmark
    from rlhf_gym.benchmark.spec import load_spec

    result = run_benchmark(
        load_spec(spec),
        out,
        workers=workers,
        only=only,
        tasks=tasks,
        seeds=seeds,
        report_only=report_only,
        keep_runs=keep_runs,
        yardsticks=publish_yardsticks,
        command=["rlhf-gym", *sys.argv[1:]],
    )
    for failure in result.failures:
        say(f"\n{failure.job.label} failed ({failure.log}):\n{failure.error}", file=sys.stderr)
    raise SystemExit(1 if result.failures else 0)


def _envs() -> None:
    """List the registered environments, one line each."""
    from rlhf_gym.envs.make import env_table

    _print_table("environments", dict(env_table()))


def _doctor() -> None:
    """Check versions, device, renderer and display, and say what is missing."""
    from rlhf_gym.doctor import checks, exit_code, print_checks

    found = checks()
    print_checks(found)
    raise SystemExit(exit_code(found))


_COMMANDS: dict[str, Any] = {
    "label": _label,
    "labels": _labels,
    "fit": _fit,
    "evaluate": _evaluate,
    "watch": _watch,
    "report": _report,
    "export": _export,
    "import": _import,
    "benchmark": _benchmark,
    "envs": _envs,
    "doctor": _doctor,
}


def _print_table(title: str, rows: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    for key, value in rows.items():
        table.add_row(key, f"{value:,.4g}" if isinstance(value, float) else str(value))
    Screen().print(table)


def _defaults(arguments: list[str]) -> TrainConfig:
    """The options in the file after `--config`, for the flags beside it to be read over."""
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--config":
            path = value or (arguments[i + 1] if i + 1 < len(arguments) else "")
            from rlhf_gym.config import from_yaml

            return from_yaml(TrainConfig, Path(path))
    return TrainConfig()


def _parsed(arguments: list[str]) -> Callable[[], None]:
    """The command that the arguments ask for, to be called.

    Parsing and calling are two steps because tyro prints arguments and defaults as they are.
    """
    commands = {"train": _train_command(_defaults(arguments)), **_COMMANDS}
    out: Any = PrintableStream(sys.stdout)
    err: Any = PrintableStream(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        parsed: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
            {name: _deferred(command) for name, command in commands.items()},
            prog="rlhf-gym",
            args=arguments,
        )
    return parsed


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    @functools.wraps(command)
    def bound(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    return bound


def main(arguments: list[str] | None = None) -> None:
    """Run `rlhf-gym`; whatever goes wrong ends in one message, see `rlhf_gym.last_resort`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with one_sentence():
        _parsed(arguments)()
