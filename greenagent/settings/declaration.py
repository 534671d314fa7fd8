"""How a setting is declared, once, in ``table``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from greenagent.settings import checks
from greenagent.settings.kinds import Kind


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()
"""The default of a setting that has none."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. ``live`` says whether SIGHUP applies a change; ``originals`` are spellings of the originals."""

    name: str
    kind: Kind
    default: Any
    help: str
    unit: str = ""
    check: Callable[[Any], str] = checks.anything
    live: bool = False
    originals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the file. ``pattern`` has ``<...>`` where the user chooses a name.

    ``variant`` is a logger's type. ``ignored`` are keys that only the originals know, with what to say.
    """

    pattern: str
    help: str
    settings: tuple[Setting, ...]
    variant: str = ""
    ignored: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """The heading for people: ``logging.<name>, type DB``."""
        return self.pattern + (f" (type {self.variant})" if self.variant else "")

    @property
    def fixed(self) -> bool:
        """True for a section with one name, whose settings environment variables can override."""
        return "<" not in self.pattern
