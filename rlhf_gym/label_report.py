"""What `rlhf-gym labels` does: who answered what, how well; and forgetting a labeller."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlhf_gym.errors import ConfigError, UnknownNameError
from rlhf_gym.feedback.quality.measure import measure_quality
from rlhf_gym.feedback.quality.patterns import standing_warnings
from rlhf_gym.feedback.quality.report import quality_json, quality_report
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.printing import Screen, printable, say
from rlhf_gym.runs import Run

__all__ = ["forget_labeller", "print_labels"]


def print_labels(folder: Path, as_json: bool = False) -> None:
    """Print the quality of the answers in a run or a store.

    Raises:
        DataError: there is no store.
        CorruptDataError: the metrics of a run cannot be read.
    """
    with PreferenceStore(folder, create=False) as store:
        quality = measure_quality(store.answer_records(superseded=True))
        if chance := standing_warnings(Run(folder).metrics(), kinds={"chance"}):
            flags = *quality.flags, *(str(warning) for warning in chance)
            quality = replace(quality, flags=flags)
        n_posted = store.counts()["n_queries"]
    if as_json:
        say(quality_json(quality, n_posted))
    else:
        Screen().print(quality_report(quality, n_posted))


def _confirmed(question: str) -> bool:
    try:
        return input(printable(question)).strip().lower() in ("y", "yes")
    except (EOFError, RuntimeError):  # nobody is there to be asked; closed
        return False


def forget_labeller(folder: Path, labeller: str, yes: bool = False) -> None:
    """Delete all answers of a labeller from a run or a store, after asking.

    Args:
        folder: The run's or store's folder.
        labeller: The pseudonym.
        yes: Do not ask.

    Raises:
        UnknownNameError: nobody of that name answered anything.
        ConfigError: the person said no.
    """
    with PreferenceStore(folder, create=False) as store:
        names = {record.labeller for record in store.answer_records(superseded=True)}
        if labeller not in names:
            known = ", ".join(sorted(names)) or "nobody"
            raise UnknownNameError(
                f"nobody called {labeller!r} answered anything in {folder}; there are: {known}."
            )
        question = f"Delete all answers of {labeller!r} in {folder}, for good? [y/N] "
        if not yes and not _confirmed(question):
            raise ConfigError("nothing was deleted; answer `y`, or pass `--yes`.")
        n_rows = store.forget_labeller(labeller)
    say(f"{n_rows} rows of {labeller!r} are deleted from {folder}")
    if backups := sorted(folder.glob("preferences.db.v*.bak")):
        names_ = ", ".join(path.name for path in backups)
        say(f"backups of earlier versions may still hold them: {names_}")
