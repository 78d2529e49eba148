"""JSON and YAML from files of any origin: bounded in size, depth and digits, no key twice.

Both parsers would take what harms later: a mapping nested a thousand deep breaks the first function
that walks it, ten lines of YAML aliases stand for a billion nodes, a number of 5,000 digits is no
float, and of two equal keys one is lost without a word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from rlhf_gym.errors import CorruptDataError
from rlhf_gym.reading import MIB, limited, read_bytes, read_text

__all__ = ["parse_json", "parse_yaml", "read_json", "read_yaml"]

_DEPTH = 64
_DIGITS = 100
_YAML_BYTES = 2 * MIB
_YAML_NODES = 100_000
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_json(path: Path, most: int = 64 * MIB) -> Any:
    """What a JSON file holds, see `parse_json`; half a character is refused as well.

    Raises:
        CorruptDataError: it is no regular file, too large, or no JSON that can be used.
        OSError: it cannot be read.
    """
    value = parse_json(read_bytes(path, most), f"`{path}`")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CorruptDataError(
            f"`{path}` holds {error.object[error.start]!r}, half of a character (a lone "
            "surrogate); write the character as a whole, in UTF-8."
        ) from error
    return value


def parse_json(content: str | bytes, where: str) -> Any:
    """What a JSON text holds; NaN and infinities as Python writes them are taken.

    Args:
        content: The text, bytes in UTF-8.
        where: What it is, for the message.

    Raises:
        CorruptDataError: it is not JSON, nested more than 64 deep, has a key twice in an object, a
            number of more than 100 digits, or one beyond what a float holds.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_integer, parse_float=_number)
        # Brackets inside strings count too: few brackets are a proof, many only a reason to look.
        if text.count("[") + text.count("{") > _DEPTH:
            _check_depth(value)
    except RecursionError as error:
        raise CorruptDataError(f"{where} {_too_deep()}") from error
    except UnicodeDecodeError as error:
        raise CorruptDataError(
            f"{where} is not UTF-8 (byte {error.start} is {error.object[error.start]:#04x}); save "
            "it in UTF-8."
        ) from error
    except ValueError as error:
        raise CorruptDataError(f"{where} is not JSON ({error}).") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {_short(twice)} is there twice")
    return content


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number has {len(text):,} digits, at most {_DIGITS} are read")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {_short(text)} is beyond what a float holds")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEPTH + 1):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    raise ValueError(f"it {_too_deep()}")


def _too_deep() -> str:
    return f"is nested more than {_DEPTH} deep; nothing that rlhf_gym reads needs that."


def _short(text: Any) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else f"{shown[:56]}...'"


class _Loader(yaml.SafeLoader):
    """A SafeLoader that counts: nodes, their depth, and what aliases stand for."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._n_nodes = 0
        self._open: set[str] = set()

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As a SafeLoader; raises ComposerError beyond the limits."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # untyped there
        self._n_nodes += 1
        if self._n_nodes > _YAML_NODES:
            self._refuse(f"it holds more than {_YAML_NODES:,} values", event)
        is_collection = isinstance(event, yaml.CollectionStartEvent)
        self._depth += is_collection
        if self._depth > _DEPTH:
            self._refuse(f"it {_too_deep()}", event)
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor in self._open:
                self._refuse(f"the alias *{anchor} stands inside of what it names", event)
        elif anchor is not None:
            self._open.add(anchor)
        node: yaml.Node | None = super().compose_node(parent, index)
        if anchor is not None and not isinstance(event, yaml.AliasEvent):
            self._open.discard(anchor)
        self._depth -= is_collection
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS:
            if len(node.value) > _DIGITS:
                self._refuse(f"a number has more than {_DIGITS} digits", event)
        return node

    @staticmethod
    def _refuse(what: str, event: Any) -> None:
        raise yaml.composer.ComposerError(None, None, what, event.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As a SafeLoader, which takes the last of two equal keys; raises ConstructorError."""
        seen: list[Any] = []  # a key may be unhashable, which the SafeLoader says itself
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:  # `<<`, whose keys give way
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {_short(key)} is there twice", key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep)


def _n_expanded(root: yaml.Node) -> int:
    """How many nodes there would be if each alias were written out."""
    counts: dict[int, int] = {}

    def count(node: yaml.Node) -> int:
        if id(node) not in counts:
            entries = node.value if isinstance(node, yaml.CollectionNode) else []
            inner = [n for e in entries for n in (e if isinstance(e, tuple) else (e,))]
            counts[id(node)] = 1 + sum(map(count, inner))
        return counts[id(node)]

    return count(root)


def read_yaml(path: Path, names: Collection[str] = ()) -> Any:
    """What a YAML file holds, see `parse_yaml`.

    Raises:
        CorruptDataError: it is no regular file, too large, or no YAML that can be used.
        OSError: it cannot be read.
    """
    return parse_yaml(read_text(path, _YAML_BYTES), str(path), names)


def parse_yaml(text: str, where: str, names: Collection[str] = ()) -> Any:
    """What a YAML text holds: plain values only, and no key twice in a mapping.

    Args:
        text: One document.
        where: What it is, for the message.
        names: Keys of the outermost mapping whose lists, or whose mappings' keys, are names: these
            are text as they were written, where YAML would read `yes` as true and `0700` as 448.

    Raises:
        CorruptDataError: it is not YAML, nested more than 64 deep, holds more than 100,000 values
            with its aliases written out, a key twice, or a number of more than 100 digits.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        limited(_n_expanded(root), _YAML_NODES, f"{where}, with aliases, holds", "values")
        for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
            if isinstance(key.value, str) and key.value in names:
                _as_text(value)
        return loader.construct_document(root)
    except CorruptDataError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, RecursionError) as error:
        raise CorruptDataError(f"{where} is not valid YAML: {error}") from error


def _as_text(node: yaml.Node) -> None:
    entries = node.value if isinstance(node, yaml.CollectionNode) else []
    for entry in entries:
        inner = entry[0] if isinstance(entry, tuple) else entry
        if isinstance(inner, yaml.ScalarNode) and inner.tag != _MERGE:
            inner.tag = _TEXT
