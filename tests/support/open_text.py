"""A job whose output stays open."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from greenagent.logs.splitter import Splitter
from greenagent.logs.write import open_lines
from greenagent.logs.write.job_log import JobLog, Routes
from tests.support.stores import Stores, job

COLUMNS = "jobid, stream, level, data, size"


class Typing:
    """A job whose stdout is written piece by piece; time passes when the test says so."""

    def __init__(self, stores: Stores, monkeypatch: pytest.MonkeyPatch, routes: Routes | None = None) -> None:
        self.stores = stores
        self.store = stores.open()
        self.log: JobLog = job(self.store, routes=routes)
        self.splitter = Splitter(1)
        self.log.watch({1: self.splitter})
        self.now = 1000.0
        monkeypatch.setattr(open_lines, "monotonic", lambda: self.now)

    def prints(self, text: str) -> None:
        pieces = self.splitter.feed(text.encode())
        if pieces:
            self.log.append(pieces)
        self.store.look_at_open_text()

    def later(self, seconds: float) -> list[tuple]:
        self.now += seconds
        self.store.look_at_open_text()
        return self.table()

    def table(self) -> list[tuple]:
        self.store.flush()
        with closing(sqlite3.connect(self.stores.folder.current)) as connection:
            return connection.execute(f"SELECT {COLUMNS} FROM open_lines ORDER BY stream").fetchall()
