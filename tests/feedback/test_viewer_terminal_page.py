"""What is marked on a page of texts, and what of them may be printed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.feedback.viewer.terminal_page import differing_spans

WORDS = st.lists(st.sampled_from(["a", "b", "cc", "d"]), max_size=8)


@given(left=WORDS, right=WORDS, gaps=st.lists(st.sampled_from([" ", "\n", "  "]), min_size=8))
def test_what_is_not_marked_is_the_same_in_both_texts(
    left: list[str], right: list[str], gaps: list[str]
) -> None:
    texts = ["".join(w + g for w, g in zip(words, gaps, strict=False)) for words in (left, right)]
    spans = differing_spans(*texts)
    kept = []
    for text, marked in zip(texts, spans, strict=True):
        for start, end in reversed(marked):
            text = text[:start] + text[end:]
        kept.append(text.split())
    assert kept[0] == kept[1]
    assert (spans == ([], [])) == (left == right)
