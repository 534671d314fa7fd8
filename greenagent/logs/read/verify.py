"""Checking log databases: integrity, schema, ids. Plain sqlite, no gevent."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from greenagent.logs.folder import LogFolder, reading

SEED_COLUMNS: Final = ("id", "jobid", "domain", "name", "epoch", "level", "data")
_OWN_COLUMNS: Final = (*SEED_COLUMNS, "marks", "seq")


class FileReport(NamedTuple):
    """What was found in one file. ``kind``: ours, original, or unknown."""

    path: Path
    kind: str
    lines: int
    first_id: int | None
    last_id: int | None
    problems: tuple[str, ...]

    def line(self) -> str:
        """One line for people."""
        verdict = "; ".join(self.problems) if self.problems else "fine"
        ids = f", ids {self.first_id} to {self.last_id}" if self.first_id is not None else ""
        kind = " of the original agent" if self.kind == "original" else ""
        return f"{self.path.name}: {verdict} ({self.lines} lines{kind}{ids})"

    def to_json(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "fine": not self.problems,
            "kind": self.kind,
            "lines": self.lines,
            "first_id": self.first_id,
            "last_id": self.last_id,
            "problems": list(self.problems),
        }


class _Order:
    """Ids as they follow each other over all files: rising, with at most one wrap."""

    def __init__(self) -> None:
        self.last_id = -1
        self.last_seq = 0
        self.first_id = -1
        self.wrapped = False

    def check(self, connection: sqlite3.Connection) -> list[str]:
        """Checks one file against itself and those before it."""
        problems: list[str] = []
        repeated = falling = odd = 0
        for seq, number in connection.execute(_ALL_IDS):
            if seq <= self.last_seq:
                problems = ["seq does not rise over the file before"]
            self.last_seq = seq
            if not isinstance(number, int):
                odd += 1
                continue
            if self.first_id < 0:
                self.first_id = number
            elif number == self.last_id:
                repeated += 1
            elif number < self.last_id:
                if self.wrapped:
                    falling += 1
                self.wrapped = True
            if self.wrapped and number >= self.first_id:
                repeated += 1
            self.last_id = number
        if odd:
            problems.append(f"{odd} ids are no numbers")
        if repeated:
            problems.append(f"{repeated} ids come twice")
        if falling:
            problems.append(f"ids fall back {falling} times more than one wrap explains")
        return problems


_ALL_IDS: Final = 'SELECT seq, id FROM "logs" UNION ALL SELECT seq, id FROM "outgoing" ORDER BY 1'


def verify_folder(folder: LogFolder) -> Iterator[FileReport]:
    """A report per database, oldest first, then one per file that was set aside as damaged."""
    order = _Order()
    for path in folder.databases():
        report = verify_file(path, order)
        if path.exists():  # else its agent has removed it meanwhile
            yield report
    for path in sorted(folder.path.glob("damaged-*.sqlite")):
        yield FileReport(path, "unknown", 0, None, None, ("it was set aside as damaged",))


def verify_file(path: Path, order: _Order) -> FileReport:
    """Reads every page and every id of one file."""
    problems: list[str] = []
    kind, lines = "unknown", 0
    first: int | None = None
    last: int | None = None
    try:
        with reading(path) as connection:
            answers = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
            if answers != ["ok"]:
                problems += [" ".join(str(answer).split()) for answer in answers]
            columns = tuple(row[1] for row in connection.execute('PRAGMA table_info("logs")'))
            if not columns:
                return FileReport(path, "ours", 0, None, None, (*problems, "it has no table logs"))
            missing = [column for column in SEED_COLUMNS if column not in columns]
            if missing:
                return FileReport(path, "unknown", 0, None, None, (*problems, f"it lacks {', '.join(missing)}"))
            kind = "ours" if columns[: len(_OWN_COLUMNS)] == _OWN_COLUMNS else "original"
            key = "seq" if kind == "ours" else "rowid"
            lines = connection.execute('SELECT count(*) FROM "logs"').fetchone()[0]
            if lines:
                ends = f'SELECT CAST(id AS INTEGER) FROM "logs" ORDER BY {key} {{}} LIMIT 1'
                first = connection.execute(ends.format("ASC")).fetchone()[0]
                last = connection.execute(ends.format("DESC")).fetchone()[0]
            # The original's counter starts again after a crash: its ids prove nothing.
            if kind == "ours":
                problems += order.check(connection)
    except sqlite3.Error as error:
        problems.append(f"it cannot be read: {error}")
    return FileReport(path, kind, lines, first, last, tuple(problems))
