"""What the four programs share: their standard streams, reading arguments, and printing text and tables."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final, NoReturn, TextIO

from greenagent.cli.early import raise_interrupt
from greenagent.values.errors import GreenagentError
from greenagent.values.text import visible

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

MAX_WHY: Final = 50
"""Characters of a reason in a table."""
LEAST_LAST: Final = 20
"""Characters that the last column of a table keeps, however narrow the terminal is."""
MAX_SECONDS: Final = 1e9
"""Some 30 years; the system's calls take no more than about ten times that."""
_SPAN: Final = re.compile(r"([0-9]{1,9})\s*([smhdw])\Z")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


CONFIG_VARIABLE: Final = "GREENAGENT_CONFIG"
DEFAULT_CONFIG: Final = "/etc/greenagent.toml"
NO_CONFIG: Final = f"-c FILE, or in {CONFIG_VARIABLE}; there is no {DEFAULT_CONFIG}"
"""Behind "no configuration: name one with"."""


WHO_MAY: Final = "run it as root or as the user of the file (the agent's)"


class UsageError(GreenagentError):
    """Arguments that cannot be used."""


def add_config(parser: argparse._ActionsContainer) -> None:
    """The option ``-c`` of the programs of a node; ``configuration_file`` reads it."""
    text = f"the agent's configuration (TOML); default ${CONFIG_VARIABLE}, then {DEFAULT_CONFIG}"
    parser.add_argument("-c", "--config", metavar="FILE", help=text)


def configuration_file(given: str | None) -> str | None:
    """The file that ``-c`` names, else the variable, else the usual one where it is there; None: there is none."""
    if given is not None or (given := os.environ.get(CONFIG_VARIABLE)):
        return given
    return DEFAULT_CONFIG if os.path.lexists(DEFAULT_CONFIG) else None


def run_program(program: str, act: Callable[[], int | None], failed: int = EXIT_FAILED, usage: int = EXIT_USAGE) -> int:
    """The exit code of a program that does ``act``; what a user can cause ends in one line on stderr (each mistake
    of a configuration has its own).

    ``act`` returns the code, None for 0; an error may tell it by an attribute ``exit_code``, else it is ``usage``
    for arguments that cannot be used and ``failed`` for all else. A reader of stdout that goes away (``| head``)
    ends it silently, by SIGPIPE as other tools, unless the error tells a code.
    """
    try:
        raise_interrupt()
        if sys.stdout is None:
            raise OSError("stdout is closed")
        try:
            code = act() or 0
        except OSError:
            raise  # one that tells a code: the same one from a flush would tell none
        except BaseException:
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here, where its error can still be said
        return code
    except GreenagentError as error:
        for text in getattr(error, "problems", (str(error),)):  # of a configuration there may be several
            print_error(program, text)
        told: int = getattr(error, "exit_code", usage if isinstance(error, UsageError) else failed)
        return told
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.filename is not None:
            why = f"{error.filename}: {error.strerror}"
            if isinstance(error, PermissionError):
                why = f"{os.path.abspath(os.fsdecode(error.filename))}: {error.strerror}: {WHO_MAY}"
            print_error(program, why)
            return failed
        if not isinstance(error, BrokenPipeError):
            print_error(program, f"cannot write the output: {error.strerror or error}")
        elif not hasattr(error, "exit_code"):
            end_with_reader()
            signal.raise_signal(signal.SIGPIPE)
        # What could not be written is still in the buffer: the interpreter would try it again at its end, and complain.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        return failed


# Standard streams


def open_missing_streams() -> None:
    """Opens /dev/null for each of the descriptors 0, 1 and 2 that was closed at the start (``<&-``, ``2>&-``).

    Entry points call it before they open anything: the next file opened would get such a number, and
    what is written to stderr would go into that file. ``sys.stderr`` then goes to /dev/null.
    ``sys.stdin`` and ``sys.stdout`` stay None: who needs them must say that they are missing.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free, this one
    if sys.stderr is None:
        # Not left out: what is printed to a file None goes to stdout.
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def end_with_reader() -> None:
    """A reader that goes away (``| head``) ends this process silently, by SIGPIPE, as other tools end."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def print_error(program: str, text: str) -> None:
    """One line on stderr; nothing happens where nobody reads that either."""
    try:
        print(f"{program}: {one_line(text)}", file=sys.stderr, flush=True)
    except OSError:
        pass


# Arguments


def _meant(word: str, known: Sequence[str]) -> str:
    """A question for the one that was probably meant, or nothing."""
    found = get_close_matches(word, known, 1, 0.7)
    return f" (did you mean {found[0]}?)" if found else ""


class Parser(argparse.ArgumentParser):
    """Options are written in full; wrong arguments end in one line and exit code 2.

    Help and version that cannot be written end in one line and exit code 1, as all other output does.
    """

    usage_code = EXIT_USAGE
    failed_code = EXIT_FAILED

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(self.usage_code, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Ends with what is no argument of this program."""
        options = [name for action in self._actions for name in action.option_strings]
        self.error(f"unrecognized arguments: {' '.join(words)}{_meant(words[0].partition('=')[0], options)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            raise argparse.ArgumentError(action, f"there is no '{value}'{_meant(value, choices)}: {', '.join(choices)}")

    def first_word(self, given: Sequence[str]) -> int:
        """The place of the first argument that is neither an option nor an option's value; ``--`` counts as a word."""
        flags = {name for action in self._actions if action.nargs == 0 for name in action.option_strings}
        place = 0
        while place < len(given) and given[place].startswith("-") and given[place] not in ("-", "--"):
            place += 1 if given[place] in flags or "=" in given[place] else 2
        return min(place, len(given))

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Lets the types of options raise GreenagentError, as all that reads values here does."""
        try:
            return super()._get_value(action, arg_string)
        except GreenagentError as error:
            raise argparse.ArgumentError(action, str(error)) from error

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Takes ``--`` for what it is where it is an option's value, as in ``--id=--``; Python before 3.13 drops it."""
        if arg_strings != ["--"] or not action.option_strings or action.nargs is not None:
            return super()._get_values(action, arg_strings)
        value = self._get_value(action, "--")
        self._check_value(action, value)
        return value

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse swallows the error of an unbuffered stdout, and leaves a buffered one to the interpreter's end.
        if file is not sys.stdout:  # which is None where it is closed, and so is the file then
            super()._print_message(message, file)
        elif run_program(self.prog.split()[0], lambda: print(message, end="")):
            self.exit(self.failed_code)


def is_text(*arguments: str) -> bool:
    """False when an argument holds bytes that are no UTF-8: nothing that is looked for or sent can."""
    return not any("\ud800" <= character <= "\udfff" for argument in arguments for character in argument)


def seconds(text: str) -> float:
    """A time to wait. Refuses "nan", which no comparison ends, and what no clock can wait for."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_SECONDS:
        raise UsageError(f"{text!r} is not a number of seconds (0 to {MAX_SECONDS:.0f})")
    return value


def count(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise UsageError(f"{text!r} is not a whole number; it must not be negative")
    return int(text)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 10 or int(text) < 1:
        raise UsageError(f"{text!r} is not a positive number")
    return int(text)


def span(text: str) -> int | None:
    """The seconds of a span of time such as 90s, 15m, 1h, 2d or 1w; None for anything else."""
    found = _SPAN.match(text)
    return int(found[1]) * _UNITS[found[2]] if found is not None else None


# Text


@lru_cache(maxsize=256)  # lines come many in a second
def local_time(epoch: float, form: str = "%Y-%m-%d %H:%M:%S", unknown: str = "") -> str:
    """A stamp as local time; ``unknown``, or the number, where no calendar has it: any agent may send any."""
    try:
        return time.strftime(form, time.localtime(epoch))
    except (ValueError, OverflowError, OSError):
        return unknown or str(epoch)


def ago(stamp: float | None) -> str:
    """How long a moment is over, in words: 5 s ago, 2 h ago; "never" for none."""
    if not stamp:
        return "never"
    seconds = max(0, int(time.time() - stamp))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


class VisibleTerminal:
    """A terminal on which control characters show as escapes: nothing that a job or a controller sends may steer it."""

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal

    @classmethod
    def guard(cls) -> None:
        """From now on stdout and stderr, where they are terminals, are such."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and stream.isatty():
                setattr(sys, name, cls(stream))

    def write(self, text: str) -> int:
        return self.terminal.write(visible(text))

    def writelines(self, lines: Iterable[str]) -> None:
        self.terminal.writelines(map(visible, lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


_ENCODE: Final = json.JSONEncoder(ensure_ascii=False).encode  # dumps would make one for each line


def json_line(value: Any) -> str:
    """JSON on one line, letters of all scripts as they are; what a terminal would obey is escaped as JSON has it."""
    text = _ENCODE(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """All control characters as escapes: a name must not make lines of its own."""
    return visible(text, keep="")


def print_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    out: TextIO | None = None,
    right: int = -1,
    width: int = 0,
    short: Sequence[str] = (),
) -> None:
    """Columns as wide as their widest cell, that of number ``right`` aligned to the right; the last one is ragged.

    ``width``: characters of a line, 0 for any. Where they are more, ``short`` has what is shown in the first column
    instead, and the last one is cut.
    """
    lines = [tuple(heads), *(tuple(one_line(cell) for cell in row) for row in rows)]
    if width and short and max(len("  ".join(line)) for line in _aligned(lines, right)) > width:
        lines[1:] = [(one_line(cell), *line[1:]) for cell, line in zip(short, lines[1:], strict=True)]
    for line in _aligned(lines, right):
        taken = sum(len(cell) + 2 for cell in line[:-1])
        last = _cut(line[-1], max(LEAST_LAST, width - taken)) if width else line[-1]
        print("  ".join([*line[:-1], last]).rstrip(), file=out)


def _aligned(lines: Sequence[tuple[str, ...]], right: int) -> Iterator[list[str]]:
    """The cells of each line, all but the last as wide as their column."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    for line in lines:
        cells = [
            cell.rjust(width) if number == right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=False))
        ]
        yield [*cells, line[-1]]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def terminal_width(out: TextIO | None = None) -> int:
    """The characters of a line of ``out``, stdout by default, where that is a terminal; else 0."""
    from shutil import get_terminal_size  # takes long, and few ask

    return get_terminal_size().columns if (out or sys.stdout).isatty() else 0


def state_and_why(state: str, why: str, exit: object, kind: str = "") -> str:
    """A job's state in a table, with the reason where it is none of success and the exit beside it does not say it.

    ``kind``: what else is to be said of the job, such as that it recurs.
    """
    told = ", ".join(filter(None, (kind, _cut(untold(why, exit), MAX_WHY))))
    return f"{state} ({told})" if told else state


def untold(why: str, exit: object) -> str:
    """The first line of a reason; "" where the exit beside it says the same."""
    why = one_line(why.strip().partition("\n")[0])
    return "" if why in (f"exit code {exit}", f"ended by {exit}") else why
