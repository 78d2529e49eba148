"""What tiny text reward models, trained from nothing, learn from what real people said.

- SST-2 (Stanford Sentiment Treebank, binary): 6,920 sentences of film reviews, each called good or
  bad; good ones are compared with bad ones (`labelled_table`), and the model classifies 872 others.
- HH (Anthropic's harmless-base, MIT): 1,600 pairs of dialogues, one crowd worker each.
- PandaLM (test set v1, Apache-2.0): 705 pairs of answers to an instruction, three annotators each;
  the majority is the label, 0.5 where it says tie or there is none.

    python benchmarks/text_real_data.py --data FOLDER

The files are no part of this project; what is not in FOLDER is skipped. HH and PandaLM are split
into folds by the hash of the prompt: each pair is predicted by a model that was trained on the
other folds, and decisive pairs count. "Longer wins" and, for SST-2, logistic regression on words
stand beside the figures. No figure here says what a reward model can do: these are transformers of
one or two layers that have never read anything but the few thousand texts they are trained on.
Accuracies near 0.5 on HH and PandaLM are what that gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import RESULTS, spread, use_one_thread, write_result
from sst2 import SST, accuracy, read_sentences, reward_judge, word_judge

from rlhf_gym.data import Array, Choice, Preference
from rlhf_gym.feedback.dataset import PreferenceSet
from rlhf_gym.feedback.formats.text_import import TextFormat, read_text_pairs
from rlhf_gym.feedback.metrics import correlation, expected_calibration_error, log_loss
from rlhf_gym.feedback.quality.labeller import Share
from rlhf_gym.feedback.splits import heldout_mask
from rlhf_gym.feedback.text_reward_model import TextRewardModel
from rlhf_gym.feedback.text_settings import TextRewardSettings
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import train_byte_bpe
from rlhf_gym.text_clips import clip_text

HH = "hh_rlhf_harmless.jsonl.gz"
PANDA = "pandalm_three_annotators.jsonl.gz"
N_FOLDS = 4
VOCABULARY = 4096
PAIR_SETTINGS = TextRewardSettings(
    n_members=1, max_prompt_tokens=96, max_completion_tokens=96, max_epochs=2, weight_decay=0.1
)
"""Few epochs: a reward model that reads its answers often learns them by heart."""


@dataclass(frozen=True)
class Options:
    """Fit text reward models to real people's answers."""

    data: Path
    """The folder with the files."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Weights, groups and order."""
    hh_seeds: int = 1
    """How many of them for HH, whose texts are long."""
    only: tuple[str, ...] = ("sst2", "pandalm", "hh")
    """Which data sets."""
    out: Path = RESULTS
    """Where the result goes."""


def measure_sst2(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """A classifier from a reward model, and logistic regression."""
    train, dev = (read_sentences(folder / name) for name in SST)
    accuracies, seconds = [], []
    for seed in seeds:
        judge, report = reward_judge(train, VOCABULARY, seed)
        accuracies.append(accuracy(judge, dev))
        seconds.append(report.seconds)
        print(f"sst2 seed {seed}: {accuracies[-1]:.3f} in {report.seconds:.0f} s", flush=True)
    return {
        "n_train": len(train[0]),
        "n_dev": len(dev[0]),
        "accuracy": spread(accuracies),
        "intervals": [
            asdict(Share(round(share * len(dev[0])), len(dev[0]))) for share in accuracies
        ],
        "words_logistic_regression": accuracy(word_judge(train), dev),
        "majority": float(max(dev[1].mean(), 1 - dev[1].mean())),
        "n_completions_truncated": report.n_completions_truncated,
        "seconds": spread(seconds),
    }


def read_preferences(path: Path, text_format: TextFormat) -> tuple[PreferenceSet, dict[str, int]]:
    """A file's answers; several to one pair are pooled into their majority."""
    found = read_text_pairs(path, text_format)
    queries = {stored.query.id: stored.query for stored in found.snapshot.queries}
    preferences = PreferenceSet.from_preferences(
        [
            Preference(queries[a.query_id], a.choice, a.teacher, a.labeller)
            for a in found.snapshot.answers
        ]
    )
    counts = {"n_duplicates": found.n_duplicates, "n_identical": found.n_identical}
    if len(set(preferences.query_ids)) == len(preferences):
        return preferences, counts
    votes: dict[str, list[Choice]] = {}
    for query_id, choice in zip(preferences.query_ids, preferences.answers.choices, strict=True):
        votes.setdefault(query_id, []).append(choice)
    return preferences.pooled({q: majority(choices) for q, choices in votes.items()}), counts


def majority(choices: Sequence[Choice]) -> float:
    """P(first preferred) as most of the labellers say; 0.5 where no choice has most."""
    best = max(set(choices), key=choices.count)
    prob = best.preference_prob
    return 0.5 if prob is None or choices.count(best) * 2 <= len(choices) else prob


def folds(preferences: PreferenceSet) -> Array:
    """(N,) the fold of each answer, by its prompt's hash."""
    contexts = [preferences.clips.context_ids[int(row)] for row in preferences.pairs[:, 0]]
    below = [heldout_mask(contexts, (k + 1) / N_FOLDS) for k in range(N_FOLDS)]
    return N_FOLDS - np.sum(below, axis=0)


def take(preferences: PreferenceSet, rows: Array) -> list[Preference]:
    """Some answers; one with a soft label keeps it as the nearest choice."""
    choices = {1.0: Choice.FIRST, 0.0: Choice.SECOND, 0.5: Choice.TIE}
    return [
        Preference(preferences[int(row)].query, choices[float(preferences.probs[row])], "human")
        for row in rows
    ]


def measure_pairs(preferences: PreferenceSet, seeds: Sequence[int], name: str) -> dict[str, Any]:
    """Every pair predicted by a model that was trained on the other folds."""
    fold, answers = folds(preferences), preferences.probs.astype(float)
    decisive = answers != 0.5
    texts = [clip_text(preferences.clips.clip(row)) for row in range(len(preferences.clips))]
    lengths = np.array([len(completion) for _, completion in texts], float)
    runs = []
    for seed in seeds:
        predicted, reports = np.zeros(len(answers)), []
        for k in range(N_FOLDS):
            train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            seen = np.unique(preferences.pairs[train])
            tokenizer = train_byte_bpe(
                (text for row in seen for text in texts[int(row)]), VOCABULARY
            )
            lm = LanguageModel.tiny(
                tokenizer, n_layers=2, d_model=64, n_heads=4, max_length=192, seed=seed
            )
            model = TextRewardModel(lm, PAIR_SETTINGS, seed=seed)
            reports.append(model.fit(take(preferences, train), np.random.default_rng(seed)))
            sides = [
                model.clip_returns(
                    [preferences.clips.clip(int(c)) for c in preferences.pairs[test, s]]
                )
                for s in (0, 1)
            ]
            predicted[test] = (1 / (1 + np.exp(sides[1] - sides[0]))).mean(0)
        right = (predicted > 0.5) == (answers > 0.5)
        share = Share(int(right[decisive].sum()), int(decisive.sum()))
        runs.append(
            {
                "accuracy": asdict(share),
                "log_loss": log_loss(predicted, answers),
                "calibration_error": expected_calibration_error(predicted, answers),
                "train_accuracy": float(np.mean([r.accuracy_train for r in reports])),
                "length_correlation": float(np.mean([r.length_correlation for r in reports])),
                "n_prompts_truncated": reports[0].n_prompts_truncated,
                "n_completions_truncated": reports[0].n_completions_truncated,
                "n_texts": reports[0].n_texts,
                "seconds": float(sum(r.seconds for r in reports)),
            }
        )
        print(name, f"seed {seed}:", asdict(share), f"{runs[-1]['seconds']:.0f} s", flush=True)
    first, second = (lengths[preferences.pairs[:, side]] for side in (0, 1))
    unequal = decisive & (first != second)
    longer = (first > second) == (answers > 0.5)
    return {
        "n_pairs": len(answers),
        "n_ties": int((~decisive).sum()),
        "n_folds": N_FOLDS,
        "accuracy": spread([run["accuracy"]["value"] for run in runs]),
        "runs": runs,
        "longer_wins": asdict(Share(int(longer[unequal].sum()), int(unequal.sum()))),
        "label_correlation_with_length": correlation(answers, first - second),
    }


def measure_hh(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """One crowd worker's answer to each pair."""
    preferences, counts = read_preferences(folder / HH, "hh")
    return {**counts, **measure_pairs(preferences, seeds, "hh")}


def measure_pandalm(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """The majority of three annotators."""
    preferences, counts = read_preferences(folder / PANDA, "pandalm")
    return {**counts, **measure_pairs(preferences, seeds, "pandalm")}


def main(options: Options) -> None:
    """Measure what is there and write text_real_data.json."""
    use_one_thread()
    parts: dict[str, tuple[Sequence[str], Callable[..., dict[str, Any]]]] = {
        "sst2": (SST, measure_sst2),
        "hh": ([HH], measure_hh),
        "pandalm": ([PANDA], measure_pandalm),
    }
    figures: dict[str, Any] = {}
    for name in options.only:
        files, measure = parts[name]
        missing = [file for file in files if not (options.data / file).is_file()]
        if missing:
            print(f"skipped {name}: {missing[0]} is not there; --data names the folder that has it")
            continue
        seeds = options.seeds[: options.hh_seeds] if name == "hh" else options.seeds
        figures[name] = {"seeds": list(seeds), **measure(options.data, seeds)}
        # Where the data lies is the reader's affair.
        command = ["python", "benchmarks/text_real_data.py", "--data", "FOLDER"]
        everything = list(options.seeds)
        print(write_result("text_real_data", command, figures, everything, folder=options.out))


if __name__ == "__main__":
    main(tyro.cli(Options))
