"""Reading request bodies that may be anything."""

from __future__ import annotations

import json
import math
from typing import Any, Final

import falcon

from greenagent.values.command import load_json
from greenagent.values.errors import GreenagentError

MAX_DEPTH: Final = 200


class BodyError(GreenagentError):
    """The body did not come as announced."""


class BodyTooLargeError(GreenagentError):
    """More bytes than this endpoint takes."""


class NotJsonError(GreenagentError):
    """The body has come, and is no JSON value."""


def read_json(req: falcon.Request, limit: int, empty: Any = None) -> Any:
    """The JSON value of a body, without lone surrogates; ``empty`` for an empty body.

    Raises BodyError and BodyTooLargeError, after which the connection is closed, and NotJsonError.
    """
    body = _read(req, limit)
    if not body and empty is not None:
        return empty
    try:
        value = load_json(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise NotJsonError(f"the body is not JSON: {reason}") from error
    if _is_deep(value):
        raise NotJsonError(f"the body is not JSON: nested more than {MAX_DEPTH} deep")
    return value


def _read(req: falcon.Request, limit: int) -> bytes:
    length = req.env.get("CONTENT_LENGTH")
    body: bytes
    if not (length and length.isdigit() and int(length) > limit):
        try:
            body = req.env["wsgi.input"].read(limit + 1)
        except (OSError, ValueError) as error:
            raise BodyError("the body did not come as announced") from error
        if len(body) <= limit:
            return body
    req.env["greenagent.close"]()  # what is left of the body is not read: the connection ends with this answer
    raise BodyTooLargeError(f"the body is larger than {limit} bytes")


def finite(value: Any) -> Any:
    """A JSON value with null for NaN and infinite numbers: shown again, they would be no JSON."""
    try:
        json.dumps(value, allow_nan=False)  # ten times faster than any look at the text
    except ValueError:
        return _finite(value)
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_deep(value: Any) -> bool:
    """What can just be read could be too deep to be written again, at another depth of the stack."""
    layer = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH + 1):
        inner = [one for item in layer for one in (item.values() if isinstance(item, dict) else item)]
        layer = [one for one in inner if isinstance(one, (dict, list))]
        if not layer:
            return False
    return True
