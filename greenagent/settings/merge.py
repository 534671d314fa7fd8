"""The settings a running agent goes on with after a reload: new where a change applies live, else as before."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

from greenagent.settings import table
from greenagent.settings.declaration import Section
from greenagent.settings.models import Logger, Settings
from greenagent.settings.reload import section_of

Part = TypeVar("Part")


def merge(old: Settings, new: Settings) -> Settings:
    """``old`` with everything from ``new`` that the table says applies live; see ``reload.changes``."""
    after = {logger.name: logger for logger in new.loggers}
    return replace(
        old,
        main=_live(table.MAIN, old.main, new.main),
        controllers=new.controllers,
        extensions=new.extensions,
        channel=_live(table.CHANNEL, old.channel, new.channel),
        loggers=tuple(_logger(logger, after.get(logger.name)) for logger in old.loggers),
        stats=_live(table.STATS, old.stats, new.stats),
        metrics=_live(table.METRICS, old.metrics, new.metrics),
        origins=new.origins,
    )


def _logger(old: Logger, new: Logger | None) -> Any:
    return _live(section_of(old), old, new) if type(old) is type(new) else old


def _live(section: Section, old: Part, new: Part) -> Part:
    live = {setting.name for setting in section.settings if setting.live}
    changed: dict[str, Any] = {field.name: getattr(new, field.name) for field in fields(old) if field.name in live}  # type: ignore[arg-type]
    return replace(old, **changed)  # type: ignore[type-var]
