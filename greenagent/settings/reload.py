"""What a changed configuration means for a running agent: what it applies, what needs a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from greenagent.settings.models import Settings
from greenagent.settings.schema import declared
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
    """Compares two configurations; a setting and a section say themselves whether they apply ``live``."""
    plan: dict[bool, list[str]] = {True: [], False: []}
    for live, text in _compare(old, new):
        plan[live].append(text)
    return ReloadPlan(tuple(plan[True]), tuple(plan[False]))


def _compare(old: Settings, new: Settings) -> Iterator[tuple[bool, str]]:
    for before, after in zip(old.sections(), new.sections(), strict=True):
        for heading in dict.fromkeys([*before, *after]):
            if heading not in after:
                yield before[heading].section.live, f"{heading} removed"
            elif heading not in before:
                yield after[heading].section.live, f"{heading} added"
            elif type(before[heading]) is not type(after[heading]):
                yield False, f"{heading} has another type"
            else:
                yield from _compare_settings(heading, before[heading], after[heading])


def _compare_settings(heading: str, old: Any, new: Any) -> Iterator[tuple[bool, str]]:
    settings = declared(old)
    for field in fields(old):
        name = field.name
        before, after = getattr(old, name), getattr(new, name)
        if is_dataclass(before):
            yield from _compare_settings(f"{heading}.{name}", before, after)
        elif before != after:
            setting = settings[name]
            text = f"{heading}.{name}: {show_setting(setting, before)} -> {show_setting(setting, after)}"
            yield setting.live, text


def merge(old: Settings, new: Settings) -> Settings:
    """The settings to go on with: ``old`` with everything from ``new`` that applies live."""
    after = {logger.name: logger for logger in new.loggers}
    return replace(
        old,
        main=_live(old.main, new.main),
        controllers=new.controllers,
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
    return replace(old, **{name: getattr(new, name) for name, setting in declared(old).items() if setting.live})
