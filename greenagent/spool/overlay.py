"""The spool's database, and what lies in memory while its file takes no writes (a full disk, another program's lock).

There is one policy for that: the same statements run on a second connection, against a database in
memory that lies over the file. Its views have the names of the tables and show the rows in memory in
place of the file's; their triggers write to memory. When the file takes writes again, the rows in
memory are copied into it. Row numbers are given by the spool, so they stay what they are.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from greenagent.runtime.database import LOCK_TIMEOUT, Function, NativeDatabase, Outcome, wait_for_locks
from greenagent.runtime.native import native_sleep
from greenagent.spool.schema import SCHEMA
from greenagent.spool.takeover import take_over_statistics

MAX_MEMORY: Final = 256 * 1024 * 1024
"""Bytes that may lie in memory: the same cap as on disk."""
RETRY: Final = 2.0
"""Seconds between tries to write to the file again."""
LAST_TRIES: Final = 2.0
"""Seconds of such tries as the agent ends."""
PART: Final = 200
PART_BYTES: Final = 4 * 1024 * 1024
"""Rows of the outbox, and about how many bytes of them, that are written back in one transaction."""
WRITE_BACK_TIME: Final = 0.5
"""Seconds of writing back before what waits for the thread has its turn."""


class Table:
    """One table of the file as the overlay needs it."""

    def __init__(self, name: str, key: str, text: str, columns: Sequence[str]) -> None:
        """``text``: the large column that is never changed, "" for none."""
        self.name = name
        self.key = key
        self.text = text
        self.columns = tuple(columns)

    def storage(self) -> str:
        """The table in memory. ``gone`` marks a row of the file as deleted.

        ``text`` is null in a row that the file has too: settling a thousand results must not load their bodies.
        """
        kind = "INTEGER" if self.key == "row" else "TEXT"
        others = ", ".join(column for column in self.columns if column != self.key)
        return f"CREATE TABLE memory_{self.name} ({self.key} {kind} NOT NULL PRIMARY KEY, {others}, gone DEFAULT 0)"

    def view(self, with_file: bool) -> Iterator[str]:
        """The statements that make the view and its triggers; without the file it shows what is in memory alone."""
        name, key, columns = self.name, self.key, ", ".join(self.columns)
        whole = f"SELECT {columns} FROM main.memory_{name} WHERE NOT gone"
        deleted = f"DELETE FROM memory_{name} WHERE {key} = OLD.{key};"
        if with_file:
            text = f"coalesce(m.{self.text}, (SELECT f.{self.text} FROM file.{name} AS f WHERE f.{key} = m.{key}))"
            shown = ", ".join(f"{text} AS {column}" if column == self.text else column for column in self.columns)
            whole = (
                f"SELECT {shown} FROM main.memory_{name} AS m WHERE NOT gone UNION ALL "
                f"SELECT {columns} FROM file.{name} WHERE {key} NOT IN (SELECT {key} FROM main.memory_{name})"
            )
            deleted += (
                f"INSERT INTO memory_{name} ({key}, gone) SELECT {key}, 1 FROM file.{name} WHERE {key} = OLD.{key};"
            )
        values = ", ".join(f"NEW.{column}" for column in self.columns)
        changes = ", ".join(f"{column} = NEW.{column}" for column in self.columns if column != self.text)
        yield f"DROP VIEW IF EXISTS temp.{name}"
        yield f"CREATE TEMP VIEW {name} AS {whole}"
        yield (
            f"CREATE TEMP TRIGGER {name}_insert INSTEAD OF INSERT ON {name} BEGIN "
            f"INSERT OR REPLACE INTO memory_{name} ({columns}) VALUES ({values}); END"
        )
        yield (
            f"CREATE TEMP TRIGGER {name}_update INSTEAD OF UPDATE ON {name} BEGIN "
            f"INSERT OR IGNORE INTO memory_{name} ({key}) VALUES (NEW.{key}); "
            f"UPDATE memory_{name} SET {changes} WHERE {key} = NEW.{key}; END"
        )
        yield f"CREATE TEMP TRIGGER {name}_delete INSTEAD OF DELETE ON {name} BEGIN {deleted} END"

    def write_back(self, condition: str = "1") -> Iterator[str]:
        """The statements that move the rows under a condition into the file."""
        name, key, columns = self.name, self.key, ", ".join(self.columns)
        values = ", ".join(f"coalesce({column}, '')" if column == self.text else column for column in self.columns)
        changes = ", ".join(f"{column} = excluded.{column}" for column in self.columns if column != self.text)
        rows = f"FROM main.memory_{name} WHERE {condition}"
        yield f"DELETE FROM file.{name} WHERE {key} IN (SELECT {key} {rows} AND gone)"
        yield (
            f"INSERT INTO file.{name} ({columns}) SELECT {values} {rows} AND NOT gone "
            f"ON CONFLICT ({key}) DO UPDATE SET {changes}"
        )
        yield f"DELETE {rows}"


class Overlay:
    """The database in memory over the file."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA temp_store = MEMORY")
        self.connection.execute("ATTACH ? AS file", (str(path),))
        self.connection.execute("PRAGMA file.synchronous = NORMAL")
        wait_for_locks(self.connection, 0)
        self._tables = {
            name: Table(name, key, text, self._columns(name))
            for name, key, text in (
                ("job", "row", "command"),
                ("outcome", "row", "body"),
                ("aside", "row", "body"),
                ("cursor", "name", ""),
                ("meta", "key", ""),
            )
        }
        for table in self._tables.values():
            self.connection.execute(table.storage())
        self.is_blind = False
        self.show(with_file=True)

    def show(self, *, with_file: bool) -> None:
        """What the views show: without the file when it cannot even be read."""
        for table in self._tables.values():
            for statement in table.view(with_file):
                self.connection.execute(statement)
        self.is_blind = not with_file

    @property
    def is_empty(self) -> bool:
        """True when nothing waits to be written to the file."""
        return not any(self._first(f"SELECT EXISTS (SELECT 1 FROM memory_{name})") for name in self._tables)

    def waiting_results(self) -> int:
        """How many results wait for their controllers here and nowhere else."""
        return self._first(
            "SELECT count(*) FROM memory_outcome WHERE path != 'stats' AND body IS NOT NULL "
            "AND delivered IS NULL AND refused IS NULL"
        )

    def write_back(self) -> None:
        """Moves a part into the file in one transaction. Raises sqlite3.Error with nothing changed.

        A job goes with the last of its results: written before, it would have ended without one if the
        agent were killed between two parts.
        """
        rows = self.connection.execute(
            "SELECT row, length(CAST(coalesce(body, '') AS BLOB)) FROM memory_outcome ORDER BY row LIMIT ?", (PART,)
        )
        last = size = 0
        for row, length in rows.fetchall():
            size += length
            if last and size > PART_BYTES:
                break
            last = row
        statements = [*self._tables["outcome"].write_back(f"row <= {last}")]
        statements += self._tables["job"].write_back("row NOT IN (SELECT job FROM main.memory_outcome WHERE NOT gone)")
        for name in ("aside", "cursor", "meta"):
            statements += self._tables[name].write_back()
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                self.connection.execute(statement)
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def shrink(self, max_bytes: int) -> int:
        """Keeps within ``max_bytes``: settled bodies go first, then statistics, then the oldest results.

        That their jobs have ended is kept. Returns how many went that had not been delivered.
        """
        dropped = 0
        while self._used > max_bytes:
            rows = self.connection.execute(
                "SELECT row, delivered IS NULL AND refused IS NULL FROM memory_outcome WHERE body IS NOT NULL "
                "AND row < (SELECT max(row) FROM memory_outcome) ORDER BY 2, path != 'stats', row LIMIT 10"
            ).fetchall()
            if not rows:
                break
            self.connection.executemany("DELETE FROM memory_outcome WHERE row = ?", [(row,) for row, _ in rows])
            dropped += sum(waiting for _, waiting in rows)
            self.connection.execute(
                "DELETE FROM memory_job WHERE command IS NOT NULL AND state = 'ended' "
                "AND row NOT IN (SELECT job FROM memory_outcome WHERE NOT gone)"
            )
        return dropped

    @property
    def _used(self) -> int:
        pages, free, size = (
            self._first(f"PRAGMA main.{name}") for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def _first(self, statement: str) -> int:
        return int(self.connection.execute(statement).fetchone()[0])

    def _columns(self, table: str) -> list[str]:
        return [row[1] for row in self.connection.execute(f"PRAGMA file.table_info({table})")]


class SpoolDatabase(NativeDatabase):
    """The spool's file and, while that takes no writes, the overlay: no transaction is ever refused for the disk."""

    def __init__(self, path: Path, changed: Callable[[], None], *, max_memory: int = MAX_MEMORY) -> None:
        """``changed`` is called on the hub when ``problem`` has changed."""
        super().__init__(path, SCHEMA)
        self.problem: str | None = None
        """Why the file takes nothing, or None. Until it does, ``run`` and ``submit`` work on the overlay."""
        self.lost = 0
        """What had not been delivered and went for lack of memory, or with the agent's end."""
        self.retry = RETRY
        self._changed = changed
        self._max_memory = max_memory
        self._overlay: Overlay | None = None
        self._next_try = 0.0

    def _open(self) -> None:
        super()._open()
        self.problem, self.lost, self._next_try = None, 0, 0.0
        assert self._connection is not None
        try:
            take_over_statistics(self._connection)
            self._overlay = Overlay(self.path)
        except BaseException:
            super()._close()
            raise

    def _close(self) -> None:
        overlay, deadline = self._overlay, time.monotonic() + LAST_TRIES
        if overlay is None:
            return
        while self.problem is not None and time.monotonic() < deadline:
            self._next_try = 0.0
            if self._write_back(overlay):
                break
            native_sleep(0.1)
        self.lost += overlay.waiting_results()
        if overlay.is_empty:
            self.problem = None
        overlay.connection.close()
        self._overlay = None
        super()._close()

    def _begin(self, connection: sqlite3.Connection) -> None:
        is_file = connection is self._connection
        connection.execute("BEGIN IMMEDIATE" if is_file else "BEGIN")

    def _fails_all(self, error: BaseException) -> bool:
        """Then all of it is done again in memory: the order of what was handed over stays."""
        return isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)
        )

    def _execute(self, functions: Sequence[Function]) -> list[Outcome]:
        overlay = self._overlay
        assert overlay is not None
        assert self._connection is not None
        if self.problem is None or self._write_back(overlay):
            try:
                outcomes = self._transact(self._connection, functions)
            except BaseException as error:
                if not self._fails_all(error):
                    return [Outcome(None, error)] * len(functions)
                self._note(error)
            else:
                self._note(None)
                return outcomes
        return self._execute_in_memory(overlay, functions)

    def _execute_in_memory(self, overlay: Overlay, functions: Sequence[Function]) -> list[Outcome]:
        try:
            outcomes = self._transact(overlay.connection, functions)
        except BaseException as error:
            if overlay.is_blind or not self._fails_all(error):
                return [Outcome(None, error)] * len(functions)
            overlay.show(with_file=False)
            return self._execute_in_memory(overlay, functions)
        self.lost += overlay.shrink(self._max_memory)
        return outcomes

    def _write_back(self, overlay: Overlay) -> bool:
        """True when all that lay in memory is in the file."""
        now = time.monotonic()
        if now < self._next_try:
            return False
        self._next_try = now + self.retry
        try:
            while not overlay.is_empty:
                overlay.write_back()
                if time.monotonic() > now + WRITE_BACK_TIME:
                    self._next_try = 0.0
                    return False
        except sqlite3.DatabaseError as error:
            self._note(error)
            return False
        if overlay.is_blind:
            overlay.show(with_file=True)
        return True

    def _note(self, error: BaseException | None) -> None:
        problem = None if error is None else str(error)
        if problem == self.problem or self._connection is None:
            return
        # The file was waited for once; until it takes something again, nobody waits for a lock of it.
        wait_for_locks(self._connection, LOCK_TIMEOUT if error is None else 0)
        if "malformed" in str(error) or "not a database" in str(error):
            self._next_try = float("inf")  # writing to a damaged file makes it worse; the next start sets it aside
        elif error is not None and self.problem is None:
            self._next_try = time.monotonic() + self.retry
        self.problem = problem
        assert self._worker is not None
        self._worker.post(self._changed)
