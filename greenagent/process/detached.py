"""Processes that may outlive their job (``leave_children``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from greenagent.runtime.procfs import Process


@dataclass(slots=True)
class _Run:
    """A run that left processes: those seen by start time, and since when others may have come from it."""

    start_ticks: int
    known: dict[int, int]
    missed: int = 0


class DetachedProcesses:
    """Which runs left processes on purpose, by tag, and which processes without a tag may be theirs."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def leave(self, tag: str, start_ticks: int = 0, known: Mapping[int, int] | None = None) -> None:
        """What carries this tag may outlive its job, and so may ``known``, by start time.

        ``start_ticks``: of the run; what is younger and carries no tag may have come from it, too.
        """
        self._runs.setdefault(tag, _Run(start_ticks, {})).known.update(known or {})

    def includes(self, tag: str) -> bool:
        """Whether the run of this tag left processes on purpose."""
        return tag in self._runs

    def may_include(self, process: Process) -> list[str]:
        """The tags of the runs that may have left this process, which carries none, on purpose."""
        return [
            tag
            for tag, run in self._runs.items()
            if run.known.get(process.pid) == process.start_ticks
            or (run.known and process.start_ticks >= run.start_ticks)
        ]

    def forget_all_but(self, seen: set[str]) -> None:
        """Drops the tags of which nothing was there in two passes."""
        for tag, run in list(self._runs.items()):
            run.missed = 0 if tag in seen else run.missed + 1
            if run.missed >= 2:
                del self._runs[tag]

    def state(self) -> list[list[Any]]:
        """For ``restore`` in another image of the agent."""
        return [[tag, run.start_ticks, list(run.known.items())] for tag, run in self._runs.items()]

    def restore(self, state: Iterable[Iterable[Any]]) -> None:
        """Goes on where another image was."""
        for tag, start_ticks, known in state:
            self.leave(tag, start_ticks, {int(pid): int(start) for pid, start in known})
