"""The console loggers: one line per message on stdout (protocol 7.2, design, section 5 "Messages and logs")."""

from __future__ import annotations

import time
from typing import Protocol

from greenagent.logs.lines import LAST_ID, Lines
from greenagent.values.text import visible


class LineSink(Protocol):
    """Where lines go without ever blocking: ``runtime.agent_log.LineOutput``."""

    def write(self, text: str) -> None: ...


class Console:
    """Formats messages for people who watch the agent run."""

    def __init__(self, output: LineSink) -> None:
        self._output = output

    def show(self, label: str, lines: Lines) -> None:
        """``date time ID# JOB CMD NAME|LEVEL:DATA``, one line each; newlines inside show as ``\\n``."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(lines.epoch))
        label = visible(label, keep="\t")  # whoever sent the command chose it
        for offset, (level, text) in enumerate(lines.levelled()):
            number = (lines.first_id + offset) & LAST_ID
            shown = visible(text, keep="\t")
            self._output.write(f"{stamp} {number}# {label}|{level}:{shown}")
