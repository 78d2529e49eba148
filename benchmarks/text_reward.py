"""Does the text reward model learn as much as there is to learn? Against an enumerated optimum.

Toy B: tokens a, b, c and EOS, drawn uniformly; a text ends by EOS or is cut at 5 tokens, which
makes 364 texts. The true reward is the number of "ab", less 1 without EOS, and answers follow it by
Bradley-Terry. Over all pairs of texts, each weighed by its probability, are computed: the highest
accuracy that any model can have (decisive pairs), and the lowest log-loss.

- hard: 20,000 answers, each drawn once; pairs of one text are left out, as no one can answer them.
- soft: every pair of texts once, with the true probability as its label.

    python benchmarks/text_reward.py

Targets, worst of five seeds: accuracy within 1 point of the ceiling, loss within 0.01 nats of the
floor, Spearman's correlation with the true reward at least 0.98 of the highest that can be had
(ties of the true reward cannot be ranked, so that even a perfect model without ties stays below 1),
and scores that neither padding nor the batch changes by more than 1e-4. Settings were chosen on
seeds 100 and 101.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import RESULTS, spread, use_one_thread, write_result
from scipy.stats import rankdata, spearmanr

from rlhf_gym.data import Array
from rlhf_gym.feedback.text_data import PairTable, encode_texts
from rlhf_gym.feedback.text_reward_model import TextRewardModel
from rlhf_gym.feedback.text_settings import TextRewardSettings
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.tokenizers import word_tokenizer

TOKENIZER = word_tokenizer(list("abc"), separator="")
SETTINGS = TextRewardSettings(
    n_members=1,
    max_prompt_tokens=4,
    max_completion_tokens=8,
    batch_texts=364,
    learning_rate=5e-3,
    max_epochs=120,
    heldout_fraction=0.0,
)
N_HARD = 20_000


@dataclass(frozen=True)
class Options:
    """Compare the text reward model with an enumerated optimum."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Weights, answers and order."""
    out: Path = RESULTS
    """Where the result goes."""


class ToyB:
    """All texts with their probabilities and rewards."""

    def __init__(self) -> None:
        ended = [("".join(s), True) for n in range(5) for s in itertools.product("abc", repeat=n)]
        cut = [("".join(s), False) for s in itertools.product("abc", repeat=5)]
        self.texts = ended + cut
        self.drawn = np.array([4.0 ** -(len(text) + end) for text, end in self.texts])
        self.reward = np.array([t.count("ab") - (not end) for t, end in self.texts], float)
        self.true = 1 / (1 + np.exp(self.reward[None] - self.reward[:, None]))  # (364, 364)
        self.weight = self.drawn[:, None] * self.drawn[None]
        self.untied = self.reward[:, None] != self.reward[None]
        ranks = rankdata(self.reward)
        n = len(self.texts)
        self.highest_spearman = math.sqrt(12 * ranks.var() / (n**2 - 1))

    @property
    def ceiling(self) -> float:
        """The highest accuracy on decisive pairs."""
        best = np.maximum(self.true, 1 - self.true)
        return float(np.average(best[self.untied], weights=self.weight[self.untied]))

    @property
    def floor(self) -> float:
        """The lowest log-loss on all pairs, nats."""
        entropy = -(self.true * np.log(self.true) + (1 - self.true) * np.log(1 - self.true))
        return float((self.weight * entropy).sum())

    def figures(self, score: Array) -> dict[str, float]:
        """What a model's (364,) scores are worth, by enumeration."""
        difference = score[:, None] - score[None]
        right = np.where(difference > 0, self.true, 1 - self.true)
        loss = self.true * np.logaddexp(0, -difference)
        loss = loss + (1 - self.true) * np.logaddexp(0, difference)
        rho = float(spearmanr(score, self.reward)[0])
        shift = np.average(score - self.reward, weights=self.drawn)
        error = np.abs(score - shift - self.reward)
        return {
            "accuracy": float(np.average(right[self.untied], weights=self.weight[self.untied])),
            "loss": float((self.weight * loss).sum()),
            "spearman": rho,
            "spearman_of_highest": rho / self.highest_spearman,
            "mean_error_under_the_policy": float(np.average(error, weights=self.drawn)),
            "largest_error": float(error.max()),
        }


def answers(toy: ToyB, kind: str, rng: np.random.Generator) -> tuple[Array, Array]:
    """Pairs (N, 2) and labels (N,)."""
    n = len(toy.texts)
    if kind == "soft":
        pairs = np.stack(np.triu_indices(n, 1), axis=1)
        return pairs, toy.true[pairs[:, 0], pairs[:, 1]]
    pairs = rng.choice(n, (N_HARD, 2), p=toy.drawn)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return pairs, rng.random(len(pairs)) < toy.true[pairs[:, 0], pairs[:, 1]]


def padding_effect(model: TextRewardModel, toy: ToyB) -> float:
    """The largest change of a score between a batch of all texts and other company or padding."""
    texts, ends = (list(column) for column in zip(*toy.texts, strict=True))
    together = model.scores_of_texts([""] * len(texts), texts, ends)
    changes = []
    for row in range(0, len(texts), 7):
        alone = model.scores_of_texts([""], texts[row : row + 1], ends[row : row + 1])
        ids = TOKENIZER(texts[row], add_special_tokens=False)["input_ids"]
        ids += [TOKENIZER.eos_token_id] * ends[row]
        batch = TokenBatch.from_lists(
            [[TOKENIZER.bos_token_id]],
            [ids],
            TOKENIZER.pad_token_id,
            TOKENIZER.eos_token_id,
            prompt_length=5,
            completion_length=9,
        )
        padded = model.scores(batch).numpy()
        changes += [np.abs(found[:, 0] - together[:, row]).max() for found in (alone, padded)]
    return float(max(changes))


def measure(toy: ToyB, kind: str, seed: int) -> dict[str, float]:
    """Fit on one kind of answers and compare with the optimum."""
    rng = np.random.default_rng(seed)
    lm = LanguageModel.tiny(TOKENIZER, n_layers=2, d_model=32, n_heads=2, max_length=16, seed=seed)
    model = TextRewardModel(lm, SETTINGS, seed=seed)
    texts, ends = (list(column) for column in zip(*toy.texts, strict=True))
    rows = encode_texts(TOKENIZER, [""] * len(texts), texts, ends, model.limits)
    pairs, probs = answers(toy, kind, rng)
    table = PairTable(
        texts=rows,
        groups=np.zeros(len(texts), np.int64),
        pairs=pairs,
        probs=probs.astype(np.float32),
        margins=np.zeros(len(pairs), np.float32),
        query_ids=[str(index) for index in range(len(pairs))],
        context_ids=[""] * len(pairs),
    )
    report = model.fit_table(table, rng)
    score = model.net.score_texts(rows, model.pad_id)[0].double().numpy()
    return {
        **toy.figures(score),
        "padding_effect": padding_effect(model, toy),
        "n_answers": len(pairs),
        "seconds": report.seconds,
    }


def main(options: Options) -> None:
    """Measure both kinds on all seeds and write text_reward.json."""
    use_one_thread()
    toy = ToyB()
    figures: dict[str, Any] = {
        "bayes_accuracy": toy.ceiling,
        "minimum_loss": toy.floor,
        "highest_spearman": toy.highest_spearman,
        "targets": {
            "accuracy_below_bayes": 0.01,
            "loss_above_minimum": 0.01,
            "spearman_of_highest": 0.98,
            "padding_effect": 1e-4,
        },
    }
    for kind in ("hard", "soft"):
        rows = [measure(toy, kind, seed) for seed in options.seeds]
        figures[kind] = {name: spread([row[name] for row in rows]) for name in rows[0]}
        figures[kind]["worst"] = {
            "accuracy_below_bayes": toy.ceiling - min(row["accuracy"] for row in rows),
            "loss_above_minimum": max(row["loss"] for row in rows) - toy.floor,
            "spearman_of_highest": min(row["spearman_of_highest"] for row in rows),
            "padding_effect": max(row["padding_effect"] for row in rows),
        }
        print(kind, figures[kind]["worst"], flush=True)
    print(write_result("text_reward", None, figures, list(options.seeds), folder=options.out))


if __name__ == "__main__":
    main(tyro.cli(Options))
