"""What is wrong with a configuration: collected while it is read, told all at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from greenagent.values.errors import GreenagentError

Place = tuple[str, ...]
"""Where a value stands: the names of its tables and its own, as ``("controllers", "main", "url")``."""


class SettingsError(GreenagentError):
    """A configuration that cannot be used. ``problems`` holds one line for everything that is wrong."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Report:
    """Problems and warnings of one configuration, one line each: file, line, section, key, what is wrong."""

    def __init__(self, path: Path, lines: Mapping[Place, int]) -> None:
        self._path = path
        self._lines = lines
        self._problems: dict[str, int] = {}
        self._warnings: dict[str, int] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """What makes the configuration unusable, in the order of the file."""
        return tuple(sorted(self._problems, key=self._problems.__getitem__))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd but harmless, in the order of the file."""
        return tuple(sorted(self._warnings, key=self._warnings.__getitem__))

    def problem(self, place: Place, text: str, source: str = "") -> None:
        """Notes a problem. ``source`` names a variable or flag where the value did not come from the file."""
        self._note(self._problems, place, text, source)

    def warning(self, place: Place, text: str, source: str = "") -> None:
        """Notes a warning, likewise."""
        self._note(self._warnings, place, text, source)

    def _note(self, notes: dict[str, int], place: Place, text: str, source: str) -> None:
        number = 0 if source else self._line(place)
        position = source or (f"{self._path}:{number}" if number else str(self._path))
        section = ""
        if place and not source:
            section = f"[{'.'.join(place[:-1])}] {place[-1]}: " if len(place) > 1 else f"[{place[0]}]: "
        notes.setdefault(" ".join(f"{position}: {section}{text}".split()), number)

    def _line(self, place: Place) -> int:
        """The line of a place, or of the nearest table around it; 0 for none."""
        around = (place[:length] for length in range(len(place), 0, -1))
        return next((self._lines[each] for each in around if each in self._lines), 0)
