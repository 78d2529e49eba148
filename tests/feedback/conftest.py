"""What the tests of this room share: an empty store, and sittings that are closed again.

The functions and classes behind them are in the modules beside this one, where the tests find them
before any fixture is made: `from tests.feedback.desk_rounds import ...`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # imported on use: most tests of the room need no window
    from rlhf_gym.data import Query
    from rlhf_gym.feedback.store import PreferenceStore
    from tests.feedback import session_sitting, window_sitting


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PreferenceStore]:
    from rlhf_gym.feedback.store import PreferenceStore

    with PreferenceStore(tmp_path / "run") as opened:
        opened.rows("PRAGMA synchronous = OFF")  # these tests cut no power
        yield opened


@pytest.fixture
def sitting(tmp_path: Path) -> Iterator[session_sitting.Sitting]:
    """A session on a store, without a window."""
    from tests.feedback.session_sitting import Sitting

    made = Sitting(tmp_path)
    yield made
    made.session.close()
    made.store.close()


@pytest.fixture
def open_sittings() -> Iterator[list[window_sitting.Sitting]]:
    made: list[window_sitting.Sitting] = []
    yield made
    for sitting in made:
        sitting.close()


@pytest.fixture
def start(tmp_path: Path, open_sittings: list[window_sitting.Sitting]) -> Any:
    """A factory of sittings at a window."""
    from tests.feedback.window_sitting import Sitting, control_pairs

    def make(queries: list[Query] | None = None, **options: Any) -> Sitting:
        open_sittings.append(Sitting(tmp_path, queries or control_pairs(6), **options))
        return open_sittings[-1]

    return make
