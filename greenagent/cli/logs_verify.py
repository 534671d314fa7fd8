"""``greenagent-logs verify``: says of every database whether it is fine."""

from __future__ import annotations

import json
import sys

from greenagent.cli.logs_options import Parser, add_place, find_place
from greenagent.logs.verify import verify_folder


def run(arguments: list[str]) -> int:
    """Prints a line per file; exit code 0 when all are fine, else 1."""
    parser = Parser(
        prog="greenagent-logs verify",
        description="Checks every log database: integrity, schema, message ids unique and rising but for one wrap.",
        allow_abbrev=False,
    )
    add_place(parser)
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args(arguments)
    place = find_place(options)
    place.need_databases()
    fine = True
    for report in verify_folder(place.folder):
        fine = fine and not report.problems
        if options.json:
            sys.stdout.write(json.dumps(report.to_json(), ensure_ascii=False) + "\n")
        else:
            sys.stdout.write(report.line() + "\n")
        sys.stdout.flush()
    return 0 if fine else 1
