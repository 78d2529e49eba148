from __future__ import annotations

import re

import pytest

from rlhf_gym import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_can_be_caught_as_ours(error: type[Exception]) -> None:
    assert issubclass(error, errors.RlhfGymError)


@pytest.mark.parametrize("error", [c for c in CLASSES if c is not errors.RlhfGymError])
def test_every_error_refines_the_builtin_named_in_the_docstring(error: type[Exception]) -> None:
    tree = errors.__doc__ or ""
    line = next(line for line in tree.splitlines() if re.search(rf"── {error.__name__}\b", line))
    named = re.search(r"\((\w+)\)", line)
    if named:
        builtin = getattr(__import__("builtins"), named[1])
        assert issubclass(error, builtin)
    else:
        assert issubclass(error, errors.DataError)


def test_every_public_error_stands_in_the_docstring() -> None:
    assert all(name in (errors.__doc__ or "") for name in errors.__all__)
    defined = {n for n, v in vars(errors).items() if isinstance(v, type)}
    assert defined == set(errors.__all__)
