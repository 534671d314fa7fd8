"""``greenagent-logs``: reads the log databases. It needs no agent, changes nothing and starts fast."""

from __future__ import annotations

from greenagent.cli.early import end_at_interrupt

end_at_interrupt()

import argparse  # noqa: E402
import importlib  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterable  # noqa: E402
from itertools import chain  # noqa: E402
from typing import Final  # noqa: E402

from greenagent import __version__  # noqa: E402
from greenagent.cli.common import (  # noqa: E402
    Parser,
    UsageError,
    end_with_reader,
    is_text,
    open_missing_streams,
    positive,
    print_error,
    run_program,
)
from greenagent.cli.lines import add_line_options  # noqa: E402
from greenagent.cli.logs.ids import all_jobs, find_job  # noqa: E402
from greenagent.cli.logs.jobs import JobQuestion, find_jobs, how_it_ran, ledger_states, print_jobs  # noqa: E402
from greenagent.cli.logs.options import (  # noqa: E402
    LogPlace,
    Unread,
    add_job_options,
    add_place,
    check_job_options,
    find_place,
)
from greenagent.cli.logs.text import printer, unfinished, utf8_output, wants_colour  # noqa: E402
from greenagent.logs.read.open_lines import open_lines  # noqa: E402
from greenagent.logs.read.query import LogQuery, newest_first  # noqa: E402
from greenagent.logs.read.scan import Scan  # noqa: E402
from greenagent.values.command import RESERVED_ID  # noqa: E402
from greenagent.values.errors import GreenagentError  # noqa: E402
from greenagent.values.text import visible  # noqa: E402

PROGRAM: Final = "greenagent-logs"
SUBCOMMANDS: Final = ("verify", "outbox")
"""Commands with arguments of their own: modules beside this one with ``run(arguments) -> exit code``."""
_MAX_LINES: Final = 1 << 40
"""More lines than any store holds: such a difference of two numbers comes from damage."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; exit code 0, 1 when something cannot be read, 2 for bad arguments."""
    open_missing_streams()
    end_with_reader()
    given = sys.argv[1:] if arguments is None else arguments
    name = f"{PROGRAM} {given[0]}" if given and given[0] in SUBCOMMANDS else PROGRAM
    return run_program(name, lambda: _run(given))


def _run(given: list[str]) -> int:
    if not is_text(*given):
        raise UsageError("an argument is not valid UTF-8")
    if given and given[0] in SUBCOMMANDS:
        code: int = importlib.import_module(f"greenagent.cli.logs.{given[0]}").run(given[1:])
        return code
    return show_logs(given)


def build_parser() -> Parser:
    """The command line's own description."""
    parser = Parser(
        prog=PROGRAM,
        description="Shows what jobs printed, oldest first.",
        epilog="Also: greenagent-logs verify, greenagent-logs outbox (each with --help).",
    )
    add_place(parser)
    which = parser.add_argument_group("which lines")
    which.add_argument("--job", metavar="ID", help="of one job: its id or how that begins; 'agent' is the agent itself")
    which.add_argument("--domain", metavar="TEXT")
    which.add_argument("--name", metavar="TEXT")
    add_line_options(which)
    which.add_argument("--limit", type=positive, default=0, metavar="N", help="the newest N, printed oldest first")
    how = parser.add_argument_group("how")
    what = how.add_mutually_exclusive_group()
    what.add_argument("--follow", "-f", action="store_true", help="go on as lines come")
    what.add_argument(
        "--jobs", action="store_true", help="jobs with their runs instead of lines; times are of the start"
    )
    what.add_argument("--stats", action="store_true", help="lines per level and minute as a chart")
    form = how.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", default="", help="one object a line")
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="a header, then one row a line")
    form.add_argument("--no-prefix", action="store_true", help="the texts alone")
    add_job_options(parser)
    how.add_argument("--raw", action="store_true", help="control characters, and formulas in CSV, as they are")
    how.add_argument("--colour", "--color", choices=("auto", "always", "never"), default="auto")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def show_logs(arguments: list[str]) -> int:
    """The main form: lines, jobs or statistics."""
    parser = build_parser()
    options, surplus = parser.parse_known_args(arguments)
    for word in surplus:
        if word in SUBCOMMANDS:
            parser.error(f"the sub-command comes first: {PROGRAM} {word} ...")
    if surplus:
        parser.refuse(surplus)
    if options.stats and options.limit:
        parser.error("--limit and --stats exclude each other: the chart counts all lines")
    if options.no_prefix and (options.jobs or options.stats):
        parser.error("--no-prefix is for lines")
    check_job_options(parser, options)
    query = LogQuery(
        jobid=options.job,
        domain=options.domain,
        name=options.name,
        levels=options.level,
        time_from=options.since,
        time_to=options.until,
        regex=options.grep,
        limit=options.limit,
    )
    place = find_place(parser, options)
    if not options.follow:
        place.need_databases()
    unread = Unread()
    if options.job is not None:
        query = query._replace(jobid=_job_meant(place, options, unread))
    show_form = _summarise if options.jobs or options.stats else _show_lines
    found = show_form(options, place, query, unread)
    sys.stdout.flush()  # what is said on stderr comes after it
    if not found and not unread.exit_code:
        _say_nothing_found(place, query, options)
    return unread.exit_code


def _job_meant(place: LogPlace, options: argparse.Namespace, unread: Unread) -> str:
    """The id that ``--job`` means. Raises GreenagentError where there is no such job, unless it may yet come."""
    text: str = options.job
    meant = find_job(place.folder, text, lambda: _ids_in_ledger(place), unread)
    if meant is None and text != RESERVED_ID and not options.follow and not unread.exit_code:
        raise GreenagentError(f"there is no job {visible(text)} in {place.folder.path.absolute()}{place.origin}")
    return text if meant is None else meant


def _ids_in_ledger(place: LogPlace) -> Iterable[str]:
    return ledger_states(place.spool) if place.spool is not None else ()


def _show_lines(options: argparse.Namespace, place: LogPlace, query: LogQuery, unread: Unread) -> bool:
    """False when there are none."""
    out = utf8_output()
    colour = wants_colour(options.colour, out)
    show = printer(options.form, out, colour, options.job is not None, options.raw, options.no_prefix)
    scan = Scan(place.folder, query, unread, _say_removed)
    if options.follow:
        from greenagent.cli.logs.follow import follow

        follow(scan, place.folder, query, show, out, bool(options.form), unread)
    records = scan.advance()
    if query.limit:
        records = reversed(list(newest_first(place.folder, query, unreadable=unread)))
    first = next(records, None)
    if first is not None:
        show(chain([first], records))
    # Rows of JSON and CSV are lines, and are counted by those who read them.
    still_open = [] if options.form else [unfinished(one) for one in open_lines(place.folder, query, unread).values()]
    show(still_open)
    return first is not None or bool(still_open)


def _summarise(options: argparse.Namespace, place: LogPlace, query: LogQuery, unread: Unread) -> bool:
    """False when there is nothing to summarise."""
    from greenagent.cli.logs import summary

    out = utf8_output()
    if options.stats:
        counts = summary.count_levels(place.folder, query, unread)
        summary.print_stats(counts, options.form, wants_colour(options.colour, out), out)
        return bool(counts)
    each = options.job is not None
    asked = JobQuestion(query, options.state, options.command, options.sort or "start", each)
    rows = find_jobs(place.folder, asked, place.spool, unread)
    print_jobs(rows, options.form, out, options.raw, lambda: all_jobs(place.folder, _ids_in_ledger(place), unread))
    return bool(rows)


def _say_removed(lines: int) -> None:
    """``max_dbs`` and the like took files away faster than they were read."""
    # After damage the agent leaves out numbers: then they tell nothing.
    count = f"up to {lines} lines (of all jobs)" if lines < _MAX_LINES else "lines"
    print_error(PROGRAM, f"{count} were removed before they could be shown")


def _say_nothing_found(place: LogPlace, query: LogQuery, options: argparse.Namespace) -> None:
    """A job that was silent, and a question that is too narrow, must not look like a job that never ran."""
    asked_more = query._replace(jobid=None, limit=0) != LogQuery(limit=0) or options.state or options.command
    if query.jobid is None:
        if options.jobs and asked_more:
            print_error(PROGRAM, "no job matches")
    elif asked_more:
        what = "no runs" if options.jobs else "no lines"
        print_error(PROGRAM, f"{what} of job {visible(query.jobid)} match the rest of the question")
    else:
        how = how_it_ran(place.folder, place.spool, query.jobid)
        print_error(PROGRAM, f"no lines of job {visible(query.jobid)}; {how}")


if __name__ == "__main__":
    sys.exit(main())
