"""Walks a document with the table of settings in hand: every value found, checked, and its origin noted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from greenagent.settings import kinds, table
from greenagent.settings.declaration import REQUIRED, Section, Setting
from greenagent.settings.kinds import ValueProblem
from greenagent.settings.problems import Place, Report, nearest
from greenagent.settings.toml_file import Document

DEFAULT = "default"
FILE = "file"
ENVIRONMENT = "environment"
FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Entry:
    """One effective value: where it stands, what it is, where it came from."""

    place: Place
    value: Any
    origin: str

    @property
    def name(self) -> str:
        """``section.key``."""
        return ".".join(self.place)


class Gatherer:
    """Reads sections one by one; problems and warnings go to the report."""

    def __init__(
        self, document: Document, environment: Mapping[str, str], flags: Mapping[str, object], report: Report
    ) -> None:
        self._values = document.values
        self._environment = environment
        self._report = report
        self._flags = {table.FLAGS[name]: (f"--{name}", value) for name, value in flags.items() if value is not None}
        self.entries: list[Entry] = []

    def check_top(self) -> None:
        """Names every section that is not one, and every variable that sets nothing."""
        ignored = dict(table.IGNORED_SECTIONS)
        for name, value in self._values.items():
            if name in ignored:
                self._report.warning((name,), ignored[name])
            elif name not in table.SECTION_NAMES:
                self._report.problem((name,), self._unknown_section(name, value))
        known = {
            table.variable_name(section, setting)
            for section in table.SECTIONS
            if section.fixed
            for setting in section.settings
        }
        for name in sorted(self._environment):
            ours = name.startswith(table.ENVIRONMENT_PREFIX) and not name.startswith(table.OTHER_VARIABLES)
            if ours and name not in known:
                self._report.warning((), f"this variable sets nothing{nearest(name, known)}", name)

    @staticmethod
    def _unknown_section(name: str, value: Any) -> str:
        if isinstance(value, dict):
            return f"is not a section{nearest(name, table.SECTION_NAMES)}"
        homes = {setting.name: section.pattern for section in table.SECTIONS for setting in section.settings}
        if name in homes:
            return f"stands outside of any section, put it below [{homes[name]}]"
        return f"stands outside of any section and is no setting{nearest(name, homes)}"

    def fixed(self, section: Section) -> dict[str, Any]:
        """The values of a section with one name."""
        return self.section(section, (section.pattern,), self.table((section.pattern,)))

    def table(self, place: Place) -> dict[str, Any]:
        """The table at a place, empty when there is none or when it is something else (a problem)."""
        found: Any = self._values
        for name in place:
            found = found.get(name)
            if found is None:
                return {}
            if not isinstance(found, dict):
                self._report.problem(place, f"must be a table, not {kinds.describe(found)}")
                return {}
        return dict(found)

    def named(self, name: str) -> dict[str, dict[str, Any]]:
        """The tables below a section whose names the user chose, such as the controllers."""
        tables = self.table((name,))
        return {key: self.table((name, key)) for key in tables if self._usable((name, key), tables[key])}

    def _usable(self, place: Place, value: Any) -> bool:
        name = place[-1]
        if not isinstance(value, dict):
            self._report.problem(place, f"must be a table, not {kinds.describe(value)}")
            return False
        if name and name.isprintable() and len(name) <= 200:
            return True
        self._report.problem(place, "the name must be 1 to 200 characters, none of them a control character")
        return False

    def section(
        self, section: Section, place: Place, values: dict[str, Any], also: Iterable[str] = ()
    ) -> dict[str, Any]:
        """The checked values of one section by key; ``also`` are keys that the caller reads."""
        ignored = dict(section.ignored)
        known = {setting.name for setting in section.settings} | set(also)
        spellings = {name: setting.name for setting in section.settings for name in setting.originals}
        for key in values:
            if key in ignored:
                self._report.warning((*place, key), ignored[key])
            elif key in spellings:
                use = "is not used beside" if spellings[key] in values else "is an original's spelling, write"
                self._report.warning((*place, key), f"{use} {spellings[key]}")
            elif key not in known:
                what = f"is not a setting of this {'logger' if section.variant else 'section'}"
                what += f" (type {section.variant})" if section.variant else ""
                self._report.problem((*place, key), what + (nearest(key, known) or _home(key)))
        return {setting.name: self._setting(section, setting, place, values) for setting in section.settings}

    def _setting(self, section: Section, setting: Setting, place: Place, values: dict[str, Any]) -> Any:
        where = (*place, setting.name)
        variable = table.variable_name(section, setting)
        if where in self._flags:
            source, given = self._flags[where]
            read = setting.kind.from_text if isinstance(given, str) else setting.kind.read
            return self._checked(setting, where, read, given, FLAG, source)
        if section.fixed and variable in self._environment:
            return self._checked(
                setting, where, setting.kind.from_text, self._environment[variable], ENVIRONMENT, variable
            )
        for name in (setting.name, *setting.originals):
            if name in values:
                return self._checked(setting, where, setting.kind.read, values[name], FILE, "", (*place, name))
        if setting.default is REQUIRED:
            self._report.problem(where, "is missing")
            return None
        return self._checked(setting, where, setting.kind.read, setting.default, DEFAULT, "")

    def _checked(
        self, setting: Setting, where: Place, read: Any, given: Any, origin: str, source: str, written: Place = ()
    ) -> Any:
        """The value in its own type, or None when it is not acceptable (a problem)."""
        try:
            value = read(list(given) if isinstance(given, tuple) else given)
            wrong = setting.check(value)
        except ValueProblem as problem:
            value, wrong = None, str(problem)
        if wrong:
            self._report.problem(written or where, wrong, source)
            return None
        self.entries.append(Entry(where, value, origin))
        return value


def _home(key: str) -> str:
    """Where a setting that stands in the wrong section belongs."""
    homes = [section.title for section in table.SECTIONS if key in {setting.name for setting in section.settings}]
    return f", it belongs to [{homes[0]}]" if len(homes) == 1 else ""
