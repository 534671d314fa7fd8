"""Whose ledger it is: which process has it open, and which agent owes what is in it.

A state folder is copied, moved to another disk, or brought under another gid or nid. What one agent owes its
controllers must never be counted as another's, and jobs of a living agent are nobody else's.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from greenagent.runtime import procfs
from greenagent.runtime.clock import monotonic_epoch
from greenagent.runtime.database import NativeDatabase
from greenagent.runtime.files import FileId
from greenagent.runtime.locks import LockedError
from greenagent.spool.schema import WAITS
from greenagent.spool.statements import keep_dead_letter


class Former(NamedTuple):
    """Another address under which log lines were written: those up to the number ``until``.

    ``address`` is ``gid/nid``; empty for lines that another agent owes.
    """

    until: int
    address: str


class Claim(NamedTuple):
    """What was found when the ledger was opened. ``former``: the address it was used under, where that is another."""

    instance: str
    is_new: bool = False
    """Whether no agent has used it before."""
    former: str = ""
    is_copy: bool = False
    """Whether it may have been copied since: then the agent of that address goes on elsewhere."""
    original: str = ""
    """In a copy: the name of the ledger that this is one of, which jobs of its agent carry in their tags."""

    @property
    def is_others(self) -> bool:
        """Whether all that it holds is another agent's to do and to tell."""
        return self.is_copy and bool(self.former)


class Owed(NamedTuple):
    """How much an agent owes under another address."""

    bodies: int
    jobs: int


class Acknowledging:
    """The controllers that have asked for acknowledgements, at any time: they may deliver a command again."""

    def __init__(self, database: NativeDatabase) -> None:
        self._database = database
        self._known: set[str] = set()

    def load(self) -> None:
        """What was written down before."""
        text = self._database.run(lambda connection: _get(connection, "acknowledging"))
        self._known = set(json.loads(text)) if text is not None else set()

    def __contains__(self, controller: object) -> bool:
        return controller in self._known

    def add(self, controller: str) -> None:
        """Written down when this returns."""
        if controller not in self._known:
            self._known.add(controller)
            text = json.dumps(sorted(self._known))
            self._database.run(lambda connection: _put(connection, "acknowledging", text))


def claim(connection: sqlite3.Connection, held: FileId | None, address: str) -> Claim:
    """Notes that this process has the ledger now, for the agent of ``address``; "" leaves that as it is.

    Raises LockedError where another process has this very file open, although its lock file is gone.
    """
    facts = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    inode = held.inode if held is not None else 0
    here = os.uname().nodename
    instance, original, former, is_copy = facts.get("instance", ""), "", "", False
    if "owner" in facts:
        pid, start_ticks, inode_before, host = json.loads(facts["owner"])
        is_same_file = inode_before == inode
        if is_same_file and pid != os.getpid() and procfs.is_same(pid, start_ticks):
            raise LockedError(f"in use by process {pid}, although the lock file is gone")
        if not is_same_file:
            original, instance = instance, ""  # what carries that in its tag is of the agent of the first file
            if host == here and pid != os.getpid() and procfs.is_same(pid, start_ticks):
                former = facts.get("address", address)  # also where it is the present one: that agent lives
        is_copy = not is_same_file or host != here
    if "unsettled" in facts:  # killed before it had given way to the present address
        former, was_copy, was_of = json.loads(facts["unsettled"])
        is_copy, original = is_copy or was_copy, original or was_of
        if former == address and not is_copy:
            former = ""
    elif address and facts.get("address", address) != address:
        former = facts["address"]
    # uuid4 reads os.urandom; uuid1 and getnode would start programs behind our back.
    instance = instance or uuid.uuid4().hex
    note(connection, instance, held)
    if address:
        _put(connection, "address", address)
    found = Claim(instance, "instance" not in facts, former, is_copy, original)
    keep_unsettled(connection, found)
    return found


def keep_unsettled(connection: sqlite3.Connection, found: Claim) -> None:
    """What is to be settled, should this process be killed before it is."""
    _drop(connection, "unsettled")
    if found.former or found.original:
        _put(connection, "unsettled", json.dumps([found.former, found.is_copy, found.original]))


def note(connection: sqlite3.Connection, instance: str, held: FileId | None) -> None:
    """Writes down the ledger's own name, which children carry in their tag, and who has it open."""
    own = procfs.read_process(os.getpid())
    inode = held.inode if held is not None else 0
    _put(connection, "instance", instance)
    owner = [os.getpid(), own.start_ticks if own is not None else 0, inode, os.uname().nodename]
    _put(connection, "owner", json.dumps(owner))


def release(connection: sqlite3.Connection) -> None:
    """An orderly end: this process may live on for a moment, and the next agent may start in it."""
    owner = _get(connection, "owner")
    if owner is not None:
        _put(connection, "owner", json.dumps([0, 0, *json.loads(owner)[2:]]))


def formers(connection: sqlite3.Connection) -> list[Former]:
    """All addresses it was used under before, oldest first."""
    text = _get(connection, "former")
    return [Former(*entry) for entry in json.loads(text)] if text is not None else []


def settle(connection: sqlite3.Connection, former: Former | None) -> int:
    """From now on lines behind ``former.until``, and all that is still to be reported, are of the present address.

    What waits goes to its controllers under the address it was made under; returns how many bodies. None: everything
    is of the present address.
    """
    _drop(connection, "unsettled")
    if former is None:
        return 0
    _put(connection, "former", json.dumps([*formers(connection), former]))
    return _send_as(connection, former.address) if former.address else 0


def _send_as(connection: sqlite3.Connection, address: str) -> int:
    which = f"{WAITS} AND path NOT LIKE '/%'"
    (bodies,) = connection.execute(f"SELECT count(*) FROM outcome WHERE {which}").fetchone()
    connection.execute(f"UPDATE outcome SET path = ? || path WHERE {which}", (f"/{address}/",))
    return int(bodies)


def leave_to_former(connection: sqlite3.Connection, address: str, rows: Iterator[int]) -> Owed:
    """The ledger is a copy: what waits are dead letters here, and unfinished jobs are over, with nothing reported."""
    waiting = connection.execute(f"SELECT row, controller, path, body FROM outcome WHERE {WAITS}").fetchall()
    answer = f"owed by {address.replace('/', ':')}, of whose ledger this is a copy"
    for row, controller, path, body in waiting:
        where = path if path.startswith("/") else f"/{address}/{path}"
        keep_dead_letter(connection, next(rows), controller, where, body, 0, answer)
        connection.execute("DELETE FROM outcome WHERE row = ?", (row,))
    (jobs,) = connection.execute("SELECT count(*) FROM job WHERE state != 'ended'").fetchone()
    connection.execute("UPDATE job SET state = 'ended', ended = ? WHERE state != 'ended'", (monotonic_epoch(),))
    return Owed(len(waiting), jobs)


def _get(connection: sqlite3.Connection, key: str) -> str | None:
    found = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if found is None else str(found[0])


def _put(connection: sqlite3.Connection, key: str, value: str) -> None:
    _drop(connection, key)
    connection.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (key, value))


def _drop(connection: sqlite3.Connection, key: str) -> None:
    connection.execute("DELETE FROM meta WHERE key = ?", (key,))
