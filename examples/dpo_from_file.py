"""DPO from a file of prompt, chosen and rejected: the format of TRL and of Hugging Face's sets."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from rlhf_gym.agents.text.dpo_trainer import TextDPOTrainer
from rlhf_gym.agents.text.preference_pairs import pairs_of_preferences
from rlhf_gym.agents.text.settings import TextDPOSettings
from rlhf_gym.agents.text.sft import SFTSettings, SFTTrainer, encode_examples
from rlhf_gym.envs.text.sentiment import sentiment_corpus, sentiment_task
from rlhf_gym.feedback.store import PreferenceStore
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.language.reference import reference_of
from rlhf_gym.transfer import import_store


def write_file(path: Path, n: int) -> None:
    """Two continuations of each opening; the one with the higher sentiment is chosen."""
    task, rng, rows = sentiment_task(), np.random.default_rng(1), dict[str, list[str]]()
    for prompt, completion in zip(*sentiment_corpus(rng, 4 * n), strict=True):
        rows.setdefault(prompt, []).append(completion)
    with path.open("w") as file:
        for prompt, completions in rows.items():
            index = task.prompts.index(prompt)
            for pair in zip(completions[::2], completions[1::2], strict=False):
                totals = task.score_texts([index] * 2, pair, [True] * 2).total
                bad, good = np.argsort(totals)
                if totals[bad] < totals[good]:
                    row = {"prompt": prompt, "chosen": pair[good], "rejected": pair[bad]}
                    file.write(json.dumps(row) + "\n")


def main(n_pairs: int = 800, seed: int = 0) -> tuple[float, float]:
    """Share of the pairs that the policy ranks right, before and after."""
    task = sentiment_task()
    limits = {
        "max_prompt_tokens": task.max_prompt_tokens,
        "max_completion_tokens": task.max_new_tokens,
    }
    lm = LanguageModel.tiny(task.tokenizer, n_layers=1, d_model=32, max_length=64, seed=seed)
    examples = encode_examples(lm, *sentiment_corpus(np.random.default_rng(0), 3000), **limits)
    SFTTrainer(lm, SFTSettings(batch_size=16, learning_rate=3e-3)).train(
        examples, np.random.default_rng(seed)
    )
    with tempfile.TemporaryDirectory() as scratch:
        write_file(Path(scratch) / "pairs.jsonl", n_pairs)
        print(import_store(Path(scratch) / "pairs.jsonl", Path(scratch) / "store"))
        with PreferenceStore(Path(scratch) / "store") as store:
            pairs, counts = pairs_of_preferences(lm, store.preferences(), **limits)
    print(counts)
    settings = TextDPOSettings(beta=0.1, learning_rate=1e-3, n_epochs=2)
    trainer = TextDPOTrainer(lm, reference_of(lm), pairs, settings, seed=seed)
    trainer.train()
    return 0.5, trainer.evaluate()["accuracy"]  # the reference prefers neither side


if __name__ == "__main__":
    before, after = main()
    print(f"pairs ranked right: {before:.0%} before, {after:.0%} after")
