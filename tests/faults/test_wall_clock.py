"""The wall clock stamps and never measures: who may read it, and for what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "greenagent"

READS = {
    "time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime", "time.strftime",
    "datetime.now", "datetime.utcnow", "datetime.today", "datetime.datetime.now", "datetime.date.today",
}  # fmt: skip

STAMPS = {
    "agent/status.py": "since when the agent runs, as shown",
    "builtins/machine.py": "when the machine was booted",
    "cli/agent/running.py": "how long it has run, as shown",
    "cli/common.py": "a stamp as text",
    "cli/ctl/follow.py": "how long ago a job ended, by the controller's stamp",
    "cli/ctl/show.py": "how long a job runs, as shown",
    "cli/ctl/top.py": "how old what people look at is",
    "cli/moments.py": "--since and --until",
    "controller/clients/wire.py": "starttime of placeholders",
    "controller/dispatch/agents.py": "the last contact, as shown",
    "controller/dispatch/own_results.py": "starttime of results the controller makes itself",
    "controller/fleet/agents.py": "what processes say of their agents: a steady clock says nothing to another process",
    "controller/fleet/job_text.py": "moments of jobs for other processes",
    "controller/fleet/jobs.py": "when jobs ended or wait, for other processes",
    "controller/fleet/output.py": "when lines and statistics came, for other processes",
    "controller/http/schedule_api.py": "when a schedule was made and runs next, as shown",
    "controller/schedules/operations.py": "when a schedule was made",
    "controller/schedules/scheduler.py": "what is due: people mean the wall clock",
    "controller/schedules/zones.py": "the zone of the machine",
    "controller/state/job_store.py": "when a job was posted, as shown",
    "controller/state/metrics.py": "when statistics came, as shown",
    "jobs/admission.py": "when a command came, starttime of answers",
    "jobs/job.py": "since when a job is in its stage, as shown; starttime of results",
    "jobs/lifecycle.py": "starttime of results",
    "jobs/run_records.py": "when a run was cut off, as shown",
    "jobs/runner.py": "starttime of results",
    "jobs/startup.py": "when a task was accepted, starttime of results",
    "logs/console.py": "the stamp of a line",
    "logs/folder.py": "names of databases",
    "logs/store.py": "the number of a run",
    "logs/write/job_log.py": "the epoch of a line",
    "logs/write/open_lines.py": "the epoch of open text",
    "logs/write/retention.py": "beside the stamps of files from before this boot",
    "logs/write/writer.py": "beside the stamps of runs, which are all there is of their ages",
    "runtime/files.py": "the name of a file set aside",
    "runtime/clock.py": "the start of the clock that does not jump",
    "runtime/greenlets.py": "the line on stderr",
    "runtime/agent_log.py": "the line on stderr",
    "settings/check.py": "whether a certificate is valid today",
    "statistics/collector.py": "intervals of statistics begin at multiples of the wall clock, by protocol",
    "uplink/answer.py": "Retry-After as a date",
    "uplink/health.py": "the last contact, as shown",
}
"""Module and what it stamps. Everything else takes time.monotonic()."""


def name_of(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def reads(source: str) -> Iterator[int]:
    """Lines in which the wall clock is read or handed on, however it was imported."""
    tree = ast.parse(source)
    short: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            short.update(alias.asname or alias.name for alias in node.names if f"{node.module}.{alias.name}" in READS)
        elif isinstance(node, ast.Import):
            assert not [a for a in node.names if a.name in ("time", "datetime") and a.asname], "imported under its name"
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)) and (name_of(node) in READS or name_of(node) in short):
            yield node.lineno


def test_only_what_stamps_reads_the_wall_clock() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if list(reads(path.read_text("utf-8")))
    }
    assert found - STAMPS.keys() == set(), "take time.monotonic() for intervals, or say here what is stamped"
    assert STAMPS.keys() - found == set(), "these read no wall clock any more"


def test_reading_it_is_found_however_it_was_imported() -> None:
    assert list(reads("import time\nx = time.time()")) == [2]
    assert list(reads("import time\ndef f(clock=time.time): ...")) == [2]
    assert list(reads("from time import time, sleep\nx = time()\nsleep(1)")) == [2]
    assert list(reads("from datetime import datetime\nx = datetime.now()")) == [2]
    assert list(reads("import time\nx = time.monotonic()")) == []
