"""What a controller keeps: in one process, or in a Redis that several share (``fleet``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final, Protocol

from greenagent.controller.dispatch.agents import AgentTable
from greenagent.controller.dispatch.queue import LocalQueues, Queues
from greenagent.controller.limits import Limits
from greenagent.controller.model import Assignment
from greenagent.controller.schedules.store import LocalSchedules, ScheduleStore
from greenagent.controller.state.job_store import JobStore
from greenagent.controller.state.log_lines import LineStore
from greenagent.controller.state.metrics import LatestMetrics
from greenagent.controller.state.open_texts import OpenTextStore
from greenagent.controller.state.scripts import ScriptStore
from greenagent.controller.state.state_file import StateError, StateFile, Statement
from greenagent.controller.stores import Jobs, Lines, Metrics, OpenTexts, Scripts
from greenagent.runtime.agent_log import AgentLog
from greenagent.runtime.state_files import StateFiles

FORGET_EVERY: Final = 60
"""Seconds between two looks at what is only counted any more."""


class Backend(Protocol):
    """All of it, made in one place."""

    @property
    def jobs(self) -> Jobs: ...

    @property
    def agents(self) -> AgentTable: ...

    @property
    def queues(self) -> Queues: ...

    @property
    def lines(self) -> Lines: ...

    @property
    def open_texts(self) -> OpenTexts: ...

    @property
    def metrics(self) -> Metrics: ...

    @property
    def scripts(self) -> Scripts: ...

    @property
    def schedules(self) -> ScheduleStore: ...

    def restore(self, take_up: Callable[[Assignment], None]) -> None:
        """Hands in what was under way when the last controller ended, where nothing else does. Raises StateError."""
        ...

    def services(self) -> Iterable[tuple[str, Callable[[], None]]]:
        """What must run beside, by name."""
        ...

    def sweeps(self) -> bool:
        """Whether this process is to end what has waited too long: one does it for all."""
        ...

    def tidy(self) -> None:
        """Once a second: drops what is too old. Raises StateError."""
        ...

    def close(self) -> None:
        """The end of this process."""
        ...


class LocalBackend:
    """In one process: in memory, and in the state file if it has one."""

    def __init__(self, log: AgentLog, limits: Limits, state: Path | None = None) -> None:
        """Reads the state file. Raises StateError when it cannot be used."""
        self.file = StateFile(state)
        self._files = StateFiles(log)
        self.file.watch_lock(self._files)
        if self.file.was_empty:
            log.warning(f"the state file {state} was empty: begun anew; if it held jobs before, they are not known now")
        self.agents = AgentTable(limits)
        self.jobs = JobStore(self.file, limits)
        self.queues = LocalQueues()
        self.scripts = ScriptStore(self.file, limits)
        self.lines = LineStore(limits)
        self.open_texts = OpenTextStore(limits)
        self.metrics = LatestMetrics(limits)
        self.schedules = LocalSchedules(self.file)
        self._watched = log.on_change()
        self._rounds = 0

    def restore(self, take_up: Callable[[Assignment], None]) -> None:
        try:
            self.scripts.load()
            self.schedules.load()
            for assignment in self.jobs.load():
                take_up(assignment)
        except Exception as error:
            self.file.close()
            raise error if isinstance(error, StateError) else self.file.damaged(error) from error

    def services(self) -> Iterable[tuple[str, Callable[[], None]]]:
        return [("state files", self._files.run)]

    def sweeps(self) -> bool:
        return True

    def tidy(self) -> None:
        self._rounds += 1
        if remark := self.file.look(self._rows):
            self._watched.warning(remark)
        self.jobs.trim()
        self.scripts.trim()
        if self._rounds % FORGET_EVERY == 0:
            self.lines.forget(set(self.jobs.ids()))
            self.open_texts.forget_old()

    def _rows(self) -> Iterator[Statement]:
        return chain(self.jobs.rows(), self.scripts.rows(), self.schedules.rows())

    def close(self) -> None:
        self._files.close()
        self.file.close()
