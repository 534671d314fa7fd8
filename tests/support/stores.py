"""Real log stores in a folder of their own, what they hold, and a program that writes into one until it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from greenagent.logs.folder import LogFolder, reading
from greenagent.logs.lines import ALONE, Block, Mixed, Piece
from greenagent.logs.read.pending import PendingLines
from greenagent.logs.store import LogStore
from greenagent.logs.write.job_log import JobLog, Routes
from greenagent.spool.spool import Spool
from greenagent.values.message import Message, Record
from tests.support.agent_logs import RecordedLog
from tests.support.programs import ROOT

CHATTY = ROOT / "tests/logs/programs/chatty_store.py"


class Stores:
    """Opens stores on one folder, one after the other, and closes what a test leaves open."""

    def __init__(self, path: Path) -> None:
        self.folder = LogFolder(path / "logs")
        self.ids = path / "mid"
        self.agent_log = RecordedLog()
        self.spool = Spool(path / "spool.db", self.agent_log, result_memory=1000)
        """Keeps the upload cursors."""
        self._open: list[LogStore] = []

    def open(self, **options: Any) -> LogStore:
        if not self._open:
            self.spool.start()
        store = LogStore(self.folder.path, self.ids, self.agent_log, cursors=self.spool.cursors, **options)
        store.start()
        self._open.append(store)
        return store

    def close(self) -> None:
        if self._open:
            while self._open:
                self._open.pop().stop()
            self.spool.stop()


def job(store: LogStore, jobid: str = "j", routes: Routes | None = None, **options: Any) -> JobLog:
    return store.open_job(jobid, "dom", "nam", routes or Routes(), "execute nam", **options)


class LoosePending(PendingLines):
    """The lines of a pair without a store: ``deliver`` says what a reading finds."""

    def __init__(self, waiting: int = 0, meanwhile: Callable[[], None] = lambda: None) -> None:
        """``meanwhile`` is called while they are read."""
        super().__init__("a", 1, 0, waiting, self._slice, lambda pair: None, lambda lines, _: self.missed.append(lines))
        self.missed: list[int] = []
        self._found: list[Record] = []
        self._meanwhile = meanwhile

    def _slice(self, *asked: int) -> list[Record]:
        self._meanwhile()
        return self._found

    def deliver(self, *seqs: int) -> None:
        """These lines are read and accepted; none: nothing is found."""
        self._found = [Record(seq, seq, "j", "", "", 0.0, 1, "x") for seq in seqs]
        self.read()
        if seqs:
            self.advance(seqs[-1])


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
    store.intake.call(store.writer.database.merge_log)
    log.append([Message(1, "in its log")])
    store.flush()
    (path,) = stores.folder.databases()
    left = path.read_bytes(), path.with_name(path.name + "-wal").read_bytes()
    store.stop()
    path.unlink()
    stores.folder.current.unlink()
    return left


def start_chatty(stores: Stores, size: int, most: int = 0) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(CHATTY), str(stores.folder.path), str(stores.ids), str(size), str(most)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def messages(pieces: list[Piece]) -> list[tuple[int, str]]:
    flat: list[tuple[int, str]] = []
    for piece in pieces:
        if isinstance(piece, Block):
            assert piece.level not in ALONE
            assert len(piece.lines()) == piece.count
            flat += [(piece.level, line) for line in piece.lines()]
        elif isinstance(piece, Mixed):
            alone = piece.messages()
            assert len(alone) == piece.count
            assert Counter(level for level, _ in alone) == piece.levels
            assert not piece.levels.keys() & ALONE
            for level in piece.levels:
                assert piece.texts_of(level) == [text for other, text in alone if other == level]
            flat += [tuple(message) for message in alone]
        else:
            flat.append(tuple(piece))
    return flat
