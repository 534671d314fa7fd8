"""Builds the settings: the file, the environment over it, flags over both; every problem at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from greenagent.settings.check import (
    check_files,
    check_listen,
    check_pairs,
    check_sinks,
    check_startup,
    check_transport,
)
from greenagent.settings.destinations import (
    SINK_TYPE,
    SINKS,
    ControllerSettings,
    OtlpSink,
    SecuritySettings,
    Sink,
    SinkSecurity,
)
from greenagent.settings.models import (
    LOGGER_TYPE,
    LOGGERS,
    MODELS,
    ChannelSettings,
    DatabaseLogger,
    ExtensionSettings,
    Logger,
    MainSettings,
    MetricsSettings,
    Settings,
    StartupTask,
    StatsSettings,
    ledger_beside,
)
from greenagent.settings.places import choose, folder_of
from greenagent.settings.problems import Place, Report, SettingsError
from greenagent.settings.schema import (
    CONTROLLERS,
    ENVIRONMENT_PREFIX,
    PATH,
    Section,
    Setting,
    ValueProblem,
    declared,
    describe,
)
from greenagent.settings.toml_file import read_toml
from greenagent.values.text import nearest

FLAGS = ("gid", "nid", "roles")
"""Command line flags (without ``--``), each of which overrides the setting of its name in ``main``."""
OTHER_VARIABLES = (
    "GREENAGENT_CONFIG",
    "GREENAGENT_JOB",
    "GREENAGENT_CTL_",
    "GREENAGENT_CONTROLLER_",
    "GREENAGENT_HANDOVER",
)
"""Names and beginnings of variables that are no settings: the file, a job's tag, options of others, a handover."""
IGNORED_SECTIONS = {
    "hubble": "is not used, tunnels are not offered",
    "redis_stats": "is not used, statistics go to controllers",
}
IGNORED_LOGGERS = {"redis": "is not used, there is no logger of type redis"}
LONG_INTERVAL = 3600
"""Seconds between statistics from which on milliseconds were probably meant, as an original counts them."""

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
    files: bool = True,
    reads_only: bool = False,
) -> Loaded:
    """Reads a configuration file; ``flags`` are ``gid``, ``nid`` and ``roles`` (None = not given).

    Without ``files`` nobody looks at what the files are like that an agent trusts (``check_files``), for programs
    that are none: their users need not be allowed to read the private key. ``reads_only``: see ``places.choose``.

    Raises SettingsError with one line per problem. Nothing is created or opened for writing.
    """
    path = Path(path)
    values, lines = read_toml(path)
    report = Report(path, lines)
    folder = folder_of(path)
    settings = _Loader(values, environment or {}, flags or {}, report, folder).load(path)
    if folder is not None and not report.problems:
        there = _Loader(values, environment or {}, flags or {}, Report(path, lines), None).load(path)
        settings = choose(settings, there, report, reads_only=reads_only)
    if files:
        check_files(settings, report)
    if report.problems:
        raise SettingsError(report.problems)
    return Loaded(settings, report.warnings, lines)


class _Loader:
    """Reads section after section; a value that is refused becomes a problem, and its default takes its place."""

    def __init__(
        self,
        values: dict[str, Any],
        environment: Mapping[str, str],
        flags: Mapping[str, object],
        report: Report,
        folder: Path | None,
    ) -> None:
        """``folder``: what relative paths of the file are against; None for the working directory."""
        self._values = values
        self._report = report
        self._folder = folder
        self._controllers: dict[str, ControllerSettings] = {}
        self._origins: dict[str, str] = {}
        self._overrides: dict[Place, tuple[str, str, Any]] = {}
        self._take_variables(environment)
        for name in FLAGS:
            if flags.get(name) is not None:
                self._overrides["main", name] = ("flag", f"--{name}", flags[name])

    def _take_variables(self, environment: Mapping[str, str]) -> None:
        known = {
            model.section.variable(name): (model.section.pattern, name) for model in MODELS for name in declared(model)
        }
        for variable in sorted(environment):
            if variable in known:
                self._overrides[known[variable]] = ("environment", variable, environment[variable])
            elif variable.startswith(ENVIRONMENT_PREFIX) and not variable.startswith(OTHER_VARIABLES):
                self._report.warning((), f"this variable sets nothing{nearest(variable, known)}", variable)

    def load(self, path: Path) -> Settings:
        """All sections, whatever is wrong with them: the caller looks at the report."""
        self._check_groups()
        main = self._main()
        self._controllers = {key: self._controller(key) for key in self._names("controllers")}
        if not self._controllers:
            self._report.warning((), "no controller is configured, only startup tasks run")
        settings = Settings(
            main=main,
            controllers=self._controllers,
            sinks=self._sinks(),
            extensions=self._extensions(),
            channel=self._section(ChannelSettings, ("channel",)),
            loggers=self._loggers(),
            stats=self._section(StatsSettings, ("stats",)),
            metrics=self._section(MetricsSettings, ("metrics",)),
            startup=tuple(self._section(StartupTask, ("startup", key), id=key) for key in self._names("startup")),
            path=path,
            origins=self._origins,
        )
        check_sinks(settings, self._report)
        check_transport(settings, self._report)
        check_pairs(settings, self._report)
        check_listen(settings, self._report)
        check_startup(settings, self._report)
        if settings.stats.interval >= LONG_INTERVAL:
            given = settings.stats.interval
            text = f"is {given} seconds; if milliseconds are meant, as original agents count them, write"
            self._report.warning(("stats", "interval"), f"{text} {given // 1000}")
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

    def _controller(self, key: str) -> ControllerSettings:
        place = ("controllers", key)
        security = self._section(SecuritySettings, (*place, "security"))
        controller = self._section(ControllerSettings, place, ("security",), key=key, security=security)
        self._check_use(place, controller.url, security)
        return replace(controller, url=controller.url.rstrip("/"))

    def _sinks(self) -> dict[str, Sink]:
        found: dict[str, Sink] = {}
        for key in self._names("sinks"):
            place = ("sinks", key)
            if (model := self._variant(place, SINK_TYPE, SINKS)) is None:
                continue
            security = self._section(SinkSecurity, (*place, "security"))
            sink: Sink = self._section(model, place, ("type", "security"), key=key, security=security)
            self._check_use(place, sink.url, security)
            found[key] = replace(sink, url=sink.url.rstrip("/")) if isinstance(sink, OtlpSink) else sink
        return found

    def _check_use(self, place: Place, url: str, security: SecuritySettings) -> None:
        if url.lower().startswith("http:") and security != type(security)():
            self._report.warning((*place, "url"), "is not https, so the files of its security section are not used")

    def _extensions(self) -> dict[str, ExtensionSettings]:
        found: dict[str, ExtensionSettings] = {}
        for spelling in ("extensions", "extension"):
            for name in self._names(spelling):
                if name in found:
                    self._report.problem((spelling, name), "this extension is also given below [extensions]")
                found[name] = self._section(ExtensionSettings, (spelling, name), name=name)
        return found

    def _loggers(self) -> tuple[Logger, ...]:
        loggers: list[Logger] = []
        database = ""
        for name in self._names("logging"):
            place = ("logging", name)
            kind = self._table(place).get("type")
            if isinstance(kind, str) and kind.lower() in IGNORED_LOGGERS:
                self._report.warning(place, IGNORED_LOGGERS[kind.lower()])
                continue
            if (model := self._variant(place, LOGGER_TYPE, LOGGERS)) is None:
                continue
            logger = self._section(model, place, ("type",), name=name)
            if isinstance(logger, DatabaseLogger):
                if database:
                    self._report.problem(place, f"is a second logger of type DB beside '{database}', keep one of them")
                database = name
            loggers.append(logger)
        return tuple(loggers)

    def _variant(self, place: Place, kind: Setting, models: Iterable[Any]) -> Any:
        """The dataclass that the ``type`` of a section names; None where that is refused."""
        types = {model.section.variant.lower(): model for model in models}
        return types.get(self._value((*place, "type"), kind, self._table(place)).lower())

    def _resolve(self, place: Place, keys: tuple[str, ...]) -> tuple[str, ...]:
        """Keys of controllers without repetitions, all of them where none is named; unknown ones are problems."""
        for key in keys:
            if key not in self._controllers:
                known = ", ".join(self._controllers) or "none"
                hint = nearest(key, self._controllers) or f" (configured: {known})"
                if key in self._table(("sinks",)):
                    hint = f"; [sinks.{key}] says itself what is sent there"
                self._report.problem(place, f"there is no controller '{key}'{hint}")
        return tuple(dict.fromkeys(keys or self._controllers))

    # -- one section

    def _table(self, place: Place) -> dict[str, Any]:
        """The table at a place, empty when there is none or when it is something else (a problem)."""
        table = self._values
        for name in place:
            found = table.get(name, {})
            if not isinstance(found, dict):
                self._report.problem(place, f"must be a table, not {describe(found)}")
                return {}
            table = found
        return table

    def _names(self, group: str) -> Iterator[str]:
        """The names the user chose for the sections of a group, such as the keys of the controllers."""
        for name, value in self._table((group,)).items():
            if not isinstance(value, dict):
                self._report.problem((group, name), f"must be a table, not {describe(value)}")
            elif not name or not name.isprintable() or len(name) > 200:
                text = "the name must be 1 to 200 characters, none of them a control character"
                self._report.problem((group, name), text)
            else:
                yield name

    def _section(self, model: type[Part], place: Place, also: Collection[str] = (), **given: Any) -> Part:
        """A section as its dataclass. ``also``: keys of it that the caller reads; ``given``: fields it knows."""
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
            elif key not in settings and key not in also:
                kind = "sink" if section.group == "sinks" else "logger"
                what = f"{kind} (type {section.variant})" if section.variant else "section"
                hint = nearest(key, [*settings, *also]) or _home(key, section.group)
                self._report.problem((*place, key), f"is not a setting of this {what}{hint}")
        values = {name: self._value((*place, name), settings[name], table) for name in settings}
        return model(**given, **values)

    def _value(self, place: Place, setting: Setting, table: dict[str, Any]) -> Any:
        """The value from a flag, a variable, the file or the declaration, and a problem if it is refused."""
        written = next((name for name in (place[-1], *setting.originals) if name in table), "")
        if place in self._overrides:
            origin, source, given = self._overrides[place]
        elif written:
            origin, source, given = "file", "", table[written]
        else:
            origin, source, given = "default", "", setting.default
        try:
            value = setting.read(given, is_text=bool(source))
        except ValueProblem as problem:
            self._report.problem((*place[:-1], written or place[-1]), str(problem), source)
            return setting.stand_in
        group = "extensions" if place[0] == "extension" else place[0]
        self._origins[".".join((group, *place[1:]))] = origin
        if setting.kind is PATH and value is not None and self._folder is not None and origin in ("file", "default"):
            return self._folder / value
        return self._resolve(place, value) if setting.kind is CONTROLLERS else value

    def _check_groups(self) -> None:
        known = [*dict.fromkeys(model.section.group for model in MODELS), "extension"]
        for name, value in self._values.items():
            if name in IGNORED_SECTIONS:
                self._report.warning((name,), IGNORED_SECTIONS[name])
            elif name not in known and isinstance(value, dict):
                self._report.problem((name,), f"is not a section{nearest(name, known)}")
            elif name not in known:
                hint = _home(name) or nearest(name, [key for model in MODELS for key in declared(model)])
                self._report.problem((name,), f"stands outside of any section{hint}")


def _home(key: str, group: str = "") -> str:
    """Where a setting that stands in the wrong section belongs: if possible, to another of the same ``group``."""
    homes = [model.section for model in MODELS if key in declared(model)]
    homes = [section for section in homes if section.group == group] or homes
    return f", it belongs to [{homes[0].title}]" if len(homes) == 1 else ""
