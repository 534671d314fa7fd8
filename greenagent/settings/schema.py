"""How a setting is declared: its kind, default, check and help stand once, at its field in ``models``.

``setting()`` makes a dataclass field that carries its ``Setting``; ``declared()`` finds them again. Loading, defaults,
checks, ``--print-config``, docs/configuration.md and the reload plan all go by these declarations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from greenagent.values.errors import LevelError
from greenagent.values.levels import LevelSet, parse_levels
from greenagent.values.text import AddressError, hide_passwords, parse_address, zone_fault

ENVIRONMENT_PREFIX: Final = "GREENAGENT_"
OTLP_PATHS: Final = ("/v1/logs", "/v1/metrics")
OWN_HEADERS: Final = frozenset(
    {"accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding", "user-agent"}
)
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class ValueProblem(Exception):
    """Why a value is not acceptable, as the end of a sentence that begins with its name."""


# -- kinds of values


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value: TOML gives one of ``types``, which ``convert`` turns into what the agent works with.

    ``parse`` turns the text of a variable or flag into what TOML would have given; it raises ValueError or
    KeyError for what is not ``wanted``.
    """

    name: str
    wanted: str
    types: tuple[type, ...]
    convert: Callable[[Any], Any] = lambda value: value
    parse: Callable[[str], Any] = str

    def read(self, value: Any) -> Any:
        """The value of a setting from what TOML gave. Raises ValueProblem."""
        if not isinstance(value, self.types) or (isinstance(value, bool) and bool not in self.types):
            raise ValueProblem(f"must be {self.wanted}, not {describe(value)}")
        return self.convert(value)

    def read_text(self, text: str) -> Any:
        """The value of a setting from a variable or flag. Raises ValueProblem."""
        try:
            value = self.parse(text)
        except (ValueError, KeyError):
            raise ValueProblem(f"must be {self.wanted}, not {text!r}") from None
        return self.read(value)


def describe(value: Any) -> str:
    """What a TOML value is, for an error."""
    if isinstance(value, float):
        return str(value)
    names = {bool: "true or false", int: "a whole number", str: "text", list: "a list"}
    return names.get(type(value), "a table")


_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
FLAG_WORDS: Final = {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}
"""What counts as true and as false in a variable, in capitals or not."""


def _parse_flag(text: str) -> bool:
    return FLAG_WORDS[text.strip().lower()]


def _number(kind: type, limit: int) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not -limit < value < limit:  # not a number is neither
            raise ValueProblem("is too large a number")
        return kind(value)

    return convert


def _parse_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _texts(value: list[Any]) -> tuple[str, ...]:
    for number, item in enumerate(value, 1):
        if not isinstance(item, str):
            raise ValueProblem(f"must be a list of texts, but item {number} is {describe(item)}")
    return tuple(value)


def _levels(value: Any) -> LevelSet | None:
    try:
        return parse_levels(value)
    except LevelError as error:
        raise ValueProblem(f"is no list of levels: {error}") from None


def _parse_variables(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in _parse_list(text)]
    if not all(sign for _, sign, _ in pairs):
        raise ValueProblem(f"must be NAME=VALUE, comma-separated, not {text!r}")
    return {name: value for name, _, value in pairs}


def _variables(value: dict[str, Any]) -> dict[str, str]:
    for key, item in value.items():
        if not isinstance(item, str):
            raise ValueProblem(f"must be a table of texts, but '{key}' is {describe(item)}")
        if not key or "=" in key or "\0" in key:
            raise ValueProblem(f"holds the impossible variable {key!r}")
    return dict(value)


def _path(value: str) -> Path | None:
    if text := literal(value):
        raise ValueProblem(text)
    return Path(value) if value else None


WHOLE: Final = Kind("whole number", "a whole number", (int,), _number(int, 2**63), int)
SECONDS: Final = Kind("number", "a number of seconds", (int, float), _number(float, 2**31), float)
FLAG: Final = Kind("true or false", "true or false", (bool,), parse=_parse_flag)
TEXT: Final = Kind("text", "text", (str,))
AUTOMATIC: Final = Kind(
    "auto, true or false", '"auto", true or false', (bool, str), lambda value: str(value).lower(), str.strip
)
"""A flag that the agent may decide by itself: ``auto``, ``true`` or ``false`` as text."""
PATH: Final = Kind("path", "text", (str,), _path)
TEXTS: Final = Kind("list of texts", "a list of texts", (list,), _texts, _parse_list)
CONTROLLERS: Final = replace(TEXTS)
"""Keys of controllers; empty for all of them. The loader, which knows the controllers, knows this kind by identity."""
LEVELS: Final = Kind("level list", "a list of levels", (object,), _levels)
TABLE: Final = Kind("table", "a table", (dict,), dict)
TEXT_TABLE: Final = Kind("table of texts", "a table", (dict,), _variables, _parse_variables)


# -- checks of single values: each returns what is wrong, or an empty text

Check = Callable[[Any], str]


def anything(value: Any) -> str:
    """No check beyond the kind."""
    return ""


def at_least(minimum: float) -> Check:
    """A number that must not be smaller."""
    return lambda value: "" if value >= minimum else f"must be at least {minimum}, not {value:g}"


def zero_or_at_least(minimum: int) -> Check:
    """A limit: 0 for none, or a size that makes sense."""
    wanted = f"must be 0 (no limit) or at least {minimum}"
    return lambda value: "" if value == 0 or value >= minimum else f"{wanted}, not {value}"


def one_of(*choices: str, any_case: bool = False) -> Check:
    """A word out of a few."""
    known = {choice.lower() if any_case else choice for choice in choices}
    wanted = f"must be one of {', '.join(choices)}"
    return lambda value: "" if (value.lower() if any_case else value) in known else f"{wanted}, not {value!r}"


def each_of(*choices: str) -> Check:
    """A list of words out of a few."""
    check = one_of(*choices)
    return lambda value: next(filter(None, map(check, value)), "")


def given(value: Any) -> str:
    """A text or path that must not be empty."""
    return "" if value is not None and str(value).strip() else "must not be empty"


def literal(value: str) -> str:
    """A path or program. Nothing expands it, so what a shell would expand is a mistake; ``./~x`` is a name."""
    sign = "~" if value.startswith("~") else "$" if "$" in value else ""
    return f"is taken as it stands, write the path without {sign!r}: {value!r}" if sign else ""


def program(value: str) -> str:
    """What is executed: given, and literal."""
    return given(value) or literal(value)


def file_name(value: Any) -> str:
    """A path whose last part names a file, unlike ``.`` and ``/``."""
    return given(value) or ("" if value.name else f"{str(value)!r} is a folder: name a file")


def words(value: Any) -> str:
    """A list of words without empty ones and without control characters."""
    odd = [item for item in value if not item.strip() or not item.isprintable()]
    return f"holds the item {odd[0]!r}, which is empty or has control characters" if odd else ""


def http_url(value: str, *, query: bool = False) -> str:
    """A base URL: http or https, with a host, without a query unless there may be one."""
    shown = repr(hide_passwords(value))
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        return f"{shown} is no URL: {error}"
    zone = zone_fault(parts.hostname or "")
    faults = {
        "must begin with http:// or https://": parts.scheme.lower() not in ("http", "https"),
        "names no host": not parts.hostname,
        "has the impossible port 0": port == 0,
        zone: bool(zone),
        "must not hold a query or fragment": bool((parts.query and not query) or parts.fragment),
        "holds blanks or control characters": not value.isprintable() or " " in value,
    }
    return next((f"{text}: {shown}" for text, found in faults.items() if found), "")


def otlp_url(value: str) -> str:
    """The base URL of a sink that speaks OTLP."""
    if text := http_url(value):
        return text
    known = next((path for path in OTLP_PATHS if value.rstrip("/").endswith(path)), "")
    return f"must not end with {known}, which is added: {hide_passwords(value)!r}" if known else ""


def influx_url(value: str) -> str:
    """Where a sink takes line protocol: the whole URL."""
    if text := http_url(value, query=True):
        return text
    parts, shown = urlsplit(value), repr(hide_passwords(value))
    given_names = dict(parse_qsl(parts.query))
    if {"u", "p"} & given_names.keys():
        return "must not hold u or p: write USER:PASSWORD@ before the host, or use token_file"
    faults = {
        "must end with /write and its query, such as /write?db=NAME": not parts.path.endswith("/write"),
        "names no database: write ?db=NAME, or ?org=NAME&bucket=NAME": not {"db", "bucket"} & given_names.keys(),
        "must not hold precision: times are nanoseconds": "precision" in given_names,
    }
    return next((f"{text}: {shown}" for text, found in faults.items() if found), "")


def http_headers(value: dict[str, str]) -> str:
    """Names and values of headers that can be sent, and that are not ours to set."""
    for name, text in value.items():
        if not _HEADER_NAME.fullmatch(name):
            return f"holds {name!r}, which is no name of a header"
        if name.lower() in OWN_HEADERS:
            return f"holds {name!r}, which the agent sets itself"
        if not text.isascii() or not text.isprintable() or text != text.strip():
            return f"'{name}' must be printable ASCII without blanks around it"
    return ""


def listen_address(value: str) -> str:
    """Empty, or HOST:PORT."""
    try:
        if value:
            parse_address(value)
    except AddressError as error:
        return str(error)
    return ""


# -- declarations


REQUIRED: Final = object()
"""The default of a setting that has none."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is declared of one setting. ``default`` is written as in the file.

    ``live``: SIGHUP takes a change over into the settings; that alone does nothing. Whoever uses such a setting must
    read it anew each time (``context.settings()``), or be told by ``Agent._reload``, which updates connections,
    routing, queue, meter and statistics. ``originals``: spellings of the original agents, accepted with a warning.
    """

    kind: Kind
    default: Any
    help: str
    check: Check = anything
    unit: str = ""
    live: bool = False
    originals: tuple[str, ...] = ()
    secret: bool = False
    """Passwords and the like are given here: shown as ``***`` unless asked for."""

    @property
    def stand_in(self) -> Any:
        """The value where none is given, or none that is acceptable."""
        return self.kind.types[0]() if self.default is REQUIRED else self.kind.read(self.default)

    def read(self, value: Any, is_text: bool = False) -> Any:
        """The value as it was given, checked; ``is_text`` for a variable or flag. Raises ValueProblem."""
        if value is REQUIRED:
            raise ValueProblem(f"is missing: {self.help}")
        value = self.kind.read_text(value) if is_text and isinstance(value, str) else self.kind.read(value)
        if wrong := self.check(value):
            raise ValueProblem(wrong)
        return value


def setting(*declaration: Any, **more: Any) -> Any:
    """A field of a settings dataclass; its arguments are those of ``Setting``."""
    declared = Setting(*declaration, **more)
    if declared.default is REQUIRED:
        return field(metadata={"setting": declared})
    return field(default_factory=lambda: declared.stand_in, metadata={"setting": declared})


def declared(model: Any) -> Mapping[str, Setting]:
    """The settings of a dataclass (or of one made from it) by name, in their order."""
    return {each.name: each.metadata["setting"] for each in fields(model) if "setting" in each.metadata}


def walk(part: Any) -> Iterator[tuple[str, Setting, Any]]:
    """Name, declaration and value of every setting of a section, and of one within it (``security.NAME``)."""
    for each in fields(part):
        value = getattr(part, each.name)
        if "setting" in each.metadata:
            yield each.name, each.metadata["setting"], value
        elif is_dataclass(value):
            yield from ((f"{each.name}.{name}", setting, inner) for name, setting, inner in walk(value))


@dataclass(frozen=True, slots=True)
class Section:
    """The table of the file that a dataclass is read from; ``<...>`` in ``pattern`` is a name the user chooses.

    ``variant``: the ``type`` of a logger. ``ignored``: keys that only the original agents know, with what to say.
    ``live``: SIGHUP adds and removes whole sections of this kind.
    """

    pattern: str
    variant: str = ""
    live: bool = False
    ignored: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The heading for people: ``logging.<name> (type DB)``."""
        return self.pattern + (f" (type {self.variant})" if self.variant else "")

    @property
    def group(self) -> str:
        """The first part of the heading, such as ``controllers``."""
        return self.pattern.split(".")[0]

    def variable(self, name: str) -> str:
        """The environment variable of a setting; "" where the section's name is the user's choice."""
        return "" if "<" in self.pattern else f"{ENVIRONMENT_PREFIX}{self.pattern}_{name}".upper()
