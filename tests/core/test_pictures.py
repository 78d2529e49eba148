from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rlhf_gym.errors import ConfigError, CorruptDataError, DataError
from rlhf_gym.pictures import Pictures, encode_picture, pack_pictures, unpack_pictures


def plain(colour: tuple[int, int, int], height: int = 24, width: int = 36):
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("size", "kept"),
    [  # (height, width): divided by the whole number nearest to the longer side over 320
        ((400, 600), (200, 300)),  # 600 / 320 = 1.875, so 2: CartPole
        ((479, 100), (479, 100)),  # 1.497, so 1
        ((480, 640), (240, 320)),
        ((1080, 1920), (180, 320)),
        ((8, 12), (8, 12)),
    ],
)
def test_large_pictures_are_made_smaller_by_a_whole_factor(size, kept) -> None:
    pictures = Pictures([encode_picture(plain((9, 9, 9), *size))] * 2, 0.1)
    assert pictures.decode([0]).shape == (1, *kept, 3)


def test_a_picture_comes_back_with_its_colours() -> None:
    colours = [(200, 40, 10), (0, 0, 255), (255, 255, 255)]
    pictures = Pictures([encode_picture(plain(colour)) for colour in colours], 0.1)
    found = pictures.decode([2, 0]).astype(int)
    assert np.abs(found[0] - colours[2]).max() <= 3  # JPEG rounds plain colours by 1 to 3
    assert np.abs(found[1] - colours[0]).max() <= 3


def test_a_thin_line_survives_being_made_smaller() -> None:
    frame = plain((255, 255, 255), 400, 600)
    frame[:, 300] = (255, 0, 0)  # one pixel of 600, half of one of 300
    found = Pictures([encode_picture(frame)] * 2, 0.1).decode([0])[0].astype(int)
    assert (found[:, 150, 1] < 170).all() and (found[:, 150, 0] > 230).all()  # half red: 255, 128


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (None, "NoneType"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    ],
)
def test_what_is_no_picture_is_refused(frame, words) -> None:
    with pytest.raises(DataError, match=words):
        encode_picture(frame)


def test_sizes_and_counts_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="`pixels` is 8"):
        encode_picture(plain((1, 2, 3)), 8)
    with pytest.raises(DataError, match="1 picture"):
        Pictures([b"x"], 0.1)
    with pytest.raises(DataError, match="step_seconds"):
        Pictures([b"x", b"y"], 0.0)


def test_damaged_pictures_are_named() -> None:
    whole = encode_picture(plain((5, 5, 5)))
    gif = io.BytesIO()
    Image.new("RGB", (4, 4)).save(gif, format="GIF")
    for damaged in (b"nothing", whole[:40], gif.getvalue()):
        with pytest.raises(CorruptDataError, match="picture 1"):
            Pictures([whole, damaged], 0.1).decode([0, 1])
    other = encode_picture(plain((5, 5, 5), 8, 8))
    with pytest.raises(CorruptDataError, match="one size"):
        Pictures([whole, other], 0.1).decode([0, 1])


@given(st.lists(st.none() | st.binary(min_size=1, max_size=3), max_size=12))
def test_packed_pictures_come_back_and_equal_ones_are_kept_once(pictures) -> None:
    content, spans = pack_pictures(pictures)
    found = [None if p is None else bytes(p) for p in unpack_pictures(content, spans)]
    assert found == pictures
    assert len(content) == sum(len(p) for p in {p for p in pictures if p is not None})


@pytest.mark.parametrize("span", [(0, 9), (-1, 2), (3, 2)])
def test_a_span_outside_of_the_bytes_is_refused(span) -> None:
    with pytest.raises(CorruptDataError, match="backup"):
        unpack_pictures(np.zeros(4, np.uint8), np.array([span]))
