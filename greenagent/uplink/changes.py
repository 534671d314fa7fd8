"""Tells a controller of ours what is so just now, by changes: what it can do without, and originals never get.

Nothing is owed here: what is lost on the way is sent again with the next change or after a minute. A controller says
with a header of its answers to polls what it takes.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from itertools import islice
from typing import Any, ClassVar, Final

import gevent

from greenagent.uplink.answer import TransportError
from greenagent.uplink.health import ControllerHealth
from greenagent.uplink.http import HttpClient

OPEN_TEXT: Final = "Greenagent-Open-Text"
WAITING: Final = "Greenagent-Waiting"
RESULTS: Final = "Greenagent-Results"
HEADERS: Final = (OPEN_TEXT, WAITING, RESULTS)
"""Headers of answers: this controller takes that."""
EVERY: Final = 2.0
"""Seconds between two posts at the least."""
IDLE_EVERY: Final = 0.1
"""Seconds after a look that had nothing to post."""
REFRESH: Final = 60.0
"""Seconds after which all is sent again: the controller may have been restarted."""
ROWS: Final = 500
"""Facts in one post."""


class ChangeReporter(ABC):
    """Body of a service that tells one controller of changes of one kind."""

    header: ClassVar[str]
    path: ClassVar[str]
    """Where they are posted."""

    def __init__(self, client: HttpClient, health: ControllerHealth) -> None:
        self._client = client
        self._health = health
        self._sent: dict[Hashable, Any] = {}

    @abstractmethod
    def version(self) -> int:
        """Rises with every change."""

    @abstractmethod
    def wait(self, seen: int, timeout: float) -> None:
        """Returns once ``version`` is another than ``seen``, or after ``timeout`` seconds."""

    @abstractmethod
    def found(self) -> Mapping[Any, Any]:
        """All that is so now, by what tells one thing from another."""

    @abstractmethod
    def record(self, key: Any, value: Any) -> dict[str, Any]:
        """What is posted of one thing; ``value`` is None where it is so no more."""

    def run(self) -> None:
        """Goes on until it is killed."""
        seen = self.version()
        while True:
            self.wait(seen, REFRESH)
            if self.version() == seen:
                self._sent.clear()
            seen = self.version()
            gevent.sleep(EVERY if self._report() else IDLE_EVERY)

    def _report(self) -> bool:
        """Whether there was something to post."""
        if self.header not in self._health.takes:
            self._sent.clear()
            return False
        found = dict(self.found())
        changed = [(key, value) for key, value in found.items() if self._sent.get(key) != value]
        gone = [(key, None) for key in self._sent if key not in found]
        records = (self.record(key, value) for key, value in (*gone, *changed))
        while part := list(islice(records, ROWS)):
            if not self._post(part):
                return True
        self._sent = found
        return bool(gone or changed)

    def _post(self, records: Iterable[dict[str, Any]]) -> bool:
        """Whatever the trouble is, poller and uploaders will say so."""
        try:
            answer = self._client.post(self.path, json.dumps(records, separators=(",", ":")).encode())
        except TransportError:
            pass
        else:
            if answer.ok:
                return True
        self._health.takes -= {self.header}  # until an answer to a poll says so again
        self._sent.clear()
        return False
