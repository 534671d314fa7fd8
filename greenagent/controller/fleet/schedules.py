"""Schedules, in Redis: what they are, and how far each has come, in a hash each.

Whoever is asked to changes what one is; how far it has come is written by the one process alone that makes the runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from greenagent.controller.fleet.connection import FleetRedis, key_of
from greenagent.controller.schedules.schedule import Progress, Schedule
from greenagent.controller.schedules.store import Kept

DEFINITIONS: Final = key_of("schedules")
PROGRESS: Final = key_of("schedule-progress")


class FleetSchedules:
    """See ``schedules.store.ScheduleStore``."""

    def __init__(self, redis: FleetRedis) -> None:
        self._redis = redis

    def all(self) -> list[Kept]:
        definitions, progress = self._redis.pipeline([("HGETALL", DEFINITIONS), ("HGETALL", PROGRESS)])
        return [_kept(text, progress.get(one)) for one, text in sorted(definitions.items())]

    def get(self, schedule_id: str) -> Kept | None:
        text, progress = self._redis.pipeline([("HGET", DEFINITIONS, schedule_id), ("HGET", PROGRESS, schedule_id)])
        return None if text is None else _kept(text, progress)

    def put(self, schedule: Schedule) -> None:
        self._redis.run("HSET", DEFINITIONS, schedule.id, schedule.to_json())

    def note(self, schedule_id: str, progress: Progress) -> None:
        self._redis.run("HSET", PROGRESS, schedule_id, progress.to_json())

    def remove(self, ids: Iterable[str]) -> int:
        wanted = list(ids)
        if not wanted:
            return 0
        removed: int
        removed, _ = self._redis.pipeline([("HDEL", DEFINITIONS, *wanted), ("HDEL", PROGRESS, *wanted)])
        return removed


def _kept(definition: str, progress: str | None) -> Kept:
    return Schedule.of_json(definition), Progress() if progress is None else Progress.of_json(progress)
