"""Where texts are cut: at the ends of words, in any script, and never inside a character."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from rlhf_gym.feedback.formats.shared_text import ends_word, may_cut, shared_words

# Of every kind that Unicode's annex 29 has a rule for.
PARTS = [
    *"a é e\u0301\r\n1中？本ガｶﾞ각가한\u1100\u1161\u11a8\ud7b0\ud7cb",
    *"กำเที่ลຳကျ\u1039क\u094dषিক\u0d4e\u17d2\u0600\u200c\u200d\ufe0f",
    *"\U0001f1e9\U0001f1ea\U0001f468\U0001f469\U0001f3fd\U0001f3f4\U000e0067",
]


@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join))
def test_no_character_is_torn_apart(text: str) -> None:
    ends = {0}
    for cluster in regex.findall(r"\X", text):
        ends.add(max(ends) + len(cluster))
    allowed = {at for at in range(len(text) + 1) if may_cut(text, at)}
    assert allowed <= ends


@pytest.mark.parametrize("text", ["ab", "a b", "中文", "日本語", "サラダ", "한국", "กขค", "🇩🇪🇫🇷"])
def test_every_end_of_a_character_may_be_cut_in_plain_text(text: str) -> None:
    clusters = regex.findall(r"\X", text)
    ends = [sum(map(len, clusters[:n])) for n in range(len(clusters) + 1)]
    assert [at for at in range(len(text) + 1) if may_cut(text, at)] == ends


@pytest.mark.parametrize(
    ("one", "two", "shared"),
    [
        ("the cat", "the car", "the "),
        ("the cat", "the cat sat", "the "),
        ("one", "two", ""),
        ("天空是什么颜色？蓝色。", "天空是什么颜色？红色。", "天空是什么颜色？"),
        ("空の色は？青です。", "空の色は？赤です。", "空の色は？"),
        ("ท้องฟ้าสีอะไร สีฟ้า", "ท้องฟ้าสีอะไร สีแดง", "ท้องฟ้าสีอะไร สี"),
        ("ที่", "ที", ""),  # the mark belongs to the letter before it
        ("カ\u3099", "カ", ""),
        ("翻译：hello", "翻译：help", "翻译："),
        ("하늘은 파랗다", "하늘은 파란색", "하늘은 "),  # Korean has spaces
        ("看👨\u200d👩\u200d👧", "看👨\u200d👩\u200d👦", "看"),
        ("見🇩🇪", "見🇩🇰", "見"),
    ],
)
def test_what_two_texts_share_ends_with_a_word_of_their_script(
    one: str, two: str, shared: str
) -> None:
    assert one[: shared_words(one, two)] == shared
    assert two[: shared_words(two, one)] == shared


@pytest.mark.parametrize(
    ("text", "at", "expected"),
    [("there", 3, False), ("the re", 3, True), ("the.re", 4, True), ("天空", 1, True),
     ("the", 3, True), ("the", 0, True), ("cafe\u0301", 4, False)],
)  # fmt: skip
def test_the_end_of_a_word(text: str, at: int, expected: bool) -> None:
    assert ends_word(text, at) is expected
