"""``greenagent-logs outbox``: the dead letters, which a controller refused for good, and trying them again.

Not what waits for a controller, which is the spool's outbox.

See design, section 5 "Uploads".
"""

from __future__ import annotations

import argparse
import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from greenagent.cli.common import NO_CONFIG, Parser, add_config, configuration_file, json_line, local_time, one_line
from greenagent.cli.logs.options import load_configuration
from greenagent.spool import statements
from greenagent.spool.schema import DeadLetter
from greenagent.values.errors import GreenagentError

MAX_SHOWN: Final = 100
"""Characters of a record and of an answer that are shown to people; ``--json`` has all of it."""
LOCK_TIMEOUT: Final = 10.0
"""Seconds to wait for an agent that writes."""


def run(arguments: list[str]) -> int:
    """Lists the records, or with ``--retry`` marks them due; exit code 0."""
    parser = Parser(
        prog="greenagent-logs outbox",
        description="Shows what controllers refused for good (results, log lines, statistics).",
    )
    place = parser.add_argument_group("where the ledger is")
    add_config(place)
    place.add_argument("--ledger", metavar="FILE", help="the ledger itself (main.ledger_file)")
    place.add_argument("--dir", metavar="DIR", help="a folder that holds the ledger, or the log folder beside it")
    parser.add_argument("--retry", action="store_true", help="send them again: the agent does so within 10 s")
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args(arguments)
    path = _ledger(parser, options)
    try:
        with closing(_open(path, writable=options.retry)) as connection:
            if options.retry:
                _retry(connection)
            else:
                _show(connection, options.json)
    except sqlite3.Error as error:
        raise GreenagentError(f"cannot use the ledger {path}: {error}") from error
    return 0


def _ledger(parser: Parser, options: argparse.Namespace) -> Path:
    """The file the options name. Raises GreenagentError."""
    origin = ""
    if options.ledger is None and options.dir is None:
        options.config = configuration_file(options.config)
    if options.ledger is not None:
        path = Path(options.ledger)
    elif options.config is not None:
        path = Path(load_configuration(options.config).main.ledger_file)
        origin = f", the ledger of {options.config}: has the agent run yet? (or name it with --ledger FILE)"
    elif options.dir is not None:
        return _find(Path(options.dir))
    else:
        parser.error(f"name the ledger with --ledger FILE or --dir DIR, or the agent's configuration with {NO_CONFIG}")
    if not path.is_file():
        raise GreenagentError(f"there is no file {path.absolute()}{origin}")
    return path


def _find(folder: Path) -> Path:
    """The one ledger in a folder or, for a log folder, beside it. Raises GreenagentError."""
    if not folder.is_dir():
        raise GreenagentError(f"there is no folder {folder.absolute()}")
    closed: list[Path] = []
    for place in (folder, folder.absolute().parent):
        paths = [place, *sorted(place.glob("*.db"))]
        closed += [path for path in paths if not os.access(path, os.R_OK)]
        found = [path for path in paths[1:] if _is_ledger(path)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found)
            raise GreenagentError(f"{place} holds several ledgers ({names}): name one with --ledger FILE")
    if closed:
        refused = ", ".join(f"{path.absolute()}: {os.strerror(errno.EACCES)}" for path in closed)
        raise GreenagentError(f"no ledger can be read in {folder.absolute()} or beside it ({refused})")
    raise GreenagentError(f"there is no ledger in {folder.absolute()} or beside it: name it with --ledger FILE")


def _is_ledger(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with closing(_open(path, writable=False)) as connection:
            query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('aside', 'outcome')"
            return bool(connection.execute(query).fetchone()[0] == 2)
    except sqlite3.Error:
        return False


def _open(path: Path, writable: bool) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={'rw' if writable else 'ro'}"
    return sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT, isolation_level=None)


def _retry(connection: sqlite3.Connection) -> None:
    count = connection.execute("UPDATE aside SET due = 1 WHERE due = 0").rowcount
    if count:
        print(f"{count} records will be sent again: a running agent does so within 10 s")
    else:
        print("nothing is set aside")


def _show(connection: sqlite3.Connection, as_json: bool) -> None:
    after = 0
    while records := statements.dead_letters(connection, after=after):
        for record in records:
            print(_json(record) if as_json else _text(record))
        after = records[-1].row
    if not after and not as_json:
        print("nothing is set aside")


def _json(record: DeadLetter) -> str:
    return json_line({**record._asdict(), "due": bool(record.due)})


def _text(record: DeadLetter) -> str:
    due = ", to be sent again" if record.due else ""
    return (
        f"{local_time(record.stamp)}  {one_line(record.controller)}  {one_line(record.path)}"
        f"  status {record.status} {_short(record.answer)}{due}\n    {_short(record.body)}"
    )


def _short(text: str) -> str:
    """The beginning of a text that comes from elsewhere, on one line."""
    return one_line(text[:MAX_SHOWN]) + ("..." if len(text) > MAX_SHOWN else "")
