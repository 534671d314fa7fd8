"""Real stores in a folder of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greenagent.logs.folder import LogFolder
from greenagent.logs.joblog import JobLog
from greenagent.logs.read.database import reading
from greenagent.logs.routes import Routes
from greenagent.logs.store import LogStore
from greenagent.values.message import Message
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


def crashed_files(stores: Stores) -> tuple[bytes, bytes]:
    """A database and its log as kill -9 leaves them: one line is in the file, the next in its log."""
    store = stores.open()
    log = job(store)
    log.append([Message(1, "in the file")])
    store.flush()
    store.writer.call(lambda writer: writer.database.merge_log())
    log.append([Message(1, "in its log")])
    store.flush()
    (path,) = stores.folder.databases()
    left = path.read_bytes(), path.with_name(path.name + "-wal").read_bytes()
    store.stop()
    path.unlink()
    stores.folder.current.unlink()
    return left


@pytest.fixture(scope="session")
def stores_factory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Stores]:
    """A fresh folder each time, for property tests."""
    return lambda: Stores(tmp_path_factory.mktemp("stores"))
