"""Tokenizers: two that are built here without a network, and the check of one from elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf_gym.errors import ConfigError

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "end_ids",
    "ready_tokenizer",
    "train_byte_bpe",
    "word_tokenizer",
]

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
_SPECIAL = [PAD, BOS, EOS]  # ids 0, 1, 2 in the tokenizers made here
_ENDS = "end_token_ids"  # among a tokenizer's options: saved and loaded with it


def train_byte_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level byte-pair encoding (as GPT-2's): any text fits, and decodes to itself.

    Args:
        texts: What to learn the merges from.
        vocab_size: Tokens to end with, at least 259: the bytes and three special tokens; fewer come
            out where the texts offer no more merges.

    Raises:
        ConfigError: `vocab_size` is too small.
    """
    if vocab_size < 256 + len(_SPECIAL):
        raise ConfigError(
            f"`vocab_size` is {vocab_size}; a byte-level vocabulary has at least "
            f"{256 + len(_SPECIAL)} tokens: 256 bytes and {', '.join(_SPECIAL)}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer)


def word_tokenizer(words: Sequence[str], *, separator: str = " ") -> PreTrainedTokenizerFast:
    """One token per word (or, with an empty separator, per character), for exact toys.

    There is no token for the unknown: a text with another word is refused by an exception, never
    silently changed.

    Args:
        words: The vocabulary, without repetitions; ids 3, 4, ... in this order.
        separator: " " splits and joins at white space; "" makes each character a token.

    Raises:
        ConfigError: a word repeats, is a special token, holds white space, or is more than a
            character where the separator is empty.
    """
    wrong = [w for w in words if not w or any(c.isspace() for c in w) or w in _SPECIAL]
    wrong += [w for w in words if separator == "" and len(w) != 1]
    wrong += sorted({w for w in words if list(words).count(w) > 1})
    if wrong or separator not in {"", " "}:
        raise ConfigError(
            f"cannot build a vocabulary with separator {separator!r} and {wrong[:3]}: words must "
            f'be distinct, without white space, none of {_SPECIAL}; the separator is " ", or "" '
            "for words of one character."
        )
    vocabulary = {word: index for index, word in enumerate([*_SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    if separator:
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        tokenizer.decoder = decoders.Fuse()
    return _wrap(tokenizer)


def ready_tokenizer(tokenizer: Any, also_ends: Iterable[int] = ()) -> Any:
    """A tokenizer that can train a model: it ends texts, and its padding is not an end.

    With PAD equal to EOS, the EOS of every text is masked as padding and the model never learns
    to stop. Where PAD is missing or is an end, a copy gets a `<pad>` of its own.

    Args:
        tokenizer: Any transformers tokenizer with EOS.
        also_ends: Ids that end a text besides EOS, as `generation_config.eos_token_id` lists them;
            those without a token are left out. `end_ids` gives them back.

    Raises:
        ConfigError: it is no transformers tokenizer, or it has no EOS.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ConfigError(
            f"`tokenizer` is a {type(tokenizer).__name__}, not a transformers tokenizer; wrap a "
            "tokenizers.Tokenizer as PreTrainedTokenizerFast(tokenizer_object=...)."
        )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "the tokenizer has no EOS token, so that a completion could never end; set "
            "`tokenizer.eos_token` to the token that ends its model's texts."
        )
    known = end_ids(tokenizer)
    new = [i for i in dict.fromkeys(also_ends) if 0 <= i < len(tokenizer) and i not in known]
    ends = [*known, *new]
    needs_pad = tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends
    if new or needs_pad:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.init_kwargs[_ENDS] = ends[1:]
    if needs_pad:
        tokenizer.add_special_tokens({"pad_token": _unused(PAD, tokenizer, ends)})
    return tokenizer


def _unused(name: str, tokenizer: Any, ends: Sequence[int]) -> str:
    """The name, or a longer one where it is already a token that ends texts."""
    while tokenizer.get_vocab().get(name) in ends:
        name = f"<{name}>"
    return name


def end_ids(tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a completion: EOS first, the one that is written behind texts."""
    also = getattr(tokenizer, "init_kwargs", {}).get(_ENDS, ())
    return tuple(dict.fromkeys([int(tokenizer.eos_token_id), *map(int, also)]))


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    # Decoding must give the text back as it is, spaces before full stops included.
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it so
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
