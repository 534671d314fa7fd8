"""Commands as controllers send them, parsed once into immutable values (protocol 2)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from greenagent.values.errors import CommandError, LevelError
from greenagent.values.levels import LevelSet, parse_levels

RESERVED_ID: Final = "agent"
"""The job id under which the agent's own diagnostics are logged."""
MAX_ID_LENGTH: Final = 200

ECHOED_ARGUMENTS: Final = (
    "name",
    "domain",
    "args",
    "working_dir",
    "max_time",
    "max_restart",
    "recurring_period",
    "stats_interval",
    "loglevels",
    "loglevels_db",
    "loglevels_ac",
    "queue",
)
"""What a result echoes: the original client fails on any other key (protocol 4.1)."""

KNOWN_ARGUMENTS: Final = frozenset({*ECHOED_ARGUMENTS, "env", "log_flush", "leave_children"})

REMEMBERED: Final = -1
"""``max_time`` of a job that runs again when the agent starts (protocol 2.2)."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_HALF_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
"""Where JSON text may name a surrogate."""


@dataclass(frozen=True, slots=True)
class RunArguments:
    """The run arguments of a command (protocol 2.2).

    ``max_time`` in seconds (0 unlimited, -1 remembered), ``recurring_period`` in seconds,
    ``stats_interval`` and ``log_flush`` in seconds (0 = as configured). Level sets are None where
    the logger's own default holds. ``received`` is the object as it came, without lone surrogates.
    """

    name: str = ""
    domain: str = ""
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    max_time: int = 0
    max_restart: int = 0
    recurring_period: int = 0
    stats_interval: int = 0
    loglevels: LevelSet | None = None
    loglevels_db: LevelSet | None = None
    loglevels_ac: LevelSet | None = None
    queue: str = ""
    log_flush: float = 0.0
    leave_children: bool = False
    received: Mapping[str, Any] = field(default_factory=dict)

    @property
    def time_limit(self) -> int | None:
        """Seconds after which a run is ended with TIMEOUT, or None."""
        return self.max_time if self.max_time > 0 else None

    @property
    def remembered(self) -> bool:
        """True for a job that comes back when the agent starts again."""
        return self.max_time == REMEMBERED

    def echo(self, stats_interval: int) -> dict[str, Any]:
        """The arguments as a result repeats them, ``stats_interval`` filled in where absent (protocol 4.1)."""
        echoed = {key: self.received[key] for key in ECHOED_ARGUMENTS if key in self.received}
        if not self.stats_interval:
            echoed["stats_interval"] = stats_interval
        return echoed


@dataclass(frozen=True, slots=True)
class Command:
    """One command: what a controller asked for (protocol 2.1).

    ``received`` is the whole JSON object; two commands are identical when these are equal.
    ``warnings`` names what was odd but harmless, one sentence each.
    """

    id: str
    cmd: str
    gid: int = 0
    nid: int = 0
    arguments: RunArguments = field(default_factory=RunArguments)
    data: str = ""
    roles: tuple[str, ...] = ()
    fanout: bool = False
    tags: str | None = None
    received: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def is_same_as(self, other: Command) -> bool:
        """True when both are the same JSON object: a re-delivery, not a second command."""
        return same_json(self.received, other.received)


def same_json(one: Any, other: Any) -> bool:
    """Whether two parsed JSON values are equal as JSON: to Python, ``true`` and ``1`` would be."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def decode_command(body: bytes | str) -> Command:
    """Parses the body of an answer to GET ``cmd``. Raises CommandError."""
    try:
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
        return parse_command(json.loads(text))
    except RecursionError as error:
        raise CommandError("the command is nested too deeply") from error
    except ValueError as error:
        raise CommandError(f"the command is not JSON: {error}") from error


def parse_command(received: Any) -> Command:
    """Checks one command object and gives it its types. Raises CommandError, with the id if readable."""
    if not isinstance(received, dict):
        raise CommandError(f"a command is a JSON object, not {_kind(received)}")
    try:
        received = _without_surrogates(received)
    except RecursionError as error:
        raise CommandError("the command is nested too deeply") from error
    except ValueError as error:
        # Python reads NaN and 1e400, which no JSON reader of a controller would: the echo must not hold them.
        command_id, _ = _read_id(received.get("id"))
        readable = command_id and without_half_characters(command_id)
        raise CommandError("the command holds a number that JSON does not know", readable) from error
    command_id, problem = _read_id(received.get("id"))
    name = received.get("cmd")
    if name is None:
        name = received.get("name")
    try:
        if problem:
            raise CommandError(problem)
        if name is not None and not isinstance(name, str):
            raise CommandError(f"'cmd' must be text, not {_kind(name)}")
        warnings: list[str] = []
        return Command(
            id=command_id or "",
            cmd=name or "",
            gid=_whole(received, "gid"),
            nid=_whole(received, "nid"),
            arguments=parse_arguments(received.get("args"), warnings.append),
            data=_text(received, "data"),
            roles=_roles(received),
            fanout=_flag(received, "fanout"),
            tags=_text(received, "tags") if received.get("tags") is not None else None,
            received=received,
            warnings=tuple(warnings),
        )
    except CommandError as error:
        raise CommandError(error.reason, command_id, name if isinstance(name, str) else "") from error


def without_queue(command: Command) -> Command:
    """The command with its ``queue`` ignored, as for startup tasks (protocol 11)."""
    return replace(command, arguments=replace(command.arguments, queue=""))


def parse_arguments(received: Any, warn: Callable[[str], None] = lambda text: None) -> RunArguments:
    """Checks run arguments (protocol 2.2). Raises CommandError naming the argument."""
    if received is None:
        received = {}
    if not isinstance(received, dict):
        raise CommandError(f"'args' must be an object, not {_kind(received)}")
    numbers = {
        key: _lenient_whole(received, key, warn)
        for key in ("max_time", "max_restart", "recurring_period", "stats_interval")
    }
    for key in ("max_restart", "recurring_period", "stats_interval"):
        if numbers[key] < 0:
            warn(f"args.{key} is negative and counts as 0")
            numbers[key] = 0
    if numbers["max_time"] < REMEMBERED:
        warn("args.max_time is below -1 and counts as 0")
        numbers["max_time"] = 0
    texts = {key: as_text(received.get(key)) for key in ("name", "domain", "working_dir", "queue")}
    for key, text in texts.items():
        if key != "name" and "\0" in text:
            raise CommandError(f"args.{key} holds a NUL character")
    return RunArguments(
        name=texts["name"],
        domain=texts["domain"],
        working_dir=texts["working_dir"],
        queue=texts["queue"],
        max_time=numbers["max_time"],
        max_restart=numbers["max_restart"],
        recurring_period=numbers["recurring_period"],
        stats_interval=numbers["stats_interval"],
        args=_argument_list(received.get("args")),
        env=_environment(received.get("env"), warn),
        loglevels=_levels(received, "loglevels"),
        loglevels_db=_levels(received, "loglevels_db"),
        loglevels_ac=_levels(received, "loglevels_ac"),
        log_flush=_seconds(received.get("log_flush"), warn),
        leave_children=received.get("leave_children") is True,
        received=received,
    )


def _read_id(value: Any) -> tuple[str | None, str]:
    """The id as text and what is wrong with it; None where none can be read."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        return None, "the command has no id"
    if not isinstance(value, str):
        return None, f"'id' must be text, not {_kind(value)}"
    if not value:
        return None, "the command has an empty id"
    if len(value) > MAX_ID_LENGTH:
        return value, f"the id is longer than {MAX_ID_LENGTH} characters"
    if _CONTROL.search(value):
        return value, "the id holds control characters"
    if value == RESERVED_ID:
        return value, f"the id '{RESERVED_ID}' is reserved for the agent's own log"
    return value, ""


def _kind(value: Any) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _whole(received: Mapping[str, Any], key: str) -> int:
    value = received.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        if isinstance(value, float) and value.is_integer():
            return int(value)
        raise CommandError(f"'{key}' must be a whole number, not {_kind(value)}")
    return value


def _text(received: Mapping[str, Any], key: str) -> str:
    value = received.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CommandError(f"'{key}' must be text, not {_kind(value)}")
    return value


def _flag(received: Mapping[str, Any], key: str) -> bool:
    value = received.get(key)
    if value is not None and not isinstance(value, bool):
        raise CommandError(f"'{key}' must be true or false, not {_kind(value)}")
    return bool(value)


def _roles(received: Mapping[str, Any]) -> tuple[str, ...]:
    roles = received.get("roles")
    if roles is None:
        role = _text(received, "role")
        return (role,) if role else ()
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise CommandError("'roles' must be a list of texts")
    return tuple(roles)


def _lenient_whole(received: Mapping[str, Any], key: str, warn: Callable[[str], None]) -> int:
    """Any JSON number, truncated; anything else counts as 0, as in the original (protocol 2.2)."""
    value = received.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        warn(f"args.{key} is {_kind(value)}, not a number, and counts as 0")
        return 0
    try:
        number = int(value)
    except (OverflowError, ValueError):
        warn(f"args.{key} is not a finite number and counts as 0")
        return 0
    return max(-(2**31), min(number, 2**31 - 1))


def _seconds(value: Any, warn: Callable[[str], None]) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**31:
        warn("args.log_flush is not a number of seconds and counts as 0")
        return 0.0
    return float(value)


def as_text(value: Any) -> str:
    """The text form of a run argument: null is absent, numbers and flags as JSON prints them."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def _argument_list(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise CommandError(f"args.args must be a list, not {_kind(value)}")
    return tuple(as_text(item) for item in value)


def _environment(value: Any, warn: Callable[[str], None]) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if isinstance(value, dict):
        pairs = [(key, as_text(item)) for key, item in value.items()]
    elif isinstance(value, list):
        pairs = []
        for item in value:
            key, equals, text = as_text(item).partition("=")
            if equals:
                pairs.append((key, text))
            else:
                warn("args.env holds an item without '=', which is left out")
    else:
        raise CommandError(f"args.env must be a list of KEY=VALUE, not {_kind(value)}")
    for key, text in pairs:
        if not key or "=" in key or "\0" in key or "\0" in text:
            raise CommandError(f"args.env holds the impossible name or value {key!r}")
    return tuple(pairs)


def _levels(received: Mapping[str, Any], key: str) -> LevelSet | None:
    try:
        return parse_levels(received.get(key))
    except LevelError as error:
        raise CommandError(f"args.{key}: {error}") from error


def _without_surrogates(received: dict[str, Any]) -> dict[str, Any]:
    """Half characters cannot be stored or sent: they become U+FFFD, as in the original. Raises ValueError."""
    text = json.dumps(received, ensure_ascii=False, allow_nan=False)
    if not _SURROGATE.search(text):
        return received
    cleaned: dict[str, Any] = json.loads(without_half_characters(text))
    return cleaned


def without_half_characters(text: str) -> str:
    """The text with U+FFFD in place of each lone surrogate: those can be neither stored nor sent."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def load_json(text: str) -> Any:
    """The value of a JSON text that came inside a command, its lone surrogates replaced as in the command itself.

    Raises ValueError, or RecursionError for one nested too deeply.
    """
    value = json.loads(text)
    if not _HALF_ESCAPE.search(text):
        return value
    return json.loads(without_half_characters(json.dumps(value, ensure_ascii=False)))
