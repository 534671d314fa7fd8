"""What the processes of a fleet's controller keep together, in one Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from greenagent.controller.fleet.agents import FleetAgents
from greenagent.controller.fleet.connection import FleetRedis, key_of
from greenagent.controller.fleet.jobs import FleetJobs
from greenagent.controller.fleet.output import FleetLines, FleetMetrics, FleetOpenTexts
from greenagent.controller.fleet.queues import FleetQueues
from greenagent.controller.fleet.schedules import FleetSchedules
from greenagent.controller.limits import Limits
from greenagent.controller.model import Assignment
from greenagent.controller.state.scripts import Script
from greenagent.controller.state.state_file import StateError
from greenagent.runtime.agent_log import AgentLog

SWEEPER: Final = key_of("sweeper")
SWEEPER_FOR: Final = 5
"""Seconds after which another process sweeps, where the one that does says nothing more."""
TRIM_EVERY: Final = 10.0
"""Seconds between two looks at the caps of lines and figures."""


class FleetBackend:
    """See ``controller.backend.Backend``."""

    def __init__(self, url: str, log: AgentLog, limits: Limits) -> None:
        """Raises StateError where the Redis cannot be reached."""
        self._redis = FleetRedis(url, log)
        self.jobs = FleetJobs(self._redis, limits)
        self.agents = FleetAgents(self._redis, self.jobs, limits)
        self.queues = FleetQueues(self._redis, self.jobs, self.agents)
        self.lines = FleetLines(self._redis, limits)
        self.open_texts = FleetOpenTexts(self._redis)
        self.metrics = FleetMetrics(self._redis, limits)
        self.scripts = FleetScripts(self._redis, limits)
        self.schedules = FleetSchedules(self._redis)
        self._trimmed = 0.0

    def restore(self, take_up: Callable[[Assignment], None]) -> None:
        """Nothing: what is under way is in Redis, whoever began it."""

    def services(self) -> Iterable[tuple[str, Callable[[], None]]]:
        return [("news", self._redis.hear), ("presence", self.agents.run)]

    def sweeps(self) -> bool:
        """One process at a time, by turns that end: two at once would do no harm."""
        name = self.agents.process
        taken, holder = self._redis.pipeline([("SET", SWEEPER, name, "NX", "EX", SWEEPER_FOR), ("GET", SWEEPER)])
        if not taken and holder == name:
            self._redis.run("EXPIRE", SWEEPER, SWEEPER_FOR)
        return bool(taken) or holder == name

    def tidy(self) -> None:
        self.jobs.trim()
        if time.monotonic() - self._trimmed > TRIM_EVERY:
            self._trimmed = time.monotonic()
            self.lines.trim()
            self.metrics.trim()
            self.agents.tidy()

    def close(self) -> None:
        try:
            self.agents.leave()
        except StateError:
            pass  # the others notice it in a few seconds
        self._redis.close()


class FleetScripts:
    """See ``stores.Scripts``. Each goes by itself after its time."""

    def __init__(self, redis: FleetRedis, limits: Limits) -> None:
        self._redis = redis
        self._age = int(limits.script_age)

    def store(self, script: Script) -> str:
        name = key_of("script", script.digest)
        self._redis.pipeline([("SET", name, script.content, "NX"), ("EXPIRE", name, self._age)])
        return script.digest

    def get(self, digest: str) -> str | None:
        found: str | None = self._redis.run("GET", key_of("script", digest.lower()))
        return found
