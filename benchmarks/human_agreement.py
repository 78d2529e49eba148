"""How far real people agree: three annotators of PandaLM's test set, beside the libraries' figures.

705 pairs of answers to one instruction, each judged by three people: first better, second better,
or tie (Wang et al. 2023, WeOpenML/PandaLM, test set v1, Apache-2.0). The file is not part of this
project; without it the measurement is skipped.

    python benchmarks/human_agreement.py --data FOLDER

The libraries stand beside our figures: krippendorff on the raw answers, scikit-learn on each two
annotators, crowd-kit's Dawid-Skene (the `crowd` extra) at the same number of iterations, without
smoothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import warnings
from collections import Counter
from dataclasses import asdict
from importlib import metadata
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, write_result

from rlhf_gym.data import Choice
from rlhf_gym.feedback.quality.agreement import agreement, answer_table
from rlhf_gym.feedback.quality.dawid_skene import fit_dawid_skene
from rlhf_gym.feedback.records import AnswerRecord

FILE = "pandalm_three_annotators.jsonl.gz"
ANNOTATORS = ("annotator1", "annotator2", "annotator3")
CHOICES = {0: Choice.TIE, 1: Choice.FIRST, 2: Choice.SECOND}
LIBRARIES = ("krippendorff", "scikit-learn", "scipy")
N_ITERATIONS = 100
SEED = 0


def load(path: Path) -> list[AnswerRecord]:
    """Every annotator's answer to every pair."""
    records = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for index, line in enumerate(lines):
            row = json.loads(line)
            for name in ANNOTATORS:
                sequence = len(records) + 1
                records.append(
                    AnswerRecord(
                        sequence=sequence,
                        uuid=f"{sequence:032x}",
                        # Rows are pairs; `idx` names the instruction and may come twice.
                        query_id=f"row {index}",
                        round=0,
                        kind="pairwise",
                        choice=CHOICES[row[name]],
                        teacher="human",
                        labeller=name,
                        shown_at=0.0,
                        answered_at=0.0,
                    )
                )
    return records


def library_agreement(codes: np.ndarray) -> dict[str, Any]:
    """Alpha and Cohen's kappas from the raw answers (N, 3), straight from the libraries."""
    import krippendorff
    from sklearn.metrics import cohen_kappa_score

    return {
        "krippendorff_alpha": float(
            krippendorff.alpha(reliability_data=codes.T, level_of_measurement="nominal")
        ),
        "cohen_kappa": [
            float(cohen_kappa_score(codes[:, i], codes[:, j])) for i, j in combinations(range(3), 2)
        ],
    }


def library_dawid_skene(codes: np.ndarray, n_iterations: int) -> np.ndarray | None:
    """Crowd-kit's posteriors (N, 3), or None without crowd-kit."""
    try:
        import pandas
        from crowdkit.aggregation import DawidSkene
    except ImportError:
        return None
    rows = [(q, r, int(codes[q, r])) for q in range(len(codes)) for r in range(codes.shape[1])]
    data = pandas.DataFrame(rows, columns=["task", "worker", "label"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # crowd-kit 1.4 uses what pandas 3 will take away
        peer = DawidSkene(n_iter=n_iterations, tol=-math.inf).fit(data)
    return peer.probas_.loc[range(len(codes)), [0, 1, 2]].to_numpy()


def votes(codes: np.ndarray) -> dict[str, int]:
    """On how many pairs all three, two, or none of the annotators agree."""
    n_alike = Counter(max(Counter(row).values()) for row in codes.tolist())
    return {"all_three": n_alike[3], "two": n_alike[2], "none": n_alike[1]}


def dawid_skene_figures(records: list[AnswerRecord], codes: np.ndarray) -> dict[str, Any]:
    smoothed = fit_dawid_skene(records)
    plain = fit_dawid_skene(
        records, pseudo_answers=0.0, tolerance=1e-300, max_iterations=N_ITERATIONS
    )
    peer = library_dawid_skene(codes, len(plain.objectives))
    labels = np.array(list(smoothed.soft_labels().values()))
    counts = (codes[:, :, None] == np.arange(3)).sum(axis=1)  # (N, 3)
    decided = counts.max(axis=1) >= 2
    same = smoothed.posteriors.argmax(axis=1) == counts.argmax(axis=1)
    return {
        "reliabilities": smoothed.reliabilities(),
        "reliabilities_unsmoothed": plain.reliabilities(),
        "priors": smoothed.priors,
        "confusions": smoothed.confusions,
        "n_iterations": len(smoothed.objectives),
        "converged": smoothed.converged,
        "same_as_the_vote_where_there_is_one": float(same[decided].mean()),
        "soft_labels_between_0.1_and_0.9": float(((labels > 0.1) & (labels < 0.9)).mean()),
        "crowd_kit_largest_difference": None
        if peer is None
        else float(np.abs(plain.posteriors - peer).max()),
        "crowd_kit_n_iterations": len(plain.objectives),
    }


def measure(path: Path, n_resamples: int) -> dict[str, Any]:
    records = load(path)
    table = answer_table(records, cant_tell=False)
    found = agreement(records, n_resamples=n_resamples, seed=SEED)
    library = library_agreement(table.codes)
    ours = [found.alpha.value, *(pair.kappa.value for pair in found.pairs)]
    theirs = [library["krippendorff_alpha"], *library["cohen_kappa"]]
    decisive = [r for r in records if r.choice is not Choice.TIE]
    n_first = sum(r.choice is Choice.FIRST for r in decisive)
    ties = table.codes == 2  # (N, 3)
    return {
        "n_pairs": len(table.query_ids),
        "votes": votes(table.codes),
        "tie_share": dict(zip(table.labellers, ties.mean(axis=0).tolist(), strict=True)),
        "pairs_with_a_tie": float(ties.any(axis=1).mean()),
        "pairs_all_tie": float(ties.all(axis=1).mean()),
        "first_share_of_decisive": n_first / len(decisive),
        "agreement": asdict(found),
        "without_tied_pairs": asdict(
            agreement(
                [
                    r
                    for r, tied in zip(records, np.repeat(ties.any(axis=1), 3), strict=True)
                    if not tied
                ],
                n_resamples=n_resamples,
                seed=SEED,
            )
        ),
        "libraries": {
            **library,
            # With m answers to every pair, 1 - alpha = (1 - Fleiss' kappa) (n - 1) / n, n = N m.
            "fleiss_kappa_from_alpha": 1.0
            - (1.0 - library["krippendorff_alpha"]) * table.codes.size / (table.codes.size - 1),
            "versions": {name: metadata.version(name) for name in LIBRARIES},
        },
        "largest_difference_to_libraries": max(
            abs(a - b) for a, b in zip(ours, theirs, strict=True) if a is not None
        ),
        "dawid_skene": dawid_skene_figures(records, table.codes),
    }


def show(figures: dict[str, Any]) -> None:
    found = figures["agreement"]
    for name in ("percent", "fleiss", "alpha"):
        f = found[name]
        print(f"{name:8} {f['value']:.3f} ({f['low']:.3f} to {f['high']:.3f})")
    for pair in found["pairs"]:
        f, p = pair["kappa"], pair["percent"]
        print(f"{' and '.join(pair['labellers'])}: agree {p['value']:.3f}, Cohen's kappa "
              f"{f['value']:.3f} ({f['low']:.3f} to {f['high']:.3f})")  # fmt: skip
    rest = {k: v for k, v in figures.items() if k not in ("agreement", "without_tied_pairs")}
    print(json.dumps(rest, indent=1, default=lambda a: np.round(a, 3).tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"the folder that holds {FILE}")
    parser.add_argument("--resamples", type=int, default=10_000, help="of the bootstrap")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write the result")
    args = parser.parse_args()
    path = args.data / FILE
    if not path.is_file():
        print(f"skipped: {path} is not there; --data names the folder that holds {FILE}")
        return
    figures = measure(path, args.resamples)
    show(figures)
    # Where the data lies is the reader's affair.
    command = ["python", "benchmarks/human_agreement.py", "--data", "FOLDER"]
    if args.resamples != parser.get_default("resamples"):
        command += ["--resamples", str(args.resamples)]
    print(write_result("human_agreement", command, figures, [SEED], folder=args.out))


if __name__ == "__main__":
    main()
