"""Counting the lines of a log database that controllers still wait for. Plain sqlite, in native threads."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from greenagent.logs.folder import connect, read_numbers
from greenagent.logs.lines import Owner

_JOBS_NAMED: Final = 1000
"""So many jobs of one file are counted one by one, those that lose most; the others together."""
_TABLES: Final = ("logs", "outgoing")


class Waiting(NamedTuple):
    """Lines that some upload pair has not delivered. A line that several pairs want counts once in all but ``by_bit``.

    ``by_owner`` holds the jobs with most of them, ``jobs`` says how many there are.
    """

    lines: int
    jobs: int
    by_owner: dict[Owner, int]
    by_bit: dict[int, int]


def waiting_in(path: Path, cursors: dict[int, int], patience: float) -> Waiting:
    """What the pairs of ``cursors`` (per bit the seq up to which it has everything) still want of a file.

    ``patience`` is how many seconds to wait for a file that another program holds. Raises sqlite3.Error.
    """
    bits = list(cursors)
    wants = " OR ".join("(seq > ? AND marks & ?)" for _ in bits)
    values = [number for bit in bits for number in (cursors[bit], bit)]
    each = ", ".join(f"sum(seq > ? AND marks & ? != 0) AS bit{position}" for position in range(len(bits)))
    wanted = " UNION ALL ".join(
        f'SELECT jobid, domain, name, seq, marks FROM "{table}" WHERE {wants}' for table in _TABLES
    )
    sums = ", ".join(f"sum(bit{position}) OVER ()" for position in range(len(bits)))
    statement = (
        f"SELECT jobid, domain, name, lines, sum(lines) OVER (), count(*) OVER (), {sums} "
        f"FROM (SELECT jobid, domain, name, count(*) AS lines, {each} FROM ({wanted}) GROUP BY jobid, domain, name) "
        "ORDER BY lines DESC LIMIT ?"
    )
    with closing(connect(path, timeout=patience)) as connection:
        rows: list[Any] = connection.execute(statement, (*values, *values, *values, _JOBS_NAMED)).fetchall()
    if not rows:
        return Waiting(0, 0, {}, {})
    owners = {Owner(jobid or "", domain or "", name or ""): lines for jobid, domain, name, lines, *_ in rows}
    _, _, _, _, lines, jobs, *by_bit = rows[0]
    return Waiting(lines, jobs, owners, dict(zip(bits, by_bit, strict=True)))


def waiting_in_all(databases: Sequence[Path], cursors: dict[int, int]) -> Waiting:
    """The same over all files; one that cannot be read counts for nothing."""
    lines: Counter[Owner] = Counter()
    by_bit: Counter[int] = Counter()
    total = 0
    for path in databases:
        try:
            found = waiting_in(path, cursors, 1.0)
        except sqlite3.Error:
            continue
        lines.update(found.by_owner)
        by_bit.update(found.by_bit)
        total += found.lines
    return Waiting(total, len(lines), dict(lines.most_common(_JOBS_NAMED)), dict(by_bit))


def waiting_behind(databases: Sequence[Path], bit: int, cursor: int) -> tuple[int, int]:
    """How many lines behind a cursor are marked, over all files, oldest first, and the seq of the last of them."""
    lines, last = 0, 0
    each = " UNION ALL ".join(f'SELECT seq FROM "{table}" WHERE seq > ?1 AND marks & ?2' for table in _TABLES)
    for path in reversed(databases):
        try:
            with closing(connect(path)) as connection:
                count, newest = connection.execute(f"SELECT count(*), max(seq) FROM ({each})", (cursor, bit)).fetchone()
                first = (read_numbers(connection) or {}).get("first_seq", 0)
        except sqlite3.Error:
            continue  # not one of ours, or damaged: said by whoever reads it for a controller
        lines += count
        last = max(last, newest or 0)
        if 0 < first <= cursor + 1:
            break  # the controller has all that older files hold
    return lines, last
