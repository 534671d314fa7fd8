"""JSON in parts, for answers as long as the state: see ``http.answers``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from greenagent.values.json_shape import json_pieces

PIECE: Final = 64 * 1024
"""Characters that are made or written at once, about."""


def json_object(value: Mapping[str, Any], **parts: Iterable[str]) -> Iterator[str]:
    """The JSON text of ``value``, which is small, with further keys whose values' JSON texts come in parts."""
    begin = json.dumps(value)[:-1]
    for key, texts in parts.items():
        yield f"{begin}{'' if begin == '{' else ', '}{json.dumps(key)}: "
        yield from texts
        begin = ""
    yield f"{begin}}}"


def json_list(texts: Iterable[str | Iterable[str]]) -> Iterator[str]:
    """The JSON text of a list, from those of its members, each in one part or several."""
    between = "["
    for text in texts:
        yield between
        if isinstance(text, str):
            yield text
        else:
            yield from text
        between = ", "
    yield "]" if between == ", " else "[]"


def json_text(text: str) -> Iterator[str]:
    """The JSON text of a text of any length."""
    return json_pieces(text, PIECE, json.dumps)
