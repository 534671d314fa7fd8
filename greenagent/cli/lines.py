"""Lines of jobs as people ask for them, and what stands in front of their texts, alike in all programs."""

from __future__ import annotations

import argparse
import re
from functools import lru_cache
from typing import Final, NamedTuple

from greenagent.cli.common import UsageError, local_time
from greenagent.cli.moments import FORMS, moment
from greenagent.values.errors import LevelError
from greenagent.values.levels import NAMES, LevelSet, parse_levels

_LEVELS_BY_NAME: Final = {name: number for number, name in NAMES.items()}
_NO_TIME: Final = "---------- --:--:--"


def add_line_options(parser: argparse._ActionsContainer) -> None:
    """Which lines: the options that ``LineQuestion`` reads."""
    parser.add_argument("--level", type=levels, metavar="LIST", help="levels or their names: 2, 2-9, 7,8, warning")
    parser.add_argument("--grep", type=regex, default="", metavar="REGEX", help="whose text matches")
    parser.add_argument("--since", type=moment, metavar="TIME", help=FORMS)
    parser.add_argument("--until", type=moment, metavar="TIME", help="likewise")


class LineQuestion(NamedTuple):
    """Which lines: of these levels, whose text matches, of a second from ``since`` to ``until``, since 1970."""

    levels: LevelSet | None
    regex: str
    since: float | None
    until: float | None

    @classmethod
    def of(cls, options: argparse.Namespace) -> LineQuestion:
        return cls(options.level, options.grep, options.since, options.until)

    @property
    def is_narrow(self) -> bool:
        """Whether there may be lines that it leaves out."""
        return self != LineQuestion(None, "", None, None)

    def takes(self, milliseconds: int, level: int, text: str) -> bool:
        return (
            (self.levels is None or level in self.levels)
            and (self.since is None or milliseconds >= int(self.since) * 1000)
            and (self.until is None or milliseconds < (int(self.until) + 1) * 1000)
            and (not self.regex or re.search(self.regex, text) is not None)
        )


def levels(text: str) -> LevelSet | None:
    """An option's level list, in which levels may be called by name."""
    parts = [str(_LEVELS_BY_NAME.get(part.strip().lower(), part)) for part in text.split(",")]
    try:
        return parse_levels(",".join(parts))
    except LevelError as error:
        raise UsageError(f"{error}; names are {', '.join(_LEVELS_BY_NAME)}") from error


def regex(text: str) -> str:
    """An option's regular expression, as text."""
    try:
        re.compile(text)
    except re.error as error:
        raise UsageError(f"{text!r} is not a regular expression: {error}") from error
    return text


def level_name(level: int) -> str:
    return NAMES.get(level, f"level {level}")


@lru_cache(maxsize=256)  # the lines of one read of a pipe have the same
def stamp_text(milliseconds: int) -> str:
    """Local date and time of a line, of one width also where no calendar has it."""
    return f"{local_time(milliseconds // 1000, unknown=_NO_TIME)}.{milliseconds % 1000:03}"
