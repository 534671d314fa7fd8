"""What a body's bytes are as a JSON value, and what is no value that this controller takes. Nothing here waits."""

from __future__ import annotations

from typing import Any, Final

from greenagent.values.command import load_json
from greenagent.values.errors import GreenagentError
from greenagent.values.json_shape import TooDeepError, TooManyMembersError, check_shape

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
        check_shape(value, MAX_PARTS)
    except TooManyMembersError as error:
        raise BodyTooLargeError(f"the body has {error}") from error
    except TooDeepError as error:
        raise NotJsonError(f"the body is not JSON: {error}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise NotJsonError(f"the body is not JSON: {reason}") from error
    return value


def unchanged(value: Any) -> Any:
    """The value itself: for those who look at it later."""
    return value
