"""The internal commands of the originals by which their clients keep schedules (protocol 12.5)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from greenagent.controller.limits import Limits
from greenagent.controller.schedules.schedule import ScheduleError, parse_original
from greenagent.controller.schedules.scheduler import Scheduler, TooManySchedulesError, UnknownScheduleError
from greenagent.values.command import load_json
from greenagent.values.errors import CommandError

Operation = Callable[[str], Any]
"""From the command's data to the value that is its answer. Raises CommandError and StateError."""


def schedule_operations(scheduler: Scheduler, limits: Limits) -> dict[str, Operation]:
    """By the names that their clients give."""
    operations = ScheduleOperations(scheduler, limits)
    return {
        "scheduler_add": operations.add,
        "scheduler_list": operations.list,
        "scheduler_remove": operations.remove,
        "scheduler_remove_prefix": operations.remove_all,
    }


class ScheduleOperations:
    """One method for each."""

    def __init__(self, scheduler: Scheduler, limits: Limits) -> None:
        self._scheduler = scheduler
        self._limits = limits

    def add(self, data: str) -> None:
        """In the place of one of the same id, which stays paused where it is."""
        if len(data) > 2 * self._limits.schedule_command:
            raise CommandError(f"a command in a schedule has {self._limits.schedule_command} characters at most")
        try:
            schedule = parse_original(_value(data), time.time(), self._limits.schedule_command)
            self._scheduler.add(schedule, replaces=True)
        except (ScheduleError, TooManySchedulesError) as error:
            raise CommandError(str(error)) from error

    def list(self, data: str) -> list[dict[str, Any]]:
        """Those of people, too, as the originals know them."""
        return [{"id": one.id, "cron": one.cron, "cmd": one.cmd} for one, _ in self._scheduler.all()]

    def remove(self, data: str) -> int:
        """1 where there was one of that id, else 0."""
        try:
            self._scheduler.remove(_text(data))
        except UnknownScheduleError:
            return 0
        return 1

    def remove_all(self, data: str) -> None:
        """All whose ids begin so."""
        self._scheduler.remove_all(_text(data))


def _value(data: str) -> Any:
    try:
        return load_json(data)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"'data' is not JSON: {error}") from error


def _text(data: str) -> str:
    value = _value(data)
    if not isinstance(value, str):
        raise CommandError("'data' must be a JSON text: an id, or how ids begin")
    return value
