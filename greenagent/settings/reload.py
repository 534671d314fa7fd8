"""What a changed configuration means for a running agent: what it applies, what needs a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from greenagent.settings import table
from greenagent.settings.declaration import Section
from greenagent.settings.models import Logger, Settings
from greenagent.settings.printing import show_hidden
from greenagent.values.levels import LevelSet


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """``applied`` and ``needs_restart`` name every difference, one line each."""

    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """True when the two configurations mean the same."""
        return not self.applied and not self.needs_restart


@dataclass(frozen=True, slots=True)
class _Change:
    text: str
    live: bool


def changes(old: Settings, new: Settings) -> ReloadPlan:
    """Compares two configurations. The table says which settings apply live; whole controllers and
    extensions do, whole loggers and startup tasks need a restart.
    """
    found = list(_compare(old, new))
    return ReloadPlan(
        tuple(change.text for change in found if change.live),
        tuple(change.text for change in found if not change.live),
    )


def _compare(old: Settings, new: Settings) -> Iterator[_Change]:
    yield from _fields("main", table.MAIN, old.main, new.main)
    yield from _tables("controllers", table.CONTROLLER, old.controllers, new.controllers, live=True)
    yield from _tables("extensions", table.EXTENSION, old.extensions, new.extensions, live=True)
    yield from _fields("channel", table.CHANNEL, old.channel, new.channel)
    yield from _loggers(old, new)
    yield from _fields("stats", table.STATS, old.stats, new.stats)
    yield from _fields("metrics", table.METRICS, old.metrics, new.metrics)
    tasks = {task.id: task for task in old.startup}, {task.id: task for task in new.startup}
    yield from _tables("startup", table.STARTUP, *tasks, live=False)


def _tables(name: str, section: Section, old: dict[str, Any], new: dict[str, Any], live: bool) -> Iterator[_Change]:
    for key in dict.fromkeys([*old, *new]):
        if key not in new:
            yield _Change(f"{name}.{key} removed", live)
        elif key not in old:
            yield _Change(f"{name}.{key} added", live)
        else:
            yield from _fields(f"{name}.{key}", section, old[key], new[key])


def _loggers(old: Settings, new: Settings) -> Iterator[_Change]:
    before = {logger.name: logger for logger in old.loggers}
    after = {logger.name: logger for logger in new.loggers}
    for name in dict.fromkeys([*before, *after]):
        place = f"logging.{name}"
        if name not in after:
            yield _Change(f"{place} removed", live=False)
        elif name not in before:
            yield _Change(f"{place} added", live=False)
        elif type(before[name]) is not type(after[name]):
            yield _Change(f"{place} has another type", live=False)
        else:
            yield from _fields(place, section_of(before[name]), before[name], after[name])


def section_of(logger: Logger) -> Section:
    """The section of the table that describes a logger of this type."""
    names = {field.name for field in fields(logger)}
    return next(
        each for each in table.LOGGERS.values() if {setting.name for setting in each.settings} == names - {"name"}
    )


def _fields(place: str, section: Section, old: Any, new: Any) -> Iterator[_Change]:
    live = {setting.name: setting.live for setting in section.settings}
    for field in fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if is_dataclass(before):
            yield from _fields(f"{place}.{field.name}", table.SECURITY, before, after)
        elif before != after:
            text = f"{place}.{field.name}: {_show(before, field.name)} -> {_show(after, field.name)}"
            yield _Change(text, live.get(field.name, False))


def _show(value: Any, name: str) -> str:
    return show_hidden(value, name == "levels" or isinstance(value, LevelSet))
