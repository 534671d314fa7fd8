"""Reading request bodies that may be anything."""

from __future__ import annotations

import json
import math
from typing import Any, Final

import falcon

from greenagent.values.command import load_json

MAX_DEPTH: Final = 200


class BodyError(Exception):
    """The body did not come as announced."""


class BodyTooLargeError(Exception):
    """More bytes than this endpoint takes."""


def read_body(req: falcon.Request, limit: int) -> bytes:
    """The whole body. Raises BodyError, BodyTooLargeError; the connection is then closed."""
    length = req.env.get("CONTENT_LENGTH")
    if length and length.isdigit() and int(length) > limit:
        refuse_rest(req)
        raise BodyTooLargeError
    try:
        body: bytes = req.env["wsgi.input"].read(limit + 1)
    except (OSError, ValueError) as error:
        raise BodyError(str(error)) from error
    if len(body) > limit:
        refuse_rest(req)
        raise BodyTooLargeError
    return body


def refuse_rest(req: falcon.Request) -> None:
    """What is left of the body is not read: the connection ends with this answer."""
    req.env["greenagent.close"]()


def decode(body: bytes) -> Any:
    """The JSON value of a body, without lone surrogates. Raises ValueError."""
    try:
        value = load_json(body.decode("utf-8", "replace"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if _is_deep(value):
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return value


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
    layer = [value]
    for _ in range(MAX_DEPTH + 1):
        following: list[Any] = []
        for item in layer:
            if isinstance(item, dict):
                following.extend(inner for inner in item.values() if isinstance(inner, (dict, list)))
            elif isinstance(item, list):
                following.extend(inner for inner in item if isinstance(inner, (dict, list)))
        if not following:
            return False
        layer = following
    return True
