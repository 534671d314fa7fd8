"""A real agent in the test's own process: its parts can be asked, and broken, one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from greenagent.agent.agent import Agent
from greenagent.agent.shutdown import EXIT
from greenagent.agent.watchdog import Thresholds
from greenagent.jobs.job import Job
from greenagent.settings import load_settings
from greenagent.settings.models import Settings
from greenagent.values.command import parse_command
from tests.support.agent_logs import RecordedLog
from tests.support.agents import AgentFolder, configuration
from tests.support.waiting import wait_until


class InsideAgent(AgentFolder):
    """Polls nobody before ``start``; ``with`` starts and stops it."""

    def __init__(self, folder: Path, controllers: Mapping[str, str], text: str = "", **more: Any) -> None:
        """``controllers`` and ``more`` as for ``configuration``, unless ``text`` is the whole of it."""
        self.folder = folder
        self.agent_log = RecordedLog()
        self._is_stopped = False
        settings = self.settings(controllers, text, **more)
        self.agent = Agent(settings, self.agent_log, Thresholds(check_every=3600))

    def settings(self, controllers: Mapping[str, str], text: str = "", **more: Any) -> Settings:
        """Settings whose files lie in the agent's folder."""
        file = self.folder / "greenagent.toml"
        file.write_text(text or configuration(self.folder, controllers, **more))
        return load_settings(str(file), {}, {}).settings

    def __enter__(self) -> InsideAgent:
        try:
            self.agent.start()
        except BaseException:
            self.agent.supervisor.kill_all()  # or its reaper ends what later tests start: their processes are ours
            self.agent.monitoring._watchdog.stop()  # or it ends the tests: the hub's ticker is gone
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, how: str = EXIT) -> int:
        """As SIGTERM, or with DRAIN as SIGUSR1; harmless when repeated. The exit code."""
        if not self._is_stopped:
            self._is_stopped = True
            self.agent.stop(how)
        return 1 if self.agent.failure else 0

    @property
    def stderr(self) -> str:
        """What it would have written there."""
        return "\n".join(self.agent_log.lines)

    def accept(self, command: Mapping[str, Any], controller: str = "main") -> Job | None:
        """Hands a command in as a poll would; returns its job while that lives."""
        parsed = parse_command(dict(command))
        self.agent.admission.accept([parsed], controller)
        return self.agent.admission.live.get(parsed.id)

    def wait_for_process(self, job_id: str) -> None:
        """Until the agent knows it: a process may print before its start is known to the hub."""
        wait_until(lambda: self.agent.admission.live[job_id].child is not None, what=f"the process of {job_id}")

    def start_job(self, command: Mapping[str, Any], ready: Callable[[Job], object] = lambda job: True) -> Job:
        """Accepts a command and waits until its process runs, and until ``ready``."""
        job = self.accept(command)
        assert job is not None
        wait_until(lambda: job.child is not None and ready(job), what=f"job {job.id}")
        return job


StartInside = Callable[..., InsideAgent]
