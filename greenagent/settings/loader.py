"""Builds the settings: the file, the environment over it, flags over both; every problem at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from greenagent.settings import table
from greenagent.settings.certificates import check_certificates
from greenagent.settings.declaration import Section
from greenagent.settings.gather import FILE, Entry, Gatherer
from greenagent.settings.limits import check_pairs
from greenagent.settings.models import (
    ChannelSettings,
    ConsoleLogger,
    ControllerLogger,
    ControllerSettings,
    DatabaseLogger,
    ExtensionSettings,
    Logger,
    MainSettings,
    MetricsSettings,
    SecuritySettings,
    Settings,
    StartupTask,
    StatsSettings,
    ledger_beside,
)
from greenagent.settings.problems import Place, Report, SettingsError, nearest
from greenagent.settings.startup import check_startup
from greenagent.settings.toml_file import read_document

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, what was odd about them (one line each), every effective value with its origin, and the lines."""

    settings: Settings
    warnings: tuple[str, ...]
    entries: tuple[Entry, ...] = ()
    lines: Mapping[Place, int] = field(default_factory=dict)


def load_settings(
    path: str | Path,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    *,
    certificates: bool = True,
) -> Loaded:
    """Reads a configuration file; ``flags`` are ``gid``, ``nid`` and ``roles`` (None = not given).

    Without ``certificates`` the files of the ``security`` sections are left alone, for programs that
    do not talk to controllers: their users need not be allowed to read the private key.

    Raises SettingsError with one line per problem. Nothing is created or opened for writing.
    """
    document = read_document(Path(path))
    report = Report(document.path, document.lines)
    builder = _Builder(Gatherer(document, environment or {}, flags or {}, report), report, certificates)
    settings = builder.build(document.path)
    if settings is None:
        raise SettingsError(report.problems)
    return Loaded(settings, report.warnings, tuple(builder.entries), document.lines)


class _Builder:
    def __init__(self, gatherer: Gatherer, report: Report, certificates: bool) -> None:
        self._gatherer = gatherer
        self._report = report
        self._certificates = certificates
        self._controllers: dict[str, ControllerSettings] = {}

    @property
    def entries(self) -> list[Entry]:
        return self._gatherer.entries

    def build(self, path: Path) -> Settings | None:
        """The settings, or None when anything is wrong; all sections are read either way."""
        self._gatherer.check_top()
        main = self._main()
        self._controllers = {key: self._controller(key, values) for key, values in self._named("controllers")}
        if not self._controllers:
            self._report.warning((), "no controller is configured, only startup tasks run")
        extensions = self._extensions()
        cmds = self._references(("channel", "cmds"), self._gatherer.fixed(table.CHANNEL)["cmds"])
        loggers = self._loggers()
        stats = self._gatherer.fixed(table.STATS)
        stats["controllers"] = self._resolved(("stats", "controllers"), stats["controllers"])
        metrics = self._gatherer.fixed(table.METRICS)
        startup = tuple(self._startup_task(key, values) for key, values in self._named("startup"))
        check_startup(startup, extensions, self._report)
        if self._report.problems:
            return None
        return Settings(
            main=MainSettings(**main),
            controllers=self._controllers,
            extensions=extensions,
            channel=ChannelSettings(cmds),
            loggers=loggers,
            stats=StatsSettings(**stats),
            metrics=MetricsSettings(**metrics),
            startup=startup,
            path=path,
            origins={entry.name: entry.origin for entry in self.entries},
        )

    def _named(self, name: str) -> Iterable[tuple[str, Values]]:
        return self._gatherer.named(name).items()

    def _main(self) -> Values:
        main = self._gatherer.fixed(table.MAIN)
        history = main["history_file"]
        if main["ledger_file"] is None and history is not None:
            main["ledger_file"] = ledger_beside(history)
            entries = self._gatherer.entries
            for index, entry in enumerate(entries):
                if entry.place == ("main", "ledger_file"):
                    entries[index] = replace(entry, value=main["ledger_file"])
        taken: dict[str, str] = {}
        for name in ("message_id_file", "history_file", "ledger_file"):
            if main[name] is not None:
                resolved = os.path.abspath(main[name])
                if resolved in taken:
                    self._report.problem(("main", name), f"is the same file as {taken[resolved]}")
                taken[resolved] = name
        return main

    def _controller(self, key: str, values: Values) -> ControllerSettings:
        place = ("controllers", key)
        checked = self._gatherer.section(table.CONTROLLER, place, values, also=("security",))
        files = self._gatherer.section(table.SECURITY, (*place, "security"), self._gatherer.table((*place, "security")))
        security = SecuritySettings(**files)
        for fault in check_certificates(security) if self._certificates else ():
            note = self._report.problem if fault.fatal else self._report.warning
            note((*place, "security", fault.key), fault.text)
        url = (checked["url"] or "").rstrip("/")
        if url.lower().startswith("http:") and any(files.values()):
            self._report.warning((*place, "url"), "is not https, so the files of its security section are not used")
        return ControllerSettings(key, url, security)

    def _extensions(self) -> dict[str, ExtensionSettings]:
        found: dict[str, ExtensionSettings] = {}
        for spelling in ("extensions", "extension"):
            for name, values in self._named(spelling):
                checked = self._gatherer.section(table.EXTENSION, (spelling, name), values)
                if name in found:
                    self._report.problem((spelling, name), "this extension is also given below [extensions]")
                found[name] = ExtensionSettings(name=name, **_stand_in(table.EXTENSION, checked))
        return found

    def _loggers(self) -> tuple[Logger, ...]:
        loggers: list[Logger] = []
        database = ""
        for name, values in self._named("logging"):
            place = ("logging", name)
            kind = values.get("type")
            section = table.LOGGERS.get(kind.lower()) if isinstance(kind, str) else None
            if section is None:
                known = [each.variant for each in table.LOGGERS.values()]
                if kind is None:
                    text = f"is missing: it is one of {', '.join(known)}"
                else:
                    shown = f"'{kind}'" if isinstance(kind, str) else "this"
                    text = f"{shown} is no type of logger, known are {', '.join(known)}{nearest(str(kind), known)}"
                self._report.problem((*place, "type"), text)
                continue
            self._gatherer.entries.append(Entry((*place, "type"), section.variant, FILE))
            checked = self._gatherer.section(section, place, values, also=("type",))
            if section is table.DATABASE_LOGGER:
                if database:
                    self._report.problem(place, f"is a second logger of type DB beside '{database}', keep one of them")
                database = name
                loggers.append(DatabaseLogger(name=name, **checked))
            elif section is table.CONTROLLER_LOGGER:
                checked["controllers"] = self._resolved((*place, "controllers"), checked["controllers"])
                loggers.append(ControllerLogger(name=name, **checked))
            else:
                loggers.append(ConsoleLogger(name=name, **checked))
        check_pairs((logger for logger in loggers if isinstance(logger, ControllerLogger)), self._report)
        return tuple(loggers)

    def _startup_task(self, task_id: str, values: Values) -> StartupTask:
        checked = self._gatherer.section(table.STARTUP, ("startup", task_id), values)
        return StartupTask(id=task_id, **_stand_in(table.STARTUP, checked))

    def _resolved(self, place: Place, names: tuple[str, ...] | None) -> tuple[str, ...]:
        return self._references(place, names) or tuple(self._controllers)

    def _references(self, place: Place, names: tuple[str, ...] | None) -> tuple[str, ...]:
        """Names of controllers without repetitions; unknown ones are problems."""
        for name in names or ():
            if name not in self._controllers:
                known = ", ".join(self._controllers) or "none"
                hint = nearest(name, self._controllers) or f" (configured: {known})"
                self._report.problem(place, f"there is no controller '{name}'{hint}")
        return tuple(dict.fromkeys(names or ()))


def _stand_in(section: Section, values: Values) -> Values:
    """Empty values for those that were refused, so that the checks across sections can go on."""
    return {
        setting.name: setting.kind.empty if values[setting.name] is None else values[setting.name]
        for setting in section.settings
    }
