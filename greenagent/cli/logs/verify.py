"""``greenagent-logs verify``: says of every database whether it is fine."""

from __future__ import annotations

from greenagent.cli.common import EXIT_FAILED, Parser, json_line
from greenagent.cli.logs.options import add_place, find_place
from greenagent.logs.read.verify import verify_folder


def run(arguments: list[str]) -> int:
    """Prints a line per file; exit code 0 when all are fine, else 1."""
    parser = Parser(
        prog="greenagent-logs verify",
        description="Checks every log database: integrity, schema, message ids unique and rising but for one wrap.",
    )
    add_place(parser)
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args(arguments)
    place = find_place(parser, options)
    place.need_databases()
    code = 0
    for report in verify_folder(place.folder):
        if report.problems:
            code = EXIT_FAILED
        print(json_line(report.to_json()) if options.json else report.line(), flush=True)
    return code
