"""Real stores for every test of the room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.open_text import Typing
from tests.support.stores import Stores


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(tmp_path)
    yield stores
    stores.close()


@pytest.fixture(scope="session")
def stores_factory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Stores]:
    """A fresh folder each time, for property tests."""
    return lambda: Stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture
def typing(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> Typing:
    """A job whose stdout stays open, and a clock that the test sets."""
    return Typing(stores, monkeypatch)
