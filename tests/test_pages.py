"""docs/commands.md, jobs.md and logs.md name every command, argument, option, key, level and state, and no other."""

from __future__ import annotations

import argparse
import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest

from greenagent import builtins
from greenagent.builtins import machine
from greenagent.cli.agent.options import build_parser as agent_parser
from greenagent.cli.ctl.run_options import add_run_options
from greenagent.cli.logs.__main__ import SUBCOMMANDS
from greenagent.cli.logs.__main__ import build_parser as logs_parser
from greenagent.cli.logs.jobs import JobRow
from greenagent.jobs.commands import EXECUTE, Scripts
from greenagent.logs.read.verify import FileReport
from greenagent.logs.schema import LINE_COLUMNS, Runs
from greenagent.spool.schema import DeadLetter
from greenagent.statistics.meter import ProcessUsage
from greenagent.values import levels, states
from greenagent.values.arguments import KNOWN_ARGUMENTS
from greenagent.values.command import Command
from greenagent.values.message import Record
from greenagent.values.result import Result

DOCS = Path(__file__).parent.parent / "docs"


def rows(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading."""
    section = re.split(rf"^#+ {re.escape(heading)}\n", (DOCS / page).read_text(), flags=re.MULTILINE)[1]
    table = re.search(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", section, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table[1].splitlines()]


def named(cells: list[str]) -> set[str]:
    """Every code span in cells of a table."""
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def column(page: str, heading: str, number: int = 0) -> set[str]:
    return named([row[number] for row in rows(page, heading)])


def test_every_command_that_runs_as_a_process_is_on_the_page() -> None:
    nobody = cast(Any, None)
    assert column("commands.md", "Commands that run as a process") == {EXECUTE, *Scripts(nobody, nobody).commands}


def test_every_built_in_is_on_the_page() -> None:
    assert column("commands.md", "Built-ins") == builtins.names()


def test_every_key_that_a_built_in_reads_is_on_the_page() -> None:
    """Those are texts behind ``data`` in a call: ``data.get("id")``, ``text_of(data, "id")``."""
    read = set()
    for path in Path(builtins.__file__).parent.glob("*.py"):
        if path.name in ("script_child.py", "machine.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and re.search(r"\bdata\b", ast.unparse(node).partition('"')[0]):
                read |= {part.value for part in node.args if isinstance(part, ast.Constant)}
    assert {name for name in read if isinstance(name, str)} == column("commands.md", "Built-ins", 1) - {
        "get_msgs",
        "DB",
    }


ANSWERS: dict[str, Any] = {
    "get_cpu_info": machine.cpu_info,
    "get_disk_info": machine.disk_info,
    "get_mem_info": machine.memory_info,
    "get_nic_info": machine.network_info,
    "get_os_info": machine.os_info,
    "get_msgs": lambda: Record(1, 1, "job", "", "", 0.0, 1, "").to_wire(),
    "get_process_stats": lambda: {"cmd": None, **ProcessUsage().to_wire()},
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_page_has_every_key_of_an_answer(name: str) -> None:
    answer = ANSWERS[name]()
    keys = set(answer[0] if isinstance(answer, list) else answer)
    (row,) = [row for row in rows("commands.md", "Built-ins") if row[0] == f"`{name}`"]
    assert keys <= named([row[2]]), name


def test_every_run_argument_is_on_the_page_with_its_option() -> None:
    table = rows("commands.md", "Run arguments")
    assert named([row[0] for row in table]) == KNOWN_ARGUMENTS
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    options = {a.dest: a.option_strings[0] for a in parser._actions if a.dest in KNOWN_ARGUMENTS and a.option_strings}
    told = {name: option for row in table for name in named([row[0]]) for option in named([row[2]]) if option != "--"}
    assert told == options


def test_every_key_of_a_command_is_on_the_page() -> None:
    keys = {field.name for field in fields(Command)} - {"arguments", "received", "warnings", "text"}
    assert column("commands.md", "The command object") == keys | {"args", "role", "wait_for_agent", "posting"}


def test_every_key_of_a_result_is_on_the_page() -> None:
    texts = {"streams": ("", ""), "critical": "x", "tags": "", "reason": "x"}
    everything = Result("id", 1, 1, "cmd", **texts, truncated=True, lines={1: 1}, lost=1)
    assert all(getattr(everything, field.name) != "" or field.name in ("data", "tags") for field in fields(Result))
    assert column("commands.md", "The result object") == set(everything.to_wire())


def test_every_level_is_on_the_page() -> None:
    told = [(number, row[1]) for row in rows("jobs.md", "Output") for number in re.findall(r"\d+", row[0])]
    names = [name for row in rows("jobs.md", "Output") for name in re.findall(r"`([^`]+)`", row[1])]
    special = {levels.EXIT_STATE, levels.PROCESS_ANNOUNCEMENT}
    assert {int(number) for number, _ in told} == set(levels.NAMES) | special
    assert names == list(levels.NAMES.values())


def test_every_state_is_on_the_page() -> None:
    assert column("jobs.md", "States") == states.TERMINAL | states.PLACEHOLDERS


@pytest.mark.parametrize(
    ("page", "heading", "parser"),
    [("logs.md", "Options", logs_parser()), ("service.md", "Options of the agent", agent_parser())],
)
def test_every_option_of_a_program_is_on_its_page(page: str, heading: str, parser: argparse.ArgumentParser) -> None:
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    options = {option for action in shown for option in action.option_strings}
    told = {span.partition(" ")[0] for row in rows(page, heading) for span in named(row) if span.startswith("-")}
    assert told == options - {"-h", "--help"}


def test_every_key_of_the_reading_tool_is_on_the_page() -> None:
    keys = {
        "lines": Record(1, 1, "job", "", "", 0.0, 1, "").to_wire(),
        "`--jobs`": JobRow._fields,
        "`--stats`": ("minute", "levels"),
        "`verify`": FileReport(Path(), "", 0, None, None, ()).to_json(),
        "`outbox`": (*DeadLetter._fields, "result", "log", "stats"),
    }
    assert {form: named([told]) for form, told in rows("logs.md", "The forms for programs")} == {
        form: set(names) for form, names in keys.items()
    }
    page = (DOCS / "logs.md").read_text()
    assert all(f"`greenagent-logs {name}`" in page for name in SUBCOMMANDS)


def test_every_column_of_the_log_databases_is_on_the_page() -> None:
    columns = {"`logs`": set(LINE_COLUMNS), "`runs`": {field.column_name for field in Runs._meta.sorted_fields}}
    told = {table: named([text]) for table, text in rows("logs.md", "Other tools")}
    assert {table: names - {"seq`: order by"} for table, names in told.items()} == columns
