"""``greenagent-logs``: reads the log databases. It needs no agent, changes nothing and starts fast."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time
from collections.abc import Iterator
from itertools import chain
from typing import Final

from greenagent import __version__
from greenagent.cli.logs_options import (
    Parser,
    Place,
    Unread,
    UsageError,
    add_place,
    find_place,
    read_levels,
    read_time,
)
from greenagent.cli.logs_text import CsvPrinter, JsonPrinter, TextPrinter, utf8_output, visible, wants_colour
from greenagent.cli.output import end_with_reader, give_up_output, is_text
from greenagent.cli.streams import open_missing_streams
from greenagent.logs.query import LogQuery, newest_first
from greenagent.logs.scan import Scan
from greenagent.values.errors import GreenagentError
from greenagent.values.message import Record

SUBCOMMANDS: Final = {
    "verify": "greenagent.cli.logs_verify",
    "outbox": "greenagent.cli.logs_outbox",
}
"""Commands with arguments of their own: module with ``run(arguments) -> exit code``."""

FOLLOW_TAIL: Final = 10
"""Lines that ``--follow`` shows of the past unless told otherwise."""
_MAX_LINES: Final = 1 << 40
_LOOK_EVERY: Final = 0.2
_FLUSH_EVERY: Final = 1000


def parser() -> argparse.ArgumentParser:
    """The command line's own description."""
    parser = Parser(
        prog="greenagent-logs",
        description="Shows what jobs printed, oldest first.",
        epilog="Also: greenagent-logs verify, greenagent-logs outbox (each with --help).",
        allow_abbrev=False,
    )
    add_place(parser)
    which = parser.add_argument_group("which lines")
    which.add_argument("--job", metavar="ID", help="of one job; 'agent' is the agent itself")
    which.add_argument("--level", metavar="LIST", help="levels or their names: 2, 2-9, 7,8, warning")
    which.add_argument("--domain", metavar="TEXT")
    which.add_argument("--name", metavar="TEXT")
    which.add_argument("--grep", metavar="REGEX", help="whose text matches")
    which.add_argument("--since", metavar="TIME", help="15m, 1h, 2d ago, or an ISO time")
    which.add_argument("--until", metavar="TIME", help="likewise")
    which.add_argument("--limit", metavar="N", help="the newest N, printed oldest first")
    how = parser.add_argument_group("how")
    how.add_argument("--follow", "-f", action="store_true", help="go on as lines come")
    how.add_argument("--json", action="store_true", help="one object a line")
    how.add_argument("--csv", action="store_true", help="a header, then one row a line")
    how.add_argument("--jobs", action="store_true", help="jobs with their line counts instead of lines")
    how.add_argument("--stats", action="store_true", help="lines per level and minute as a chart")
    how.add_argument("--colour", "--color", choices=("auto", "always", "never"), default="auto")
    parser.add_argument("--version", action="version", version=f"greenagent-logs {__version__}")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; exit code 0, 1 when something cannot be read, 2 for bad arguments."""
    open_missing_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    end_with_reader()
    command = SUBCOMMANDS.get(arguments[0]) if arguments else None
    name = f"greenagent-logs {arguments[0]}" if command else "greenagent-logs"
    try:
        if sys.stdout is None:
            raise OSError("stdout is closed")
        if not is_text(*arguments):
            raise UsageError("an argument is not valid UTF-8")
        run = importlib.import_module(command).run if command is not None else show
        code: int = run(arguments[1:] if command is not None else arguments)
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"{name}: {error} (see {name} --help)", file=sys.stderr)
        return 2
    except GreenagentError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            return give_up_output(name, error)
        print(f"{name}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def show(arguments: list[str]) -> int:
    """The main form: lines, jobs or statistics."""
    options, surplus = parser().parse_known_args(arguments)
    for word in surplus:
        if word in SUBCOMMANDS:
            raise UsageError(f"the sub-command comes first: greenagent-logs {word} ...")
    if surplus:
        raise UsageError(f"unrecognized arguments: {' '.join(surplus)}")
    query = read_query(options)
    forms = [name for name in ("follow", "jobs", "stats") if getattr(options, name)]
    if len(forms) > 1 or (options.csv and options.json):
        given = [f"--{name}" for name in (*forms, *(n for n in ("csv", "json") if getattr(options, n)))]
        raise UsageError(f"{' and '.join(given)} exclude each other")
    if options.stats and query.limit:
        raise UsageError("--limit and --stats exclude each other: the chart counts all lines")
    place = find_place(options)
    if not options.follow:
        place.need_databases()
    unread = Unread("greenagent-logs")
    out = utf8_output()
    colour = wants_colour(options.colour, out)
    if options.jobs or options.stats:
        return _summary(options, place, query, colour, unread)
    printer: CsvPrinter | JsonPrinter | TextPrinter
    if options.csv:
        printer = CsvPrinter(out)
    elif options.json:
        printer = JsonPrinter(out)
    else:
        printer = TextPrinter(out, colour, one_job=options.job is not None)
    scan = Scan(place.folder, query, unread, _say_removed)
    if options.follow:
        if query.limit or query.time_from is None:
            scan.skip_to_end()
            tail = list(newest_first(place.folder, query._replace(limit=query.limit or FOLLOW_TAIL), unreadable=unread))
            for record in tail:
                scan.pass_over(record.seq)
            printer.show(reversed(tail))
        while True:
            printer.show(scan.advance())
            out.flush()
            time.sleep(_LOOK_EVERY)
    records: Iterator[Record] = scan.advance()
    if query.limit:
        records = reversed(list(newest_first(place.folder, query, unreadable=unread)))
    first = next(records, None)
    if first is not None:
        printer.show(chain([first], records))
    out.flush()
    if first is None:
        _say_nothing_found(query, unread)
    return unread.code


def _say_removed(lines: int) -> None:
    """``max_dbs`` and the like took files away faster than they were read."""
    # After damage the agent leaves out numbers: then they tell nothing.
    count = f"up to {lines} lines (of all jobs)" if lines < _MAX_LINES else "lines"
    print(f"greenagent-logs: {count} were removed before they could be shown", file=sys.stderr, flush=True)


def _say_nothing_found(query: LogQuery, unread: Unread) -> None:
    """A mistyped job id must not look like a silent job."""
    if query.jobid is not None and not unread.code:
        asked_more = query._replace(jobid=None, limit=0) != LogQuery(limit=0)
        more = " match the rest of the question" if asked_more else ""
        print(f"greenagent-logs: no lines of job {visible(query.jobid)}{more}", file=sys.stderr)


def _summary(options: argparse.Namespace, place: Place, query: LogQuery, colour: bool, unread: Unread) -> int:
    from greenagent.cli import logs_summary

    form = "json" if options.json else "csv" if options.csv else ""

    if options.stats:
        counts = logs_summary.count_levels(place.folder, query, unread)
        logs_summary.print_stats(counts, form, colour, sys.stdout)
        found = bool(counts)
    else:
        spool = place.settings.main.ledger_file if place.settings is not None else None
        jobs = logs_summary.summarise_jobs(place.folder, query, spool, unread)
        logs_summary.print_jobs(jobs, form, sys.stdout)
        found = bool(jobs)
    sys.stdout.flush()
    if not found:
        _say_nothing_found(query, unread)
    return unread.code


def read_query(options: argparse.Namespace) -> LogQuery:
    """The filters. Raises UsageError."""
    limit = 0
    if options.limit is not None:
        if not re.fullmatch(r"[0-9]{1,9}", options.limit) or int(options.limit) < 1:
            raise UsageError(f"--limit: {options.limit!r} is not a number of lines")
        limit = int(options.limit)
    if options.grep is not None:
        try:
            re.compile(options.grep)
        except re.error as error:
            raise UsageError(f"--grep: {options.grep!r} is not a regular expression: {error}") from error
    return LogQuery(
        jobid=options.job,
        domain=options.domain,
        name=options.name,
        levels=read_levels(options.level) if options.level is not None else None,
        time_from=read_time("--since", options.since) if options.since is not None else None,
        time_to=read_time("--until", options.until) if options.until is not None else None,
        regex=options.grep or "",
        limit=limit,
    )


if __name__ == "__main__":
    sys.exit(main())
