"""Answers about texts as pairs of token ids, for methods that learn from the answers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from rlhf_gym.agents.text.pairs import CompletionPairs
from rlhf_gym.data import Preference
from rlhf_gym.errors import DataError
from rlhf_gym.language.batches import TokenBatch, cut_left, encode_texts
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.text_clips import clip_finished, clip_text

__all__ = ["PairCounts", "pairs_of_preferences"]


class PairCounts(NamedTuple):
    """What became of the answers."""

    n_used: int
    n_skipped: int
    """Answered "can't tell"."""
    n_alike: int
    """Their two texts are the same tokens, or one has none, after cutting."""
    n_truncated: int
    """Texts that lost the beginning of their prompt or the end of their completion."""


def pairs_of_preferences(
    lm: LanguageModel,
    preferences: Sequence[Preference],
    *,
    max_prompt_tokens: int,
    max_completion_tokens: int,
) -> tuple[CompletionPairs, PairCounts]:
    """Tokenize the texts of answers, each distinct one once.

    A completion that ended by itself gets EOS, one that a limit cut does not.

    Args:
        lm: Whose tokenizer is used.
        preferences: About text clips; ties count as 0.5.
        max_prompt_tokens: BOS included; longer prompts lose their beginning.
        max_completion_tokens: EOS included; longer completions lose their end.

    Raises:
        DataError: no answer is left to learn from.
    """
    texts: dict[tuple[str, str, bool], int] = {}
    rows: list[tuple[int, int, float]] = []
    for preference in preferences:
        if preference.preference_prob is None:
            continue
        first, second = (
            texts.setdefault((*clip_text(clip), clip_finished(clip)), len(texts))
            for clip in preference.query.clips
        )
        rows.append((first, second, preference.preference_prob))
    prompts = encode_texts(lm.tokenizer, [prompt for prompt, _, _ in texts], bos=True)
    completions = [
        [*ids, lm.eos_id] if ended else ids
        for ids, (_, _, ended) in zip(
            encode_texts(lm.tokenizer, [text for _, text, _ in texts], bos=False),
            texts,
            strict=True,
        )
    ]
    n_truncated = sum(
        len(prompt) > max_prompt_tokens or len(completion) > max_completion_tokens
        for prompt, completion in zip(prompts, completions, strict=True)
    )
    prompts = [cut_left(ids, max_prompt_tokens, lm.bos_id) for ids in prompts]
    completions = [ids[:max_completion_tokens] for ids in completions]
    used = [
        row
        for row in rows
        if completions[row[0]]
        and completions[row[1]]
        and completions[row[0]] != completions[row[1]]
    ]
    counts = PairCounts(len(used), len(preferences) - len(rows), len(rows) - len(used), n_truncated)
    if not used:
        raise DataError(
            f"no answer to learn from: of {len(preferences)}, {counts.n_skipped} are \"can't "
            f'tell" and {counts.n_alike} compare texts that are alike; answer more pairs.'
        )
    first_rows, second_rows, probs = zip(*used, strict=True)
    pairs = CompletionPairs(
        TokenBatch.from_lists(prompts, completions, lm.pad_id, lm.eos_id),
        torch.tensor(first_rows),
        torch.tensor(second_rows),
        torch.tensor(probs, dtype=torch.float32),
        torch.ones(len(used)),
    )
    return pairs, counts
