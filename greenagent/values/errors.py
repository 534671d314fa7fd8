"""Errors that a user, a job or a controller can cause: each carries one clear sentence."""

from __future__ import annotations


class GreenagentError(Exception):
    """Base of every error whose text is meant for people: one line, no traceback needed."""


class CommandError(GreenagentError):
    """A command that cannot be understood.

    ``command_id`` is the id as given where one could be read (such a command is answered
    ERROR with this reason), else None. ``name`` is the command name where it could be read.
    """

    def __init__(self, reason: str, command_id: str | None = None, name: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.command_id = command_id
        self.name = name


class LevelError(GreenagentError):
    """A level list that means nothing or cannot be read (design, section 5 "Messages and logs")."""


class SignalError(GreenagentError):
    """A name or number that is no signal."""


class StateNameError(GreenagentError):
    """A name that is none of a job's states."""
