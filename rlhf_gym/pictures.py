"""Pictures taken while an env acted: compressed as they are taken, and unpacked to be shown.

For envs whose clips cannot be drawn later, since they offer no simulator state to draw from.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rlhf_gym.errors import ConfigError, CorruptDataError, DataError

__all__ = ["PICTURE_PIXELS", "Pictures", "encode_picture", "pack_pictures", "unpack_pictures"]

PICTURE_PIXELS = 320
"""The longer side of a picture that is kept, about: what a clip takes of a viewer's window."""

# WebP takes a sixth to a quarter of the bytes, and eight to ten times as long at every step
# (benchmarks/pictures.py).
_FORMAT, _QUALITY = "JPEG", 85
_WHOLE_COLOURS = 0  # JPEG's usual half resolution of colours blurs the thin lines of drawn robots

Encoded = bytes | memoryview
"""One picture, a JPEG file."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """What an env showed at each state of a clip.

    Raises:
        DataError: fewer than two pictures, or a time that is not positive.
    """

    encoded: Sequence[Encoded]
    """T + 1 pictures, each a JPEG file."""
    step_seconds: float
    """Seconds that one step takes in the env's world."""

    def __post_init__(self) -> None:
        if len(self.encoded) < 2:
            raise DataError(
                f"`Pictures.encoded` holds {len(self.encoded)} picture(s), expected at least 2: "
                "one before and one after each step."
            )
        if not (math.isfinite(self.step_seconds) and self.step_seconds > 0):
            raise DataError(f"`Pictures.step_seconds` is {self.step_seconds}, expected above 0.")

    def __len__(self) -> int:
        return len(self.encoded)

    def decode(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Some of the pictures, (N, H, W, 3).

        Raises:
            CorruptDataError: one cannot be read, or they are not of one size.
        """
        from PIL import Image

        frames = []
        for index in indices:
            try:
                with Image.open(io.BytesIO(self.encoded[index]), formats=(_FORMAT,)) as image:
                    frames.append(np.asarray(image.convert("RGB")))
            except (OSError, ValueError, SyntaxError) as error:
                raise CorruptDataError(f"picture {index} cannot be read ({error}).") from error
        sizes = sorted({frame.shape[:2] for frame in frames})
        if len(sizes) > 1:
            raise CorruptDataError(f"its pictures are not of one size (height, width): {sizes}.")
        return np.stack(frames)


def encode_picture(frame: npt.NDArray[np.uint8], pixels: int = PICTURE_PIXELS) -> bytes:
    """Compress what an env's `render` returned, made smaller where it is larger.

    Args:
        frame: (H, W, 3) uint8.
        pixels: The longer side of what is kept, at least 16. The picture is made smaller by the
            whole factor that comes nearest: to two thirds to three halves of it.

    Raises:
        ConfigError: `pixels` is below 16.
        DataError: not a picture.
    """
    from PIL import Image

    if pixels < 16:
        raise ConfigError(f"`pixels` is {pixels}, expected at least 16.")
    if not isinstance(frame, np.ndarray):
        raise DataError(f"`render` returned {type(frame).__name__}, expected an array.")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape or frame.dtype != np.uint8:
        raise DataError(
            f"`render` returned an array of shape {frame.shape} and dtype {frame.dtype}, expected "
            "(height, width, 3) uint8."
        )
    image = Image.fromarray(frame)
    factor = round(max(image.size) / pixels)
    if factor > 1:
        image = image.reduce(factor)  # the mean of each area: thin lines stay
    file = io.BytesIO()
    image.save(file, format=_FORMAT, quality=_QUALITY, subsampling=_WHOLE_COLOURS)
    return file.getvalue()


def pack_pictures(
    pictures: Iterable[Encoded | None],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Pictures one behind the other, equal ones once: clips that overlap share theirs.

    Args:
        pictures: N of them; None where there is none.

    Returns:
        All bytes, and (N, 2) where each picture begins and ends; (0, 0) for none.
    """
    spans, known, parts, end = [], dict[bytes, tuple[int, int]](), list[bytes](), 0
    for picture in pictures:
        key = b"" if picture is None else bytes(picture)
        if key and key not in known:
            known[key] = (end, end + len(key))
            parts.append(key)
            end += len(key)
        spans.append(known.get(key, (0, 0)))
    content = np.frombuffer(b"".join(parts), np.uint8)
    return content, np.array(spans, np.int64).reshape(-1, 2)


def unpack_pictures(
    content: npt.NDArray[np.uint8], spans: npt.NDArray[np.int64]
) -> list[memoryview | None]:
    """Undo `pack_pictures`, without a copy.

    Raises:
        CorruptDataError: a span that leaves the bytes.
    """
    view, n_bytes = content.data, len(content)
    found: list[memoryview | None] = []
    for start, stop in spans.tolist():
        if not 0 <= start <= stop <= n_bytes:
            raise CorruptDataError(
                f"a picture lies at bytes {start} to {stop} of {n_bytes}; restore the file from a "
                "backup."
            )
        found.append(view[start:stop] if stop > start else None)
    return found
