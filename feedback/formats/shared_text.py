"""Where two texts part, and where a text may be cut: never inside a word, or inside one character.

What a reader sees as one character may be several code points: a letter and its accents, a flag, a
family of emoji joined together, a Hangul syllable in parts. `may_cut` never cuts inside one of the
extended grapheme clusters of Unicode's annex 29; it knows no more of their table than that takes,
so it also keeps a few together that one could cut.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

__all__ = ["ends_word", "may_cut", "n_shared", "shared_words"]

_JOINER = "\u200d"
_NON_JOINER = "\u200c"
# Letters that finish the character before them: the vowels "am" of Thai and Lao.
_EXTENDING = "\u0e33\u0eb3"
_PREPENDED = "\u0d4e"  # a letter that belongs to the next one, as marks of category Cf do
_JAMO = ((0x1100, 0x11FF), (0xA960, 0xA97F), (0xAC00, 0xD7FF))
_FLAG_LETTERS = (0x1F1E6, 0x1F1FF)
_SKIN_TONES = (0x1F3FB, 0x1F3FF)
_TAGS = (0xE0020, 0xE007F)
_VIRAMA = 9  # Unicode's combining class of the signs that join two consonants

_WITHOUT_SPACES = (
    (0x0E00, 0x109F),  # Thai, Lao, Tibetan, Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x2E80, 0x312F),  # CJK radicals and punctuation, kana, bopomofo
    (0x31A0, 0x9FFF),  # CJK
    (0xA980, 0xA9DF),  # Javanese
    (0xA9E0, 0xA9FF),  # Myanmar, extended
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xF900, 0xFAFF),  # CJK
    (0xFE30, 0xFE4F),  # CJK punctuation
    (0xFF00, 0xFF9F),  # full width, and half-width kana
    (0xFFE0, 0xFFEF),
    (0x16FE0, 0x18DFF),  # Tangut, Nüshu
    (0x1AFF0, 0x1B2FF),  # kana, Nüshu
    (0x20000, 0x3FFFF),  # CJK
)
"""Scripts that put no white space between their words, with their punctuation."""


def n_shared(one: Sequence[Any], two: Sequence[Any]) -> int:
    """How many entries two sequences begin with alike."""
    unequal = (i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    return next(unequal, min(len(one), len(two)))


def shared_words(one: str, two: str) -> int:
    """How many characters of two texts their common beginning has, whole words only.

    A word ends at white space; in scripts that have none between their words (Chinese, Japanese,
    Thai and others) at every character.
    """
    end = n_shared(one, two)
    while 0 < end and not (_is_gap(one, end) and _is_gap(two, end)):
        end -= 1
    return end


def _is_gap(text: str, at: int) -> bool:
    """Whether a word ends at white space, or at a character of a script without it, before `at`."""
    around = text[at - 1 : at + 1]
    return (around[0].isspace() or _has_no_spaces(around)) and may_cut(text, at)


def ends_word(text: str, at: int) -> bool:
    """Whether a text may be cut before its character number `at`, and no word is cut in two."""
    around = text[max(at - 1, 0) : at + 1]
    is_inside = len(around) == 2 and around.isalnum() and not _has_no_spaces(around)
    return may_cut(text, at) and not is_inside


def _has_no_spaces(around: str) -> bool:
    return any(_within(character, _WITHOUT_SPACES) for character in around)


def may_cut(text: str, at: int) -> bool:
    """Whether a text may be cut before its character number `at` without tearing one apart.

    Args:
        text: Of any script.
        at: 0 to the text's length; both ends may always be cut.
    """
    if not 0 < at < len(text):
        return True
    before, after = text[at - 1], text[at]
    if before + after == "\r\n":
        return False
    if before in "\r\n" or after in "\r\n":
        return True
    if _extends(after) or unicodedata.category(before) == "Cf" or before in _PREPENDED:
        return False
    if _within(before, _JAMO) and _within(after, _JAMO):
        return not _joins_hangul(before, after)
    if _within(before, (_FLAG_LETTERS,)) and _within(after, (_FLAG_LETTERS,)):
        start = at
        while start and _within(text[start - 1], (_FLAG_LETTERS,)):
            start -= 1
        return (at - start) % 2 == 0  # flags are pairs of letters
    if "\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff":
        return False
    return not _joins_consonants(text, at)


def _extends(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Mn", "Me", "Mc")
        or character in (_JOINER, _NON_JOINER)
        or character in _EXTENDING
        or "\uff9e" <= character <= "\uff9f"  # half-width voicing marks
        or _within(character, (_SKIN_TONES, _TAGS))
    )


def _joins_consonants(text: str, at: int) -> bool:
    """Whether a virama ties what follows to what stands before, as in Devanagari's conjuncts."""
    if unicodedata.category(text[at]) != "Lo":
        return False
    while 0 < at and _extends(text[at - 1]):
        at -= 1
        if unicodedata.combining(text[at]) == _VIRAMA:
            return True
    return False


def _joins_hangul(before: str, after: str) -> bool:
    """Whether both are of one syllable: a syllable is never begun by a vowel or a final."""
    code = ord(after)
    is_leading = 0x1100 <= code <= 0x115F or 0xA960 <= code <= 0xA97F
    if 0xAC00 <= code <= 0xD7A3 or is_leading:
        first = ord(before)
        return 0x1100 <= first <= 0x115F or 0xA960 <= first <= 0xA97F
    return True


def _within(character: str, ranges: Sequence[tuple[int, int]]) -> bool:
    code = ord(character)
    return any(low <= code <= high for low, high in ranges)
