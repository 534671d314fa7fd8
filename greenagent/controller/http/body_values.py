"""What a body's bytes are as a JSON value, and what is no value that this controller takes. Nothing here waits."""

from __future__ import annotations

from typing import Any, Final

from greenagent.values.command import load_json
from greenagent.values.errors import GreenagentError

MAX_DEPTH: Final = 200
MAX_PARTS: Final = 500_000
"""Members of all objects and lists of one body together."""


class BodyTooLargeError(GreenagentError):
    """More bytes, or more members, than this endpoint takes."""


class NotJsonError(GreenagentError):
    """The body has come, and is no JSON value."""


def value_of(data: bytes | bytearray) -> Any:
    """The JSON value of a body, without lone surrogates. Raises BodyTooLargeError, NotJsonError."""
    try:
        value = load_json(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise NotJsonError(f"the body is not JSON: {reason}") from error
    _check_shape(value)
    return value


def unchanged(value: Any) -> Any:
    """The value itself: for those who look at it later."""
    return value


def _check_shape(value: Any) -> None:
    """What can just be read could be too deep to be written again, at another depth of the stack."""
    layer = [value] if isinstance(value, (dict, list)) else []
    parts = depth = 0
    while layer:
        parts += sum(map(len, layer))
        depth += 1
        if parts > MAX_PARTS:
            raise BodyTooLargeError(f"the body has more than {MAX_PARTS} members")
        if depth > MAX_DEPTH + 1:
            raise NotJsonError(f"the body is not JSON: nested more than {MAX_DEPTH} deep")
        inner = (one for item in layer for one in (item.values() if isinstance(item, dict) else item))
        layer = [one for one in inner if isinstance(one, (dict, list))]
