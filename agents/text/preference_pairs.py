"""Answers about texts as pairs of token ids, for methods that learn from the answers themselves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch

from rlhf_gym.agents.text.pairs import CompletionPairs
from rlhf_gym.data import Clip, Preference
from rlhf_gym.errors import DataError
from rlhf_gym.language.batches import TokenBatch
from rlhf_gym.language.encoding import (
    Continuations,
    cut_left,
    encode_continuations,
    list_rows,
)
from rlhf_gym.language.models import LanguageModel
from rlhf_gym.text_clips import clip_finished, clip_text

__all__ = ["PairCounts", "pairs_of_preferences"]

_log = logging.getLogger(__name__)


class PairCounts(NamedTuple):
    """What became of the answers."""

    n_used: int
    n_skipped: int
    """Answered "can't tell"."""
    n_alike: int
    """Their two texts are the same tokens, or one has none, after cutting."""
    n_truncated: int
    """Texts that lost the beginning of their prompt or the end of their completion."""
    left_out: tuple[tuple[int, str], ...] = ()
    """Answers that cannot be used, by their number in what was given, and why."""


def pairs_of_preferences(
    lm: LanguageModel,
    preferences: Sequence[Preference],
    *,
    max_prompt_tokens: int,
    max_completion_tokens: int,
) -> tuple[CompletionPairs, PairCounts]:
    """Tokenize the texts of answers, each distinct one once.

    A completion that ended by itself gets EOS, one that a limit cut does not. What a text spells is
    text, special tokens too; see `rlhf_gym.language.encoding`. Answers whose texts cannot be used
    are left out. What was cut and left out is counted, and logged in one line.

    Args:
        lm: Whose tokenizer is used.
        preferences: About text clips; ties count as 0.5.
        max_prompt_tokens: BOS included; longer prompts lose their beginning.
        max_completion_tokens: EOS included; longer completions lose their end.

    Raises:
        DataError: no answer is left to learn from.
    """
    answers = [
        (number, preference)
        for number, preference in enumerate(preferences)
        if preference.preference_prob is not None
    ]
    numbers, found = _encode(lm, [preference for _, preference in answers])
    left_out, used = list[tuple[int, str]](), list[tuple[int, int, float]]()
    n_alike = 0
    completions = [ids[:max_completion_tokens] for ids in found.completions]
    for number, preference in answers:
        first, second = (numbers[_text(clip)] for clip in preference.query.clips)
        sides = {"first": first, "second": second}
        bad = {side: found.bad[text] for side, text in sides.items() if text in found.bad}
        if bad:
            reason = "; ".join(f"{side} text: {why}" for side, why in bad.items())
            left_out.append((number, reason))
        elif not all(pair := (completions[first], completions[second])) or pair[0] == pair[1]:
            n_alike += 1
        else:
            assert preference.preference_prob is not None
            used.append((first, second, preference.preference_prob))
    n_truncated = sum(
        len(prompt) > max_prompt_tokens or len(completion) > max_completion_tokens
        for prompt, completion in zip(found.prompts, found.completions, strict=True)
    )
    n_skipped = len(preferences) - len(answers)
    counts = PairCounts(len(used), n_skipped, n_alike, n_truncated, tuple(left_out))
    if not used:
        listed = list_rows(left_out, row="answer")
        reasons = f" and {len(left_out)} cannot be used ({listed})" if left_out else ""
        raise DataError(
            f"no answer to learn from: of {len(preferences)}, {counts.n_skipped} are \"can't "
            f'tell", {counts.n_alike} compare texts that are alike{reasons}; answer more pairs.'
        )
    if note := _note(counts, len(preferences), len(found.prompts)):
        _log.warning(note)
    prompts = [cut_left(ids, max_prompt_tokens, lm.bos_id) for ids in found.prompts]
    return _pairs(lm, prompts, completions, used), counts


def _text(clip: Clip) -> tuple[str, str, bool]:
    return (*clip_text(clip), clip_finished(clip))


def _encode(
    lm: LanguageModel, preferences: Sequence[Preference]
) -> tuple[dict[tuple[str, str, bool], int], Continuations]:
    """Each distinct text's number, and the ids by number."""
    numbers: dict[tuple[str, str, bool], int] = {}
    for preference in preferences:
        for clip in preference.query.clips:
            numbers.setdefault(_text(clip), len(numbers))
    prompts = [prompt for prompt, _, _ in numbers]
    completions = [completion for _, completion, _ in numbers]
    finished = [ended for _, _, ended in numbers]
    found = encode_continuations(lm.tokenizer, prompts, completions, finished)
    for row, ids in enumerate(found.prompts):
        if not ids and row not in found.bad:
            found.bad[row] = "its prompt is empty, and the tokenizer has no BOS to begin with"
    return numbers, found


def _pairs(
    lm: LanguageModel,
    prompts: Sequence[list[int]],
    completions: Sequence[list[int]],
    used: Sequence[tuple[int, int, float]],
) -> CompletionPairs:
    """The answers over a table of the texts that have ids."""
    kept = [row for row, prompt in enumerate(prompts) if prompt]
    place = {row: index for index, row in enumerate(kept)}
    first_rows, second_rows, probs = zip(*used, strict=True)
    return CompletionPairs(
        TokenBatch.from_lists(
            [prompts[row] for row in kept],
            [completions[row] for row in kept],
            lm.pad_id,
            lm.eos_id,
            also_ends=lm.also_ends,
        ),
        torch.tensor([place[row] for row in first_rows]),
        torch.tensor([place[row] for row in second_rows]),
        torch.tensor(probs, dtype=torch.float32),
        torch.ones(len(used)),
    )


def _note(counts: PairCounts, n_answers: int, n_texts: int) -> str:
    """What was cut and left out, in one line; empty where nothing was."""
    parts = []
    if counts.n_truncated:
        parts.append(f"{counts.n_truncated} of {n_texts} texts were cut (--max-new-tokens)")
    if counts.left_out:
        parts.append(
            f"{len(counts.left_out)} of {n_answers} answers left out "
            f"({list_rows(counts.left_out, row='answer')})"
        )
    return f"pairs: {'; '.join(parts)}" if parts else ""
