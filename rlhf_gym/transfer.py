"""What `rlhf-gym export` and `rlhf-gym import` do with a store: formats by name, and a report."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rlhf_gym.data import Choice
from rlhf_gym.errors import ConfigError, DataError
from rlhf_gym.feedback.formats.columns import QUESTIONS, Columns
from rlhf_gym.feedback.formats.jsonl import read_jsonl, write_jsonl
from rlhf_gym.feedback.formats.minari_episodes import DATASET_ID, write_minari
from rlhf_gym.feedback.formats.parquet import read_parquet, write_parquet
from rlhf_gym.feedback.formats.read_row import Remark
from rlhf_gym.feedback.formats.rows import BadRow, list_bad_rows, read_rows
from rlhf_gym.feedback.formats.snapshot import Added, Snapshot, add_to_store, read_snapshot
from rlhf_gym.feedback.formats.tables import FORMAT
from rlhf_gym.feedback.formats.text_import import (
    TEXT_FORMATS,
    TextFormat,
    TextImport,
    read_text_pairs,
)
from rlhf_gym.feedback.formats.text_pairs import Ties, text_pairs, write_pairs
from rlhf_gym.feedback.store import PreferenceStore

__all__ = ["ExportFormat", "ImportFormat", "TransferReport", "export_store", "import_store"]

ExportFormat = Literal["jsonl", "parquet", "minari", "pairs"]
"""Two lossless ones; control clips as Minari episodes; text as prompt, chosen and rejected."""

ImportFormat = Literal["auto", "jsonl", "parquet", "hh", "pandalm", "pairs"]
"""The lossless ones, HH-RLHF, PandaLM's test set, TRL's preference format, or: look and see."""

_N_SHOWN = 5
_N_NAMES = 30
_N_LETTERS = 60


@dataclass(frozen=True)
class TransferReport:
    """What an export or an import did."""

    format: str
    """The format, where it was "auto" the one that was found."""
    path: Path
    """The file or folder that was written or read."""
    counts: Mapping[str, int]
    """How many of what, in words."""
    notes: tuple[str, ...] = ()
    """What else one should know, in sentences."""

    def __str__(self) -> str:
        """The report as it is printed: a line of its own for every figure and every note."""
        figures = [f"  {n:>9,} {what}" for what, n in self.counts.items()]
        return "\n".join([f"{self.path} ({self.format})", *figures, *self.notes])


def export_store(
    store_folder: Path, out: Path, export_format: ExportFormat = "jsonl", *, ties: Ties = "drop"
) -> TransferReport:
    """Write a store in an open format; it may be in use.

    Args:
        store_folder: The folder of a run or of a store.
        out: A new file for jsonl and pairs (compressed if it ends in .gz), a new folder for parquet
            and minari.
        export_format: See `ExportFormat`; docs/formats.md shows each.
        ties: What becomes of ties in pairs: "drop", "margin0" or "both".

    Raises:
        ConfigError: `out` exists, an unknown format, or `ties` with another format than pairs.
        DataError: no store there, or one that the format cannot hold.
        MissingDependencyError: minari is not installed.
        OSError: the disk is full; nothing is left behind.
    """
    accepted = get_args(ExportFormat)
    if export_format not in accepted:
        raise ConfigError(f"`--format` is {export_format!r}; accepted are {', '.join(accepted)}.")
    if ties != "drop" and export_format != "pairs":
        raise ConfigError(
            f"`--ties {ties}` is for `--format pairs`; {export_format} keeps ties as they are."
        )
    with PreferenceStore(store_folder, create=False) as store:
        if export_format == "pairs":
            return _export_pairs(store, out, ties)
        snapshot = read_snapshot(store)
    counts = _snapshot_counts(snapshot)
    notes: tuple[str, ...] = ()
    if export_format == "jsonl":
        write_jsonl(snapshot, out)
    elif export_format == "parquet":
        write_parquet(snapshot, out)
    else:
        counts["clips without true rewards, zeros in their place"] = write_minari(snapshot, out)
        notes = (
            f"Read it with MINARI_DATASETS_PATH={out} and minari.load_dataset({DATASET_ID!r}).",
        )
    return TransferReport(export_format, out, counts, notes)


def _export_pairs(store: PreferenceStore, out: Path, ties: Ties) -> TransferReport:
    went = write_pairs(text_pairs(store.preferences()), out, ties=ties)
    counts = {
        "rows written": went.n_rows,
        "answers with a better text": went.n_decisive,
        "ties written": went.n_ties_written,
        "ties left out": went.n_ties_dropped,
        '"can\'t tell" left out': went.n_skips_dropped,
    }
    return TransferReport("pairs", out, counts)


def import_store(
    path: Path,
    store_folder: Path,
    import_format: ImportFormat = "auto",
    *,
    columns: Mapping[str, str] | None = None,
    no_prompt: bool = False,
) -> TransferReport:
    """Add the content of a file to a store, all that can be used of it or nothing.

    The file is read and checked to its end before the store is touched, and goes into it in one
    transaction. What is there already is left as it is: importing twice adds nothing. Rows of text
    pairs that cannot be used are left out and listed in the report.

    Args:
        path: A file, or the folder of a Parquet export.
        store_folder: The store's folder; made if missing.
        import_format: See `ImportFormat`.
        columns: With "pairs": column by role, where they have other names than usual; the roles are
            prompt, system, input, chosen, rejected, margin, score_chosen and score_rejected.
        no_prompt: With "pairs": take rows that have no prompt, with an empty one.

    Raises:
        ConfigError: an unknown format, or one that cannot be told from the file; `columns` or
            `no_prompt` with another format than pairs.
        DataError: no row can be used, a damaged export, or clips that do not fit into this store;
            nothing is imported.
        OSError: a file cannot be read or written; nothing is imported.
    """
    accepted = get_args(ImportFormat)
    if import_format not in accepted:
        raise ConfigError(f"`--format` is {import_format!r}; accepted are {', '.join(accepted)}.")
    meant = Columns(dict(columns or {}), no_prompt)
    found = _detect(path, meant) if import_format == "auto" else import_format
    if found in TEXT_FORMATS:
        return _import_text(path, store_folder, found, meant)
    if meant != Columns():
        raise ConfigError(
            f"`--columns` and `--no-prompt` are for pairs; `{path}` is {found}, which has columns "
            "of its own: leave them out."
        )
    snapshot = read_parquet(path) if found == "parquet" else read_jsonl(path)
    added = _add(snapshot, store_folder)
    return TransferReport(found, path, {**_snapshot_counts(snapshot), **_added_counts(added)})


def _import_text(
    path: Path, store_folder: Path, text_format: TextFormat, columns: Columns
) -> TransferReport:
    read = read_text_pairs(path, text_format, columns)
    added = _add(read.snapshot, store_folder)
    choices = Counter(answer.choice for answer in read.snapshot.answers)
    counts = {
        "rows used": len(read.snapshot.queries),
        "rows left out: cannot be used": len(read.bad),
        "rows left out: same as an earlier row": read.n_duplicates,
        "rows left out: both texts are equal": read.n_identical,
        "rows that contradict an earlier row: kept": len(read.contradicting),
        **{remark.value: read.remarks[remark] for remark in Remark if remark in read.remarks},
        "answers": len(read.snapshot.answers),
        "ties among them": choices[Choice.TIE],
        **_added_counts(added),
    }
    return TransferReport(text_format, path, counts, tuple(_text_notes(read)))


def _text_notes(read: TextImport) -> Iterator[str]:
    """What an owner of the file should know besides the figures."""
    for line in list_bad_rows(read.bad):
        yield f"left out: {line}"
    if read.contradicting:
        shown = ", ".join(map(str, read.contradicting[:_N_SHOWN]))
        more = len(read.contradicting) - _N_SHOWN
        yield f"contradicting rows: {shown}" + (f" and {more:,} more" if more > 0 else "")
    if read.unused:
        shown = ", ".join(f"`{_shortened(name)}`" for name in read.unused[:_N_NAMES])
        more = len(read.unused) - _N_NAMES
        yield f"columns not used: {shown}" + (f" and {more:,} more" if more > 0 else "")
    kept = {name for answer in read.snapshot.answers for name in answer.details}
    if "margin" in kept:
        yield (
            "margins are kept with the answers. A reward model fits them only with "
            "TextRewardSettings(use_margins=True); runs and DPO do not use them."
        )
    if "score_first" in kept:
        yield (
            "scores are kept with the answers. Nothing is trained on them: equal ones make a tie, "
            "and otherwise `chosen` is the better text, whatever its score."
        )


def _shortened(name: str) -> str:
    return name if len(name) <= _N_LETTERS else f"{name[:_N_LETTERS]}…"


def _snapshot_counts(snapshot: Snapshot) -> dict[str, int]:
    return {
        "clips": len(snapshot.clips()),
        "queries": len(snapshot.queries),
        "answers, with those replaced or taken back": len(snapshot.answers),
        "answers that stand": len(snapshot.standing()),
    }


def _added_counts(added: Added) -> dict[str, int]:
    return {
        "queries new to the store": added.n_queries,
        "answers new to the store": added.n_answers,
    }


def _add(snapshot: Snapshot, folder: Path) -> Added:
    """Add to a store, and leave none behind where there was none and this failed."""
    had_folder = folder.exists()
    had_store = (folder / "preferences.db").exists() or (folder / "clips").exists()
    try:
        with PreferenceStore(folder) as store:
            return add_to_store(store, snapshot)
    except BaseException:
        if not had_store:
            (folder / "preferences.db").unlink(missing_ok=True)
            shutil.rmtree(folder / "clips", ignore_errors=True)
        if not had_folder:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _detect(path: Path, columns: Columns) -> ImportFormat:
    """The format, by the first row that can be read."""
    if path.is_dir():
        if (path / "answers.parquet").exists():
            return "parquet"
        raise ConfigError(
            f"`{path}` is a folder without answers.parquet; name a file, or the folder of a "
            "Parquet export."
        )
    if not path.exists():
        raise DataError(f"there is no file `{path}`; name the file to import.")
    row = next((row for row in read_rows(path) if not isinstance(row, BadRow)), None)
    if row is None:
        raise DataError(f"`{path}` holds no line of JSON; nothing was imported.")
    names = row.content.keys()
    if row.content.get("format") == FORMAT:
        return "jsonl"
    if columns == Columns() and {"instruction", "response1", "response2"} <= names:
        return "pandalm"
    texts = [row.content.get(columns.of(role)) for role in ("chosen", "rejected")]
    if None not in texts:
        dialogues = all(isinstance(text, str) and "\n\nAssistant:" in text for text in texts)
        plain = columns == Columns() and names.isdisjoint(QUESTIONS)
        return "hh" if dialogues and plain else "pairs"
    raise ConfigError(
        f"the format of `{path}` cannot be told from its columns ({', '.join(names)}). If they are "
        "pairs of texts, say which columns hold them: `--columns prompt=question,chosen=good,"
        "rejected=bad`; otherwise name the format with `--format`: jsonl, parquet, hh, pandalm or "
        "pairs."
    )
