"""Builds the settings: the file, the environment over it, flags over both; every problem at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from greenagent.settings.certificates import check_certificates
from greenagent.settings.check import check_pairs, check_startup
from greenagent.settings.models import (
    LOGGERS,
    MODELS,
    ChannelSettings,
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
from greenagent.settings.schema import ENVIRONMENT_PREFIX, REQUIRED, Section, Setting, ValueProblem, declared, describe
from greenagent.settings.toml_file import Document, read_document

FLAGS = ("gid", "nid", "roles")
"""Command line flags (without ``--``), each of which overrides the setting of its name in ``main``."""
OTHER_VARIABLES = ("GREENAGENT_JOB", "GREENAGENT_CTL_", "GREENAGENT_CONTROLLER_", "GREENAGENT_HANDOVER")
"""Names and beginnings of variables that are no settings: a job's tag, other programs' options, a handover."""
IGNORED_SECTIONS = {"hubble": "is not used, tunnels are not offered"}

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, what was odd about them (one line each), and the lines of the file where they stand."""

    settings: Settings
    warnings: tuple[str, ...]
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
    settings = _Loader(document, environment or {}, flags or {}, report).load(certificates)
    if report.problems:
        raise SettingsError(report.problems)
    return Loaded(settings, report.warnings, document.lines)


class _Loader:
    """Reads section after section; a value that is refused becomes a problem, and its default takes its place."""

    def __init__(
        self, document: Document, environment: Mapping[str, str], flags: Mapping[str, object], report: Report
    ) -> None:
        self._document = document
        self._environment = environment
        self._flags = {("main", name): flags[name] for name in FLAGS if flags.get(name) is not None}
        self._report = report
        self._controllers: dict[str, ControllerSettings] = {}
        self._origins: dict[str, str] = {}

    def load(self, certificates: bool) -> Settings:
        """All sections, whatever is wrong with them: the caller looks at the report."""
        self._check_sections()
        self._check_variables()
        main = self._main()
        self._controllers = {key: self._controller(key, certificates) for key in self._names("controllers")}
        if not self._controllers:
            self._report.warning((), "no controller is configured, only startup tasks run")
        extensions = self._extensions()
        cmds = self._known_controllers(("channel", "cmds"), self._section(ChannelSettings, ("channel",)).cmds)
        loggers = self._loggers()
        stats = self._section(StatsSettings, ("stats",))
        settings = Settings(
            main=main,
            controllers=self._controllers,
            extensions=extensions,
            channel=ChannelSettings(cmds),
            loggers=loggers,
            stats=replace(stats, controllers=self._resolved(("stats", "controllers"), stats.controllers)),
            metrics=self._section(MetricsSettings, ("metrics",)),
            startup=tuple(self._section(StartupTask, ("startup", key), id=key) for key in self._names("startup")),
            path=self._document.path,
            origins=self._origins,
        )
        check_pairs(settings, self._report)
        check_startup(settings, self._report)
        return settings

    # -- sections

    def _main(self) -> MainSettings:
        main = self._section(MainSettings, ("main",))
        if not main.ledger_file:
            main = replace(main, ledger_file=ledger_beside(main.history_file))
        taken: dict[str, str] = {}
        for name in ("message_id_file", "history_file", "ledger_file"):
            if f"main.{name}" in self._origins:  # it was not refused
                path = os.path.abspath(getattr(main, name))
                if path in taken:
                    self._report.problem(("main", name), f"is the same file as {taken[path]}")
                taken[path] = name
        return main

    def _controller(self, key: str, certificates: bool) -> ControllerSettings:
        place = ("controllers", key)
        security = self._section(SecuritySettings, (*place, "security"))
        controller = self._section(ControllerSettings, place, also="security", key=key, security=security)
        for fault in check_certificates(security) if certificates else ():
            note = self._report.problem if fault.fatal else self._report.warning
            note((*place, "security", fault.key), fault.text)
        if controller.url.lower().startswith("http:") and security != SecuritySettings():
            self._report.warning((*place, "url"), "is not https, so the files of its security section are not used")
        return replace(controller, url=controller.url.rstrip("/"))

    def _extensions(self) -> dict[str, ExtensionSettings]:
        found: dict[str, ExtensionSettings] = {}
        for spelling in ("extensions", "extension"):
            for name in self._names(spelling):
                if name in found:
                    self._report.problem((spelling, name), "this extension is also given below [extensions]")
                found[name] = self._section(ExtensionSettings, (spelling, name), name=name)
        return found

    def _loggers(self) -> tuple[Logger, ...]:
        types: dict[str, Any] = {model.section.variant.lower(): model for model in LOGGERS}
        loggers: list[Logger] = []
        database = ""
        for name in self._names("logging"):
            place = ("logging", name)
            kind = self._table(place).get("type")
            model = types.get(kind.lower()) if isinstance(kind, str) else None
            if model is None:
                known = [each.section.variant for each in LOGGERS]
                shown = f"'{kind}'" if isinstance(kind, str) else "this"
                text = f"{shown} is no type of logger, known are {', '.join(known)}{nearest(str(kind), known)}"
                if kind is None:
                    text = f"is missing: it is one of {', '.join(known)}"
                self._report.problem((*place, "type"), text)
                continue
            logger = self._section(model, place, also="type", name=name)
            if isinstance(logger, DatabaseLogger):
                if database:
                    self._report.problem(place, f"is a second logger of type DB beside '{database}', keep one of them")
                database = name
            elif isinstance(logger, ControllerLogger):
                keys = self._resolved((*place, "controllers"), logger.controllers)
                logger = replace(logger, controllers=keys)
            loggers.append(logger)
        return tuple(loggers)

    def _resolved(self, place: Place, keys: tuple[str, ...]) -> tuple[str, ...]:
        return self._known_controllers(place, keys) or tuple(self._controllers)

    def _known_controllers(self, place: Place, keys: tuple[str, ...]) -> tuple[str, ...]:
        """Keys of controllers without repetitions; unknown ones are problems."""
        for key in keys:
            if key not in self._controllers:
                known = ", ".join(self._controllers) or "none"
                hint = nearest(key, self._controllers) or f" (configured: {known})"
                self._report.problem(place, f"there is no controller '{key}'{hint}")
        return tuple(dict.fromkeys(keys))

    # -- one section

    def _table(self, place: Place) -> dict[str, Any]:
        """The table at a place, empty when there is none or when it is something else (a problem)."""
        table = self._document.values
        for name in place:
            found = table.get(name, {})
            if not isinstance(found, dict):
                self._report.problem(place, f"must be a table, not {describe(found)}")
                return {}
            table = found
        return table

    def _names(self, group: str) -> list[str]:
        """The names the user chose for the sections of a group, such as the keys of the controllers."""
        return [name for name, value in self._table((group,)).items() if self._usable((group, name), value)]

    def _usable(self, place: Place, value: Any) -> bool:
        name = place[-1]
        text = ""
        if not isinstance(value, dict):
            text = f"must be a table, not {describe(value)}"
        elif not name or not name.isprintable() or len(name) > 200:
            text = "the name must be 1 to 200 characters, none of them a control character"
        if text:
            self._report.problem(place, text)
        return not text

    def _section(self, model: type[Part], place: Place, also: str = "", **given: Any) -> Part:
        """A section as its dataclass. ``also``: a key of it that the caller reads; ``given``: fields it knows."""
        section: Section = model.section  # type: ignore[attr-defined]
        settings = declared(model)
        table = self._table(place)
        spellings = {name: setting for setting in settings for name in settings[setting].originals}
        for key in table:
            if key in section.ignored:
                self._report.warning((*place, key), section.ignored[key])
            elif key in spellings:
                use = "is not used beside" if spellings[key] in table else "is an original's spelling, write"
                self._report.warning((*place, key), f"{use} {spellings[key]}")
            elif key not in settings and key != also:
                what = f"logger (type {section.variant})" if section.variant else "section"
                hint = nearest(key, [*settings, also]) or _home(key)
                self._report.problem((*place, key), f"is not a setting of this {what}{hint}")
        values = {name: self._value(section, name, settings[name], place, table) for name in settings}
        return model(**given, **values)

    def _value(self, section: Section, name: str, setting: Setting, place: Place, table: dict[str, Any]) -> Any:
        """The value from a flag, a variable or the file; the default where there is none, or where it is refused."""
        where, source = (*place, name), ""
        variable = section.variable(name)
        if where in self._flags:
            source, origin, given = f"--{name}", "flag", self._flags[where]
        elif variable in self._environment:
            source, origin, given = variable, "environment", self._environment[variable]
        else:
            written = next((key for key in (name, *setting.originals) if key in table), "")
            if written:
                where, origin, given = (*place, written), "file", table[written]
            else:
                origin, given = "default", setting.default
        default = setting.kind.empty if setting.default is REQUIRED else setting.kind.read(setting.default)
        if given is REQUIRED:
            self._report.problem(where, "is missing")
            return default
        try:
            value = setting.kind.read_text(given) if source and isinstance(given, str) else setting.kind.read(given)
            wrong = setting.check(value)
        except ValueProblem as problem:
            wrong = str(problem)
        if wrong:
            self._report.problem(where, wrong, source)
            return default
        self._origins[".".join((section.group, *place[1:], name))] = origin
        return value

    # -- names that are unknown

    def _check_sections(self) -> None:
        known = [*dict.fromkeys(model.section.group for model in MODELS), "extension"]
        homes = {name: model.section.pattern for model in MODELS for name in declared(model)}
        for name, value in self._document.values.items():
            if name in IGNORED_SECTIONS:
                self._report.warning((name,), IGNORED_SECTIONS[name])
            elif name not in known:
                if isinstance(value, dict):
                    text = f"is not a section{nearest(name, known)}"
                elif name in homes:
                    text = f"stands outside of any section, put it below [{homes[name]}]"
                else:
                    text = f"stands outside of any section and is no setting{nearest(name, homes)}"
                self._report.problem((name,), text)

    def _check_variables(self) -> None:
        known = {model.section.variable(name) for model in MODELS for name in declared(model)} - {""}
        for name in sorted(self._environment):
            ours = name.startswith(ENVIRONMENT_PREFIX) and not name.startswith(OTHER_VARIABLES)
            if ours and name not in known:
                self._report.warning((), f"this variable sets nothing{nearest(name, known)}", name)


def _home(key: str) -> str:
    """Where a setting that stands in the wrong section belongs."""
    homes = [model.section.title for model in MODELS if key in declared(model)]
    return f", it belongs to [{homes[0]}]" if len(homes) == 1 else ""
