"""Real stores in a folder of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greenagent.logs.folder import LogFolder
from greenagent.logs.joblog import JobLog
from greenagent.logs.reading import reading
from greenagent.logs.routes import Routes
from greenagent.logs.store import LogStore
from tests.support.agent_logs import RecordedLog


class Stores:
    """Opens stores on one folder, one after the other, and closes what a test leaves open."""

    def __init__(self, path: Path) -> None:
        self.folder = LogFolder(path / "logs")
        self.ids = path / "mid"
        self.agent_log = RecordedLog()
        self._open: list[LogStore] = []

    def open(self, **options: Any) -> LogStore:
        store = LogStore(self.folder.path, self.ids, self.agent_log, **options)
        store.start()
        self._open.append(store)
        return store

    def close(self) -> None:
        while self._open:
            self._open.pop().stop()


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(tmp_path)
    yield stores
    stores.close()


def job(store: LogStore, jobid: str = "j", routes: Routes | None = None, **options: Any) -> JobLog:
    return store.open_job(jobid, "dom", "nam", routes or Routes(), "execute nam", **options)


def rows(folder: LogFolder, columns: str = "id, level, data", table: str = "logs") -> list[tuple[Any, ...]]:
    """All rows of all databases, oldest first."""
    found: list[tuple[Any, ...]] = []
    for path in folder.databases():
        with reading(path) as connection:
            found += connection.execute(f"SELECT {columns} FROM {table} ORDER BY seq").fetchall()
    return found


@pytest.fixture(scope="session")
def stores_factory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Stores]:
    """A fresh folder each time, for property tests."""
    return lambda: Stores(tmp_path_factory.mktemp("stores"))
