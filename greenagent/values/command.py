"""Commands as controllers send them, parsed once into immutable values (protocol 2)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from greenagent.values.arguments import KNOWN_ARGUMENTS, RunArguments, kind_of, parse_arguments
from greenagent.values.errors import CommandError
from greenagent.values.json_shape import SHORT, TooDeepError, TooManyMembersError, check_shape, is_shallow
from greenagent.values.text import nearest

EXECUTE: Final = "execute"
"""The command that runs any program."""
BUILT_IN: Final = frozenset(
    (
        *("ping", "kill", "killall", "restart", "reboot", "get_msgs", "del_msgs"),
        *("get_cpu_info", "get_disk_info", "get_mem_info", "get_nic_info", "get_os_info"),
        *("get_process_stats", "get_processes_stats", "get_aggregated_stats"),
    )
)
"""The commands that run inside an agent (protocol 9)."""
POSTING: Final = "posting"
"""Tells two commands apart that are the same otherwise and are to run both: the controller adds it to those of original
clients, who may use an id again."""
OURS: Final = frozenset((POSTING, "expires", "schedule"))
"""Keys that our controller understands, and agents let be."""
MEMBERS: Final = OURS | frozenset(
    ("id", "gid", "nid", "cmd", "name", "args", "data", "role", "roles", "fanout", "tags")
)
"""The keys of a command (protocol 2.1), and ours."""
MAX_NAMED: Final = 10
"""Unknown keys of one command that are named."""
MAX_KEY: Final = 100
"""Characters of one that are shown."""
RESERVED_ID: Final = "agent"
"""The job id under which the agent's own diagnostics are logged."""
MAX_ID_LENGTH: Final = 200
MAX_MEMBERS: Final = 100_000
"""Of all objects and lists of a command together. Each step of the agent goes through all of them at once."""
EARLY: Final = 64 * 1024
"""How far the id of a command is looked for that cannot be read: member by member, which takes its time."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_HALF_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
"""Where JSON text may name a surrogate by an escape."""
_QUOTE = re.compile(r'\s*(?=")')
_AFTER_ID = re.compile(r"\s*[,}]")
_LENIENT: Final = json.JSONDecoder(strict=False, parse_int=str)
"""Reads past what ``json`` refuses: numbers of any length, control characters inside of text."""


class _NumberError(ValueError):
    """A number that JSON does not know, though Python reads it."""


def _refuse_constant(name: str) -> Any:
    raise _NumberError(name)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NumberError(text)
    return number


_STRICT: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


@dataclass(frozen=True, slots=True)
class Command:
    """One command: what a controller asked for (protocol 2.1).

    ``received`` is the whole JSON object; two commands are identical when these are equal.
    ``warnings`` names what was odd but harmless, one sentence each. ``text``: the JSON text of ``received`` as it came,
    where it is short and can be stored as it is; else empty.
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
    text: str = field(default="", repr=False, compare=False)

    def is_same_as(self, other: Command) -> bool:
        """True when both are the same JSON object: a re-delivery, not a second command."""
        return same_json(self.received, other.received)


def same_json(one: Any, other: Any) -> bool:
    """Whether two parsed JSON values are equal as JSON: to Python, ``true`` and ``1`` would be."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def decode_command(body: bytes | bytearray | str) -> Command:
    """Parses the body of an answer to GET ``cmd``. Raises CommandError, with the id if readable."""
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    if len(text) <= SHORT and is_shallow(text) and not _may_hold_half_characters(text):
        try:
            received = _STRICT.decode(text)
        except (ValueError, RecursionError):
            pass  # what follows says what is wrong
        else:
            return _check_command(received, text)
    try:
        received = json.loads(text)
        check_shape(received, MAX_MEMBERS)
    except TooManyMembersError as error:
        raise CommandError(f"the command is too large: it has {error}", read_early_id(text)) from error
    except (TooDeepError, RecursionError) as error:
        raise CommandError("the command is nested too deeply", read_early_id(text)) from error
    except json.JSONDecodeError as error:
        raise CommandError(f"the command is not JSON: {error}", read_early_id(text)) from error
    except ValueError as error:  # Python's limit
        raise CommandError("the command holds a number of too many digits", read_early_id(text)) from error
    return parse_command(received)


def read_early_id(beginning: bytes | str) -> str | None:
    """The ``id`` of a command that cannot be read to its end, if it stands at the top level before that."""
    text = beginning[:EARLY].decode("utf-8", "replace") if isinstance(beginning, bytes) else beginning[:EARLY]
    position = text.find("{") + 1
    if not position or text[: position - 1].strip():
        return None
    try:
        while (start := _QUOTE.match(text, position)) is not None:
            key, position = _LENIENT.raw_decode(text, start.end())
            position = text.index(":", position) + 1
            while text[position].isspace():
                position += 1
            is_text = text[position] == '"'
            value, position = _LENIENT.raw_decode(text, position)
            if key == "id":
                # A number may go on where the text was cut.
                is_whole = is_text or _AFTER_ID.match(text, position)
                command_id = _read_id(value)[0] if is_whole else None
                return without_half_characters(command_id) if command_id else None
            position = text.index(",", position) + 1
    except (ValueError, IndexError, RecursionError):
        pass  # it is not to be read from here on
    return None


def parse_command(received: Any) -> Command:
    """Checks one command object and gives it its types. Raises CommandError, with the id if readable."""
    if not isinstance(received, dict):
        raise CommandError(f"a command is a JSON object, not {kind_of(received)}")
    try:
        received = _without_surrogates(received)
    except (RecursionError, ValueError) as error:
        # Python reads NaN and 1e400, which no JSON reader of a controller would: the echo must not hold them.
        reason = "holds a number that JSON does not know" if isinstance(error, ValueError) else "is nested too deeply"
        command_id, _ = _read_id(received.get("id"))
        readable = command_id and without_half_characters(command_id)
        raise CommandError(f"the command {reason}", readable) from error
    return _check_command(received)


def _check_command(received: Any, text: str = "") -> Command:
    """``parse_command`` of what JSON can hold and can be stored; ``text``: as in the command."""
    if not isinstance(received, dict):
        raise CommandError(f"a command is a JSON object, not {kind_of(received)}")
    command_id, problem = _read_id(received.get("id"))
    name = received.get("cmd")
    if name is None:
        name = received.get("name")
    try:
        if problem:
            raise CommandError(problem)
        if name is not None and not isinstance(name, str):
            raise CommandError(f"'cmd' must be text, not {kind_of(name)}")
        warnings: list[str] = []
        return Command(
            id=command_id or "",
            cmd=name or "",
            gid=_member(received, "gid", int, "a whole number"),
            nid=_member(received, "nid", int, "a whole number"),
            arguments=parse_arguments(received.get("args"), warnings.append),
            data=_member(received, "data", str, "text"),
            roles=_roles(received),
            fanout=_member(received, "fanout", bool, "true or false"),
            tags=_member(received, "tags", str, "text") if received.get("tags") is not None else None,
            received=received,
            warnings=tuple(warnings),
            text=text,
        )
    except CommandError as error:
        raise CommandError(error.reason, command_id, name if isinstance(name, str) else "") from error


def unknown_keys(received: Mapping[str, Any], also: Container[str] = ()) -> list[str]:
    """What a checked command object holds that nothing reads, one sentence each. ``also``: keys that are known here.

    Any run argument may be meant for an extension or a script: those of ``execute`` and of built-ins are looked at.
    """
    found = []
    for key in received:
        if key not in MEMBERS and key not in also:
            hint = ", put it into 'args'" if key in KNOWN_ARGUMENTS else nearest(key[:MAX_KEY], MEMBERS)
            found.append(f"{key[:MAX_KEY]!r} is not a known key of a command{hint}")
    args = received.get("args")
    name = received.get("cmd") or received.get("name")
    if isinstance(args, dict) and (name == EXECUTE or name in BUILT_IN):
        for key in args:
            if key not in KNOWN_ARGUMENTS:
                hint = nearest(key[:MAX_KEY], KNOWN_ARGUMENTS)
                found.append(f"{key[:MAX_KEY]!r} is not a known run argument{hint}")
    left = len(found) - MAX_NAMED
    return found if left <= 0 else [*found[:MAX_NAMED], f"{left} more keys are not known"]


def without_queue(command: Command) -> Command:
    """The command with its ``queue`` ignored, as for startup tasks (protocol 11)."""
    return replace(command, arguments=replace(command.arguments, queue=""))


def problem_of_id(value: Any) -> str:
    """What keeps a value from being the id of a job; nothing where it may be one."""
    return _read_id(value)[1]


def _read_id(value: Any) -> tuple[str | None, str]:
    """The id as text and what is wrong with it; None where none can be read."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        return None, "the command has no id"
    if not isinstance(value, str):
        return None, f"'id' must be text, not {kind_of(value)}"
    if not value:
        return None, "the command has an empty id"
    if len(value) > MAX_ID_LENGTH:
        return value, f"the id is longer than {MAX_ID_LENGTH} characters"
    if _CONTROL.search(value):
        return value, "the id holds control characters"
    if value == RESERVED_ID:
        return value, f"the id '{RESERVED_ID}' is reserved for the agent's own log"
    return value, ""


def _member(received: Mapping[str, Any], key: str, kind: type, wanted: str) -> Any:
    """A member of the command, which must be of one type; absent, it counts as empty, 0 or false."""
    value = received.get(key)
    if value is None:
        return kind()
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not kind:
        raise CommandError(f"'{key}' must be {wanted}, not {kind_of(value)}")
    return value


def _roles(received: Mapping[str, Any]) -> tuple[str, ...]:
    roles = received.get("roles")
    if roles is None:
        role = _member(received, "role", str, "text")
        return (role,) if role else ()
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise CommandError("'roles' must be a list of texts")
    return tuple(roles)


def _without_surrogates(received: dict[str, Any]) -> dict[str, Any]:
    """Half characters cannot be stored or sent: they become U+FFFD, as in the original. Raises ValueError."""
    text = json.dumps(received, ensure_ascii=False, allow_nan=False)
    if _is_storable(text):
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
    if not _may_hold_half_characters(text):
        return value
    return json.loads(without_half_characters(json.dumps(value, ensure_ascii=False)))


def decode_data(data: bytes | bytearray) -> Any:
    """As ``load_json``, for a text of any size and shape, as UTF-8. Raises CommandError for one with too many members.

    What that says follows on a noun, as in "data of jumpscript is too large".
    """
    value = load_json(data.decode())
    try:
        check_shape(value, MAX_MEMBERS)
    except TooManyMembersError as error:
        raise CommandError(f"is too large: it has {error}") from error
    except TooDeepError as error:
        raise ValueError(str(error)) from error
    return value


def _may_hold_half_characters(text: str) -> bool:
    """Goes by what takes no time: one expression for both took ten times as long as reading the JSON."""
    return ("\\u" in text and bool(_HALF_ESCAPE.search(text))) or not _is_storable(text)


def _is_storable(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
