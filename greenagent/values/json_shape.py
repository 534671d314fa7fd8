"""JSON of any size: how many members it has and how deep they lie, and writing it without holding up others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from greenagent.values.errors import GreenagentError

MAX_DEPTH: Final = 200
"""What can just be read could be too deep to be written again, at another depth of the stack."""

PIECE: Final = 1024 * 1024
"""Characters of a text that are written at once, in three milliseconds or less."""
SHORT: Final = 16 * 1024
"""Characters of a text that needs no pieces: it is read or made in some ten microseconds."""
compact_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""``json.dumps`` would make an encoder for each command and result."""
_MEMBER_SIGNS: Final = (b",", b"{", b"[")


class TooManyMembersError(GreenagentError):
    """All objects and lists of a value together have more members than may be."""


class TooDeepError(GreenagentError):
    """More than ``MAX_DEPTH`` objects and lists lie in one another."""


def is_shallow(text: str) -> bool:
    """Whether a short JSON text is certainly not nested too deeply: then its value needs no ``check_shape``."""
    return text.count("{") + text.count("[") <= MAX_DEPTH


def count_signs(data: bytes | bytearray) -> int:
    """The commas and opening brackets of a JSON text: never fewer than there are members. A millisecond for a MiB."""
    return sum(map(data.count, _MEMBER_SIGNS))


def check_shape(value: Any, max_members: int) -> None:
    """Raises TooManyMembersError or TooDeepError."""
    layer = [value] if isinstance(value, (dict, list)) else []
    members = depth = 0
    while layer:
        members += sum(map(len, layer))
        depth += 1
        if members > max_members:
            raise TooManyMembersError(f"more than {max_members} members")
        if depth > MAX_DEPTH + 1:
            raise TooDeepError(f"nested more than {MAX_DEPTH} deep")
        inner = (one for item in layer for one in (item.values() if isinstance(item, dict) else item))
        layer = [one for one in inner if isinstance(one, (dict, list))]


def object_text(members: Mapping[str, Any], pause: Callable[[], None]) -> str:
    """An object as compact JSON text; ``pause`` is called after each piece of it."""
    parts: list[str] = []
    for key, value in members.items():
        parts.append(f"{',' if parts else '{'}{compact_json(key)}:")
        for piece in json_pieces(value):
            parts.append(piece)
            pause()
    return "".join([*parts, "}"]) if parts else "{}"


def json_pieces(value: Any, size: int = PIECE, encode: Callable[[Any], str] = compact_json) -> Iterator[str]:
    """A value as JSON text: in pieces of ``size`` characters where it is a longer text, else in one."""
    if not isinstance(value, str) or len(value) <= size:
        yield encode(value)
        return
    yield '"'
    for start in range(0, len(value), size):
        yield encode(value[start : start + size])[1:-1]
    yield '"'
