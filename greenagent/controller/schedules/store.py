"""Where schedules are kept: behind a small interface, in the state file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from greenagent.controller.schedules.schedule import Progress, Schedule
from greenagent.controller.state.state_file import StateFile, Statement

Kept = tuple[Schedule, Progress]
_INSERT: Final = (
    "INSERT INTO schedules VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET definition = excluded.definition"
)
"""Of one that is there already the progress stays as it is written, or is just being written."""


class ScheduleStore(Protocol):
    """All schedules by id. What writes raises StateError, and changes nothing then.

    A schedule is changed by whoever is asked to, its progress by the one process alone that makes the runs.
    """

    def all(self) -> list[Kept]:
        """By id."""
        ...

    def get(self, schedule_id: str) -> Kept | None:
        """One of them."""
        ...

    def put(self, schedule: Schedule) -> None:
        """Keeps a new one, or another one in the place of that of the same id, whose progress stays."""
        ...

    def note(self, schedule_id: str, progress: Progress) -> None:
        """Keeps how far one has come that may have been removed meanwhile."""
        ...

    def remove(self, ids: Iterable[str]) -> int:
        """Removes those there are; how many that were."""
        ...


class LocalSchedules:
    """Those of a controller of one process: in memory, and in the state file."""

    def __init__(self, file: StateFile) -> None:
        self._file = file
        self._kept: dict[str, Kept] = {}

    def load(self) -> None:
        """Reads the state file. Raises StateError, and whatever Python does with rows that mean nothing."""
        for definition, progress in self._file.read("SELECT definition, progress FROM schedules ORDER BY id"):
            schedule = Schedule.of_json(definition)
            self._kept[schedule.id] = schedule, Progress.of_json(progress)

    def all(self) -> list[Kept]:
        return [self._kept[schedule_id] for schedule_id in sorted(self._kept)]

    def get(self, schedule_id: str) -> Kept | None:
        return self._kept.get(schedule_id)

    def put(self, schedule: Schedule) -> None:
        progress = self._progress(schedule.id) or Progress()
        self._file.write([_row(schedule, progress)])
        self._kept[schedule.id] = schedule, self._progress(schedule.id) or progress

    def note(self, schedule_id: str, progress: Progress) -> None:
        self._file.write([("UPDATE schedules SET progress = ? WHERE id = ?", (progress.to_json(), schedule_id))])
        if schedule_id in self._kept:
            self._kept[schedule_id] = self._kept[schedule_id][0], progress

    def remove(self, ids: Iterable[str]) -> int:
        found = [one for one in ids if one in self._kept]
        if found:
            self._file.write([("DELETE FROM schedules WHERE id = ?", (one,)) for one in found])
        return sum(self._kept.pop(one, None) is not None for one in found)

    def rows(self) -> Iterator[Statement]:
        """All schedules as they are in the state file."""
        return (_row(schedule, progress) for schedule, progress in self.all())

    def _progress(self, schedule_id: str) -> Progress | None:
        kept = self._kept.get(schedule_id)
        return None if kept is None else kept[1]


def _row(schedule: Schedule, progress: Progress) -> Statement:
    return _INSERT, (schedule.id, schedule.to_json(), progress.to_json())
