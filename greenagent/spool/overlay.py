"""The spool's database, and what lies in memory while its file takes no writes (a full disk, another program's lock).

There is one policy for that: the same statements run on a second connection, against a database in
memory that lies over the file. Its views have the names of the tables and show the rows in memory in
place of the file's; their triggers write to memory. When the file takes writes again, the rows in
memory are moved into it. Row numbers are given by the spool, so they stay what they are.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from greenagent.runtime.database import LOCK_TIMEOUT, Function, NativeDatabase, Outcome
from greenagent.runtime.native import native_sleep
from greenagent.runtime.transactions import Begin, transaction, wait_for_locks
from greenagent.spool.migration import add_columns, take_over_statistics
from greenagent.spool.schema import IS_RESULT, SCHEMA, WAITS
from greenagent.spool.statements import last_row, note_row, noted_row

MAX_MEMORY: Final = 256 * 1024 * 1024
"""Bytes that may lie in memory: the same cap as on disk."""
RETRY: Final = 2.0
"""Seconds between tries to write to the file again."""
LAST_TRIES: Final = 2.0
"""Seconds of such tries as the agent ends."""
_NEVER: Final = float("inf")

KEYS: Final = {"job": "row", "outcome": "row", "aside": "row", "cursor": "name", "meta": "key"}
TEXTS: Final = {"job": "command", "outcome": "body", "aside": "body"}
"""The large column of a table, which no statement changes."""


class Table(NamedTuple):
    """One table of the file, and the SQL that lays memory over it."""

    name: str
    key: str
    text: str
    columns: dict[str, str]
    """Name and type. The types of both sides must be the same, or sqlite reads all of a view for a few rows of it."""

    def storage(self) -> str:
        """The table in memory. ``gone`` marks a row of the file as deleted.

        ``text`` is null in a row that the file has too: settling a thousand results must not load their bodies.
        """
        columns = ", ".join(
            f"{column} {kind}{' NOT NULL PRIMARY KEY' if column == self.key else ''}"
            for column, kind in self.columns.items()
        )
        return f"CREATE TABLE memory_{self.name} ({columns}, gone INTEGER DEFAULT 0)"

    def view(self, with_file: bool) -> Iterator[str]:
        """The view and its triggers; without the file it shows what is in memory alone."""
        name, key, columns = self.name, self.key, ", ".join(self.columns)
        rows = f"SELECT {columns} FROM main.memory_{name} WHERE NOT gone"
        delete = f"DELETE FROM memory_{name} WHERE {key} = OLD.{key};"
        if with_file:
            text = f"SELECT f.{self.text} FROM file.{name} AS f WHERE f.{key} = m.{key}"
            text = f"CAST(coalesce({self.text}, ({text})) AS TEXT)"
            shown = ", ".join(f"{text} AS {column}" if column == self.text else column for column in self.columns)
            rows = (
                f"SELECT {shown} FROM main.memory_{name} AS m WHERE NOT gone UNION ALL "
                f"SELECT {columns} FROM file.{name} WHERE {key} NOT IN (SELECT {key} FROM main.memory_{name})"
            )
            delete += (
                f"INSERT INTO memory_{name} ({key}, gone) SELECT {key}, 1 FROM file.{name} WHERE {key} = OLD.{key};"
            )
        values = ", ".join(f"NEW.{column}" for column in self.columns)
        insert = f"INSERT OR REPLACE INTO memory_{name} ({columns}) VALUES ({values});"
        update = (
            f"INSERT OR IGNORE INTO memory_{name} ({key}) VALUES (NEW.{key}); "
            f"UPDATE memory_{name} SET {self._changes('NEW')} WHERE {key} = NEW.{key};"
        )
        yield f"DROP VIEW IF EXISTS temp.{name}"
        yield f"CREATE TEMP VIEW {name} AS {rows}"
        for event, action in (("INSERT", insert), ("UPDATE", update), ("DELETE", delete)):
            yield f"CREATE TEMP TRIGGER {name}_{event} INSTEAD OF {event} ON {name} BEGIN {action} END"

    def write_back(self) -> Iterator[str]:
        """Moves all rows into the file."""
        name, key, columns = self.name, self.key, ", ".join(self.columns)
        values = ", ".join(f"coalesce({column}, '')" if column == self.text else column for column in self.columns)
        yield f"DELETE FROM file.{name} WHERE {key} IN (SELECT {key} FROM main.memory_{name} WHERE gone)"
        yield (
            f"INSERT INTO file.{name} ({columns}) SELECT {values} FROM main.memory_{name} WHERE NOT gone "
            f"ON CONFLICT ({key}) DO UPDATE SET {self._changes('excluded')}"
        )
        yield f"DELETE FROM main.memory_{name}"

    def _changes(self, source: str) -> str:
        return ", ".join(f"{column} = {source}.{column}" for column in self.columns if column != self.text)


class Overlay:
    """The database in memory over the file."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA temp_store = MEMORY")
        self.connection.execute("ATTACH ? AS file", (str(path),))
        self.connection.execute("PRAGMA file.synchronous = NORMAL")
        self.connection.execute("PRAGMA wal_autocheckpoint = 0")  # the database has them made elsewhere
        wait_for_locks(self.connection, 0)
        self._tables = []
        for name, key in KEYS.items():
            columns = {row[1]: row[2] for row in self.connection.execute(f"PRAGMA file.table_info({name})")}
            self._tables.append(Table(name, key, TEXTS.get(name, ""), columns))
            self.connection.execute(self._tables[-1].storage())
        self.connection.execute("CREATE INDEX memory_job_id ON memory_job (id)")
        self.connection.execute("CREATE INDEX memory_outcome_job ON memory_outcome (job)")
        self.is_blind = False
        self.show(with_file=True)

    def show(self, *, with_file: bool) -> None:
        """What the views show: without the file when it cannot even be read."""
        self.is_blind = not with_file
        for table in self._tables:
            for statement in table.view(with_file):
                self.connection.execute(statement)

    @property
    def is_empty(self) -> bool:
        """True when nothing waits to be written to the file."""
        return not any(self._first(f"SELECT EXISTS (SELECT 1 FROM memory_{name})") for name in KEYS)

    @property
    def undelivered(self) -> int:
        """How many results and statistics wait for their controllers here and nowhere else."""
        return self._first(f"SELECT count(*) FROM memory_outcome WHERE {WAITS} AND body IS NOT NULL")

    def move_to(self, path: Path, is_whole: bool) -> None:
        """Lies over another file from now on, and writes everything into it.

        ``is_whole``: it has the rows of the file before; else what only refers to those goes. Raises sqlite3.Error.
        """
        if not is_whole:
            for name, text in TEXTS.items():
                self.connection.execute(f"DELETE FROM memory_{name} WHERE {text} IS NULL")
        self.connection.execute("DETACH file")
        self.connection.execute("ATTACH ? AS file", (str(path),))
        self.write_back()

    def write_back(self) -> None:
        """Moves everything into the file, in one transaction. Raises sqlite3.Error with nothing changed."""
        with transaction(self.connection):
            for table in self._tables:
                for statement in table.write_back():
                    self.connection.execute(statement)

    def shrink(self, max_bytes: int) -> int:
        """Keeps within ``max_bytes``: settled bodies go first, then statistics, then the oldest results.

        That their jobs have ended is kept. Returns how many went that had not been delivered.
        """
        dropped = 0
        while self._used > max_bytes:
            rows = self.connection.execute(
                f"SELECT row, {WAITS} FROM memory_outcome WHERE body IS NOT NULL "
                f"AND row < (SELECT max(row) FROM memory_outcome) ORDER BY 2, {IS_RESULT}, row LIMIT 10"
            ).fetchall()
            if not rows:
                break
            self.connection.executemany("DELETE FROM memory_outcome WHERE row = ?", [(row,) for row, _ in rows])
            self.connection.execute(
                "DELETE FROM memory_job WHERE command IS NOT NULL AND state = 'ended' "
                "AND row NOT IN (SELECT job FROM memory_outcome WHERE NOT gone)"
            )
            dropped += sum(waiting for _, waiting in rows)
        return dropped

    @property
    def _used(self) -> int:
        pages, free, size = map(self._first, ("PRAGMA page_count", "PRAGMA freelist_count", "PRAGMA page_size"))
        return (pages - free) * size

    def _first(self, statement: str) -> int:
        return int(self.connection.execute(statement).fetchone()[0])


class SpoolDatabase(NativeDatabase):
    """The spool's file and, while that takes no writes, the overlay: no transaction is ever refused for the disk."""

    def __init__(
        self,
        path: Path,
        on_change: Callable[[], None],
        record: Callable[[int], None] = lambda row: None,
        *,
        max_memory: int = MAX_MEMORY,
    ) -> None:
        """``on_change`` is called on the hub when ``problem`` has changed.

        ``record`` keeps ``last_row`` outside of the file, once that has it; it may raise OSError.
        """
        super().__init__(path, SCHEMA)
        self.problem: str | None = None
        """Why the file takes nothing, or None. Until it does, ``run`` and ``submit`` work on the overlay."""
        self.lost = 0
        """What had not been delivered and went for lack of memory, or with the agent's end."""
        self.max_memory = max_memory
        self.retry = RETRY
        self.last_row = 0
        """The largest row number that ever was in use in the file. To be changed before the first ``run`` only."""
        self._noted_row = 0
        """The one that the file tells."""
        self._recorded_row = 0
        self._on_change = on_change
        self._record = record
        self._overlay: Overlay | None = None
        self._next_try = 0.0

    def _open(self) -> None:
        super()._open()
        assert self._connection is not None
        self.problem, self.lost, self._next_try = None, 0, 0.0
        add_columns(self._connection)
        take_over_statistics(self._connection)
        self._noted_row = noted_row(self._connection)
        self.last_row = max(self.last_row, self._noted_row, last_row(self._connection))
        self._overlay = Overlay(self.path)

    def _close(self) -> None:
        if self._overlay is None:
            return
        deadline = time.monotonic() + LAST_TRIES
        # Not into a damaged file: what that took would be set aside with it at the next start, and not be said lost.
        while self._next_try < _NEVER and not self._overlay.is_empty and time.monotonic() < deadline:
            self._next_try = 0.0
            if not self._write_back(self._overlay):
                native_sleep(0.1)
        self.lost += self._overlay.undelivered
        if self._overlay.is_empty:
            self.problem = None
        self._overlay.connection.close()
        self._overlay = None
        super()._close()

    def _copy(self, connection: sqlite3.Connection, copy: Path) -> bool:
        assert self._overlay is not None
        is_whole = super()._copy(connection, copy)
        self._overlay.move_to(copy, is_whole)
        return is_whole

    def _transact(
        self, connection: sqlite3.Connection, functions: Sequence[Function], begin: Begin | None = None
    ) -> list[Outcome]:
        noted = self._noted_row
        try:
            outcomes = super()._transact(connection, functions, begin)
        except BaseException:
            self._noted_row = noted
            raise
        if connection is self._connection and self.last_row != self._recorded_row:
            self._recorded_row = self.last_row
            with suppress(OSError):  # it is what the next start can tell a loss by, and no reason for one
                self._record(self.last_row)
        return outcomes

    def _before_commit(self, connection: sqlite3.Connection) -> None:
        """Not through the views of the overlay, which would read all rows: the next transaction of the file does it."""
        if connection is self._connection:
            try:
                found = last_row(connection)
            except sqlite3.DatabaseError:  # a damaged page, say: whoever needs it finds out
                found = self.last_row
            self.last_row = max(self.last_row, found)
            if found < self.last_row != self._noted_row:  # else the row itself tells, and no page more is written
                note_row(connection, self.last_row)
                self._noted_row = self.last_row

    def _begin(self, connection: sqlite3.Connection) -> None:
        if connection is self._connection:
            self._begin_to_write(connection)
        else:
            connection.execute("BEGIN")

    def _must_use_thread(self) -> bool:
        return self.problem is not None or super()._must_use_thread()

    def _fails_all(self, error: BaseException) -> bool:
        """Then all of it is done again in memory: the order of what was handed over stays."""
        return isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)
        )

    def _execute(self, functions: Sequence[Function]) -> list[Outcome]:
        assert self._overlay is not None
        assert self._connection is not None
        if self.problem is None or self._write_back(self._overlay):
            try:
                outcomes = self._transact(self._connection, functions)
            except sqlite3.DatabaseError as error:
                if not self._fails_all(error):
                    raise
                self._note(error)
            else:
                if self._overlay.is_blind:
                    self._overlay.show(with_file=True)
                self._note(None)
                return outcomes
        try:
            outcomes = self._transact(self._overlay.connection, functions)
        except sqlite3.DatabaseError as error:
            if self._overlay.is_blind or not self._fails_all(error):
                raise
            self._overlay.show(with_file=False)
            outcomes = self._transact(self._overlay.connection, functions)
        self.lost += self._overlay.shrink(self.max_memory)
        return outcomes

    def _write_back(self, overlay: Overlay) -> bool:
        """True when all that lay in memory is in the file."""
        if time.monotonic() < self._next_try:
            return False
        self._next_try = time.monotonic() + self.retry
        try:
            if not overlay.is_empty:
                overlay.write_back()
        except sqlite3.DatabaseError as error:
            self._note(error)
            return False
        return True

    def _note(self, error: BaseException | None) -> None:
        problem = None if error is None else str(error)
        if problem == self.problem:
            return
        assert self._worker is not None
        # A lock is waited for once; until the file takes something again, nobody waits for it.
        self._patience = LOCK_TIMEOUT if error is None else 0.0
        if "malformed" in str(error) or "not a database" in str(error):
            self._next_try = _NEVER  # writing to a damaged file makes it worse; the next start sets it aside
        elif self.problem is None:
            self._next_try = time.monotonic() + self.retry
        self.problem = problem
        self._worker.post(self._on_change)
