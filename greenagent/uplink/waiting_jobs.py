"""Tells a controller of ours which of its jobs wait for their turn at the agent: for a slot, or in a serial queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from greenagent.uplink.changes import WAITING, ChangeReporter
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import HttpClient


class WaitingJobs(Protocol):
    """The jobs that wait (jobs.job.JobQueue)."""

    version: int

    def waiting_of(self, controller: str) -> Mapping[str, bool]: ...

    def wait_for_change(self, seen: int, timeout: float) -> None: ...


class WaitingReporter(ChangeReporter):
    """Of the jobs of one controller."""

    header = WAITING
    path = "waiting"

    def __init__(self, jobs: WaitingJobs, controller: str, client: HttpClient, health: ControllerHealth) -> None:
        super().__init__(client, health)
        self._jobs = jobs
        self._controller = controller

    def version(self) -> int:
        return self._jobs.version

    def wait(self, seen: int, timeout: float) -> None:
        self._jobs.wait_for_change(seen, timeout)

    def found(self) -> Mapping[str, bool]:
        return self._jobs.waiting_of(self._controller)

    def record(self, key: str, value: bool | None) -> dict[str, Any]:
        return {"id": key, "waits": value is not None}
