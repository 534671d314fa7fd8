"""The parts of a controller, put together in one place."""

from __future__ import annotations

from pathlib import Path

import gevent

from greenagent.controller.agents import AgentTable
from greenagent.controller.book import Book
from greenagent.controller.dispatch import Dispatcher
from greenagent.controller.journal import FileJournal, Journal, StateError
from greenagent.controller.limits import Limits
from greenagent.controller.outcomes import Outcomes, ResultError
from greenagent.controller.scripts import ScriptStore
from greenagent.controller.submission import Submission
from greenagent.controller.uploads import Figures, LineStore
from greenagent.runtime.agent_log import AgentLog


class Parts:
    """Everything the endpoints need. Raises StateError when the state file cannot be used."""

    result_error = ResultError

    def __init__(self, agent_log: AgentLog, limits: Limits, state: Path | None = None) -> None:
        self.agent_log = agent_log
        self.limits = limits
        self.journal = FileJournal(state) if state is not None else Journal()
        self.agents = AgentTable(limits)
        self.book = Book(self.journal, limits)
        self.scripts = ScriptStore(self.journal, limits)
        self.dispatcher = Dispatcher(self.agents, self.journal, limits)
        self.submission = Submission(self.book, self.dispatcher, self.scripts, limits)
        self.lines = LineStore(limits)
        self.outcomes = Outcomes(
            self.book, self.dispatcher, self.submission, self.agents, limits, on_finished=self.lines.wake
        )
        self.figures = Figures(limits)
        self._agent_log = agent_log
        self._trouble = agent_log.on_change()
        try:
            self.scripts.load()
            for assignment in self.book.load():
                self.dispatcher.restore(assignment)
                self.outcomes.restore(assignment)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            self.journal.close()
            raise StateError(
                f"the state file {state} is damaged ({type(error).__name__}: {error}):"
                " move it away, or put a copy in its place, and start again"
            ) from error
        except BaseException:
            self.journal.close()
            raise

    def sweep_for_ever(self) -> None:
        """Once a second: ends what has waited too long and drops what is too old."""
        rounds = 0
        while True:
            gevent.sleep(1)
            rounds += 1
            for agent in self.agents.newly_shared():
                self._agent_log.warning(
                    f"two polls of agent {agent.key} stand open: if two nodes have that gid and nid, give one another"
                    " nid, since a job for it may run on both"
                )
            try:
                self.outcomes.sweep()
                self.scripts.trim()
                if rounds % 60 == 0:
                    self.lines.forget({job.id for job in self.book.all()})
            except StateError as error:
                self._trouble.warning(str(error))
            else:
                self._trouble.resolved("the state file can be written again")
