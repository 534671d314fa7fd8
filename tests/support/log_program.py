"""``greenagent-logs`` as a program of its own."""

from __future__ import annotations

import subprocess

from tests.support.programs import ROOT, command, environment

ORIGINAL = ROOT / "tests/data/original-logs"
COMMAND = command("logs")
ENVIRONMENT = environment(TZ="UTC", COLUMNS="80")
FORMS = [(), ("--limit", "100"), ("--jobs",), ("--stats",)]
"""What is shown of the lines: all of them, some, the jobs, the chart."""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=ENVIRONMENT,
    )


def lines(*arguments: object) -> list[str]:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()
