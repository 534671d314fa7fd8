"""``greenagent-logs --follow``: lines as they come, and of one job also how its runs end."""

from __future__ import annotations

import time
from itertools import count
from typing import Final, NoReturn, TextIO

from greenagent.cli.common import print_error
from greenagent.cli.logs.jobs import how_it_ended
from greenagent.cli.logs.text import Printer, unfinished
from greenagent.cli.unfinished import Unfinished
from greenagent.logs.folder import LogFolder, Unreadable
from greenagent.logs.read.open_lines import open_lines
from greenagent.logs.read.query import LogQuery, newest_first
from greenagent.logs.read.runs import runs_of
from greenagent.logs.read.scan import Scan
from greenagent.logs.runs import RunRecord
from greenagent.values.message import Record

FOLLOW_TAIL: Final = 10
"""Lines that are shown of the past unless told otherwise."""
_INTERVAL: Final = 0.2
"""Seconds between looks for new lines."""
_RARELY: Final = 8
"""Looks at the lines for one at open text, more than the second in which its row may change, and at runs."""
_NEWEST: Final = 2
"""Files in which an end is looked for that has just come."""


def follow(
    scan: Scan,
    folder: LogFolder,
    query: LogQuery,
    show: Printer,
    out: TextIO,
    whole: bool,
    unread: Unreadable,
) -> NoReturn:
    """Until it is interrupted. ``whole``: text that is no line yet is not shown. ``unread``: see logs.folder."""
    if query.limit or query.time_from is None:
        scan.skip_to_end()
        tail = list(newest_first(folder, query._replace(limit=query.limit or FOLLOW_TAIL), unreadable=unread))
        for record in tail:
            scan.pass_over(record.seq)
        show(reversed(tail))
    open_texts: Unfinished[Record] = Unfinished()
    endings = _Endings(folder, query.jobid, unread) if query.jobid is not None else None
    for turn in count():
        is_rare = turn % _RARELY == 0
        ended = endings.news() if is_rare and endings is not None else []
        show(scan.advance())  # what a run printed comes before its end
        if is_rare and not whole:
            found = open_lines(folder, query, unread)
            show(map(unfinished, open_texts.news({(*key, one.epoch): one for key, one in found.items()})))
        out.flush()
        for run in ended:
            print_error("greenagent-logs", how_it_ended(run))
        time.sleep(_INTERVAL)
    raise AssertionError("count() has no end")


class _Endings:
    """Which runs of one job have ended since it was asked last; of those before, the last one where none goes on."""

    def __init__(self, folder: LogFolder, jobid: str, unread: Unreadable) -> None:
        self._folder = folder
        self._jobid = jobid
        self._unread = unread
        self._told: int | None = None
        """The number of the last run whose end was told; None before the first look."""

    def news(self) -> list[RunRecord]:
        files = self._folder.databases()
        if self._told is None:
            found = runs_of(files, self._jobid, 0, self._unread)
            new = [run for run in found[-1:] if run.ended is not None]
            self._told = max((run.number for run in found if run.ended is not None), default=0)
        else:
            found = runs_of(files[-_NEWEST:], self._jobid, self._told + 1, self._unread)
            new = [run for run in found if run.ended is not None]
            self._told = max((run.number for run in new), default=self._told)
        return new
