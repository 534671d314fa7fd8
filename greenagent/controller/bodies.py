"""Reading request bodies that may be anything."""

from __future__ import annotations

import json
from typing import Any

import falcon


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
    """The JSON value of a body. Raises ValueError."""
    try:
        return json.loads(body.decode("utf-8", "replace"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
