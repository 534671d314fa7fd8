"""The console loggers: one line per message on stdout (protocol 7.2, design, section 5)."""

from __future__ import annotations

import time
from typing import Protocol

from greenagent.logs.lines import LAST_ID, Lines


class LineSink(Protocol):
    """Where lines go without ever blocking: ``runtime.agent_log.LineOutput``."""

    def write(self, text: str) -> None: ...


class Console:
    """Formats messages for people who watch the agent run."""

    def __init__(self, output: LineSink) -> None:
        self._output = output

    def show(self, label: str, lines: Lines) -> None:
        """``date time ID# CMD NAME|LEVEL:DATA``, one line each; newlines inside show as ``\\n``."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(lines.epoch))
        label = _visible(label)  # whoever sent the command chose it
        for offset, (level, text) in enumerate(lines.levelled()):
            number = (lines.first_id + offset) & LAST_ID
            self._output.write(f"{stamp} {number}# {label}|{level}:{_visible(text)}")


def _visible(text: str) -> str:
    """Control characters as escapes (a job must not steer the terminal); tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode("ascii") for c in text)
