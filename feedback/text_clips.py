"""Text clips under their former name."""

from rlhf_gym.text_clips import (
    clip_finished,
    clip_text,
    is_text_clip,
    symbols_text,
    text_clip,
    text_context,
)

__all__ = [
    "clip_finished",
    "clip_text",
    "is_text_clip",
    "symbols_text",
    "text_clip",
    "text_context",
]
