"""How records look: for people, as JSON lines and as CSV."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterable
from typing import Final, TextIO

from greenagent.values import levels
from greenagent.values.message import Record

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
    levels.RESULT_JSON: "32",
    levels.RESULT_YAML: "32",
    levels.RESULT_TOML: "32",
    levels.RESULT_HRD: "32",
    levels.JOB_RESULT: "32",
}
COLUMNS: Final = ("id", "jobid", "domain", "name", "epoch", "epoch_ms", "level", "data")


class TextPrinter:
    """One line per message: local time, job, level name, domain and name, text.

    Further lines of a message are indented. Control characters show as escapes: a job must not
    steer the reader's terminal.
    """

    def __init__(self, out: TextIO, colour: bool, one_job: bool = False) -> None:
        self._out = out
        self._colour = colour
        self._one_job = one_job
        self._second = -1
        self._stamp = ""

    def show(self, records: Iterable[Record]) -> None:
        for record in records:
            self._out.write(self.line(record))

    def line(self, record: Record) -> str:
        """The text of one record, with its newline."""
        parts = [self._time(record.epoch)]
        if not self._one_job:
            parts.append(visible(record.jobid))
        parts.append(f"{level_name(record.level):<9}")
        label = "/".join(part for part in (record.domain, record.name) if part)
        if label and not self._one_job:
            parts.append(f"[{visible(label)}]")
        text = visible(record.data).replace("\n", "\n    ")
        colour = COLOURS.get(record.level) if self._colour else None
        if colour is not None:
            parts[-1 if parts[-1][0] != "[" else -2] = f"\x1b[{colour}m{level_name(record.level):<9}\x1b[0m"
            text = f"\x1b[{colour}m{text}\x1b[0m" if text else text
        gap = " " if text and not text.startswith("\n") else ""
        return " ".join(parts) + gap + text + "\n"

    def _time(self, epoch: float) -> str:
        second = int(epoch)
        if second != self._second:
            self._second = second
            try:
                self._stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            except (ValueError, OverflowError, OSError):
                self._stamp = str(second)  # a damaged file may hold any number
        return f"{self._stamp}.{round((epoch - second) * 1000) % 1000:03d}"


class JsonPrinter:
    """One object a line, the same as controllers get."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, records: Iterable[Record]) -> None:
        for record in records:
            self._out.write(json.dumps(record.to_wire(), ensure_ascii=False) + "\n")


class CsvPrinter:
    """A header, then one row per record."""

    def __init__(self, out: TextIO) -> None:
        self._writer = csv.writer(out)
        self._writer.writerow(COLUMNS)

    def show(self, records: Iterable[Record]) -> None:
        for record in records:
            self._writer.writerow(record.to_wire().values())


def level_name(level: int) -> str:
    return levels.NAMES.get(level, f"level {level}")


def visible(text: str) -> str:
    """Control characters but tab and newline as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\t\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def wants_colour(choice: str, out: TextIO) -> bool:
    """``--colour``: auto means a terminal, and no NO_COLOR."""
    import os

    if choice != "auto":
        return choice == "always"
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def utf8_output() -> TextIO:
    """Stdout, which must not fail over a character the locale does not know."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    return sys.stdout
