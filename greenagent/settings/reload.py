"""What a changed configuration means for a running agent: what it applies, what needs a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from greenagent.settings.models import Settings
from greenagent.settings.schema import walk
from greenagent.settings.show import show_setting


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """``applied`` and ``needs_restart`` name every difference, one line each."""

    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """True when the two configurations mean the same."""
        return not self.applied and not self.needs_restart


def changes(old: Settings, new: Settings) -> ReloadPlan:
    """Compares two configurations; settings and sections are declared as ``live`` or not."""
    found = list(_compare(old.sections(), new.sections()))
    return ReloadPlan(tuple(text for text, live in found if live), tuple(text for text, live in found if not live))


def _compare(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    for heading in dict.fromkeys([*old, *new]):
        if heading not in new:
            yield f"{heading} removed", old[heading].section.live
        elif heading not in old:
            yield f"{heading} added", new[heading].section.live
        elif type(old[heading]) is not type(new[heading]):
            yield f"{heading} has another type", old[heading].section.live
        else:
            for (name, setting, before), (_, _, after) in zip(walk(old[heading]), walk(new[heading]), strict=True):
                if before != after:
                    shown = f"{show_setting(setting, before)} -> {show_setting(setting, after)}"
                    yield f"{heading}.{name}: {shown}", setting.live


def merge(old: Settings, new: Settings) -> Settings:
    """The settings to go on with: ``old`` with everything from ``new`` that applies live."""
    after = {logger.name: logger for logger in new.loggers}
    return replace(
        old,
        main=_live(old.main, new.main),
        controllers=new.controllers,
        sinks=new.sinks,
        extensions=new.extensions,
        channel=_live(old.channel, new.channel),
        loggers=tuple(_live(logger, after.get(logger.name)) for logger in old.loggers),
        stats=_live(old.stats, new.stats),
        metrics=_live(old.metrics, new.metrics),
        origins=new.origins,
    )


def _live(old: Any, new: Any) -> Any:
    if type(old) is not type(new):
        return old
    return replace(old, **{name: value for name, setting, value in walk(new) if setting.live})
