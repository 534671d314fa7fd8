"""Reads a TOML file: the only module that knows the parsers of TOML, and the file itself.

``toml`` is the parser. Its release 0.10.2 misreads some texts without a word: it drops the last item of a list that
is not closed, the quotes of a text that ends in ``""``, the second of two tables of one name. So a second parser
reads the same text: ``tomllib`` of Python 3.11, or ``tomli`` where that is installed. What either of them refuses is
refused, and so is a value that they read differently.
"""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import toml

from greenagent.runtime.plain_files import UnfitFileError, read_plain
from greenagent.settings.problems import Place, Report, SettingsError

MAXIMUM_SIZE: Final = 4 * 1024 * 1024
"""Bytes; no configuration is longer, but a log given by mistake is."""
MAXIMUM_DEPTH: Final = 50

_KEY = r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'"""
_KEYS = rf"[ \t]*(?:{_KEY})(?:[ \t]*\.[ \t]*(?:{_KEY}))*[ \t]*"
_STATEMENT = re.compile(rf"[ \t]*\[\[?(?P<table>{_KEYS})\]|(?P<key>{_KEYS})=")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}' + r"|'''.*?'{3,5}" + r'|"(?:\\.|[^"\\\n])*"' + r"|'[^'\n]*'|#[^\n]*|[\[{\]}\n]",
    re.DOTALL,
)
_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_HINTS = {
    "Cannot overwrite a value": "the name stands twice",
    "Illegal character '\\n'": "the text is not closed on its line",
    "Invalid value": "text needs quotes",
    "Not a homogeneous array": "all items of a list must be of one type",
    "Unescaped '\\' in a string": "write \\\\ for a backslash",
}


SECOND_PARSER: Final[Callable[[str], Any] | None] = next(
    (import_module(name).loads for name in ("tomllib", "tomli") if find_spec(name)), None
)
"""None on Python 3.10 without ``tomli``: there ``toml`` alone decides, and ``--check`` says so."""


def read_toml(path: Path) -> tuple[dict[str, Any], dict[Place, int]]:
    """The values in a TOML file, and the lines of the tables and keys in it.

    Raises SettingsError: for a syntax error one line that names the file, the line and what is wrong; for values
    that no setting can have, or that the parsers read differently, one line each.
    """
    text = _read_text(path)
    lines = _find_lines(path, text)
    second = None
    if SECOND_PARSER is not None:
        try:
            second = SECOND_PARSER(text)
        except ValueError as error:
            position = _POSITION.search(str(error))
            number = int(position[1]) if position is not None and position[1] else max(lines.values(), default=1)
            raise _syntax_error(path, number, _POSITION.sub("", str(error))) from error
    try:
        first = toml.loads(text)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError) as error:
        # The library raises its own error, a ValueError, and in odd cases whatever befell it.
        number = getattr(error, "lineno", 1)
        raise _syntax_error(path, number, getattr(error, "msg", "this is not understood")) from error
    report = Report(path, lines)
    values = _plain(first, first if second is None else second, (), report)
    if report.problems:
        raise SettingsError(report.problems)
    return values, lines


def _syntax_error(path: Path, line: int, text: str) -> SettingsError:
    hint = next((f" ({hint})" for begin, hint in _HINTS.items() if text.startswith(begin)), "")
    return SettingsError([f"{path}:{line}: {' '.join(text.split())}{hint}"])


def _read_text(path: Path) -> str:
    try:
        content = read_plain(path, MAXIMUM_SIZE)
    except FileNotFoundError as error:
        raise SettingsError([f"{path}: there is no such file, give the configuration with -c FILE"]) from error
    except UnfitFileError as error:
        text = {
            errno.EISDIR: "is a folder, name the configuration file in it",
            errno.EFBIG: f"is larger than {MAXIMUM_SIZE} bytes, this is no configuration",
        }
        raise SettingsError([f"{path}: {text.get(error.errno or 0, 'is not a regular file')}"]) from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise SettingsError([f"{path}: cannot be read: {reason}"]) from error
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError([f"{path}:{line}: is not UTF-8 text, save the file in that encoding"]) from error


def _find_lines(path: Path, text: str) -> dict[Place, int]:
    """The line of every ``[table]`` and every ``key =`` that begins a line, for messages.

    Brackets are counted on the way, since an open one makes the parsers complain about a line far below.
    """
    lines: dict[Place, int] = {}
    table: Place = ()
    at, number = 0, 1
    while at < len(text):
        begin, depth = number, 0
        statement = _STATEMENT.match(text, at)
        if statement is not None:
            at = statement.end()
            keys = re.findall(_KEY, statement["table"] or statement["key"])
            names = tuple(key[1:-1] if key[0] in "\"'" else key for key in keys)
            if statement["table"]:
                table, names = names, ()
            if len(table + names) > MAXIMUM_DEPTH:
                raise _syntax_error(path, number, "the name has too many parts")
            lines[table + names] = number
            for length in range(1, len(table + names)):  # a table without a heading stands where its first part does
                lines.setdefault((table + names)[:length], number)
        for token in _TOKEN.finditer(text, at):
            at = token.end()
            number += token.group().count("\n")
            depth += (token.group() in "[{") - (token.group() in "]}" and depth > 0)
            if depth > MAXIMUM_DEPTH:
                raise _syntax_error(path, number, "the value is nested too deeply")
            if token.group() == "\n" and not depth:
                break
        else:
            at = len(text)
        if depth:
            raise _syntax_error(path, begin, "a bracket opened here is not closed")
    return lines


def _plain(value: Any, second: Any, place: Place, report: Report) -> Any:
    """The value in plain dictionaries and lists, both parsers having read it; reports one that no setting can have."""
    if len(place) > MAXIMUM_DEPTH:
        report.problem(place[:2], "the value is nested too deeply")
    elif isinstance(value, dict) and isinstance(second, dict) and value.keys() == second.keys():
        return {key: _plain(item, second[key], (*place, key), report) for key, item in value.items()}
    elif isinstance(value, list) and isinstance(second, list) and len(value) == len(second):
        numbered = enumerate(zip(value, second, strict=True), 1)
        return [_plain(item, other, (*place, str(number)), report) for number, (item, other) in numbered]
    elif not isinstance(value, (bool, int, float, str, list, dict)) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        report.problem(place, f"{value} is neither a number nor true or false (text needs quotes)")
    elif isinstance(value, str) and "\0" in value:
        report.problem(place, "holds a NUL character")
    elif type(value) is not type(second) or value != second:
        report.problem(place, "the toml library misreads this, write it otherwise, such as on one line")
    return value
