"""What a job runs, on one line for people: as a shell would take it, without passwords."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from itertools import chain
from typing import Final

from greenagent.values.command import EXECUTE
from greenagent.values.text import hide_passwords

JUMPSCRIPT: Final = "jumpscript"
MAX_LENGTH: Final = 4096
"""Characters that are kept of a command line."""


def command_line(words: Iterable[str], most: int = MAX_LENGTH) -> str:
    """A program and its arguments; users and passwords in URLs are ``***``.

    Of a line of more than ``most`` characters the end is left out.
    """
    line = ""
    for word in words:
        # A word may be as long as a command; so much of it that no password is cut in two where it shows.
        line += (" " if line else "") + shlex.quote(hide_passwords(word[: most + 3 * MAX_LENGTH]))
        if len(line) > most:
            return line[:most] + "..."
    return line


def command_line_of(cmd: str, name: str, domain: str, args: Iterable[str], most: int = MAX_LENGTH) -> str:
    """The same of a command as it was sent: for ``execute`` the program, else the command with what it names."""
    if cmd == EXECUTE and name:
        return command_line(chain((name,), args), most)
    label = f"{domain}/{name}" if cmd == JUMPSCRIPT and domain else name
    return command_line(chain((cmd, label) if label else (cmd,), args), most)
