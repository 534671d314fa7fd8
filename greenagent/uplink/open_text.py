"""Shows a controller of ours what jobs have begun to print and not ended: a prompt, a progress bar.

Nothing is owed here: what is lost on the way is sent again with the next change or after a minute, and the whole line
comes by the uploader of its logger. A controller says with a header of its answers that it takes open text; one that
does not, as the originals, is never sent any.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final, Protocol

import gevent

from greenagent.uplink.answer import TransportError
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import HttpClient

OPEN_TEXT: Final = "Greenagent-Open-Text"
"""A header of answers: this controller takes open text."""
EVERY: Final = 2.0
"""Seconds between two posts at the least."""
REFRESH: Final = 60.0
"""Seconds after which all is sent again: the controller may have been restarted."""
SHOWN: Final = 4096
"""Characters of a text that are sent, its end."""
ROWS: Final = 500
"""Texts in one post."""

Key = tuple[str, int]
"""Job id and stream."""


class OpenLine(Protocol):
    """The end of a text that a stream has begun (logs.lines)."""

    @property
    def owner(self) -> Any: ...
    @property
    def epoch(self) -> float: ...
    @property
    def level(self) -> int: ...
    @property
    def data(self) -> str: ...


class OpenTexts(Protocol):
    """What is open just now (logs.write.open_lines)."""

    version: int

    def of(self, marks: int) -> Mapping[Key, OpenLine]: ...

    def wait(self, seen: int, timeout: float) -> None: ...


class OpenTextReporter:
    """Body of a service that tells one controller of changes."""

    def __init__(self, texts: OpenTexts, marks: int, client: HttpClient, health: ControllerHealth) -> None:
        """``marks``: the bits of the pairs of this controller's loggers."""
        self._texts = texts
        self._marks = marks
        self._client = client
        self._health = health
        self._sent: dict[Key, OpenLine] = {}

    def run(self) -> None:
        """Goes on until it is killed."""
        seen = self._texts.version
        while True:
            self._texts.wait(seen, REFRESH)
            if self._texts.version == seen:
                self._sent.clear()
            seen = self._texts.version
            self._report()
            gevent.sleep(EVERY)

    def _report(self) -> None:
        if not self._health.takes_open_text:
            self._sent.clear()
            return
        found = self._texts.of(self._marks)
        changed = [(key, line) for key, line in found.items() if self._sent.get(key) != line]
        gone = [key for key in self._sent if key not in found]
        records = iter([*map(_gone, gone), *(_record(key, line) for key, line in changed)])
        while part := list(islice(records, ROWS)):
            if not self._post(part):
                return
        self._sent = dict(found)

    def _post(self, records: Iterable[dict[str, Any]]) -> bool:
        """Whatever the trouble is, poller and uploaders will say so."""
        try:
            answer = self._client.post("open_text", json.dumps(records, separators=(",", ":")).encode())
        except TransportError:
            pass
        else:
            if answer.ok:
                return True
        self._health.takes_open_text = False  # until an answer to a poll says so again
        self._sent.clear()
        return False


def _gone(key: Key) -> dict[str, Any]:
    return {"jobid": key[0], "stream": key[1]}


def _record(key: Key, line: OpenLine) -> dict[str, Any]:
    names = {"domain": line.owner.domain, "name": line.owner.name}
    text = {"level": line.level, "epoch_ms": int(line.epoch * 1000), "data": line.data[-SHOWN:]}
    return {**_gone(key), **names, **text}
