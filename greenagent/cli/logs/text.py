"""How records look: for people, as JSON lines and as CSV."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, TextIO

from greenagent.cli.common import json_line
from greenagent.cli.lines import level_name, stamp_text
from greenagent.cli.unfinished import UNFINISHED
from greenagent.values import levels
from greenagent.values.message import Record
from greenagent.values.text import visible

COLOURS: Final = {
    levels.STDERR: "31",
    levels.PUBLIC: "36",
    levels.OPERATOR: "34",
    levels.LOG: "2",
    levels.LOG_STRUCTURED: "2",
    levels.WARNING: "33",
    levels.OPERATIONS_ERROR: "1;31",
    levels.CRITICAL: "1;37;41",
    levels.STATISTICS: "2;36",
    levels.DEBUG: "2",
    **dict.fromkeys(levels.RESULTS, "32"),
}
COLUMNS: Final = ("id", "jobid", "domain", "name", "epoch", "epoch_ms", "level", "data")

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""With what spreadsheets let a formula begin; the last four are the wide forms of the first."""
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

Printer = Callable[[Iterable[Record]], None]


def printer(form: str, out: TextIO, colour: bool, one_job: bool, raw: bool = False, bare: bool = False) -> Printer:
    """Prints records in a form: "json", "csv", or "" for people.

    ``one_job`` leaves out what names the job; ``bare`` all but the text.

    Control characters show as escapes, and formulas in CSV as text, unless ``raw``: a job must not steer the reader's
    terminal or spreadsheet.
    """
    shown: Callable[[str], str] = str if raw else visible
    if form == "json":  # the same as controllers get
        return lambda records: out.writelines(json_line(one.to_wire()) + "\n" for one in records)
    if form == "csv":
        rows = csv_writer(out, raw)
        rows([COLUMNS])
        return lambda records: rows(one.to_wire().values() for one in records)
    if bare:
        plain: Callable[[str, int], str] = paint if colour else lambda text, level: text
        return lambda records: out.writelines(f"{plain(shown(one.data), one.level)}\n" for one in records)
    return lambda records: out.writelines(text_line(one, colour, one_job, shown) for one in records)


def csv_writer(out: TextIO, raw: bool = False) -> Callable[[Iterable[Iterable[object]]], None]:
    """Writes rows; ``raw``: texts as they are, else harmless for terminals and for programs that reckon with cells."""
    writer = csv.writer(out)
    shown: Callable[[str], str] = str if raw else _harmless
    return lambda rows: writer.writerows(
        [shown(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
    )


def _harmless(cell: str) -> str:
    """Spreadsheets take a cell that begins like a formula for one, and may ask the reader to run what a job printed.

    An apostrophe before it makes it a text to them. A number, such as -5, stays one.
    """
    text = visible(cell)
    is_formula = cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell)
    return f"'{text}" if is_formula else text


def text_line(record: Record, colour: bool, one_job: bool, shown: Callable[[str], str] = visible) -> str:
    """Local time, job, level name, domain and name, text: one line, further ones of the text indented."""
    text = shown(record.data).replace("\n", "\n    ")
    stamp, level = stamp_text(round(record.epoch * 1000)), _level(record.level, colour)
    if colour:
        text = paint(text, record.level)
    gap = " " if text and not text.startswith("\n") else ""
    if one_job:
        return f"{stamp} {level}{gap}{text}\n"
    label = "/".join(part for part in (record.domain, record.name) if part)
    label = f" [{visible(label)}]" if label else ""
    return f"{stamp} {visible(record.jobid)} {level}{label}{gap}{text}\n"


@lru_cache(maxsize=256)
def _level(level: int, colour: bool) -> str:
    name = f"{level_name(level):<9}"
    return paint(name, level) if colour else name


def unfinished(record: Record) -> Record:
    """Text that is no line yet, marked."""
    return record._replace(data=record.data + UNFINISHED)


def paint(text: str, level: int) -> str:
    """The text in the colour of a level, where that has one."""
    colour = COLOURS.get(level)
    return f"\x1b[{colour}m{text}\x1b[0m" if colour is not None and text else text


def wants_colour(choice: str, out: TextIO) -> bool:
    """``--colour``: auto means a terminal, unless the usual variables say otherwise.

    NO_COLOR goes before FORCE_COLOR and CLICOLOR_FORCE, these before CLICOLOR=0, TERM=dumb and what stdout is.
    """
    if choice != "auto":
        return choice == "always"
    variables = os.environ.get
    if variables("NO_COLOR"):
        return False
    if any(variables(name, "") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return out.isatty() and variables("TERM") != "dumb" and variables("CLICOLOR") != "0"


def utf8_output() -> TextIO:
    """Stdout, which must not fail over a character the locale does not know."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    return sys.stdout
