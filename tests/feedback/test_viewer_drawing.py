from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pygame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pygame import Rect

from rlhf_gym.feedback.viewer import colors
from rlhf_gym.feedback.viewer.clip_panes import (
    draw_picture,
    draw_timeline,
    letterbox,
    timeline_share,
)
from rlhf_gym.feedback.viewer.drawing import fitted, printable, wrap
from rlhf_gym.feedback.viewer.layout import CONTROL_TOOLS, TEXT_TOOLS, Layout
from rlhf_gym.feedback.viewer.overlays import rubric_lines
from rlhf_gym.feedback.viewer.pace import Pace
from rlhf_gym.feedback.viewer.playback import Playback
from rlhf_gym.feedback.viewer.status_bar import duration
from rlhf_gym.feedback.viewer.text_panes import differing_words, missing_characters, wrap_words
from rlhf_gym.feedback.viewer.theme import Theme


@pytest.fixture(scope="module", autouse=True)
def fonts() -> Iterator[None]:
    pygame.font.init()
    yield
    pygame.quit()


@pytest.fixture(scope="module")
def theme(fonts: None) -> Theme:
    return Theme((1280, 720))


# --- words ----------------------------------------------------------------------------------


def test_words_that_the_other_text_lacks_are_marked() -> None:
    left, right = differing_words("the cat sat down", "the dog sat")
    assert left == [False, True, False, True]
    assert right == [False, True, False]
    assert differing_words("", "") == ([], [])
    assert differing_words("same text", "same\n\ntext") == ([False, False], [False, False])


@given(st.text(st.sampled_from("ab \n"), max_size=40), st.text(st.sampled_from("ab \n")))
def test_the_words_not_marked_are_the_same_in_both_texts(left: str, right: str) -> None:
    marks = differing_words(left, right)
    kept = [
        [word for word, mark in zip(string.split(), flags, strict=True) if not mark]
        for string, flags in zip((left, right), marks, strict=True)
    ]
    assert kept[0] == kept[1]


@given(st.text(max_size=80), st.integers(30, 300))
def test_wrapping_keeps_every_word_and_its_mark_and_no_line_is_too_wide(
    string: str, width: int
) -> None:
    font = Theme((1280, 720)).reading
    marks = [n % 2 == 0 for n in range(len(string.split()))]
    lines = wrap_words(font, string, width, marks)
    assert "".join(w for line in lines for w, _ in line).replace(" ", "") == "".join(
        printable(line.expandtabs(4)).replace(" ", "") for line in string.splitlines()
    )
    space = font.width(" ")
    for line in lines:
        wide = sum(font.width(word) for word, _ in line) + space * (len(line) - 1)
        assert wide <= width or len(line) == 1
        assert all(font.width(word) <= width or len(word) == 1 for word, _ in line)


def test_marks_belong_to_their_words_on_every_line(theme: Theme) -> None:
    lines = wrap_words(theme.reading, "one two\nthree  four", 2000, [False, True, True, False])
    assert lines == [
        [("one", False), ("two", True)],
        [("three", True), ("", False), ("four", False)],
    ]


def test_indentation_is_kept(theme: Theme) -> None:
    assert wrap_words(theme.reading, "  x", 500) == [[("", False), ("", False), ("x", False)]]


def test_lines_of_the_window_are_cut_or_wrapped_to_their_width(theme: Theme) -> None:
    cut = fitted(theme.normal, "a long line of words " * 9, 200)
    assert cut.endswith("…") and theme.normal.width(cut) <= 200
    assert fitted(theme.normal, "short", 200) == "short"
    assert all(theme.normal.width(line) <= 200 for line in wrap(theme.normal, "word " * 50, 200))
    assert wrap(theme.normal, "", 200) == [""]


def test_the_bundled_font_writes_europe_s_alphabets_and_says_what_it_cannot(theme: Theme) -> None:
    assert missing_characters(theme.reading, "déjà ça Ärger łódź Привет Ελλάδα “…” – €") == set()
    assert missing_characters(theme.reading, "plain 漢字 and 漢") == {"漢", "字"}


def test_a_rubric_s_marks_become_type(theme: Theme) -> None:
    lines = rubric_lines("# Task\n\nRun **far\nahead**, please.\n1. first\n- other", 2000, theme)
    shown = [(" ".join(w for w, _ in line.words), line.is_heading, line.indent) for line in lines]
    assert shown == [
        ("Task", True, 0),
        ("", False, 0),
        ("Run far ahead, please.", False, 0),
        ("1. first", False, 1),
        ("• other", False, 1),
    ]
    assert [word for word, is_bold in lines[2].words if is_bold] == ["far", "ahead,"]
    (line,) = rubric_lines("**Ignore**: style. **Tie** when", 2000, theme)
    assert [word for word, is_bold in line.words if is_bold] == ["Ignore:", "Tie"]


@given(st.text(st.sampled_from("a*_`#-1. \n"), max_size=60))
def test_any_rubric_can_be_laid_out(rubric: str) -> None:
    rubric_lines(rubric, 200, Theme((1280, 720)))


# --- pictures -------------------------------------------------------------------------------


def test_pictures_keep_their_proportions_in_the_middle_of_their_pane() -> None:
    assert letterbox((480, 480), Rect(0, 0, 600, 300)) == Rect(150, 0, 300, 300)
    assert letterbox((400, 200), Rect(10, 10, 200, 200)) == Rect(10, 60, 200, 100)


def test_a_picture_is_drawn_upright_in_its_own_colours(theme: Theme) -> None:
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[:10, :, 0], frame[10:, :20, 1], frame[10:, 20:, 2] = 255, 255, 255
    surface = pygame.Surface((400, 400))
    place = draw_picture(surface, surface.get_rect(), frame, theme, has_ended=False)
    assert place == Rect(0, 100, 400, 200)
    assert surface.get_at((200, 120)) == (255, 0, 0, 255)
    assert surface.get_at((100, 270)) == (0, 255, 0, 255)
    assert surface.get_at((300, 270)) == (0, 0, 255, 255)
    assert surface.get_at((200, 99)) == surface.get_at((200, 300)) == (0, 0, 0, 255)


def test_a_read_only_view_of_frames_is_drawn_like_a_copy(theme: Theme) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 20, 40, 3), np.uint8)
    mirrored = frames[:, :, ::-1]
    mirrored.flags.writeable = False
    one, two = pygame.Surface((400, 400)), pygame.Surface((400, 400))
    draw_picture(one, one.get_rect(), mirrored[1], theme, has_ended=False)
    draw_picture(two, two.get_rect(), mirrored[1].copy(), theme, has_ended=False)
    assert pygame.image.tobytes(one, "RGB") == pygame.image.tobytes(two, "RGB")
    assert one.get_at((0, 100))[:3] == tuple(mirrored[1, 0, 0])


def test_a_clip_that_ended_before_the_other_says_so(theme: Theme) -> None:
    frame = np.full((40, 40, 3), 90, np.uint8)
    plain, tagged = pygame.Surface((200, 200)), pygame.Surface((200, 200))
    draw_picture(plain, plain.get_rect(), frame, theme, has_ended=False)
    draw_picture(tagged, tagged.get_rect(), frame, theme, has_ended=True)
    assert pygame.image.tobytes(plain, "RGB") != pygame.image.tobytes(tagged, "RGB")
    small = pygame.Surface((200, 200))
    place = draw_picture(small, Rect(90, 90, 20, 20), frame, theme, has_ended=True)
    small.fill((0, 0, 0), place)
    assert not any(pygame.image.tobytes(small, "RGB"))


def test_the_knob_of_the_timeline_stands_where_a_click_would_put_it(theme: Theme) -> None:
    surface, area = pygame.Surface((1000, 20)), Rect(0, 0, 1000, 20)
    playback = Playback((100, 100), (0.1, 0.1))
    for share in (0.0, 0.25, 1.0):
        draw_timeline(surface, area, playback.scrubbed(0.0, share), 0.0, theme)
        row = [surface.get_at((x, 4))[:3] == colors.TEXT for x in range(940)]
        assert any(row)
        knob = sum(n for n, lit in enumerate(row) if lit) / sum(row)
        assert timeline_share(area, round(knob), theme) == pytest.approx(share, abs=2e-3)  # 1 pixel


# --- sizes ----------------------------------------------------------------------------------


@given(st.integers(1, 4000), st.integers(1, 3000), st.sampled_from([CONTROL_TOOLS, TEXT_TOOLS]))
def test_no_part_of_the_layout_is_ever_empty(width: int, height: int, tools: tuple[str]) -> None:
    layout = Layout.make((width, height), Theme((width, height)), tools)
    areas = [*layout.panes, layout.top, layout.timeline, layout.message, *layout.buttons.values()]
    assert all(area.width >= 1 and area.height >= 1 for area in areas)
    assert layout.panes[0].size == layout.panes[1].size


@pytest.mark.parametrize("size", [(800, 600), (1280, 720), (1920, 1080)])
def test_labels_fit_their_buttons_at_common_sizes(size: tuple[int, int]) -> None:
    from rlhf_gym.feedback.viewer.keymap import ACTIONS

    theme = Theme(size)
    layout = Layout.make(size, theme, CONTROL_TOOLS)
    for name, area in layout.buttons.items():
        font = theme.large if name in ("left", "right", "tie", "skip") else theme.small
        assert font.width(ACTIONS[name].label) <= area.width - 4


# --- pace -----------------------------------------------------------------------------------


def test_the_pace_is_that_of_the_last_twenty_answers() -> None:
    pace = Pace()
    assert pace.per_minute is None and pace.seconds_for(5) is None
    for seconds in [100.0] * 10 + [3.0] * 20:
        pace.run(seconds)
        pace.add()
    assert pace.per_minute == pytest.approx(20)
    assert pace.seconds_for(10) == pytest.approx(30)
    assert pace.seconds_for(-3) == 0


def test_an_answer_taken_back_leaves_its_time_to_the_next_one() -> None:
    pace = Pace()
    for _ in range(3):
        pace.run(2.0)
        pace.add()
    pace.take_back()
    pace.run(2.0)
    pace.add()
    assert pace.per_minute == pytest.approx(60 * 3 / 8)


def test_time_spans_are_written_as_one_reads_them() -> None:
    assert [duration(s) for s in (0, 29, 31, 89, 3540, 3600, 5400)] == [
        *("under 1 min", "under 1 min", "1 min", "1 min", "59 min", "1 h 00 min", "1 h 30 min"),
    ]
