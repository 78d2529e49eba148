"""Text as clips: a prompt and its completion, byte by byte, so that a pair of texts is a query.

A text clip is the language model's own view of a text: one action per symbol, and before each
action the symbol in front of it::

    actions  p r o m p t BREAK c o m p l e t i o n END        (T,) uint8
    obs      START p r o m p t BREAK c o m p l e t i o n END   (T + 1,) uint8

Symbols are the bytes of UTF-8; START, BREAK and END are three of the byte values that UTF-8 never
uses, so any text fits, an empty one too, and the clip's id is the hash of its content. END is the
completion's own end: one that a length limit cut off has none, and is another clip. Nothing here
needs a tokenizer: a clip of some model's token ids is another thing, and is refused.
"""

from __future__ import annotations

import hashlib

import numpy as np

from rlhf_gym.data import Array, Clip
from rlhf_gym.errors import DataError

__all__ = [
    "clip_finished",
    "clip_text",
    "is_text_clip",
    "is_text_context",
    "symbols_text",
    "text_clip",
    "text_context",
]

_START, _BREAK, _END = 0xFF, 0xFE, 0xFD
_PREFIX = "text:"


def text_context(prompt: str) -> str:
    """The context of all completions of a prompt: "text:" and the prompt's sha256.

    Raises:
        DataError: the prompt is not Unicode (it holds half a surrogate pair).
    """
    return _PREFIX + hashlib.sha256(_encode("prompt", prompt)).hexdigest()


def text_clip(prompt: str, completion: str, finished: bool = True) -> Clip:
    """A prompt and a completion as a clip, of as many steps as both have bytes, and two (or one).

    Args:
        prompt: May be empty.
        completion: May be empty.
        finished: Whether the completion ended by itself; False where a length limit cut it off.

    Raises:
        DataError: a text is not Unicode (it holds half a surrogate pair).
    """
    parts = _encode("prompt", prompt), _encode("completion", completion)
    end = bytes([_END] if finished else [])
    symbols = b"".join((bytes([_START]), parts[0], bytes([_BREAK]), parts[1], end))
    obs = np.frombuffer(symbols, np.uint8)
    return Clip(obs=obs.copy(), actions=obs[1:].copy(), context_id=text_context(prompt))


def is_text_context(context_id: str) -> bool:
    """Whether clips of this context are texts: whether it is of `text_context`'s making."""
    return context_id.startswith(_PREFIX)


def is_text_clip(clip: Clip) -> bool:
    """Whether `clip_text` can read the clip, by its context and layout."""
    return (
        is_text_context(clip.context_id)
        and clip.actions.dtype == np.uint8
        and clip.actions.ndim == 1
    )


def clip_text(clip: Clip) -> tuple[str, str]:
    """The prompt and the completion that a text clip holds.

    Raises:
        DataError: the clip is no text clip, or its bytes are not what `text_clip` writes.
    """
    prompt, completion, _ = _read(clip)
    return prompt, completion


def clip_finished(clip: Clip) -> bool:
    """Whether the completion of a text clip ended by itself, and was not cut off.

    Raises:
        DataError: see `clip_text`.
    """
    return _read(clip)[2]


def symbols_text(symbols: Array) -> tuple[str, str, bool]:
    """What a text clip's actions say.

    Args:
        symbols: (T,) uint8, without padding.

    Returns:
        The prompt, the completion, and whether it ended by itself.

    Raises:
        DataError: they are not what `text_clip` writes.
    """
    prompt, found, rest = np.asarray(symbols, np.uint8).tobytes().partition(bytes([_BREAK]))
    if not found:
        raise DataError(
            f"{len(symbols)} symbols lack the break between prompt and completion; make text clips "
            "by `text_clip`."
        )
    completion = rest.removesuffix(bytes([_END]))
    try:
        return prompt.decode(), completion.decode(), len(completion) < len(rest)
    except UnicodeDecodeError as error:
        raise DataError(
            f"the symbols are not UTF-8 ({error}); make text clips by `text_clip`."
        ) from error


def _read(clip: Clip) -> tuple[str, str, bool]:
    if not is_text_clip(clip):
        raise DataError(
            f"clip {clip.id[:12]} of `{clip.context_id}` holds {clip.actions.dtype} actions of "
            f"shape {clip.actions.shape}, not text; text clips are made by `text_clip`. Token ids "
            "become text through their tokenizer."
        )
    try:
        return symbols_text(clip.actions)
    except DataError as error:
        raise DataError(f"text clip {clip.id[:12]} cannot be read: {error}") from error


def _encode(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"`{name}` is not Unicode: character {error.start} is {text[error.start]!r}, half of a "
            "surrogate pair; repair the text where it was made."
        ) from error
